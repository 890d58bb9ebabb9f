//! A new password by mail.

use canopy_domain::{Context, Draft, Prepared, Refusal, Secret, State, Step, decode};
use canopy_proto::identity::v1::{ResetPasswordRequest, ResetPasswordResponse, SecurityEventKind};

use crate::account::{ACCOUNT, SELF, the_account};
use crate::proof::{self, Purpose};
use crate::verify::{stand, standing, verified};
use crate::{access, guessable, password, security};

/// Looks the password up and hashes it where the token is good: nobody else has
/// the server work.
pub(crate) fn prepare_reset(
    state: &State<'_>,
    request: &ResetPasswordRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    if proof::find(state, Purpose::Reset, &request.token, cx)?.is_none() {
        return Ok(None);
    }
    match cx.prepared {
        [] => {
            guessable::check("new_password", &request.new_password, &decode(&the_account(state, cx)?)?)?;
            Ok(Some(guessable::look_up(&request.new_password)))
        }
        [Prepared::Breached(is_breached)] => {
            guessable::check_breached("new_password", *is_breached)?;
            Ok(Some(Step::HashPassword(Secret::new(request.new_password.as_str()))))
        }
        _ => Ok(None),
    }
}

/// Sets the password and ends all sessions. Who reads the account's mail has
/// shown that the address is theirs, and may take back that they disabled it.
pub(crate) fn reset_password(
    state: &State<'_>,
    request: ResetPasswordRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ResetPasswordResponse, Refusal> {
    proof::take(state, Purpose::Reset, &request.token, cx, draft)?;
    let [_, Prepared::PasswordHash(phc)] = cx.prepared else { return Err(proof::no_good()) };
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    let mut standing = standing(state)?;
    if account.disable_time_ms > 0 {
        if !std::mem::take(&mut standing.disabled_by_holder) {
            return Err(proof::no_good());
        }
        account.disable_time_ms = 0;
    }
    verified(&mut account, &mut standing, cx, draft);
    stand(state, &standing, draft)?;
    draft.put(&ACCOUNT, SELF, Some(&before), &before.updated(&account, None));
    password::replace(state, draft, phc)?;
    // Whatever else was under way by mail was perhaps another's.
    proof::forget_all(state, Purpose::Change, draft)?;
    proof::forget_all(state, Purpose::Verification, draft)?;
    access::shut(state, cx, draft)?;
    let forgotten = access::distrust_passkeys(state, cx, draft)?;
    let events: Vec<_> = [SecurityEventKind::PasswordReset].into_iter().chain(forgotten).collect();
    security::note_all(state, draft, cx, cx.origin, &account, &events)?;
    draft.settle();
    Ok(ResetPasswordResponse {})
}
