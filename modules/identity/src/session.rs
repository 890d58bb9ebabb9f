//! A session: one log-in and its end.

use bytes::Bytes;
use canopy_domain::{
    Address, Attempt, Code, Context, Draft, Module, PasswordFit, Prepared, Refusal, Secret, State, Step, Table, Wire,
    decode,
};
use canopy_proto::identity::v1::{
    Account, LogInRequest, LogInResponse, LogOutRequest, LogOutResponse, SecurityEventKind, Session, SessionEnd,
};
use canopy_proto::methods::{account_effects, directory, identity, session_effects};
use canopy_proto::system::v1::{
    CloseSessionRequest, CloseSessionResponse, GetVerifierRequest, GetVerifierResponse, PasswordVerifier,
    ReadSessionRequest, RecordSessionRequest, RefreshVerifier, Reservation, ResolveRequest, UpgradeVerifierRequest,
};
use prost::Message;

use crate::{refresh, second_factor, security};

/// The one row, under [`SELF`].
pub const SESSION: Table<Session> = Table::new(1, "session", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `session/<id>`.
pub fn session() -> Module {
    Module::new("session")
        .prepared_command(identity::LOG_IN, prepare_log_in, log_in)
        .command(identity::REFRESH, refresh::refresh)
        .command(identity::LOG_OUT, log_out)
        .command(session_effects::CLOSE_SESSION, close_session)
        .query(session_effects::READ_SESSION, read_session)
}

fn wrong_credentials() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the e-mail address or the password is wrong")
        .hint("check both; `canopy identity register` makes an account")
}

/// Finds the account, then compares the password: in the same time whether or
/// not the account exists.
fn prepare_log_in(_: &State<'_>, request: &LogInRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let verify = |phc, attempt| {
        let password = Secret::new(request.password.as_str());
        Ok(Some(Step::VerifyPassword { phc, password, attempt }))
    };
    match cx.prepared {
        [] => {
            let resolve = ResolveRequest { space: "email".into(), key: request.email.clone() };
            Ok(Some(Step::Ask {
                target: Address::system("directory"),
                method: directory::RESOLVE.path,
                request: resolve.encode_to_vec().into(),
            }))
        }
        [Prepared::Answer(Ok(reservation))] => {
            let holder = Reservation::decode(reservation.clone()).unwrap_or_default().holder;
            let target = address_of(&holder)?;
            let ask = GetVerifierRequest { account: holder, place: cx.origin.place() };
            let request = ask.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: account_effects::GET_VERIFIER.path, request }))
        }
        [Prepared::Answer(Err(refusal))] | [_, Prepared::Answer(Err(refusal))] => match refusal.code {
            // Without regard to case, as the directory looks for it.
            Code::NotFound => verify(None, Attempt { account: request.email.to_lowercase(), is_known_place: false }),
            _ => Err(refusal.clone()),
        },
        [_, Prepared::Answer(Ok(answer))] => {
            let answer = GetVerifierResponse::decode(answer.clone()).unwrap_or_default();
            let account = decode(&answer.account.unwrap_or_default())?.name;
            let attempt = Attempt { account, is_known_place: answer.known_place };
            verify(answer.verifier.map(|verifier| Secret::new(verifier.phc)), attempt)
        }
        [_, Prepared::Answer(Ok(_)), Prepared::Password(PasswordFit::RightAndWeak)] => {
            Ok(Some(Step::HashPassword(Secret::new(request.password.as_str()))))
        }
        [_, Prepared::Answer(Ok(answer)), Prepared::Password(PasswordFit::Right), done @ ..]
        | [
            _,
            Prepared::Answer(Ok(answer)),
            Prepared::Password(PasswordFit::RightAndWeak),
            Prepared::PasswordHash(_),
            done @ ..,
        ] => second_factor::next_step(&holder(answer)?, &request.code, cx, done),
        _ => Ok(None),
    }
}

/// Whose account was found.
fn holder(answer: &Bytes) -> Result<Address, Refusal> {
    let account = GetVerifierResponse::decode(answer.clone()).unwrap_or_default().account.unwrap_or_default();
    Address::parse(&decode(&account)?.name).map_err(|e| Refusal::new(Code::Internal, e.to_string()))
}

fn log_in(
    state: &State<'_>,
    request: LogInRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogInResponse, Refusal> {
    let (answer, stronger, done) = match cx.prepared {
        [_, Prepared::Answer(Ok(answer)), Prepared::Password(PasswordFit::Right), done @ ..] => (answer, None, done),
        [
            _,
            Prepared::Answer(Ok(answer)),
            Prepared::Password(PasswordFit::RightAndWeak),
            Prepared::PasswordHash(phc),
            done @ ..,
        ] => (answer, Some(phc), done),
        [_, Prepared::Answer(Ok(answer)), ..] => return Err(wrong_credentials().concerning(holder(answer)?)),
        _ => return Err(wrong_credentials()),
    };
    second_factor::check(done)?;
    let answer = GetVerifierResponse::decode(answer.clone()).unwrap_or_default();
    let password_version = answer.verifier.unwrap_or_default().version;
    let account = answer.account.ok_or_else(wrong_credentials)?;
    if state.get(&SESSION, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this session exists already"));
    }
    let holder: Account = decode(&account)?;
    let (credentials, verifier) = refresh::first(cx, &holder.name)?;
    let mut session = Session {
        name: cx.address.to_string(),
        account: holder.name.clone(),
        device: request.device,
        create_time_ms: cx.now_ms,
        log_in_address: cx.origin.place(),
        ..Session::default()
    };
    take_use(&mut session, cx, &verifier);
    let session = Wire::new(&session);
    draft.insert(&SESSION, SELF, &session);
    draft.insert(&refresh::VERIFIER, SELF, &Wire::new(&verifier));
    tell_account(draft, &holder.name, &session, password_version)?;
    security::tell(draft, cx, &holder.name, SecurityEventKind::LoggedIn)?;
    if let Some(phc) = stronger {
        let verifier = PasswordVerifier { phc: phc.expose().to_owned(), version: password_version };
        let upgrade = UpgradeVerifierRequest {
            account: holder.name.clone(),
            verifier: Some(verifier),
            request_id: String::new(),
        };
        draft.effect(address_of(&holder.name)?, account_effects::UPGRADE_VERIFIER, &upgrade);
    }
    draft.settle();
    Ok(LogInResponse { account: Some(account), session: Some(session), credentials: Some(credentials) })
}

/// Notes a use of the session, from where and until when it lasts.
pub(crate) fn take_use(session: &mut Session, cx: &Context<'_>, verifier: &RefreshVerifier) {
    session.refresh_time_ms = cx.now_ms;
    session.expire_time_ms = verifier.expire_time_ms;
    session.last_address = cx.origin.place();
    session.client = cx.origin.client.clone();
}

fn address_of(account: &str) -> Result<Address, Refusal> {
    Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))
}

fn tell_account(
    draft: &mut Draft,
    account: &str,
    session: &Wire<Session>,
    password_version: u32,
) -> Result<(), Refusal> {
    let target = address_of(account)?;
    let record = RecordSessionRequest {
        account: account.to_owned(),
        session: Some(session.clone()),
        password_version,
        request_id: String::new(),
    };
    draft.effect(target, account_effects::RECORD_SESSION, &record);
    Ok(())
}

fn log_out(
    state: &State<'_>,
    request: LogOutRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogOutResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let before = state.get(&SESSION, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))?;
    let session = decode(&before)?;
    if session.end_time_ms > 0 {
        return Ok(LogOutResponse { session: Some(before) });
    }
    security::tell(draft, cx, &session.account, SecurityEventKind::LoggedOut)?;
    let ended = end(draft, &before, session, SessionEnd::LogOut, cx.now_ms)?;
    Ok(LogOutResponse { session: Some(ended) })
}

/// Ends the session, and tells its account.
pub(crate) fn end(
    draft: &mut Draft,
    before: &Wire<Session>,
    mut session: Session,
    why: SessionEnd,
    now_ms: i64,
) -> Result<Wire<Session>, Refusal> {
    session.end_time_ms = now_ms;
    session.end = why.into();
    let after = before.updated(&session, None);
    draft.put(&SESSION, SELF, Some(before), &after);
    tell_account(draft, &session.account, &after, 0)?;
    Ok(after)
}

/// The account has ended the session already, and is not told again.
fn close_session(
    state: &State<'_>,
    request: CloseSessionRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<CloseSessionResponse, Refusal> {
    if let Some(before) = state.get(&SESSION, &SELF)? {
        let mut session = decode(&before)?;
        if session.end_time_ms == 0 {
            session.end_time_ms = request.end_time_ms;
            session.end = request.end;
            draft.put(&SESSION, SELF, Some(&before), &before.updated(&session, None));
        }
    }
    Ok(CloseSessionResponse {})
}

fn read_session(state: &State<'_>, _: ReadSessionRequest, cx: &Context<'_>) -> Result<Wire<Session>, Refusal> {
    state.get(&SESSION, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))
}
