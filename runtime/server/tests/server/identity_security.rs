//! What a person may know of the safety of their own account.

use canopy_domain::Role;
use canopy_proto::identity::v1::security_client::SecurityClient;
use canopy_proto::identity::v1::{
    EndSessionRequest, ListSecurityEventsRequest, LogInRequest, LogOutEverywhereRequest, LogOutRequest, RefreshRequest,
    SecurityEvent, SecurityEventKind,
};
use tonic::Code;

use crate::harness::mailbox::letter_in;
use crate::harness::{Caller, PASSWORD, Server};
use crate::identity_api_keys::{create, revoke, wanted};
use crate::identity_mail::{change as change_email, confirm};
use crate::identity_passwords::{ask_reset, change, reset};

/// Oldest first.
pub(crate) async fn events(caller: &Caller) -> Vec<SecurityEvent> {
    let mut client = SecurityClient::with_interceptor(caller.channel.clone(), caller.token.clone());
    let request = ListSecurityEventsRequest { parent: "account/me".into(), page_size: 1_000, ..Default::default() };
    let response = client.list_security_events(request).await.expect("events").into_inner();
    let mut events: Vec<_> = response.events.iter().map(|event| event.decode().expect("an event")).collect();
    events.reverse();
    events
}

#[tokio::test]
async fn people_see_who_ended_sessions_and_what_was_held_back() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let (lost, other) = (server.log_in("ada@example.org").await, server.log_in("ada@example.org").await);
    let end = EndSessionRequest { name: lost.session.clone(), request_id: String::new() };
    ada.identity().end_session(end.clone()).await.expect("it ends");
    // It has ended, and nothing more happens.
    ada.identity().end_session(end).await.expect("it has ended");
    let all = LogOutEverywhereRequest { name: "account/me".into(), keep_current: true, ..Default::default() };
    for ended in [1, 0] {
        let answer = ada.identity().log_out_everywhere(all.clone()).await.expect("they end").into_inner();
        assert_eq!(answer.ended, ended);
    }
    let told = events(&ada).await;
    let ended: Vec<_> = told.iter().filter(|event| event.kind() == SecurityEventKind::LoggedOut).collect();
    let shown: Vec<_> = ended.iter().map(|event| (event.session.as_str(), event.count)).collect();
    assert_eq!(shown, [(lost.session.as_str(), 1), ("", 1)], "{}", other.session);
    assert!(ended.iter().all(|event| event.peer.starts_with("127.0.0.1:") && event.client.contains("tonic")));

    // From where she has not been: five are compared, three are held back, the
    // right one among them.
    let guesser = Caller { channel: server.channel_from("127.0.0.2").await, ..server.nobody().await };
    for n in 0..8 {
        let password = if n == 7 { PASSWORD } else { "a guess" };
        let guess = LogInRequest { email: "ada@example.org".into(), password: password.into(), ..Default::default() };
        let expected = if n < 5 { Code::Unauthenticated } else { Code::ResourceExhausted };
        assert_eq!(guesser.identity().log_in(guess).await.expect_err("a guess").code(), expected, "{n}");
    }
    let server = server.restart().await;
    let told = events(&server.log_in("ada@example.org").await).await;
    let count = |kind| told.iter().filter(|event| event.kind() == kind).map(|event| event.count).sum::<u64>();
    assert_eq!(count(SecurityEventKind::LogInRefused), 5);
    assert_eq!(count(SecurityEventKind::AttemptHeldBack), 3);
    let held_back = told.iter().filter(|event| event.kind() == SecurityEventKind::AttemptHeldBack);
    assert!(held_back.into_iter().all(|event| event.peer.starts_with("127.0.0.2:")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_changed_credentials() {
    const NEW_PASSWORD: &str = "another horse battery";
    let email = "ada@example.org";
    let server = Server::start().await;
    let ada = server.person(email).await;
    let nobody = server.nobody().await;
    let letters = server.config.mail_dir();
    change(&ada, "account/me", "a wrong password", NEW_PASSWORD).await.expect_err("nothing is changed");
    change(&ada, "account/me", PASSWORD, NEW_PASSWORD).await.expect("a change");
    let (key, _) = create(&ada, wanted(Role::Guest, "", 86_400_000)).await.expect("a key");
    for _ in 0..2 {
        revoke(&ada, &key.name).await.expect("it is revoked, and stays so");
    }
    change_email(&ada, "ada@example.com", NEW_PASSWORD).await.expect("a letter");
    confirm(&nobody, &letter_in(&letters, "ada@example.com", 0).await.token()).await.expect("it is hers");
    ask_reset(&nobody, "ada@example.com").await;
    let token = letter_in(&letters, "ada@example.com", 1).await.token();
    reset(&nobody, &token, PASSWORD).await.expect("a reset");

    let server = server.restart().await;
    let again = server.log_in("ada@example.com").await;
    use SecurityEventKind::{ApiKeyCreated, ApiKeyRevoked, EmailChanged, LoggedIn, PasswordChanged, PasswordReset};
    let told = events(&again).await;
    let shown: Vec<_> = told.iter().map(|event| (event.kind(), event.session.as_str())).collect();
    let own = ada.session.as_str();
    let expected = [
        (LoggedIn, own),
        (PasswordChanged, own),
        (ApiKeyCreated, own),
        (ApiKeyRevoked, own),
        // By whoever had the letter.
        (EmailChanged, ""),
        (PasswordReset, ""),
        (LoggedIn, again.session.as_str()),
    ];
    let shown: Vec<_> = shown.into_iter().filter(|(kind, _)| *kind != SecurityEventKind::LogInRefused).collect();
    assert_eq!(shown, expected);
    assert!(told.iter().all(|event| event.peer.starts_with("127.0.0.1:") && event.count == 1));
    server.stop().await;
}

#[tokio::test]
async fn people_see_log_ins_attempts_and_stolen_tokens() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let opened = bob.open_session("ada@example.org").await;
    let session = opened.session.expect("a session").decode().expect("a session").name;
    let refresh_token = opened.credentials.expect("credentials").refresh_token;
    let stolen = RefreshRequest { session: session.clone(), refresh_token, request_id: String::new() };
    let mut refresh = stolen.clone();
    // The last one of a client's own is taken again for a moment; those before it are not.
    for _ in 0..2 {
        let refreshed = bob.identity().refresh(refresh.clone()).await.expect("credentials").into_inner();
        refresh.refresh_token = refreshed.credentials.expect("credentials").refresh_token;
    }
    assert_eq!(bob.identity().refresh(stolen).await.expect_err("used").code(), Code::Unauthenticated);
    // As many as are let through before the next one has to wait.
    for _ in 0..5 {
        let wrong = LogInRequest { email: "ada@example.org".into(), password: "a guess".into(), ..Default::default() };
        assert_eq!(bob.identity().log_in(wrong).await.expect_err("wrong").code(), Code::Unauthenticated);
    }
    let stranger = LogInRequest { email: "no@example.org".into(), password: "a guess".into(), ..Default::default() };
    assert_eq!(bob.identity().log_in(stranger).await.expect_err("nobody").code(), Code::Unauthenticated);
    let log_out = LogOutRequest { name: ada.session.clone(), request_id: String::new() };
    ada.identity().log_out(log_out).await.expect("it ends");

    let server = server.restart().await;
    let again = server.log_in("ada@example.org").await;
    let told = events(&again).await;
    let of = |kind: SecurityEventKind| told.iter().filter(move |event| event.kind() == kind);
    let sessions = |kind| of(kind).map(|event| event.session.as_str()).collect::<Vec<_>>();
    assert_eq!(sessions(SecurityEventKind::LoggedIn), [&ada.session, &session, &again.session]);
    assert_eq!(sessions(SecurityEventKind::RefreshTokenReused), [&session]);
    assert_eq!(sessions(SecurityEventKind::LoggedOut), [&ada.session]);
    let refused: Vec<_> = of(SecurityEventKind::LogInRefused).map(|event| event.count).collect();
    assert_eq!(refused, [1; 5]);
    assert!(told.iter().all(|event| event.peer.starts_with("127.0.0.1:") && event.client.contains("tonic")));
    let bob = server.log_in("bob@example.org").await;
    assert!(events(&bob).await.iter().all(|event| event.kind() == SecurityEventKind::LoggedIn));
    server.stop().await;
}
