//! Sessions seen and ended from one another, and a password changed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::requests::{Target, request};
use crate::harness::{Caller, PASSWORD, Server};
use crate::identity_api_keys::{create, wanted};
use canopy_domain::{Address, Draft, Id, Role, Wire};
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, SubscribeRequest, SubscribeResponse};
use canopy_proto::identity::v1::{
    ChangePasswordRequest, EndSessionRequest, GetAccountRequest, ListSessionsRequest, LogInRequest, LogInResponse,
    LogOutEverywhereRequest, RefreshRequest, Session, SessionEnd,
};
use canopy_proto::methods::purges::LIST_PURGES;
use canopy_proto::system::v1::{ListPurgesRequest, ListPurgesResponse};
use prost::Message as _;
use tonic::{Code, Status, Streaming};

const EMAIL: &str = "ada@example.org";
const NEW_PASSWORD: &str = "another horse battery";
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that is logged in, with an open stream.
struct Device {
    caller: Caller,
    refresh_token: String,
    stream: Streaming<SubscribeResponse>,
}

impl Device {
    async fn log_in(server: &Server, channel: &str) -> Self {
        let opened = server.nobody().await.open_session(EMAIL).await;
        let caller = Caller::of(server.channel().await, &opened);
        let channels = vec![ChannelPosition { name: channel.into(), cursor: None }];
        let mut stream = caller.chat().subscribe(SubscribeRequest { channels }).await.expect("a stream").into_inner();
        stream.message().await.expect("an event").expect("it stands");
        Self { caller, refresh_token: opened.credentials.expect("credentials").refresh_token, stream }
    }

    async fn goes_on(&self) -> bool {
        let request = GetAccountRequest { name: "account/me".into() };
        let answer = self.caller.identity().get_account(request).await;
        answer.map_or_else(
            |status| {
                assert_eq!(status.code(), Code::Unauthenticated);
                false
            },
            |_| true,
        )
    }

    /// Tokens are refused and the stream has ended.
    async fn ends(mut self) {
        assert!(!self.goes_on().await);
        let request = RefreshRequest {
            session: self.caller.session.clone(),
            refresh_token: self.refresh_token,
            request_id: String::new(),
        };
        let refused = self.caller.identity().refresh(request).await.expect_err("the session is over");
        assert_eq!(refused.code(), Code::Unauthenticated);
        let end = tokio::time::timeout(PATIENCE, self.stream.message()).await.expect("it ends of itself");
        assert_eq!(end.expect_err("with a status").code(), Code::Unauthenticated);
    }
}

/// Somebody with a channel to follow.
async fn stage() -> (Server, Caller, String) {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    (server, ada, channel)
}

async fn sessions(caller: &Caller) -> Vec<Session> {
    let request = ListSessionsRequest { parent: "account/me".into(), ..ListSessionsRequest::default() };
    let listed = caller.identity().list_sessions(request).await.expect("a list").into_inner().sessions;
    listed.iter().map(|session| session.decode().expect("a session")).collect()
}

async fn end(caller: &Caller, name: &str) -> Result<Session, Status> {
    let request = EndSessionRequest { name: name.into(), request_id: String::new() };
    Ok(caller.identity().end_session(request).await?.into_inner().decode().expect("a session"))
}

async fn log_in(server: &Server, password: &str) -> Result<LogInResponse, Status> {
    let request = LogInRequest { email: EMAIL.into(), password: password.into(), ..LogInRequest::default() };
    Ok(server.nobody().await.identity().log_in(request).await?.into_inner())
}

async fn change_password(caller: &Caller, old: &str, new: &str) -> Result<i32, Status> {
    let request = ChangePasswordRequest {
        name: "account/me".into(),
        old_password: old.into(),
        new_password: new.into(),
        request_id: String::new(),
    };
    Ok(caller.identity().change_password(request).await?.into_inner().ended)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_tell_device_place_and_last_use() {
    let (server, ada, _) = stage().await;
    let request = LogInRequest {
        email: EMAIL.into(),
        password: PASSWORD.into(),
        device: "a phone".into(),
        ..LogInRequest::default()
    };
    let opened = server.nobody().await.identity().log_in(request).await.expect("a log-in").into_inner();
    let phone = Caller::of(server.channel().await, &opened);

    let listed = sessions(&ada).await;
    assert_eq!(listed.iter().map(|s| s.is_current).collect::<Vec<_>>(), [false, true], "newest first");
    let before = listed.first().expect("the phone").clone();
    assert_eq!((before.name.as_str(), before.device.as_str()), (phone.session.as_str(), "a phone"));
    assert_eq!((before.log_in_address.as_str(), before.last_address.as_str()), ("127.0.0.1", "127.0.0.1"));
    assert!(before.client.starts_with("tonic/"), "{}", before.client);
    assert!(before.expire_time_ms > before.refresh_time_ms && before.end_time_ms == 0);

    let refresh_token = opened.credentials.expect("credentials").refresh_token;
    let request = RefreshRequest { session: phone.session.clone(), refresh_token, request_id: String::new() };
    phone.identity().refresh(request).await.expect("a refresh");
    let listed = sessions(&phone).await;
    assert_eq!(listed.iter().map(|s| s.is_current).collect::<Vec<_>>(), [true, false]);
    let after = listed.first().expect("the phone");
    assert!(after.refresh_time_ms >= before.refresh_time_ms && after.create_time_ms == before.create_time_ms);
    assert!(after.expire_time_ms >= before.expire_time_ms);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_own_session_is_ended_from_any_other() {
    let (server, ada, channel) = stage().await;
    let (lost, kept) = (Device::log_in(&server, &channel).await, Device::log_in(&server, &channel).await);
    let bob = server.person("bob@example.org").await;
    for name in [lost.caller.session.as_str(), "session/none", "account/me", "session/me/x", "x"] {
        let code = end(&bob, name).await.expect_err("not bob's").code();
        assert!(matches!(code, Code::NotFound | Code::InvalidArgument), "{name}: {code:?}");
    }
    assert!(lost.goes_on().await);

    let name = lost.caller.session.clone();
    let ended = end(&ada, &name).await.expect("it ends");
    assert_eq!((ended.end(), ended.end_time_ms > 0), (SessionEnd::LogOut, true));
    lost.ends().await;
    assert_eq!(end(&ada, &name).await.expect("once more").end_time_ms, ended.end_time_ms);
    assert!(kept.goes_on().await);
    let ends: Vec<_> = sessions(&ada).await.iter().map(|session| session.end_time_ms > 0).collect();
    assert_eq!(ends, [false, true, false]);

    // Its own end, by the name of whoever asks.
    end(&kept.caller, "session/me").await.expect("it ends");
    kept.ends().await;

    let server = server.restart().await;
    let ada = Caller { channel: server.channel().await, ..ada };
    assert_eq!(sessions(&ada).await.iter().filter(|session| session.end_time_ms == 0).count(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_out_everywhere_ends_all_or_all_but_one() {
    let (server, ada, channel) = stage().await;
    let everywhere = async |caller: &Caller, keep_current| {
        let request = LogOutEverywhereRequest { name: "account/me".into(), keep_current, request_id: String::new() };
        caller.identity().log_out_everywhere(request).await.expect("a log-out").into_inner().ended
    };
    let (first, second) = (Device::log_in(&server, &channel).await, Device::log_in(&server, &channel).await);
    assert_eq!(everywhere(&ada, true).await, 2);
    first.ends().await;
    second.ends().await;
    assert!(sessions(&ada).await.iter().all(|s| s.is_current || s.end() == SessionEnd::Everywhere));
    let (first, second) = (Device::log_in(&server, &channel).await, Device::log_in(&server, &channel).await);
    assert_eq!(everywhere(&first.caller, false).await, 3);
    first.ends().await;
    second.ends().await;
    assert!(end(&ada, "session/me").await.is_err_and(|status| status.code() == Code::Unauthenticated));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_ends_all_other_sessions() {
    let (server, ada, channel) = stage().await;
    let (asking, other) = (Device::log_in(&server, &channel).await, Device::log_in(&server, &channel).await);
    let wrong = change_password(&asking.caller, "wrong horse battery", NEW_PASSWORD).await;
    assert_eq!(wrong.expect_err("a wrong password").code(), Code::PermissionDenied);
    assert!(other.goes_on().await);
    let short = change_password(&asking.caller, PASSWORD, "short").await;
    assert_eq!(short.expect_err("too short").code(), Code::InvalidArgument);

    assert_eq!(change_password(&asking.caller, PASSWORD, NEW_PASSWORD).await.expect("a change"), 2);
    other.ends().await;
    assert!(asking.goes_on().await);
    assert!(end(&ada, "session/me").await.is_err_and(|status| status.code() == Code::Unauthenticated));
    assert_eq!(log_in(&server, PASSWORD).await.expect_err("the old one").code(), Code::Unauthenticated);
    log_in(&server, NEW_PASSWORD).await.expect("the new one");
    let ends = sessions(&asking.caller).await.iter().map(Session::end).collect::<Vec<_>>();
    assert_eq!(ends.iter().filter(|end| **end == SessionEnd::PasswordChange).count(), 2);
    server.stop().await;
}

/// Whoever logs in with a password while it is changed is in with the new one
/// or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_in_with_the_old_password_outlives_its_change() {
    let (server, ada, _) = stage().await;
    let log_ins = futures::future::join_all((0..8).map(|_| log_in(&server, PASSWORD)));
    let (changed, opened) = tokio::join!(change_password(&ada, PASSWORD, NEW_PASSWORD), log_ins);
    changed.expect("a change");
    for opened in opened.into_iter().flatten() {
        let caller = Caller::of(server.channel().await, &opened);
        let answer = caller.identity().get_account(GetAccountRequest { name: "account/me".into() }).await;
        assert_eq!(answer.expect_err("opened with the old password").code(), Code::Unauthenticated);
    }
    assert_eq!(sessions(&ada).await.iter().filter(|session| session.end_time_ms == 0).count(), 1);
    server.stop().await;
}

/// A client names a session as it likes, and none is fixed beforehand: neither
/// a token shown at log-in nor the request's id decides which one is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_fixed_before_the_log_in() {
    let (server, _, _) = stage().await;
    let eve = server.person("eve@example.org").await;
    let request = |request_id: &str| LogInRequest {
        email: EMAIL.into(),
        password: PASSWORD.into(),
        request_id: request_id.into(),
        ..LogInRequest::default()
    };
    let opened = eve.identity().log_in(request("")).await.expect("a log-in").into_inner();
    let own = Caller::of(server.channel().await, &opened);
    assert!(own.session != eve.session && own.account != eve.account);
    // Eve uses the id first, for a log-in of hers that fails and one that does not.
    let hers = LogInRequest { email: "eve@example.org".into(), ..request("fixed") };
    let hers = eve.identity().log_in(hers).await.expect("a log-in").into_inner();
    let fixed = eve.identity().log_in(request("fixed")).await;
    assert_eq!(fixed.expect_err("the id was used for another request").code(), Code::InvalidArgument);
    let hers: Session = hers.session.unwrap_or_else(|| Wire::new(&Session::default())).decode().expect("a session");
    assert_eq!(hers.account, eve.account);
    server.stop().await;
}

/// The next event that is no greeting; an error where the stream ends.
async fn next(stream: &mut Streaming<SubscribeResponse>) -> Result<Event, Status> {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.message()).await.expect("an event or the end")?;
        match event.expect("no end without a status").event.expect("an event") {
            Event::Opened(_) => {}
            event => return Ok(event),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_as_long_as_its_session_is_refreshed() {
    let (server, _, channel) = stage().await;
    let server = server.restart_with(|config| config.identity.access_token_ttl_s = 4).await;
    let (mut kept, mut left) = (Device::log_in(&server, &channel).await, Device::log_in(&server, &channel).await);
    let mut until_ms = 0;
    for _ in 0..2 {
        let Event::Expiring(told) = next(&mut kept.stream).await.expect("it is told before it ends") else {
            panic!("nothing else happens");
        };
        assert!(told.expire_time_ms > until_ms);
        until_ms = told.expire_time_ms;
        let request = RefreshRequest {
            session: kept.caller.session.clone(),
            refresh_token: kept.refresh_token,
            request_id: String::new(),
        };
        let answer = server.nobody().await.identity().refresh(request).await.expect("a refresh").into_inner();
        let credentials = answer.credentials.expect("credentials");
        kept.caller = kept.caller.with_token(&credentials.access_token);
        kept.refresh_token = credentials.refresh_token;
    }
    kept.caller.send(&channel, "still here").await;
    assert!(matches!(next(&mut kept.stream).await.expect("the stream goes on"), Event::Sent(_)));
    // Who does nothing is told once, and then it is over.
    assert!(matches!(next(&mut left.stream).await.expect("it is told"), Event::Expiring(_)));
    let end = next(&mut left.stream).await;
    assert_eq!(end.expect_err("its token has expired").code(), Code::Unauthenticated);
    server.stop().await;
}

fn refresh_request(opened: &LogInResponse) -> RefreshRequest {
    let session: Session = opened.session.as_ref().expect("a session").decode().expect("a session");
    let refresh_token = opened.credentials.as_ref().expect("credentials").refresh_token.clone();
    RefreshRequest { session: session.name, refresh_token, request_id: String::new() }
}

/// With no idle time at all, a session ends with its first access token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_uses_ends() {
    let (server, _, _) = stage().await;
    let server = server.restart_with(|config| config.identity.refresh_token_ttl_s = 0).await;
    let opened = log_in(&server, PASSWORD).await.expect("a log-in");
    let refused = server.nobody().await.identity().refresh(refresh_request(&opened)).await;
    assert_eq!(refused.expect_err("its time is over").code(), Code::Unauthenticated);
    let idle = Caller::of(server.channel().await, &opened);
    let answer = idle.identity().get_account(GetAccountRequest { name: "account/me".into() }).await;
    assert_eq!(answer.expect_err("and the access token's with it").code(), Code::Unauthenticated);
    // What was configured is what counts.
    let server = server.restart_with(|config| config.identity.refresh_token_ttl_s = 7_200).await;
    let opened = log_in(&server, PASSWORD).await.expect("a log-in");
    let session: Session = opened.session.as_ref().expect("a session").decode().expect("a session");
    assert_eq!(session.expire_time_ms, session.create_time_ms + 7_200_000);
    server.nobody().await.identity().refresh(refresh_request(&opened)).await.expect("in time");
    server.stop().await;
}

/// Refreshes prolong a session up to its end, and no further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_an_end_however_often_it_is_refreshed() {
    let (server, _, channel) = stage().await;
    let server = server.restart_with(|config| config.identity.session_max_s = 3_600).await;
    let nobody = server.nobody().await;
    let opened = log_in(&server, PASSWORD).await.expect("a log-in");
    let session: Session = opened.session.as_ref().expect("a session").decode().expect("a session");
    let end_ms = session.create_time_ms + 3_600_000;
    assert_eq!(session.expire_time_ms, end_ms, "the refresh token lives 30 days otherwise");
    let mut request = refresh_request(&opened);
    for _ in 0..3 {
        let answer = nobody.identity().refresh(request.clone()).await.expect("a refresh").into_inner();
        let credentials = answer.credentials.expect("credentials");
        assert_eq!(credentials.refresh_token_expire_time_ms, end_ms);
        assert!(credentials.access_token_expire_time_ms < end_ms);
        request.refresh_token = credentials.refresh_token;
    }
    // Streams and access tokens end with it, of which one would live 300 s.
    let server = server.restart_with(|config| config.identity.session_max_s = 0).await;
    let refused = server.nobody().await.identity().refresh(request).await;
    assert_eq!(refused.expect_err("it is over, by what holds now").code(), Code::Unauthenticated);
    let server = server.restart_with(|config| config.identity.session_max_s = 4).await;
    let mut device = Device::log_in(&server, &channel).await;
    let end = loop {
        match next(&mut device.stream).await {
            Ok(event) => assert!(matches!(event, Event::Expiring(_))),
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::Unauthenticated, "though it had minutes left");
    assert!(!device.goes_on().await);
    server.stop().await;
}

/// An account keeps 1,000 sessions; one more ends the oldest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_the_oldest_session_ends() {
    let (server, ada, _) = stage().await;
    // Written past the account's actor, once it sleeps: a thousand log-ins take a minute.
    let server = server.restart_with(|config| config.actors.idle_passivate_ms = 100).await;
    let ada = Caller { channel: server.channel().await, ..ada };
    let now_ms = canopy_actors::now_ms();
    let mut draft = Draft::default();
    for n in 1..canopy_identity::SESSIONS_MAX {
        let mut entropy = [7; 16];
        entropy[8..].copy_from_slice(&n.to_be_bytes());
        let id = Id::fresh(now_ms, &entropy);
        let session = Session {
            name: Address::session(id).to_string(),
            account: ada.account.clone(),
            create_time_ms: now_ms,
            expire_time_ms: i64::MAX,
            ..Session::default()
        };
        draft.insert(&canopy_identity::SESSIONS, *id.as_bytes(), &Wire::new(&session));
    }
    server.write_past_actor(&ada.account, draft).await;
    let who =
        async |caller: &Caller| caller.identity().get_account(GetAccountRequest { name: "account/me".into() }).await;
    who(&ada).await.expect("as many as may be");
    let newest = server.log_in(EMAIL).await;
    assert_eq!(who(&ada).await.expect_err("the oldest has ended").code(), Code::Unauthenticated);
    who(&newest).await.expect("the newest goes on");

    // With the next one it is forgotten, and its keys are destroyed.
    let store = server.running.node.store();
    let is_shredded = async |session: &str| store.is_shredded(&Address::parse(session).expect("an address")).await;
    assert!(!is_shredded(&ada.session).await, "it can be looked at while it is listed");
    server.log_in(EMAIL).await;
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let forgotten = async {
        while !is_shredded(&ada.session).await {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("its keys are destroyed in time");
    assert!(!is_shredded(&newest.session).await);
    who(&newest).await.expect("the others go on");
    assert_eq!(who(&ada).await.expect_err("it is over").code(), Code::Unauthenticated);
    let refresh_token = "of before".to_owned();
    let refresh = RefreshRequest { session: ada.session.clone(), refresh_token, request_id: String::new() };
    let refused = server.nobody().await.identity().refresh(refresh).await.expect_err("nobody knows its token");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    let purges = Address::system("purges");
    let left = async || {
        let request = ListPurgesRequest { limit: 10 }.encode_to_vec().into();
        let answer = server.running.node.ask(&purges, LIST_PURGES.path, request, &purges, "").await;
        ListPurgesResponse::decode(answer.expect("a list")).expect("a list").purges.len()
    };
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let done = async {
        while left().await > 0 {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("nothing of it is left to do");
    server.stop().await;
}

/// What changes how people log in, or cannot be taken back, asks for a log-in
/// that is not long ago; with none allowed at all, each session is too old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_session_does_nothing_that_matters() {
    let (server, _, _) = stage().await;
    let root = server.sys_admin("root@example.org").await;
    let recent: Vec<_> = canopy_proto::rules().values().filter(|rule| rule.recent).collect();
    let names: BTreeSet<_> = recent.iter().map(|rule| rule.descriptor.name().to_owned()).collect();
    let expected = [
        "AddKeySlot",
        "ChangeEmail",
        "ChangePassword",
        "CreateApiKey",
        "EndSession",
        "ForgetFactors",
        "LogOutEverywhere",
        "PurgeOrg",
        "PurgeProject",
        "RemoveKeySlot",
        "RotateInstallationKey",
        "RotateRootKey",
        "SuspendAccount",
        "TransferOwnership",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);

    let org = root.create_org("ours").await.name;
    let project = root.create_project(&org, "web").await.name;
    let (_, machine) = create(&root, wanted(Role::OrgAdmin, "", 86_400_000)).await.expect("a key");
    let server = server.restart_with(|config| config.identity.recent_log_in_max_s = 0).await;
    let root = Caller { channel: server.channel().await, ..root };
    let other = server.log_in("root@example.org").await;
    for rule in recent {
        let target = Target {
            account: if rule.path.contains("AccountAdmin") { root.account.clone() } else { "account/me".into() },
            session: other.session.clone(),
            org: org.clone(),
            project: project.clone(),
            grantee: root.account.clone(),
            on: org.clone(),
            unique: "fresh".into(),
            ..Target::default()
        };
        let status = root.raw(rule.path, request(rule.path, &target)).await.expect_err(rule.path);
        assert_eq!(status.code(), Code::FailedPrecondition, "{}: {status:?}", rule.path);
        assert!(status.message().contains("log-in"), "{}: {status:?}", rule.path);
        let machine = Caller { channel: root.channel.clone(), ..machine.clone() };
        let status = machine.raw(rule.path, request(rule.path, &target)).await.expect_err(rule.path);
        assert_eq!(status.code(), Code::PermissionDenied, "a key cannot log in: {}: {status:?}", rule.path);
    }
    // Nothing else does, and nothing was done.
    assert_eq!(sessions(&root).await.iter().filter(|session| session.end_time_ms > 0).count(), 0);
    let server = server.restart_with(|config| config.identity.recent_log_in_max_s = 900).await;
    let root = Caller { channel: server.channel().await, ..root };
    end(&root, &other.session).await.expect("a log-in of a moment ago does");
    server.stop().await;
}
