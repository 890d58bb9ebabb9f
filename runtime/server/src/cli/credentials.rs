//! Log-ins: kept after `log-in`, renewed before they lapse, removed after
//! `log-out`.

use std::time::Duration;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::call::Client;
use super::context::{Login, Secret, Store, Target};
use super::error::{Error, Exit};
use super::mirror::{self, MethodEntry};
use super::request::random_id;
use super::terminal::Terminal;

/// An access token is renewed when it lapses within this time.
pub(super) const RENEW_BEFORE_MS: i64 = 30_000;

const LOG_IN: &str = "canopy.identity.v1.Identity/LogIn";
const LOG_IN_WITH_PASSKEY: &str = "canopy.identity.v1.Passkeys/LogInWithPasskey";
const REFRESH: &str = "canopy.identity.v1.Identity/Refresh";
const EXPIRING: &str = "canopy.identity.v1.SessionExpiring";
const LOG_OUT: &str = "canopy.identity.v1.Identity/LogOut";

/// Whether this method's answer changes what is kept.
pub(super) fn is_refresh(method: &MethodEntry) -> bool {
    method.path() == REFRESH
}

/// Whether an event of a stream tells that its session is to be refreshed.
pub(super) fn is_expiring(event: &DynamicMessage) -> bool {
    event
        .fields()
        .any(|(_, value)| matches!(value, Value::Message(message) if message.descriptor().full_name() == EXPIRING))
}

/// The access token to call with, renewed first where it is about to lapse;
/// absent where nobody is logged in.
///
/// # Errors
/// The server refuses to renew it, or the file cannot be changed.
pub(super) async fn access_token(
    store: &Store,
    target: &Target,
    client: &Client,
    timeout: Duration,
    now_ms: i64,
) -> Result<Option<Secret>, Error> {
    if !target.is_known {
        return Ok(None);
    }
    let contexts = store.load()?;
    let login = contexts.contexts.get(&target.context).and_then(|c| c.login.as_ref());
    match login {
        None => Ok(None),
        Some(login) if is_fresh(login, now_ms) => Ok(Some(login.access_token.clone())),
        Some(_) => match renew(store, target, client, timeout, Some(now_ms)).await? {
            Renewed::Already(token) | Renewed::Now(token, _) => Ok(Some(token)),
            Renewed::LoggedOut => Ok(None),
        },
    }
}

/// What came of a renewal.
pub(super) enum Renewed {
    /// Another command was faster.
    Already(Secret),
    /// The answer, with what it holds kept.
    Now(Secret, DynamicMessage),
    /// There is no log-in.
    LoggedOut,
}

/// Exchanges the refresh token, which is good once: under the lock, so that
/// two commands never show the same one, and kept before it is used. With
/// `unless_fresh_at_ms`, not where that token is still good then.
///
/// # Errors
/// The server refuses, or the file cannot be changed.
pub(super) async fn renew(
    store: &Store,
    target: &Target,
    client: &Client,
    timeout: Duration,
    unless_fresh_at_ms: Option<i64>,
) -> Result<Renewed, Error> {
    let lock = store.lock().await?;
    let mut contexts = lock.load()?;
    let login = contexts.contexts.get_mut(&target.context).filter(|c| c.server == target.server);
    let Some(login) = login.and_then(|c| c.login.as_mut()) else {
        return Ok(Renewed::LoggedOut);
    };
    if unless_fresh_at_ms.is_some_and(|now_ms| is_fresh(login, now_ms)) {
        return Ok(Renewed::Already(login.access_token.clone()));
    }
    let method = find(REFRESH)?;
    let request_id = login.refresh_request_id.clone().unwrap_or_else(random_id);
    login.refresh_request_id = Some(request_id.clone());
    let mut request = DynamicMessage::new(method.descriptor.input());
    request.set_field_by_name("session", Value::String(login.session.clone()));
    request.set_field_by_name("refresh_token", Value::String(login.refresh_token.expose().to_owned()));
    request.set_field_by_name("request_id", Value::String(request_id));
    lock.save(&contexts)?;

    let answer = client.unary(method, &request, timeout).await.map_err(refused)?;
    let login = contexts.contexts.get_mut(&target.context).and_then(|c| c.login.as_mut());
    let Some(login) = login else {
        return Ok(Renewed::LoggedOut);
    };
    take_credentials(login, &answer)?;
    let token = login.access_token.clone();
    lock.save(&contexts)?;
    Ok(Renewed::Now(token, answer))
}

fn refused(error: Error) -> Error {
    match error {
        Error::Refused { status, hint } => {
            let is_over =
                matches!(Exit::of(status.code()), Exit::Unauthenticated | Exit::NotFound | Exit::PermissionDenied);
            let hint = if is_over {
                Some("the session has ended; log in again: canopy identity log-in --email YOU@EXAMPLE.ORG".to_owned())
            } else {
                hint
            };
            Error::Refused { status, hint }
        }
        other => other,
    }
}

fn is_fresh(login: &Login, now_ms: i64) -> bool {
    login.access_token_expire_time_ms.saturating_sub(now_ms) > RENEW_BEFORE_MS
}

/// Keeps or removes the log-in after a call that changed it. Whoever calls
/// this has the lock free.
///
/// # Errors
/// The file cannot be changed.
pub(super) async fn after_call(
    method: &MethodEntry,
    request: &DynamicMessage,
    answer: &DynamicMessage,
    store: &Store,
    target: &Target,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    match method.path().as_str() {
        LOG_IN | LOG_IN_WITH_PASSKEY => keep(answer, "", store, target, terminal).await,
        REFRESH => keep(answer, &text(request, &["session"]), store, target, terminal).await,
        LOG_OUT => forget(&text(answer, &["session", "name"]), &text(request, &["name"]), store, target).await,
        _ => Ok(()),
    }
}

async fn keep(
    answer: &DynamicMessage,
    session: &str,
    store: &Store,
    target: &Target,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let lock = store.lock().await?;
    let mut contexts = lock.load()?;
    let context = contexts.contexts.entry(target.context.clone()).or_insert_with(|| target.to_context());
    let mut login = Login {
        account: text(answer, &["account", "name"]),
        session: text(answer, &["session", "name"]),
        access_token: Secret::new(String::new()),
        access_token_expire_time_ms: 0,
        refresh_token: Secret::new(String::new()),
        refresh_token_expire_time_ms: 0,
        refresh_request_id: None,
    };
    if login.session.is_empty() {
        // A refresh names its session in the request, and the account nowhere.
        match &context.login {
            Some(known) if known.session == session => login.account.clone_from(&known.account),
            Some(_) => return Ok(()),
            None => {}
        }
        session.clone_into(&mut login.session);
    }
    take_credentials(&mut login, answer)?;
    context.server.clone_from(&target.server);
    context.login = Some(login);
    if contexts.current.is_none() {
        contexts.current = Some(target.context.clone());
    }
    lock.save(&contexts)?;
    if !target.is_known {
        terminal.note(&format!("Made context {} for {}.", target.context, target.server));
    }
    Ok(())
}

async fn forget(ended: &str, named: &str, store: &Store, target: &Target) -> Result<(), Error> {
    let lock = store.lock().await?;
    let mut contexts = lock.load()?;
    let Some(context) = contexts.contexts.get_mut(&target.context).filter(|_| target.is_known) else {
        return Ok(());
    };
    let is_own =
        context.login.as_ref().is_some_and(|l| named == "session/me" || l.session == ended || l.session == named);
    if is_own {
        context.login = None;
        lock.save(&contexts)?;
    }
    Ok(())
}

fn take_credentials(login: &mut Login, answer: &DynamicMessage) -> Result<(), Error> {
    let access = text(answer, &["credentials", "access_token"]);
    if access.is_empty() {
        return Err(Error::Answer("it holds no credentials".into()));
    }
    login.access_token = Secret::new(access);
    login.access_token_expire_time_ms = number(answer, "access_token_expire_time_ms");
    login.refresh_token = Secret::new(text(answer, &["credentials", "refresh_token"]));
    login.refresh_token_expire_time_ms = number(answer, "refresh_token_expire_time_ms");
    login.refresh_request_id = None;
    Ok(())
}

fn find(path: &str) -> Result<&'static MethodEntry, Error> {
    let mut methods = mirror::areas().iter().flat_map(|area| &area.methods);
    methods.find(|m| m.path() == path).ok_or_else(|| Error::Answer(format!("this release has no method {path}").into()))
}

fn text(message: &DynamicMessage, path: &[&str]) -> String {
    match path {
        [] => String::new(),
        [field] => {
            let value = message.get_field_by_name(field);
            value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
        }
        [field, rest @ ..] => {
            let value = message.get_field_by_name(field);
            value.and_then(|v| v.as_message().map(|inner| text(inner, rest))).unwrap_or_default()
        }
    }
}

fn number(answer: &DynamicMessage, field: &str) -> i64 {
    let credentials = answer.get_field_by_name("credentials");
    let credentials = credentials.as_ref().and_then(|v| v.as_message());
    credentials.and_then(|c| c.get_field_by_name(field).and_then(|v| v.as_i64())).unwrap_or(0)
}
