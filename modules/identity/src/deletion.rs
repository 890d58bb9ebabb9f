//! The end of an account. Deleted, it lets nobody in until its holder takes
//! that back, or its time has run out: then the orgs that it belongs to forget
//! it, its address is given back, and its keys and its sessions' are destroyed.

use canopy_domain::{
    Address, Code, Context, Draft, Id, Order, Origin, PasswordFit, Prepared, Refusal, Span, State, Step, Wire, decode,
    utc,
};
use canopy_proto::identity::v1::{Account, DeleteAccountRequest, SecurityEventKind};
use canopy_proto::methods::{departures, installation_grants, purges};
use canopy_proto::system::v1::{
    BeginPurgeRequest, CheckNoSysAdminRequest, ForgetMemberRequest, Letter, LetterKind, Purge, ReserveDepartureRequest,
    RestoreAccountRequest, SettleDepartureRequest,
};
use prost::Message;

use crate::account::{ACCOUNT, MEMBERSHIPS, SELF, the_account};
use crate::proof::{self, Purpose};
use crate::{access, email, life, second_factor, security, sessions};

/// Orgs that are told of one account's end: more than anybody belongs to.
const ORGS_MAX: usize = 100_000;

/// What whoever knows the password of a deleted account is told.
pub(crate) fn being_deleted(account: &Account) -> Refusal {
    let until = utc(account.purge_time_ms);
    Refusal::new(Code::FailedPrecondition, format!("the account was deleted, and is destroyed after {until}"))
        .hint("until then, `canopy identity undelete-account` takes that back")
}

/// The orgs that the account belongs to.
fn orgs(state: &State<'_>) -> Result<Vec<Address>, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: ORGS_MAX };
    let rows = state.scan(&MEMBERSHIPS, span)?;
    let ids = rows.iter().filter_map(|(key, _)| <[u8; 16]>::try_from(&key[..]).ok());
    Ok(ids.map(|id| Address::org(Id::from_bytes(id))).collect())
}

/// Proves who asks, then has everything that stands against it looked at.
pub(crate) fn prepare_delete(
    state: &State<'_>,
    request: &DeleteAccountRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let done = match cx.prepared {
        [Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak), done @ ..] => done,
        _ => return second_factor::prove(state, &request.password, cx),
    };
    if let Some(step) = second_factor::next_step(cx.address, &request.code, cx, done)? {
        return Ok(Some(step));
    }
    let (codes, done) = second_factor::split(done);
    second_factor::check_code(codes)?;
    match done {
        [] => {
            let request = CheckNoSysAdminRequest { account: cx.address.to_string() }.encode_to_vec().into();
            let method = installation_grants::CHECK_NO_SYS_ADMIN.path;
            Ok(Some(Step::Ask { target: Address::system("installation"), method, request }))
        }
        [Prepared::Answer(Ok(_))] => {
            let reserve = |org: Address| {
                let (account, request_id) = (cx.address.to_string(), String::new());
                let request = ReserveDepartureRequest { org: org.to_string(), account, request_id };
                (org, request.encode_to_vec().into())
            };
            let asked = orgs(state)?.into_iter().map(reserve).collect();
            Ok(Some(Step::AskAll { asked, method: departures::RESERVE_DEPARTURE.path }))
        }
        [Prepared::Answer(Err(refusal))] => Err(refusal.clone()),
        _ => Ok(None),
    }
}

pub(crate) fn delete(
    state: &State<'_>,
    request: DeleteAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let before = the_account(state, cx)?;
    if !second_factor::is_proven(state, cx, draft)? {
        return Ok(Wire::default());
    }
    let [_, done @ ..] = cx.prepared else { return Err(unprepared()) };
    let (codes, done) = second_factor::split(done);
    second_factor::check_code(codes)?;
    let [Prepared::Answer(Ok(_)), Prepared::Answers(reserved)] = done else { return Err(unprepared()) };
    let mut account = decode(&before)?;
    if account.delete_time_ms > 0 {
        return Err(being_deleted(&account));
    }
    if let Some(refusal) = reserved.iter().find_map(|answer| answer.as_ref().err()) {
        // The others are not to wait until they hear no more of it.
        settle_departures(state, cx, draft, false)?;
        draft.refuse(refusal.clone());
        return Ok(Wire::default());
    }
    account.delete_time_ms = cx.now_ms;
    account.purge_time_ms = cx.now_ms.saturating_add(cx.settings.account_delete_grace_ms);
    let after = change(&before, account.clone(), cx, draft);
    access::shut(state, cx, draft)?;
    for purpose in [Purpose::Change, Purpose::Reset, Purpose::Verification] {
        proof::forget_all(state, purpose, draft)?;
    }
    settle_departures(state, cx, draft, true)?;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::AccountDeleted)?;
    tell_holder(LetterKind::AccountDeleted, &account, cx, draft);
    life::wake_by(state, cx, [account.purge_time_ms], draft)?;
    draft.settle();
    Ok(after)
}

/// Takes the deletion back, for whoever has shown the password.
pub(crate) fn restore(
    state: &State<'_>,
    request: RestoreAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    if account.delete_time_ms == 0 {
        return Err(Refusal::new(Code::FailedPrecondition, "the account is not deleted")
            .hint("log in with `canopy identity log-in`"));
    }
    (account.delete_time_ms, account.purge_time_ms) = (0, 0);
    let after = change(&before, account.clone(), cx, draft);
    settle_departures(state, cx, draft, false)?;
    let from = Origin { peer: request.peer, client: request.client };
    security::note(state, draft, cx, &from, SecurityEventKind::AccountUndeleted)?;
    tell_holder(LetterKind::AccountUndeleted, &account, cx, draft);
    life::wake_by(state, cx, [], draft)?;
    draft.settle();
    Ok(after)
}

/// The time has run out. Everybody is told first, and last whoever has the
/// keys destroyed: effects go out in order, and none after that one.
pub(crate) fn end(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    before: &Wire<Account>,
    account: &Account,
) -> Result<(), Refusal> {
    draft.delete(&ACCOUNT, SELF, before);
    for org in orgs(state)? {
        let request = ForgetMemberRequest {
            org: org.to_string(),
            account: cx.address.to_string(),
            email: account.email.clone(),
            request_id: String::new(),
        };
        draft.effect(org, departures::FORGET_MEMBER, &request);
    }
    email::release(draft, &account.email, cx);
    for undo in proof::all(state, Purpose::Undo)? {
        // Addresses that were given up, and could still be taken back.
        email::release(draft, &undo.proof.email, cx);
    }
    let purge = Purge {
        address: cx.address.to_string(),
        readers: Vec::new(),
        time_ms: cx.now_ms,
        parts: sessions::names(state)?,
    };
    let begin = BeginPurgeRequest { purge: Some(purge), request_id: String::new() };
    draft.effect(Address::system("purges"), purges::BEGIN_PURGE, &begin);
    draft.wake_at_ms(0);
    Ok(())
}

fn unprepared() -> Refusal {
    Refusal::new(Code::Internal, "a deletion came without its prepared steps")
}

fn change(before: &Wire<Account>, mut account: Account, cx: &Context<'_>, draft: &mut Draft) -> Wire<Account> {
    account.update_time_ms = cx.now_ms;
    account.etag = cx.etag();
    let after = before.updated(&account, None);
    draft.put(&ACCOUNT, SELF, Some(before), &after);
    after
}

fn settle_departures(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft, deleted: bool) -> Result<(), Refusal> {
    for org in orgs(state)? {
        let (account, request_id) = (cx.address.to_string(), String::new());
        let request = SettleDepartureRequest { org: org.to_string(), account, deleted, request_id };
        draft.effect(org, departures::SETTLE_DEPARTURE, &request);
    }
    Ok(())
}

fn tell_holder(kind: LetterKind, account: &Account, cx: &Context<'_>, draft: &mut Draft) {
    if cx.issuer.policy().mails {
        let expire_time_ms = account.purge_time_ms;
        proof::post(draft, Letter { expire_time_ms, ..proof::notice(&account.email, kind) });
    }
}
