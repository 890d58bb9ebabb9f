//! Members whose accounts are being deleted. They keep their roles for as long as
//! that can be taken back, and count no more as somebody who runs the org.

use canopy_domain::{Address, Code, Context, Draft, Id, Refusal, Role, State, Table, Wire};
use canopy_proto::org::v1::Grant;
use canopy_proto::system::v1::{
    Departure, ForgetMemberRequest, ForgetMemberResponse, ReserveDepartureRequest, ReserveDepartureResponse,
    SettleDepartureRequest, SettleDepartureResponse,
};

use crate::grants::{self, GRANTS};
use crate::org::{ORG, SELF};
use crate::{invitations, members};

/// By account id.
const DEPARTURES: Table<Departure> = Table::new(30, "departures", 1);

/// How long a departure waits for the deletion that it was reserved for. Longer
/// than any deadline of a call.
const UNCONFIRMED_MS: i64 = 600_000;

fn id_of(account: &str) -> Result<Id, Refusal> {
    let id = Address::parse(account).ok().and_then(|address| address.id());
    id.ok_or_else(|| Refusal::invalid("account", format!("`{account}` names no account")))
}

/// Whether an account is being deleted, or about to be.
pub(crate) fn is_leaving(state: &State<'_>, account: &str, cx: &Context<'_>) -> Result<bool, Refusal> {
    let departure = state.read(&DEPARTURES, id_of(account)?.as_bytes())?;
    Ok(departure.is_some_and(|departure| departure.expire_time_ms == 0 || departure.expire_time_ms > cx.now_ms))
}

fn set(state: &State<'_>, account: Id, departure: &Departure, draft: &mut Draft) -> Result<(), Refusal> {
    let before = state.get(&DEPARTURES, account.as_bytes())?;
    draft.put(&DEPARTURES, *account.as_bytes(), before.as_ref(), &Wire::new(departure));
    Ok(())
}

fn unset(state: &State<'_>, account: Id, draft: &mut Draft) -> Result<(), Refusal> {
    if let Some(before) = state.get(&DEPARTURES, account.as_bytes())? {
        draft.delete(&DEPARTURES, *account.as_bytes(), &before);
    }
    Ok(())
}

/// An org that was deleted needs nobody to run it: its end is decided.
pub(crate) fn reserve(
    state: &State<'_>,
    request: ReserveDepartureRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ReserveDepartureResponse, Refusal> {
    let id = id_of(&request.account)?;
    let Some(org) = state.read(&ORG, &SELF)? else { return Ok(ReserveDepartureResponse {}) };
    let on = cx.address.to_string();
    let admin = Grant { account: request.account.clone(), on, role: Role::OrgAdmin.into(), ..Grant::default() };
    let runs_it = org.delete_time_ms == 0 && state.get(&GRANTS, &grants::key(&admin)?)?.is_some();
    if runs_it && grants::check_not_last(state, cx, &request.account).is_err() {
        let message = format!("the account is the last org-admin of `org/{}`", org.slug);
        return Err(Refusal::new(Code::FailedPrecondition, message)
            .hint("hand it over with `canopy org transfer-ownership`, or delete it with `canopy org delete-org`"));
    }
    set(state, id, &Departure { expire_time_ms: cx.now_ms + UNCONFIRMED_MS }, draft)?;
    Ok(ReserveDepartureResponse {})
}

pub(crate) fn settle(
    state: &State<'_>,
    request: SettleDepartureRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<SettleDepartureResponse, Refusal> {
    let id = id_of(&request.account)?;
    match request.deleted && state.get(&ORG, &SELF)?.is_some() {
        true => set(state, id, &Departure { expire_time_ms: 0 }, draft)?,
        false => unset(state, id, draft)?,
    }
    Ok(SettleDepartureResponse {})
}

/// The account is gone: so is all that it held here.
pub(crate) fn forget(
    state: &State<'_>,
    request: ForgetMemberRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<ForgetMemberResponse, Refusal> {
    let id = id_of(&request.account)?;
    for (key, row) in members::grants_of(state, id)? {
        draft.delete(&GRANTS, key, &row);
    }
    unset(state, id, draft)?;
    invitations::forget_of(state, &request.account, &request.email, draft)?;
    draft.detail("account", request.account);
    Ok(ForgetMemberResponse {})
}
