//! What an account knows of its sessions. A session's partition says when it
//! was last used; whether it goes on, the account may decide as well, and then
//! its own row counts from the moment that it is durable: whoever checks a
//! token looks at both.

use canopy_domain::{
    Address, Context, Draft, Id, Order, PageRequest, Prepared, Principal, Refusal, Span, State, Step, Table, Wire,
    decode,
};
use canopy_proto::identity::v1::{
    EndSessionRequest, ListSessionsRequest, ListSessionsResponse, LogOutEverywhereRequest, LogOutEverywhereResponse,
    Session, SessionEnd,
};
use canopy_proto::methods::{purges, session_effects};
use canopy_proto::system::v1::{
    BeginPurgeRequest, CloseSessionRequest, LetterKind, Purge, ReadSessionRequest, RecordSessionRequest,
    RecordSessionResponse,
};
use prost::Message;

use crate::account::{id_of, the_account};
use crate::{password, proof, security};

/// By session id.
pub const SESSIONS: Table<Session> = Table::new(3, "sessions", 1);

/// Sessions of one account that are kept, ended ones included: far more than
/// anybody has devices, and few enough to be read at each log-in.
pub const SESSIONS_MAX: usize = 1_000;

type Row = (Id, Wire<Session>, Session);

/// All of an account's sessions.
fn all(state: &State<'_>) -> Result<Vec<Row>, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: 2 * SESSIONS_MAX };
    let rows = state.scan(&SESSIONS, span)?;
    let known = |(_, row): (_, Wire<Session>)| {
        let session = decode(&row)?;
        Ok((id_of(&session.name)?, row, session))
    };
    rows.into_iter().map(known).collect()
}

/// The names of all sessions that the account knows of.
pub(crate) fn names(state: &State<'_>) -> Result<Vec<String>, Refusal> {
    Ok(all(state)?.into_iter().map(|(_, _, session)| session.name).collect())
}

/// Whether somebody has logged in from a network address.
pub(crate) fn is_known_place(state: &State<'_>, place: &str) -> Result<bool, Refusal> {
    Ok(!place.is_empty() && all(state)?.iter().any(|(_, _, session)| session.log_in_address == place))
}

/// Ends a session in the account's own row, and tells it.
fn end(draft: &mut Draft, (id, row, mut session): Row, why: SessionEnd, now_ms: i64) -> Result<Wire<Session>, Refusal> {
    session.end_time_ms = now_ms;
    session.end = why.into();
    let ended = row.updated(&session, None);
    draft.put(&SESSIONS, *id.as_bytes(), Some(&row), &ended);
    tell(draft, &session)?;
    Ok(ended)
}

fn tell(draft: &mut Draft, ended: &Session) -> Result<(), Refusal> {
    let close = CloseSessionRequest {
        session: ended.name.clone(),
        end_time_ms: ended.end_time_ms,
        end: ended.end,
        request_id: String::new(),
    };
    let target = Address::parse(&ended.name).map_err(|e| Refusal::new(canopy_domain::Code::Internal, e.to_string()))?;
    draft.effect(target, session_effects::CLOSE_SESSION, &close);
    Ok(())
}

/// Ends all sessions but `kept`; tells how many that were.
pub(crate) fn end_all(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    kept: Option<&Address>,
    why: SessionEnd,
) -> Result<i32, Refusal> {
    let mut ended = 0;
    for row in all(state)? {
        let goes = row.2.end_time_ms == 0 && kept.is_none_or(|kept| kept.as_str() != row.2.name);
        if goes {
            end(draft, row, why, cx.now_ms)?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// The session that calls.
pub(crate) fn current<'a>(cx: &'a Context<'_>) -> Option<&'a Address> {
    match cx.principal {
        Principal::Person { session, .. } => Some(session),
        Principal::Nobody | Principal::Key { .. } | Principal::Actor(_) => None,
    }
}

pub(crate) fn end_session(
    state: &State<'_>,
    request: EndSessionRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Session>, Refusal> {
    let not_found = || Refusal::not_found(&request.name);
    let id = match (request.name.as_str(), current(cx)) {
        ("session/me", Some(current)) => current.id(),
        (name, _) => {
            Address::parse(name).ok().filter(|a| a.kind() == Some(canopy_domain::Kind::Session)).and_then(|a| a.id())
        }
    };
    let id = id.ok_or_else(not_found)?;
    let row = state.get(&SESSIONS, id.as_bytes())?.ok_or_else(not_found)?;
    let session = decode(&row)?;
    if session.end_time_ms > 0 {
        return Ok(row);
    }
    security::note_ended(state, draft, cx, &session.name, 1)?;
    draft.settle();
    end(draft, (id, row, session), SessionEnd::LogOut, cx.now_ms)
}

pub(crate) fn log_out_everywhere(
    state: &State<'_>,
    request: LogOutEverywhereRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogOutEverywhereResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_account(state, cx)?;
    let kept = current(cx).filter(|_| request.keep_current);
    let ended = end_all(state, cx, draft, kept, SessionEnd::Everywhere)?;
    if let Some(count) = u64::try_from(ended).ok().filter(|count| *count > 0) {
        security::note_ended(state, draft, cx, "", count)?;
    }
    draft.settle();
    Ok(LogOutEverywhereResponse { ended })
}

/// Takes over a session as it is now.
pub(crate) fn record_session(
    state: &State<'_>,
    request: RecordSessionRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordSessionResponse, Refusal> {
    let account = decode(&the_account(state, cx)?)?;
    let is_shut = account.disable_time_ms > 0 || account.delete_time_ms > 0;
    let row = request.session.unwrap_or_default();
    let mut session = decode(&row)?;
    let id = id_of(&session.name)?;
    match state.get(&SESSIONS, id.as_bytes())? {
        // What the account has ended stays so, whatever is still on its way.
        Some(before) if session.end_time_ms == 0 && decode(&before)?.end_time_ms > 0 => {}
        Some(before) => draft.put(&SESSIONS, *id.as_bytes(), Some(&before), &row),
        None if (is_shut || request.password_version < password::version(state)?) && session.end_time_ms == 0 => {
            // It was opened with a password that was changed meanwhile, or
            // before the account was disabled or deleted.
            session.end_time_ms = cx.now_ms;
            session.end = SessionEnd::PasswordChange.into();
            draft.insert(&SESSIONS, *id.as_bytes(), &row.updated(&session, None));
            tell(draft, &session)?;
        }
        None => {
            let known = all(state)?;
            let place = session.log_in_address.clone();
            if !known.is_empty() && known.iter().all(|(_, _, other)| other.log_in_address != place) {
                proof::warn(&account, LetterKind::NewPlace, place, cx, draft);
            }
            make_room(known, cx.now_ms, cx.settings.session_max_ms, draft)?;
            draft.insert(&SESSIONS, *id.as_bytes(), &row);
        }
    }
    Ok(RecordSessionResponse {})
}

/// Makes room for one more: forgets those that have ended, the earliest first,
/// and where that is not enough, ends the one that is oldest. The keys of what is
/// forgotten are destroyed, as nobody would know of them at the account's end.
fn make_room(mut rows: Vec<Row>, now_ms: i64, session_max_ms: i64, draft: &mut Draft) -> Result<(), Refusal> {
    let Some(beyond) = (rows.len() + 1).checked_sub(SESSIONS_MAX).filter(|beyond| *beyond > 0) else { return Ok(()) };
    let has_ended =
        |session: &Session| session.end_time_ms > 0 || session.create_time_ms.saturating_add(session_max_ms) <= now_ms;
    // As its log-in said: it may have been refreshed since.
    let seems_unused = |session: &Session| session.expire_time_ms <= now_ms;
    rows.sort_by_key(|(_, _, session)| (!has_ended(session), !seems_unused(session), session.create_time_ms));
    for (id, row, session) in rows.into_iter().take(beyond) {
        if has_ended(&session) {
            draft.delete(&SESSIONS, *id.as_bytes(), &row);
            let purge = Purge { address: session.name, time_ms: now_ms, ..Purge::default() };
            let begin = BeginPurgeRequest { purge: Some(purge), request_id: String::new() };
            draft.effect(Address::system("purges"), purges::BEGIN_PURGE, &begin);
        } else {
            end(draft, (id, row, session), SessionEnd::TooMany, now_ms)?;
        }
    }
    Ok(())
}

fn page(state: &State<'_>, request: &ListSessionsRequest) -> Result<(Vec<Wire<Session>>, String), Refusal> {
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, SESSIONS.id, &[], Order::Descending)?;
    Ok((rows.into_iter().map(|(_, row)| SESSIONS.row(row)).collect(), next_page_token))
}

/// Asks the sessions of a page how they are: the account is not told of each
/// refresh, which would cost a second commit.
pub(crate) fn prepare_list(
    state: &State<'_>,
    request: &ListSessionsRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    if !cx.prepared.is_empty() {
        return Ok(None);
    }
    let mut asked = Vec::new();
    for row in page(state, request)?.0 {
        let session = decode(&row)?.name;
        if let Ok(address) = Address::parse(&session) {
            asked.push((address, ReadSessionRequest { session }.encode_to_vec().into()));
        }
    }
    Ok(Some(Step::AskAll { asked, method: session_effects::READ_SESSION.path }))
}

pub(crate) fn list_sessions(
    state: &State<'_>,
    request: ListSessionsRequest,
    cx: &Context<'_>,
) -> Result<ListSessionsResponse, Refusal> {
    let told = match cx.prepared {
        [Prepared::Answers(answers)] => answers.as_slice(),
        _ => &[],
    };
    let told = told.iter().flatten().map(|answer| SESSIONS.row(answer.clone()));
    let told: Vec<(String, Wire<Session>, i64)> = told
        .filter_map(|row| decode(&row).ok().map(|session: Session| (session.name, row, session.end_time_ms)))
        .collect();
    let (rows, next_page_token) = page(state, &request)?;
    let mut sessions = Vec::with_capacity(rows.len());
    for row in rows {
        let own = decode(&row)?;
        let is_current = current(cx).is_some_and(|current| current.as_str() == own.name);
        // The account may have ended what does not know it yet.
        let fresh = told.iter().find(|(name, _, end_ms)| *name == own.name && (own.end_time_ms == 0 || *end_ms > 0));
        let shown = fresh.map_or(row, |(_, row, _)| row.clone());
        sessions.push(match is_current {
            true => shown.updated(&Session { is_current, ..decode(&shown)? }, None),
            false => shown,
        });
    }
    Ok(ListSessionsResponse { sessions, next_page_token })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;
    const MAX_MS: i64 = 900_000;

    fn row(n: u16, create_time_ms: i64, end_time_ms: i64, expire_time_ms: i64) -> Row {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(n.to_be_bytes()) {
            *to = from;
        }
        let id = Id::from_bytes(bytes);
        let name = Address::session(id).to_string();
        let session = Session { name, create_time_ms, end_time_ms, expire_time_ms, ..Session::default() };
        (id, Wire::new(&session), session)
    }

    /// What is told of whom, for one more session than there are rows, where
    /// `first` stand before those that go on.
    fn told(first: &[Row], beyond: usize) -> Vec<(&'static str, String)> {
        let going_on = (1_000..).map(|n| row(n, NOW_MS - 1, 0, NOW_MS + 1));
        let rows: Vec<Row> = first.iter().cloned().chain(going_on).take(SESSIONS_MAX - 1 + beyond).collect();
        let mut draft = Draft::default();
        make_room(rows, NOW_MS, MAX_MS, &mut draft).unwrap();
        let parts = draft.into_parts();
        assert_eq!(parts.changes.len(), parts.effects.len());
        let named = parts.effects.iter().map(|effect| match effect.method {
            method if method == purges::BEGIN_PURGE.path => {
                let purge = BeginPurgeRequest::decode(effect.request.clone()).unwrap().purge.unwrap();
                ("forgotten", purge.address)
            }
            _ => ("ended", CloseSessionRequest::decode(effect.request.clone()).unwrap().session),
        });
        named.collect()
    }

    #[test]
    fn what_has_ended_is_forgotten_and_destroyed_and_what_may_go_on_is_ended() {
        // Ended; too old, whatever it said; of which the log-in said that it
        // would be over by now; old.
        let rows = [
            row(1, 990_000, 995_000, NOW_MS + 1),
            row(2, NOW_MS - MAX_MS, 0, NOW_MS + 1),
            row(3, 500_000, 0, NOW_MS),
            row(4, NOW_MS - MAX_MS + 1, 0, NOW_MS + 1),
        ];
        let name = |n: usize| rows[n - 1].2.name.clone();
        assert!(told(&rows, 0).is_empty());
        let expected = [("forgotten", name(2)), ("forgotten", name(1)), ("ended", name(3)), ("ended", name(4))];
        for beyond in 1..=4 {
            assert_eq!(told(&rows, beyond), expected[..beyond]);
        }
    }
}
