//! Another e-mail address for an account. It is claimed when whoever reads its
//! mail confirms it, so that asking for one tells nothing of who has it.

use canopy_domain::{
    Address, Attempt, Code, Context, Draft, PasswordFit, Prepared, Refusal, Secret, State, Step, decode,
};
use canopy_proto::identity::v1::{
    Account, ChangeEmailRequest, ChangeEmailResponse, ConfirmEmailRequest, ConfirmEmailResponse, SecurityEventKind,
    UndoChangeEmailRequest, UndoChangeEmailResponse,
};
use canopy_proto::methods::directory;
use canopy_proto::system::v1::{ConfirmRequest, ReleaseRequest, ReserveRequest};
use prost::Message;

use crate::account::{ACCOUNT, SELF, the_account};
use crate::password::VERIFIER;
use crate::proof::{self, PROOFS_MAX, Purpose};
use crate::{access, life, security, sessions};

const SPACE: &str = "email";

/// Compares the password of the account: the one step before what only its
/// holder may do.
pub(crate) fn prepare_password(state: &State<'_>, password: &str, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            let phc = state.read(&VERIFIER, &SELF)?.map(|verifier| Secret::new(verifier.phc));
            let is_known_place = sessions::is_known_place(state, &cx.origin.place())?;
            let attempt = Attempt { account: cx.address.to_string(), is_known_place };
            Ok(Some(Step::VerifyPassword { phc, password: Secret::new(password), attempt }))
        }
        _ => Ok(None),
    }
}

/// Refuses a password that is not the account's.
pub(crate) fn check_password(cx: &Context<'_>) -> Result<(), Refusal> {
    match cx.prepared {
        [Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak)] => Ok(()),
        _ => Err(Refusal::new(Code::PermissionDenied, "the password is wrong")
            .hint("nothing was changed; who has forgotten it resets it")),
    }
}

pub(crate) fn prepare_change(
    state: &State<'_>,
    request: &ChangeEmailRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    prepare_password(state, &request.password, cx)
}

pub(crate) fn change_email(
    state: &State<'_>,
    request: ChangeEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ChangeEmailResponse, Refusal> {
    check_password(cx)?;
    the_account(state, cx)?;
    if !cx.issuer.policy().mails {
        return Err(Refusal::new(Code::FailedPrecondition, "this server sends no mail").hint("ask whoever runs it"));
    }
    if proof::all(state, Purpose::Undo)?.len() >= PROOFS_MAX {
        return Err(Refusal::new(Code::ResourceExhausted, "the address was changed too often within 7 days")
            .hint("wait until the first of these changes is 7 days old"));
    }
    proof::issue(state, (Purpose::Change, &request.new_email, &request.new_email), cx, draft)?;
    Ok(ChangeEmailResponse {})
}

/// Reserves the new address where the token is good.
pub(crate) fn prepare_confirm(
    state: &State<'_>,
    request: &ConfirmEmailRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let Some(found) = proof::find(state, Purpose::Change, &request.token, cx)? else { return Ok(None) };
    match cx.prepared {
        [] => {
            let reserve = ReserveRequest {
                space: SPACE.into(),
                key: found.proof.email,
                holder: cx.address.to_string(),
                request_id: String::new(),
            };
            Ok(Some(Step::Ask {
                target: Address::system("directory"),
                method: directory::RESERVE.path,
                request: reserve.encode_to_vec().into(),
            }))
        }
        [Prepared::Answer(Err(refusal)), ..] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

fn confirm(draft: &mut Draft, email: &str, cx: &Context<'_>) {
    let confirm = ConfirmRequest {
        space: SPACE.into(),
        key: email.to_owned(),
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::CONFIRM, &confirm);
}

/// Gives an address back.
pub(crate) fn release(draft: &mut Draft, email: &str, cx: &Context<'_>) {
    let release = ReleaseRequest {
        space: SPACE.into(),
        key: email.to_owned(),
        holder: cx.address.to_string(),
        request_id: String::new(),
    };
    draft.effect(Address::system("directory"), directory::RELEASE, &release);
}

fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

fn set(account: &mut Account, email: String, cx: &Context<'_>) {
    account.email = email;
    account.email_verify_time_ms = cx.now_ms;
    account.update_time_ms = cx.now_ms;
    account.etag = cx.etag();
}

/// The old address stays the account's for as long as it may be taken back.
pub(crate) fn confirm_email(
    state: &State<'_>,
    request: ConfirmEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ConfirmEmailResponse, Refusal> {
    let proved = proof::take(state, Purpose::Change, &request.token, cx, draft)?;
    if cx.prepared.is_empty() {
        return Err(Refusal::new(Code::Aborted, "the address was asked for meanwhile").hint("try again"));
    }
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    let old = std::mem::take(&mut account.email);
    confirm(draft, &proved.email, cx);
    if !same(&old, &proved.email) {
        proof::issue(state, (Purpose::Undo, &old, &proved.email), cx, draft)?;
        security::note(state, draft, cx, cx.origin, SecurityEventKind::EmailChanged)?;
        life::wake_by(state, cx, [cx.now_ms + proof::UNDO_MS, account.purge_time_ms], draft)?;
    }
    proof::forget_all(state, Purpose::Reset, draft)?;
    proof::forget_all(state, Purpose::Verification, draft)?;
    set(&mut account, proved.email, cx);
    let after = before.updated(&account, None);
    draft.put(&ACCOUNT, SELF, Some(&before), &after);
    draft.settle();
    Ok(ConfirmEmailResponse { account: Some(after) })
}

/// Whoever shows the token reads the mail of the address from before. All that
/// came after was another's, perhaps: sessions, and tokens by which later
/// addresses could be taken back.
pub(crate) fn undo_change(
    state: &State<'_>,
    request: UndoChangeEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<UndoChangeEmailResponse, Refusal> {
    let proved = proof::take(state, Purpose::Undo, &request.token, cx, draft)?;
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    let mut released = vec![std::mem::take(&mut account.email)];
    for later in proof::all(state, Purpose::Undo)? {
        if later.proof.create_time_ms > proved.create_time_ms {
            released.push(later.proof.email.clone());
            later.forget(draft);
        }
    }
    for email in released {
        if !same(&email, &proved.email) && !is_kept(state, &email, proved.create_time_ms)? {
            release(draft, &email, cx);
        }
    }
    for purpose in [Purpose::Change, Purpose::Reset, Purpose::Verification] {
        proof::forget_all(state, purpose, draft)?;
    }
    access::shut(state, cx, draft)?;
    let forgotten = access::distrust_passkeys(state, cx, draft)?;
    let events: Vec<_> = [SecurityEventKind::EmailChanged].into_iter().chain(forgotten).collect();
    set(&mut account, proved.email, cx);
    security::note_all(state, draft, cx, cx.origin, &account, &events)?;
    let after = before.updated(&account, None);
    draft.put(&ACCOUNT, SELF, Some(&before), &after);
    draft.settle();
    Ok(UndoChangeEmailResponse { account: Some(after) })
}

/// Whether an address may still be taken back by a token from before a time.
fn is_kept(state: &State<'_>, email: &str, before_ms: i64) -> Result<bool, Refusal> {
    let undos = proof::all(state, Purpose::Undo)?;
    Ok(undos.iter().any(|undo| undo.proof.create_time_ms < before_ms && same(&undo.proof.email, email)))
}

/// Lets go of addresses that can be taken back no more; when the next one is
/// due, or zero.
pub(crate) fn let_go(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<i64, Refusal> {
    let current = state.read(&ACCOUNT, &SELF)?.unwrap_or_default().email;
    let (over, open): (Vec<_>, Vec<_>) =
        proof::all(state, Purpose::Undo)?.into_iter().partition(|undo| undo.proof.expire_time_ms <= cx.now_ms);
    for undo in over {
        undo.forget(draft);
        let is_open = open.iter().any(|other| same(&other.proof.email, &undo.proof.email));
        if !is_open && !same(&undo.proof.email, &current) {
            release(draft, &undo.proof.email, cx);
        }
    }
    Ok(open.iter().map(|undo| undo.proof.expire_time_ms).min().unwrap_or(0))
}
