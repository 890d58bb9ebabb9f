//! Codes of an authenticator app beside the password, and recovery codes.

use std::collections::BTreeSet;

use canopy_proto::identity::v1::second_factors_client::SecondFactorsClient;
use canopy_proto::identity::v1::security_client::SecurityClient;
use canopy_proto::identity::v1::{
    ConfirmTotpRequest, EnrollTotpRequest, GetSecondFactorsRequest, ListSecurityEventsRequest, LogInRequest,
    RegenerateRecoveryCodesRequest, RemoveTotpRequest, SecondFactorState, SecurityEventKind,
};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Authorised, Caller, PASSWORD, Server, refused};

const EMAIL: &str = "ada@example.org";

fn client(caller: &Caller) -> SecondFactorsClient<Authorised> {
    SecondFactorsClient::with_interceptor(caller.channel.clone(), caller.token.clone())
}

/// An authenticator app, written by the standard.
pub(crate) struct App {
    secret: Vec<u8>,
    last: i64,
}

impl App {
    fn new(base32: &str) -> Self {
        let (mut secret, mut bits, mut held) = (Vec::new(), 0u32, 0);
        for c in base32.bytes() {
            let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == c).unwrap();
            bits = bits << 5 | u32::try_from(value).unwrap();
            held += 5;
            if held >= 8 {
                held -= 8;
                secret.push(u8::try_from(bits >> held & 0xFF).unwrap());
            }
        }
        Self { secret, last: 0 }
    }

    /// A code that was not shown before: the present one, or the one after it.
    /// A server that bears 30 seconds takes both, and no third one within half a
    /// minute.
    pub(crate) fn code(&mut self) -> String {
        self.last = (canopy_actors::now_ms() / 30_000).max(self.last + 1);
        self.of(self.last)
    }

    fn of(&self, step: i64) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.secret).unwrap();
        mac.update(&step.to_be_bytes());
        let hash = mac.finalize().into_bytes();
        let at = usize::from(hash[19] & 0xF);
        let word = u32::from_be_bytes([hash[at] & 0x7F, hash[at + 1], hash[at + 2], hash[at + 3]]);
        format!("{:06}", word % 1_000_000)
    }
}

async fn state(caller: &Caller) -> SecondFactorState {
    let request = GetSecondFactorsRequest { name: "account/me".into() };
    client(caller).get_second_factors(request).await.expect("a state").into_inner()
}

pub(crate) async fn enroll(caller: &Caller, password: &str) -> Result<App, Status> {
    replace(caller, password, "").await
}

/// The same, where there is one that shows a code.
pub(crate) async fn replace(caller: &Caller, password: &str, code: &str) -> Result<App, Status> {
    let request = EnrollTotpRequest {
        name: "account/me".into(),
        password: password.into(),
        code: code.into(),
        ..EnrollTotpRequest::default()
    };
    let enrolled = client(caller).enroll_totp(request).await?.into_inner();
    let uri =
        format!("otpauth://totp/Canopy:ada%40example.org?secret={}&issuer=Canopy&digits=6&period=30", enrolled.secret);
    assert_eq!(enrolled.uri, uri);
    Ok(App::new(&enrolled.secret))
}

pub(crate) async fn confirm(caller: &Caller, code: &str) -> Result<Vec<String>, Status> {
    let request = ConfirmTotpRequest { name: "account/me".into(), code: code.into(), request_id: String::new() };
    Ok(client(caller).confirm_totp(request).await?.into_inner().recovery_codes)
}

pub(crate) async fn remove(caller: &Caller, password: &str, code: &str) -> Result<(), Status> {
    let request = RemoveTotpRequest {
        name: "account/me".into(),
        password: password.into(),
        code: code.into(),
        request_id: String::new(),
    };
    client(caller).remove_totp(request).await.map(drop)
}

pub(crate) async fn log_in(server: &Server, password: &str, code: &str) -> Result<Caller, Status> {
    let nobody = server.nobody().await;
    let request =
        LogInRequest { email: EMAIL.into(), password: password.into(), code: code.into(), ..LogInRequest::default() };
    let response = nobody.identity().log_in(request).await?.into_inner();
    Ok(Caller::of(nobody.channel.clone(), &response))
}

#[tokio::test]
async fn log_ins_ask_for_a_code_that_is_good_once() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    assert_eq!(state(&ada).await, SecondFactorState::default());
    refused(enroll(&ada, "a wrong password").await, Code::PermissionDenied);
    enroll(&ada, PASSWORD).await.expect("a secret that is never confirmed");
    let mut app = enroll(&ada, PASSWORD).await.expect("another secret");
    // Nothing is asked for before an app has proven that it has the secret.
    log_in(&server, PASSWORD, "").await.expect("a log-in");
    refused(confirm(&ada, "none").await, Code::PermissionDenied);
    let first = app.code();
    let recovery = confirm(&ada, &first).await.expect("recovery codes");
    assert_eq!(recovery.iter().collect::<BTreeSet<_>>().len(), 10);
    refused(confirm(&ada, &first).await, Code::FailedPrecondition);
    refused(enroll(&ada, PASSWORD).await, Code::FailedPrecondition);
    let shown = state(&ada).await;
    assert!(shown.totp && shown.totp_create_time_ms > 0 && shown.recovery_codes_left == 10, "{shown:?}");

    refused(log_in(&server, PASSWORD, "").await, Code::FailedPrecondition);
    refused(log_in(&server, "a wrong password", "").await, Code::Unauthenticated);
    refused(log_in(&server, PASSWORD, &first).await, Code::Unauthenticated);
    let second = app.code();
    let wrong = refused(log_in(&server, "a wrong password", &second).await, Code::Unauthenticated);
    assert!(wrong.message().contains("password"), "the code was not looked at: {wrong:?}");
    log_in(&server, PASSWORD, &second).await.expect("a log-in");
    refused(log_in(&server, PASSWORD, &second).await, Code::Unauthenticated);

    // In place of the app, each once, however they were written down.
    log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    refused(log_in(&server, PASSWORD, &recovery[0]).await, Code::Unauthenticated);
    log_in(&server, PASSWORD, &recovery[1].replace('-', " ").to_uppercase()).await.expect("a log-in");
    // Of two that show the same one, one comes in.
    let both = tokio::join!(log_in(&server, PASSWORD, &recovery[2]), log_in(&server, PASSWORD, &recovery[2]));
    assert_eq!(usize::from(both.0.is_ok()) + usize::from(both.1.is_ok()), 1);
    assert_eq!(state(&ada).await.recovery_codes_left, 7);

    let server = server.restart().await;
    refused(log_in(&server, PASSWORD, "").await, Code::FailedPrecondition);
    let ada = log_in(&server, PASSWORD, &recovery[3]).await.expect("a log-in");
    let regenerate = |code: &str| RegenerateRecoveryCodesRequest {
        name: "account/me".into(),
        password: PASSWORD.into(),
        code: code.into(),
        request_id: String::new(),
    };
    refused(client(&ada).regenerate_recovery_codes(regenerate("none")).await, Code::PermissionDenied);
    let renewed = client(&ada).regenerate_recovery_codes(regenerate(&recovery[4])).await.expect("new codes");
    let renewed = renewed.into_inner().recovery_codes;
    assert_eq!((renewed.len(), state(&ada).await.recovery_codes_left), (10, 10));
    refused(log_in(&server, PASSWORD, &recovery[5]).await, Code::Unauthenticated);
    log_in(&server, PASSWORD, &renewed[5]).await.expect("a log-in");
    server.stop().await;
}

/// As it comes, the server takes the present code alone.
#[tokio::test]
async fn a_code_of_before_is_refused() {
    let server = Server::start_with(|config| config.identity.totp_tolerance_s = 0).await;
    let ada = server.person(EMAIL).await;
    let app = enroll(&ada, PASSWORD).await.expect("a secret");
    let step = || canopy_actors::now_ms() / 30_000;
    // However late it comes, its time is over.
    let status = refused(confirm(&ada, &app.of(step() - 1)).await, Code::PermissionDenied);
    let hint = &status.get_details_error_info().expect("what to do").metadata["hint"];
    assert!(hint.contains("next code") && hint.contains("clock"), "{hint}");
    // The present one is taken, unless a step ends on its way; none does twice in a row.
    let mut confirmed = confirm(&ada, &app.of(step())).await;
    if confirmed.is_err() {
        confirmed = confirm(&ada, &app.of(step())).await;
    }
    let recovery = confirmed.expect("recovery codes");
    let status = refused(log_in(&server, PASSWORD, &app.of(step() - 1)).await, Code::Unauthenticated);
    assert!(status.message().contains("time is over"), "{status:?}");
    log_in(&server, PASSWORD, &recovery[0]).await.expect("what needs no clock");
    // Where clocks may differ, it is good for as long again; the used one was this or the one before.
    let server = server.restart_with(|config| config.identity.totp_tolerance_s = 30).await;
    log_in(&server, PASSWORD, &app.of(step() + 1)).await.expect("the next code");
    server.stop().await;
}

#[tokio::test]
async fn guesses_are_few() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut app = enroll(&ada, PASSWORD).await.expect("a secret");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    for _ in 0..5 {
        refused(log_in(&server, PASSWORD, "none").await, Code::Unauthenticated);
    }
    // Even the right one, and for who is signed in, too.
    let status = refused(log_in(&server, PASSWORD, &recovery[0]).await, Code::ResourceExhausted);
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("when to try again");
    assert!(wait.as_secs() > 600 && wait.as_secs() <= 900, "{wait:?}");
    refused(remove(&ada, PASSWORD, &recovery[0]).await, Code::ResourceExhausted);
    // Whoever does not know the password does not get so far.
    refused(log_in(&server, "a wrong password", "none").await, Code::Unauthenticated);
    let server = server.restart().await;
    refused(log_in(&server, PASSWORD, &recovery[0]).await, Code::ResourceExhausted);
    server.stop().await;
}

#[tokio::test]
async fn what_is_asked_for_goes_with_password_and_code() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut app = enroll(&ada, PASSWORD).await.expect("a secret");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    refused(remove(&ada, "a wrong password", &recovery[0]).await, Code::PermissionDenied);
    refused(remove(&ada, PASSWORD, "none").await, Code::PermissionDenied);
    // The attempt with a wrong password used nothing up.
    remove(&ada, PASSWORD, &recovery[0]).await.expect("it goes");
    refused(remove(&ada, PASSWORD, &recovery[1]).await, Code::FailedPrecondition);
    assert_eq!(state(&ada).await, SecondFactorState::default());
    log_in(&server, PASSWORD, "").await.expect("a log-in");

    let mut security = SecurityClient::with_interceptor(ada.channel.clone(), ada.token.clone());
    let request = ListSecurityEventsRequest { parent: "account/me".into(), ..ListSecurityEventsRequest::default() };
    let events = security.list_security_events(request).await.expect("events").into_inner().events;
    let kinds: Vec<_> = events.iter().rev().map(|event| event.decode().expect("an event").kind()).collect();
    use SecurityEventKind::{CodeRefused, LoggedIn, SecondFactorAdded, SecondFactorRemoved};
    assert_eq!(kinds, [LoggedIn, SecondFactorAdded, CodeRefused, CodeRefused, SecondFactorRemoved, LoggedIn]);
    server.stop().await;
}

#[tokio::test]
async fn an_app_is_replaced_without_a_gap() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut old = enroll(&ada, PASSWORD).await.expect("a secret");
    let recovery = confirm(&ada, &old.code()).await.expect("recovery codes");
    refused(replace(&ada, PASSWORD, "").await, Code::FailedPrecondition);
    refused(replace(&ada, PASSWORD, "none").await, Code::PermissionDenied);
    refused(replace(&ada, "a wrong password", &recovery[0]).await, Code::PermissionDenied);
    replace(&ada, PASSWORD, &recovery[0]).await.expect("a secret that is never confirmed");
    let mut new = replace(&ada, PASSWORD, &recovery[1]).await.expect("another secret");
    // Until the new one has proven itself, the old one is good.
    refused(log_in(&server, PASSWORD, "").await, Code::FailedPrecondition);
    log_in(&server, PASSWORD, &old.code()).await.expect("a log-in");
    refused(confirm(&ada, "none").await, Code::PermissionDenied);
    let renewed = confirm(&ada, &new.code()).await.expect("recovery codes");
    refused(confirm(&ada, &new.code()).await, Code::FailedPrecondition);
    refused(log_in(&server, PASSWORD, &recovery[2]).await, Code::Unauthenticated);
    log_in(&server, PASSWORD, &renewed[0]).await.expect("a log-in");
    remove(&ada, PASSWORD, &renewed[1]).await.expect("it goes");
    // An app that was to replace it goes with it.
    assert_eq!(state(&ada).await, SecondFactorState::default());
    refused(confirm(&ada, "none").await, Code::FailedPrecondition);
    server.stop().await;
}
