//! Whether anybody gets in: an account that was disabled, by its holder or an
//! administrator, and enabled again.

use canopy_domain::{Context, Draft, Refusal, State, Wire, decode};
use canopy_proto::identity::v1::{Account, DisableAccountRequest, SessionEnd};
use canopy_proto::ops::v1::{EnableAccountRequest, SuspendAccountRequest};

use crate::account::{ACCOUNT, SELF, the_account};
use crate::verify::{stand, standing};
use crate::{api_keys, sessions};

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
