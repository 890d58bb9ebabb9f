//! Names that must be unique over partitions: reserved before the holder
//! commits, confirmed by an effect of that commit, released when given up. A
//! reservation whose holder never committed lapses. After a rename, the old name
//! leads on for a while, as long as nobody else reserves and confirms it.

use canopy_domain::{Address, Code, Context, Draft, Module, Refusal, State, Table, Wire, decode};
use canopy_proto::methods::{account_emails, directory as methods, email_claims};
use canopy_proto::system::v1::{
    ClaimEmailRequest, ClaimEmailResponse, ConfirmRequest, ReleaseRequest, ReleaseResponse, Reservation,
    ReserveRequest, ResolveRequest, RetireRequest, RetireResponse, SettleEmailRequest,
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
        .command(methods::RETIRE, retire)
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
    let former = state.read(&RESERVATIONS, &key)?.unwrap_or_default();
    let reservation = Reservation {
        space: request.space,
        holder: request.holder,
        confirmed: false,
        expire_time_ms: cx.now_ms + UNCONFIRMED_MS,
        // Until it is confirmed, it leads where it did.
        former_holder: former.former_holder,
        former_expire_time_ms: former.former_expire_time_ms,
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
                Reservation { space: request.space, holder: request.holder, confirmed: true, ..Reservation::default() };
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
    let Some(before) = state.get(&RESERVATIONS, &key)? else { return Ok(ReleaseResponse {}) };
    let held = decode(&before)?;
    if held.holder == request.holder || held.holder.is_empty() && held.former_holder == request.holder {
        draft.delete(&RESERVATIONS, key, &before);
    } else if held.former_holder == request.holder {
        let after = Reservation { former_holder: String::new(), former_expire_time_ms: 0, ..held };
        draft.put(&RESERVATIONS, key, Some(&before), &Wire::new(&after));
    }
    Ok(ReleaseResponse {})
}

fn retire(
    state: &State<'_>,
    request: RetireRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<RetireResponse, Refusal> {
    let key = key(state, &request.space, &request.key);
    if let Some(before) = state.get(&RESERVATIONS, &key)?
        && decode(&before)?.holder == request.holder
    {
        // Nobody holds it, and whoever wants it may.
        let after = Reservation {
            space: request.space,
            former_holder: request.holder,
            former_expire_time_ms: request.expire_time_ms,
            ..Reservation::default()
        };
        draft.put(&RESERVATIONS, key, Some(&before), &Wire::new(&after));
    }
    Ok(RetireResponse {})
}

fn resolve(state: &State<'_>, request: ResolveRequest, cx: &Context<'_>) -> Result<Reservation, Refusal> {
    let key = key(state, &request.space, &request.key);
    let held = state.read(&RESERVATIONS, &key)?.ok_or_else(|| Refusal::not_found(&request.key))?;
    if held.confirmed {
        Ok(held)
    } else if held.former_expire_time_ms > cx.now_ms {
        Ok(Reservation { holder: held.former_holder.clone(), ..held })
    } else {
        Err(Refusal::not_found(&request.key))
    }
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
        let reservation = Reservation {
            space: "email".into(),
            holder: request.account.clone(),
            confirmed: true,
            ..Reservation::default()
        };
        draft.put(&RESERVATIONS, key, before.as_ref(), &Wire::new(&reservation));
    }
    let settle =
        SettleEmailRequest { account: request.account, email: request.email, granted, request_id: String::new() };
    draft.effect(account, account_emails::SETTLE_EMAIL, &settle);
    Ok(ClaimEmailResponse {})
}
