//! Verification: that the address of an account is its holder's. Where it is
//! required, the answer to a registration says nothing of whether the address
//! was free: the account claims it, and is told later.

use canopy_domain::{Address, Context, Draft, Refusal, State, Table, Wire, decode};
use canopy_proto::identity::v1::{Account, VerifyEmailRequest, VerifyEmailResponse};
use canopy_proto::methods::{email_claims, installation_grants};
use canopy_proto::system::v1::{
    AccountStanding, BeginProofRequest, BeginProofResponse, ClaimEmailRequest, ClaimSysAdminRequest, LetterKind,
    SettleEmailRequest, SettleEmailResponse,
};

use crate::account::{ACCOUNT, SELF, the_account};
use crate::password::VERIFIER;
use crate::proof::{self, Purpose};

/// The one row, under [`SELF`].
pub(crate) const STANDING: Table<AccountStanding> = Table::new(31, "standing", 1);

/// How an account stands.
pub(crate) fn standing(state: &State<'_>) -> Result<AccountStanding, Refusal> {
    Ok(state.read(&STANDING, &SELF)?.unwrap_or_default())
}

/// Sets how an account stands.
pub(crate) fn stand(state: &State<'_>, standing: &AccountStanding, draft: &mut Draft) -> Result<(), Refusal> {
    let before = state.get(&STANDING, &SELF)?;
    draft.put(&STANDING, SELF, before.as_ref(), &Wire::new(standing));
    Ok(())
}

/// The account, where others may see that it is there: it is verified, or need
/// not be, and nobody has disabled or deleted it.
pub(crate) fn the_open_account(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    let row = the_account_by_password(state, cx)?;
    match decode(&row)?.delete_time_ms {
        0 => Ok(row),
        _ => Err(Refusal::not_found(cx.address.as_str())),
    }
}

/// The same, or one that was deleted: whoever knows its password may know that.
pub(crate) fn the_account_by_password(state: &State<'_>, cx: &Context<'_>) -> Result<Wire<Account>, Refusal> {
    let row = the_account(state, cx)?;
    if standing(state)?.pending || decode(&row)?.disable_time_ms > 0 {
        return Err(Refusal::not_found(cx.address.as_str()));
    }
    Ok(row)
}

/// A registration where addresses are verified first: the account is there, of
/// no use, and claims its address.
pub(crate) fn claim(account: &Account, claims_sys_admin: bool, cx: &Context<'_>, draft: &mut Draft) {
    let standing = AccountStanding { pending: true, claims_sys_admin, ..AccountStanding::default() };
    draft.insert(&STANDING, SELF, &Wire::new(&standing));
    let claim =
        ClaimEmailRequest { email: account.email.clone(), account: cx.address.to_string(), request_id: String::new() };
    draft.effect(Address::system("directory"), email_claims::CLAIM_EMAIL, &claim);
}

/// What came of the claim: a letter to verify the address, or, where somebody
/// had it, one to them and nothing of the registration.
pub(crate) fn settle_email(
    state: &State<'_>,
    request: SettleEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<SettleEmailResponse, Refusal> {
    let row = the_account(state, cx)?;
    if !standing(state)?.pending {
        return Ok(SettleEmailResponse {});
    }
    if request.granted {
        proof::issue(state, (Purpose::Verification, &request.email, &request.email), cx, draft)?;
        return Ok(SettleEmailResponse {});
    }
    draft.delete(&ACCOUNT, SELF, &row);
    if let Some(verifier) = state.get(&VERIFIER, &SELF)? {
        draft.delete(&VERIFIER, SELF, &verifier);
    }
    if let Some(standing) = state.get(&STANDING, &SELF)? {
        draft.delete(&STANDING, SELF, &standing);
    }
    proof::post(draft, proof::notice(&request.email, LetterKind::AccountExists));
    Ok(SettleEmailResponse {})
}

/// Writes the letter that somebody asked for, if it is one for this account as
/// it is.
pub(crate) fn begin_proof(
    state: &State<'_>,
    request: BeginProofRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<BeginProofResponse, Refusal> {
    let account = decode(&the_account(state, cx)?)?;
    let standing = standing(state)?;
    let is_locked = account.disable_time_ms > 0 && !standing.disabled_by_holder;
    if is_locked || account.email.to_lowercase() != request.email.to_lowercase() {
        return Ok(BeginProofResponse {});
    }
    match request.kind() {
        LetterKind::ResetRequested => {
            proof::issue(state, (Purpose::Reset, &account.email, &account.email), cx, draft)?;
        }
        LetterKind::VerificationRequested if account.email_verify_time_ms == 0 => {
            proof::issue(state, (Purpose::Verification, &account.email, &account.email), cx, draft)?;
        }
        _ => {}
    }
    Ok(BeginProofResponse {})
}

/// The address was proved to be the holder's: changes `account` and `standing`,
/// which the caller writes.
pub(crate) fn verified(account: &mut Account, standing: &mut AccountStanding, cx: &Context<'_>, draft: &mut Draft) {
    account.email_verify_time_ms = cx.now_ms;
    account.update_time_ms = cx.now_ms;
    account.etag = cx.etag();
    if std::mem::take(&mut standing.claims_sys_admin) {
        let claim = ClaimSysAdminRequest { account: cx.address.to_string(), request_id: String::new() };
        draft.effect(Address::system("installation"), installation_grants::CLAIM_SYS_ADMIN, &claim);
    }
    standing.pending = false;
}

pub(crate) fn verify_email(
    state: &State<'_>,
    request: VerifyEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<VerifyEmailResponse, Refusal> {
    let proved = proof::take(state, Purpose::Verification, &request.token, cx, draft)?;
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    if account.email != proved.email {
        return Err(proof::no_good());
    }
    let mut standing = standing(state)?;
    verified(&mut account, &mut standing, cx, draft);
    stand(state, &standing, draft)?;
    let after = before.updated(&account, None);
    draft.put(&ACCOUNT, SELF, Some(&before), &after);
    draft.settle();
    Ok(VerifyEmailResponse { account: Some(after) })
}
