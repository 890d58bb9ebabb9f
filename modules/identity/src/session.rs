//! A session: one log-in, its refresh token in use, and its end.

use canopy_domain::{
    Address, Code, Context, Draft, Module, Prepared, Refusal, Secret, State, Step, Table, TokenClaims, Wire, decode,
};
use canopy_proto::identity::v1::{
    Account, Credentials, LogInRequest, LogInResponse, LogOutRequest, LogOutResponse, RefreshRequest, RefreshResponse,
    Session,
};
use canopy_proto::methods::{account_effects, directory, identity};
use canopy_proto::system::v1::{
    GetVerifierRequest, GetVerifierResponse, RecordSessionRequest, RefreshVerifier, Reservation, ResolveRequest,
};
use prost::Message;
use sha2::{Digest, Sha256};

/// The one row, under [`SELF`].
pub const SESSION: Table<Session> = Table::new(1, "session", 1);
/// The one row, under [`SELF`].
const VERIFIER: Table<RefreshVerifier> = Table::new(2, "refresh_verifier", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

/// Characters of a refresh token that its session's tokens share.
const FAMILY_CHARS: usize = 32;

/// The module of `session/<id>`.
pub fn session() -> Module {
    Module::new("session")
        .prepared_command(identity::LOG_IN, prepare_log_in, log_in)
        .command(identity::REFRESH, refresh)
        .command(identity::LOG_OUT, log_out)
}

fn wrong_credentials() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the e-mail address or the password is wrong")
        .hint("check both; `canopy identity register` makes an account")
}

/// Finds the account, then compares the password: in the same time whether or
/// not the account exists.
fn prepare_log_in(_: &State<'_>, request: &LogInRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let verify = |phc| {
        let password = Secret::new(request.password.as_str());
        Ok(Some(Step::VerifyPassword { phc, password }))
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
            let target = Address::parse(&holder).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
            let ask = GetVerifierRequest { account: holder };
            let request = ask.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: account_effects::GET_VERIFIER.path, request }))
        }
        [Prepared::Answer(Err(refusal))] | [_, Prepared::Answer(Err(refusal))] => match refusal.code {
            Code::NotFound => verify(None),
            _ => Err(refusal.clone()),
        },
        [_, Prepared::Answer(Ok(answer))] => {
            let answer = GetVerifierResponse::decode(answer.clone()).unwrap_or_default();
            verify(answer.verifier.map(|verifier| Secret::new(verifier.phc)))
        }
        _ => Ok(None),
    }
}

fn log_in(
    state: &State<'_>,
    request: LogInRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogInResponse, Refusal> {
    let account = match cx.prepared {
        [_, Prepared::Answer(Ok(answer)), Prepared::PasswordMatches(true)] => {
            let answer = GetVerifierResponse::decode(answer.clone()).unwrap_or_default();
            answer.account.ok_or_else(wrong_credentials)?
        }
        _ => return Err(wrong_credentials()),
    };
    if state.get(&SESSION, &SELF)?.is_some() {
        return Err(Refusal::new(Code::AlreadyExists, "this session exists already"));
    }
    let holder: Account = decode(&account)?;
    let session = Wire::new(&Session {
        name: cx.address.to_string(),
        account: holder.name.clone(),
        device: request.device,
        create_time_ms: cx.now_ms,
        refresh_time_ms: cx.now_ms,
        end_time_ms: 0,
    });
    let [family, _] = fresh_halves(cx);
    let (credentials, verifier) = credentials(cx, &holder.name, &family)?;
    draft.insert(&SESSION, SELF, &session);
    draft.insert(&VERIFIER, SELF, &Wire::new(&verifier));
    tell_account(draft, &holder.name, &session)?;
    draft.settle();
    Ok(LogInResponse { account: Some(account), session: Some(session), credentials: Some(credentials) })
}

/// The call's 256 random bits, which nothing else of these decisions uses, as
/// two texts.
fn fresh_halves(cx: &Context<'_>) -> [String; 2] {
    let (first, second) = cx.entropy.split_at(cx.entropy.len() / 2);
    [first, second].map(|half| half.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A refresh token is 128 random bits that it shares with all of its session,
/// its family, and 128 of its own. What is kept are hashes.
fn credentials(cx: &Context<'_>, account: &str, family: &str) -> Result<(Credentials, RefreshVerifier), Refusal> {
    let [_, own] = fresh_halves(cx);
    let refresh_token = format!("{family}{own}");
    let account = Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
    let expire_time_ms = cx.now_ms + cx.issuer.access_ttl_ms();
    let claims = TokenClaims { account, session: cx.address.clone(), expire_time_ms };
    let refresh_expire_ms = cx.now_ms + cx.issuer.refresh_ttl_ms();
    let verifier = RefreshVerifier {
        current: hash(&refresh_token).into(),
        family: hash(family).into(),
        expire_time_ms: refresh_expire_ms,
    };
    let credentials = Credentials {
        access_token: cx.issuer.issue(&claims),
        access_token_expire_time_ms: expire_time_ms,
        refresh_token,
        refresh_token_expire_time_ms: refresh_expire_ms,
    };
    Ok((credentials, verifier))
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn tell_account(draft: &mut Draft, account: &str, session: &Wire<Session>) -> Result<(), Refusal> {
    let target = Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
    let record =
        RecordSessionRequest { account: account.to_owned(), session: Some(session.clone()), request_id: String::new() };
    draft.effect(target, account_effects::RECORD_SESSION, &record);
    Ok(())
}

fn session_over() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the session is over or the refresh token is not its own")
        .hint("log in again with `canopy identity log-in`")
}

fn refresh(
    state: &State<'_>,
    request: RefreshRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RefreshResponse, Refusal> {
    let [] = cx.address.held("session", &request.session, [])?;
    let (Some(before), Some(verifier_before)) = (state.get(&SESSION, &SELF)?, state.get(&VERIFIER, &SELF)?) else {
        return Err(session_over());
    };
    let mut session = decode(&before)?;
    let verifier = decode(&verifier_before)?;
    let shown = hash(&request.refresh_token);
    if session.end_time_ms > 0 || verifier.expire_time_ms <= cx.now_ms {
        return Err(session_over());
    }
    let family = request.refresh_token.get(..FAMILY_CHARS).unwrap_or_default();
    if verifier.current != shown {
        if verifier.family == hash(family) {
            // Somebody shows a token that was used: one of the two holders
            // stole it, and nobody can tell which.
            session.end_time_ms = cx.now_ms;
            let after = before.updated(&session, None);
            draft.put(&SESSION, SELF, Some(&before), &after);
            tell_account(draft, &session.account, &after)?;
            draft.refuse(session_over());
            return Ok(RefreshResponse::default());
        }
        return Err(session_over());
    }
    session.refresh_time_ms = cx.now_ms;
    let (credentials, next) = credentials(cx, &session.account, family)?;
    draft.put(&SESSION, SELF, Some(&before), &before.updated(&session, None));
    draft.put(&VERIFIER, SELF, Some(&verifier_before), &Wire::new(&next));
    Ok(RefreshResponse { credentials: Some(credentials) })
}

fn log_out(
    state: &State<'_>,
    request: LogOutRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogOutResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let before = state.get(&SESSION, &SELF)?.ok_or_else(|| Refusal::not_found(cx.address.as_str()))?;
    let mut session = decode(&before)?;
    if session.end_time_ms == 0 {
        session.end_time_ms = cx.now_ms;
        let after = before.updated(&session, None);
        draft.put(&SESSION, SELF, Some(&before), &after);
        tell_account(draft, &session.account, &after)?;
        return Ok(LogOutResponse { session: Some(after) });
    }
    Ok(LogOutResponse { session: Some(before) })
}
