//! Whether anybody gets in: an account that was disabled, by its holder or an
//! administrator, and enabled again.

use canopy_domain::{Context, Draft, Refusal, State, Wire, decode};
use canopy_proto::identity::v1::{Account, DisableAccountRequest, LogInStrength, SecurityEventKind, SessionEnd};
use canopy_proto::ops::v1::{EnableAccountRequest, ForgetFactorsRequest, SuspendAccountRequest};

use crate::account::{ACCOUNT, SELF, the_account};
use crate::verify::{stand, standing};
use crate::{api_keys, passkeys, second_factor, security, sessions, strength};

/// Ends all sessions and keys: whoever came in by another's doing is out.
pub(crate) fn shut(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    sessions::end_all(state, cx, draft, None, SessionEnd::Everywhere)?;
    api_keys::revoke_all(state, cx, draft)
}

/// Sets whether an account is disabled, and since when; ends its sessions.
fn set(
    state: &State<'_>,
    (disabled, by_holder): (bool, bool),
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let before = the_account(state, cx)?;
    let mut account = decode(&before)?;
    let mut standing = standing(state)?;
    if (account.disable_time_ms > 0) == disabled && standing.disabled_by_holder == by_holder {
        return Ok(before);
    }
    account.disable_time_ms = if disabled { cx.now_ms } else { 0 };
    account.update_time_ms = cx.now_ms;
    account.etag = cx.etag();
    standing.disabled_by_holder = by_holder;
    stand(state, &standing, draft)?;
    let after = before.updated(&account, None);
    draft.put(&ACCOUNT, SELF, Some(&before), &after);
    if disabled {
        shut(state, cx, draft)?;
    }
    draft.settle();
    Ok(after)
}

pub(crate) fn disable(
    state: &State<'_>,
    request: DisableAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    set(state, (true, true), cx, draft)
}

pub(crate) fn suspend(
    state: &State<'_>,
    request: SuspendAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    set(state, (true, false), cx, draft)
}

pub(crate) fn enable(
    state: &State<'_>,
    request: EnableAccountRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    set(state, (false, false), cx, draft)
}

/// Somebody has lost what they log in with. Sessions end, for whoever found it
/// may have them; the password stays.
pub(crate) fn forget_factors(
    state: &State<'_>,
    request: ForgetFactorsRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Account>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let account = the_account(state, cx)?;
    let had_passkeys = passkeys::forget_all(state, draft)?;
    if second_factor::forget_all(state, draft)? || had_passkeys {
        security::note_administered(state, draft, cx, SecurityEventKind::FactorsForgotten)?;
    }
    sessions::end_all(state, cx, draft, None, SessionEnd::Everywhere)?;
    draft.settle();
    Ok(account)
}

/// What a mailed token does to the passkeys of an account that is taken back
/// by it: whoever had it before may have made them. Where more than a password
/// is asked for they stay, for who reads the mail has shown nothing
/// of the kind; a sys-admin has them forgotten. Gives what there is to note.
pub(crate) fn distrust_passkeys(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Option<SecurityEventKind>, Refusal> {
    let stay = strength::asked(state, cx)? > LogInStrength::Password;
    let forgotten = !stay && passkeys::forget_all(state, draft)?;
    Ok(forgotten.then_some(SecurityEventKind::PasskeyRemoved))
}
