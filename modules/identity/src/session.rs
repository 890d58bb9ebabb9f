//! A session: one log-in and its end.

use bytes::Bytes;
use canopy_domain::{
    Address, Attempt, Code, Context, Draft, Module, PasswordFit, Prepared, Refusal, Secret, State, Step, Table, Wire,
    decode,
};
use canopy_proto::identity::v1::{
    Account, LogInRequest, LogInResponse, LogInStrength, LogOutRequest, LogOutResponse, SecurityEventKind, Session,
    SessionEnd, UndeleteAccountRequest, UndeleteAccountResponse,
};
use canopy_proto::methods::{account_deletions, account_effects, accounts, directory, identity, session_effects};
use canopy_proto::system::v1::{
    CloseSessionRequest, CloseSessionResponse, GetVerifierRequest, GetVerifierResponse, PasswordVerifier,
    ReadSessionRequest, RecordSessionRequest, RefreshVerifier, Reservation, ResolveRequest, RestoreAccountRequest,
    UpgradeVerifierRequest,
};
use prost::Message;

use crate::{deletion, passkey_log_in, refresh, second_factor, security};

/// The one row, under [`SELF`].
pub const SESSION: Table<Session> = Table::new(1, "session", 1);

/// Key of a table's only row.
pub(crate) const SELF: [u8; 1] = [0];

/// The module of `session/<id>`.
pub fn session() -> Module {
    let module = Module::new("session")
        .prepared_command(identity::LOG_IN, prepare_log_in, log_in)
        .prepared_command(accounts::UNDELETE_ACCOUNT, prepare_undelete, undelete)
        .command(identity::REFRESH, refresh::refresh)
        .command(identity::LOG_OUT, log_out)
        .command(session_effects::CLOSE_SESSION, close_session)
        .query(session_effects::READ_SESSION, read_session);
    passkey_log_in::methods(module)
}

fn wrong_credentials() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the e-mail address or the password is wrong")
        .hint("check both; `canopy identity register` makes an account")
}

/// Finds the account, then compares the password: in the same time whether or
/// not the account exists.
fn compare(email: &str, password: &str, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let verify = |phc, attempt| Ok(Some(Step::VerifyPassword { phc, password: Secret::new(password), attempt }));
    match cx.prepared {
        [] => {
            let resolve = ResolveRequest { space: "email".into(), key: email.to_owned() };
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
            Code::NotFound => verify(None, Attempt { account: email.to_lowercase(), is_known_place: false }),
            _ => Err(refusal.clone()),
        },
        [_, Prepared::Answer(Ok(answer))] => {
            let answer = GetVerifierResponse::decode(answer.clone()).unwrap_or_default();
            let account = decode(&answer.account.unwrap_or_default())?.name;
            let attempt = Attempt { account, is_known_place: answer.known_place };
            verify(answer.verifier.map(|verifier| Secret::new(verifier.phc)), attempt)
        }
        _ => Ok(None),
    }
}

fn prepare_log_in(_: &State<'_>, request: &LogInRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    if let Some(step) = compare(&request.email, &request.password, cx)? {
        return Ok(Some(step));
    }
    match cx.prepared {
        [_, Prepared::Answer(Ok(answer)), Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak)]
            if account_of(answer)?.delete_time_ms > 0 =>
        {
            Err(deletion::being_deleted(&account_of(answer)?))
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

/// The account that was found.
fn account_of(answer: &Bytes) -> Result<Account, Refusal> {
    decode(&GetVerifierResponse::decode(answer.clone()).unwrap_or_default().account.unwrap_or_default())
}

/// Whose account was found.
fn holder(answer: &Bytes) -> Result<Address, Refusal> {
    address_of(&account_of(answer)?.name)
}

/// As a log-in, then has the account restored. The partition of the session
/// that it would be writes nothing.
fn prepare_undelete(
    _: &State<'_>,
    request: &UndeleteAccountRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    if let Some(step) = compare(&request.email, &request.password, cx)? {
        return Ok(Some(step));
    }
    let [
        _,
        Prepared::Answer(Ok(answer)),
        Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak),
        done @ ..,
    ] = cx.prepared
    else {
        return Ok(None);
    };
    let account = holder(answer)?;
    if let Some(step) = second_factor::next_step(&account, &request.code, cx, done)? {
        return Ok(Some(step));
    }
    let (codes, done) = second_factor::split(done);
    second_factor::check(codes)?;
    if !done.is_empty() {
        return Ok(None);
    }
    let restore = RestoreAccountRequest {
        account: account.to_string(),
        peer: cx.origin.peer.clone(),
        client: cx.origin.client.clone(),
        request_id: String::new(),
    };
    let method = account_deletions::RESTORE_ACCOUNT.path;
    Ok(Some(Step::Ask { target: account, method, request: restore.encode_to_vec().into() }))
}

fn undelete(
    _: &State<'_>,
    _: UndeleteAccountRequest,
    cx: &Context<'_>,
    _: &mut Draft,
) -> Result<UndeleteAccountResponse, Refusal> {
    match cx.prepared {
        [_, Prepared::Answer(Ok(answer)), Prepared::Password(PasswordFit::Wrong)] => {
            Err(wrong_credentials().concerning(holder(answer)?))
        }
        [_, Prepared::Answer(Ok(_)), Prepared::Password(_), .., Prepared::Answer(restored)] => match restored {
            Ok(account) => Ok(UndeleteAccountResponse { account: Some(Wire::from_bytes(account.clone())) }),
            // It has ended meanwhile.
            Err(refusal) if refusal.code == Code::NotFound => Err(wrong_credentials()),
            Err(refusal) => Err(refusal.clone()),
        },
        _ => Err(wrong_credentials()),
    }
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
    if let Some(phc) = stronger {
        let holder: Account = decode(&account)?;
        let verifier = PasswordVerifier { phc: phc.expose().to_owned(), version: password_version };
        let target = address_of(&holder.name)?;
        let upgrade =
            UpgradeVerifierRequest { account: holder.name, verifier: Some(verifier), request_id: String::new() };
        draft.effect(target, account_effects::UPGRADE_VERIFIER, &upgrade);
    }
    let strength = match second_factor::was_asked(done) {
        true => LogInStrength::TwoFactors,
        false => LogInStrength::Password,
    };
    open(state, Opening { account, password_version, device: request.device, strength }, cx, draft)
}

/// Whose session is opened, for what.
pub(crate) struct Opening {
    pub(crate) account: Wire<Account>,
    /// The password that was in use when its holder was let in.
    pub(crate) password_version: u32,
    /// What the client calls itself.
    pub(crate) device: String,
    /// What its holder has shown.
    pub(crate) strength: LogInStrength,
}

/// Opens the session: its holder has proven who they are.
pub(crate) fn open(
    state: &State<'_>,
    opening: Opening,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogInResponse, Refusal> {
    let Opening { account, password_version, device, strength } = opening;
    if state.get(&SESSION, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this session exists already"));
    }
    let holder: Account = decode(&account)?;
    let (credentials, verifier) = refresh::first(cx, &holder.name)?;
    let mut session = Session {
        name: cx.address.to_string(),
        account: holder.name.clone(),
        device,
        create_time_ms: cx.now_ms,
        log_in_address: cx.origin.place(),
        log_in_client: cx.origin.client.clone(),
        strength: strength.into(),
        ..Session::default()
    };
    take_use(&mut session, cx, &verifier);
    let session = Wire::new(&session);
    draft.insert(&SESSION, SELF, &session);
    draft.insert(&refresh::VERIFIER, SELF, &Wire::new(&verifier));
    tell_account(draft, &holder.name, &session, password_version)?;
    security::tell(draft, cx, &holder.name, SecurityEventKind::LoggedIn)?;
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
