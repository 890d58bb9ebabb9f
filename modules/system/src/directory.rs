//! Names that must be unique over partitions: reserved before the holder
//! commits, confirmed by an effect of that commit, released when given up. A
//! reservation whose holder never committed lapses.

use canopy_domain::{Address, Code, Context, Draft, Module, Refusal, State, Table, Wire};
use canopy_proto::methods::{account_emails, directory as methods, email_claims};
use canopy_proto::system::v1::{
    ClaimEmailRequest, ClaimEmailResponse, ConfirmRequest, ReleaseRequest, ReleaseResponse, Reservation,
    ReserveRequest, ResolveRequest, SettleEmailRequest,
};

/// How long a reservation waits for its confirmation. Longer than any deadline
/// of a call, so that no name is taken over while its holder still commits.
const UNCONFIRMED_MS: i64 = 600_000;

/// By keyed digest of space and name.
const RESERVATIONS: Table<Reservation> = Table::new(1, "reservations", 1);

/// The module of `system/directory`.
pub fn directory() -> Module {
    Module::new("directory")
        .command(methods::RESERVE, reserve)
        .command(methods::CONFIRM, confirm)
        .command(methods::RELEASE, release)
        .query(methods::RESOLVE, resolve)
        .command(email_claims::CLAIM_EMAIL, claim_email)
}

fn key(state: &State<'_>, space: &str, name: &str) -> [u8; 16] {
    state.digest(&format!("{space}\0{}", name.to_lowercase()))
}

fn reserve(
    state: &State<'_>,
    request: ReserveRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Reservation, Refusal> {
    let key = key(state, &request.space, &request.key);
    let before = state.get(&RESERVATIONS, &key)?;
    if let Some(held) = state.read(&RESERVATIONS, &key)? {
        let lapsed = !held.confirmed && held.expire_time_ms <= cx.now_ms;
        if held.holder != request.holder && !lapsed {
            let message = match request.space.as_str() {
                "email" => "an account with this e-mail address exists".to_owned(),
                _ => format!("the slug `{}` is taken", request.key),
            };
            return Err(Refusal::new(Code::AlreadyExists, message).hint("choose another one"));
        }
        if held.holder == request.holder && held.confirmed {
            return Ok(held);
        }
    }
    let reservation = Reservation {
        space: request.space,
        holder: request.holder,
        confirmed: false,
        expire_time_ms: cx.now_ms + UNCONFIRMED_MS,
    };
    draft.put(&RESERVATIONS, key, before.as_ref(), &Wire::new(&reservation));
    Ok(reservation)
}

fn confirm(
    state: &State<'_>,
    request: ConfirmRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<Reservation, Refusal> {
    let key = key(state, &request.space, &request.key);
    let before = state.get(&RESERVATIONS, &key)?;
    match state.read(&RESERVATIONS, &key)? {
        Some(held) if held.holder != request.holder => {
            Err(Refusal::new(Code::AlreadyExists, "the reservation lapsed and the name went to somebody else"))
        }
        Some(held) if held.confirmed => Ok(held),
        _ => {
            let confirmed =
                Reservation { space: request.space, holder: request.holder, confirmed: true, expire_time_ms: 0 };
            draft.put(&RESERVATIONS, key, before.as_ref(), &Wire::new(&confirmed));
            Ok(confirmed)
        }
    }
}

fn release(
    state: &State<'_>,
    request: ReleaseRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<ReleaseResponse, Refusal> {
    let key = key(state, &request.space, &request.key);
    if let Some(before) = state.get(&RESERVATIONS, &key)?
        && state.read(&RESERVATIONS, &key)?.is_some_and(|held| held.holder == request.holder)
    {
        draft.delete(&RESERVATIONS, key, &before);
    }
    Ok(ReleaseResponse {})
}

fn resolve(state: &State<'_>, request: ResolveRequest, _: &Context<'_>) -> Result<Reservation, Refusal> {
    let key = key(state, &request.space, &request.key);
    state.read(&RESERVATIONS, &key)?.filter(|held| held.confirmed).ok_or_else(|| Refusal::not_found(&request.key))
}

/// Takes an address for an account that has committed already, where it is
/// free, and tells the account which it was.
fn claim_email(
    state: &State<'_>,
    request: ClaimEmailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ClaimEmailResponse, Refusal> {
    let account = Address::parse(&request.account).map_err(|e| Refusal::invalid("account", e.to_string()))?;
    let key = key(state, "email", &request.email);
    let before = state.get(&RESERVATIONS, &key)?;
    let held = state.read(&RESERVATIONS, &key)?;
    let is_free =
        |held: &Reservation| held.holder == request.account || (!held.confirmed && held.expire_time_ms <= cx.now_ms);
    let granted = held.as_ref().is_none_or(is_free);
    if granted {
        let reservation =
            Reservation { space: "email".into(), holder: request.account.clone(), confirmed: true, expire_time_ms: 0 };
        draft.put(&RESERVATIONS, key, before.as_ref(), &Wire::new(&reservation));
    }
    let settle =
        SettleEmailRequest { account: request.account, email: request.email, granted, request_id: String::new() };
    draft.effect(account, account_emails::SETTLE_EMAIL, &settle);
    Ok(ClaimEmailResponse {})
}
