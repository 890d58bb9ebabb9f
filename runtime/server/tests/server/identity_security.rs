//! What a person may know of the safety of their own account.

use canopy_proto::identity::v1::security_client::SecurityClient;
use canopy_proto::identity::v1::{
    ListSecurityEventsRequest, LogInRequest, LogOutRequest, RefreshRequest, SecurityEvent, SecurityEventKind,
};
use tonic::Code;

use crate::harness::{Caller, Server};

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
