//! What a person may know of the safety of their account: log-ins, log-outs,
//! refused attempts, and the reuse of a refresh token.

use canopy_domain::{
    Address, Code, Context, Draft, Order, Origin, PageRequest, Principal, Refusal, Span, State, Table, Wire, decode,
};
use canopy_proto::identity::v1::{
    Account, ListSecurityEventsRequest, ListSecurityEventsResponse, SecurityEvent, SecurityEventKind,
};
use canopy_proto::methods::security_effects;
use canopy_proto::system::v1::{LetterKind, RecordSecurityEventRequest, RecordSecurityEventResponse};

use crate::account::the_account;
use crate::proof;

/// By number, which counts from 1 without gaps.
const SECURITY_EVENTS: Table<SecurityEvent> = Table::new(40, "security_events", 1);

/// Events of an account that are kept; the oldest go.
const EVENTS_MAX: u64 = 1_000;

/// Tells an account what happened to one of its sessions.
pub(crate) fn tell(draft: &mut Draft, cx: &Context<'_>, account: &str, kind: SecurityEventKind) -> Result<(), Refusal> {
    let target = Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
    let event = Some(Wire::new(&event(cx, cx.origin, kind, cx.address.as_str())));
    let request = RecordSecurityEventRequest { account: account.to_owned(), event, request_id: String::new() };
    draft.effect(target, security_effects::RECORD_SECURITY_EVENT, &request);
    Ok(())
}

fn event(cx: &Context<'_>, from: &Origin, kind: SecurityEventKind, session: &str) -> SecurityEvent {
    SecurityEvent {
        kind: kind.into(),
        time_ms: cx.now_ms,
        session: session.to_owned(),
        peer: from.peer.clone(),
        client: from.client.clone(),
        count: 1,
        last_time_ms: cx.now_ms,
    }
}

pub(crate) fn record(
    state: &State<'_>,
    request: RecordSecurityEventRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordSecurityEventResponse, Refusal> {
    let account = decode(&the_account(state, cx)?)?;
    let event = request.event.unwrap_or_default();
    warn(&account, &decode(&event)?, cx, draft);
    add(state, draft, &[event])?;
    Ok(RecordSecurityEventResponse {})
}

/// Notes in the account's own partition what happened to it. Once a decision:
/// the events are numbered by what is there.
pub(crate) fn note(
    state: &State<'_>,
    draft: &mut Draft,
    cx: &Context<'_>,
    from: &Origin,
    kind: SecurityEventKind,
) -> Result<(), Refusal> {
    note_all(state, draft, cx, from, &decode(&the_account(state, cx)?)?, &[kind])
}

/// The same, of several things that happened at once, of which the holder is
/// told at the address that `account` has.
pub(crate) fn note_all(
    state: &State<'_>,
    draft: &mut Draft,
    cx: &Context<'_>,
    from: &Origin,
    account: &Account,
    kinds: &[SecurityEventKind],
) -> Result<(), Refusal> {
    let session = match cx.principal {
        Principal::Person { session, .. } => session.as_str(),
        Principal::Nobody | Principal::Key { .. } | Principal::Actor(_) => "",
    };
    let events: Vec<_> = kinds.iter().map(|kind| event(cx, from, *kind, session)).collect();
    for event in &events {
        warn(account, event, cx, draft);
    }
    add(state, draft, &events.iter().map(Wire::new).collect::<Vec<_>>())
}

/// Notes what a sys-admin did: neither their session nor where they are is the
/// holder's to see. Once a decision, as [`note`].
pub(crate) fn note_administered(
    state: &State<'_>,
    draft: &mut Draft,
    cx: &Context<'_>,
    kind: SecurityEventKind,
) -> Result<(), Refusal> {
    let event = event(cx, &Origin::default(), kind, "");
    warn(&decode(&the_account(state, cx)?)?, &event, cx, draft);
    add(state, draft, &[Wire::new(&event)])
}

/// Has the holder told by mail of what changes how people log in, and of what
/// somebody else may have tried.
fn warn(account: &Account, event: &SecurityEvent, cx: &Context<'_>, draft: &mut Draft) {
    let kind = match event.kind() {
        SecurityEventKind::PasswordChanged => LetterKind::PasswordWasChanged,
        SecurityEventKind::PasswordReset => LetterKind::PasswordWasReset,
        SecurityEventKind::ApiKeyCreated => LetterKind::ApiKeyCreated,
        SecurityEventKind::SecondFactorAdded => LetterKind::SecondFactorAdded,
        SecurityEventKind::SecondFactorRemoved => LetterKind::SecondFactorRemoved,
        SecurityEventKind::RecoveryCodesReplaced => LetterKind::RecoveryCodesReplaced,
        SecurityEventKind::RecoveryCodeUsed => LetterKind::RecoveryCodeUsed,
        SecurityEventKind::CodeRefused => LetterKind::CodeRefused,
        SecurityEventKind::RefreshTokenReused => LetterKind::RefreshTokenReused,
        SecurityEventKind::PasskeyAdded => LetterKind::PasskeyAdded,
        SecurityEventKind::PasskeyRemoved => LetterKind::PasskeyRemoved,
        SecurityEventKind::PasskeySuspected => LetterKind::PasskeySuspected,
        SecurityEventKind::FactorsForgotten => LetterKind::FactorsForgotten,
        // Of log-ins `sessions` tells, and anybody can have one refused; of
        // addresses `email` tells the one before, and `deletion` of itself.
        SecurityEventKind::Unspecified
        | SecurityEventKind::LoggedIn
        | SecurityEventKind::LoggedOut
        | SecurityEventKind::LogInRefused
        | SecurityEventKind::AttemptHeldBack
        | SecurityEventKind::EmailChanged
        | SecurityEventKind::ApiKeyRevoked
        // Their own doing, more often than not; who did it otherwise was refused.
        | SecurityEventKind::UsedElsewhere
        | SecurityEventKind::AccountDeleted
        | SecurityEventKind::AccountUndeleted => return,
    };
    let from = Origin { peer: event.peer.clone(), client: String::new() };
    proof::warn(account, kind, from.place(), cx, draft);
}

/// Notes that sessions were ended by another one, or by themselves: which, where
/// it was one, and how many. Once a decision, as [`note`].
pub(crate) fn note_ended(
    state: &State<'_>,
    draft: &mut Draft,
    cx: &Context<'_>,
    session: &str,
    count: u64,
) -> Result<(), Refusal> {
    let ended = SecurityEvent { count, ..event(cx, cx.origin, SecurityEventKind::LoggedOut, session) };
    add(state, draft, &[Wire::new(&ended)])
}

/// Adds events to the account's own, and lets the oldest go.
fn add(state: &State<'_>, draft: &mut Draft, events: &[Wire<SecurityEvent>]) -> Result<(), Refusal> {
    let end = |order, limit| state.scan(&SECURITY_EVENTS, Span { prefix: &[], after: None, order, limit });
    let number = |key: &[u8]| key.try_into().map_or(0, u64::from_be_bytes);
    let mut last = end(Order::Descending, 1)?.first().map_or(0, |(key, _)| number(key));
    for event in events {
        last += 1;
        draft.insert(&SECURITY_EVENTS, last.to_be_bytes(), event);
    }
    for (key, oldest) in end(Order::Ascending, events.len())? {
        if last - number(&key) >= EVENTS_MAX {
            draft.delete(&SECURITY_EVENTS, key.to_vec(), &oldest);
        }
    }
    Ok(())
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListSecurityEventsRequest,
    cx: &Context<'_>,
) -> Result<ListSecurityEventsResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, SECURITY_EVENTS.id, &[], Order::Descending)?;
    let events = rows.into_iter().map(|(_, row)| SECURITY_EVENTS.row(row)).collect();
    Ok(ListSecurityEventsResponse { events, next_page_token })
}

#[cfg(test)]
mod tests {
    use canopy_domain::Rows;

    use super::*;

    #[test]
    fn the_oldest_events_go() {
        let event = Wire::new(&SecurityEvent { time_ms: 1, ..SecurityEvent::default() });
        for at_once in [1, 2, 3] {
            let (mut rows, mut n) = (Rows::default(), 0);
            while n < EVENTS_MAX + 10 {
                let mut draft = Draft::default();
                add(&State(&rows), &mut draft, &vec![event.clone(); at_once]).unwrap();
                rows.apply(draft.changes());
                n += at_once as u64;
                let keys = rows.keys(SECURITY_EVENTS.id);
                assert_eq!(keys.len() as u64, n.min(EVENTS_MAX));
                assert_eq!(keys.last().unwrap(), &n.to_be_bytes());
            }
        }
    }
}
