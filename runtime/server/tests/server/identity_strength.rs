//! What a log-in has to show where the server asks for more than a password, and that nobody makes their own
//! session stronger than they can show.

use std::collections::BTreeSet;

use canopy_config::LogInStrength as Asked;
use canopy_domain::{Address, Draft, Role, Wire};
use canopy_proto::identity::v1::api_keys_client::ApiKeysClient;
use canopy_proto::identity::v1::{
    ApiKey, CreateApiKeyRequest, GetAccountRequest, ListSessionsRequest, LogInRequest, LogInStrength, LogOutRequest,
    RefreshRequest, RequestPasswordResetRequest, ResetPasswordRequest, SecurityEventKind, Session,
};
use canopy_proto::ops::v1::{ForgetFactorsRequest, GetInstallationRequest, ObserveRequest};
use canopy_proto::org::v1::{GetOrgRequest, ListOrgsRequest, Org, UpdateOrgRequest};
use canopy_proto::system::v1::Origin;
use canopy_proto::{Access, Requirement, rules};
use canopy_store::Commit;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::mailbox::{Received, letter_in};
use crate::harness::phone::Phone;
use crate::harness::requests::{Target, request};
use crate::harness::{Caller, PASSWORD, Server, refused};
use crate::identity_passkeys::{self as passkeys, begin_with, create, delete, events, list, make};
use crate::identity_second_factor::{confirm, enroll, log_in, remove, replace};

const EMAIL: &str = "ada@example.org";

async fn asking(asked: Asked) -> Server {
    Server::start_with(|config| config.identity.log_in_strength = asked).await
}

/// Refused for what the session has not shown; what is said of it.
#[track_caller]
fn too_weak<T>(answer: Result<T, Status>) -> String {
    let status = refused(answer, Code::FailedPrecondition);
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.reason, "LogInTooWeak", "{status:?}");
    format!("{}; {}", status.message(), info.metadata["hint"])
}

/// Something that everybody may who is signed in, and that is no part of setting up a factor.
async fn does(caller: &Caller) -> Result<(), Status> {
    caller.orgs().list_orgs(ListOrgsRequest::default()).await.map(drop)
}

async fn session(caller: &Caller) -> Session {
    let request = ListSessionsRequest { parent: "account/me".into(), ..ListSessionsRequest::default() };
    let listed = caller.identity().list_sessions(request).await.expect("a list").into_inner().sessions;
    let own = listed.iter().map(|session| session.decode().expect("a session")).find(|session| session.is_current);
    own.expect("the one that asks")
}

async fn strength(caller: &Caller) -> LogInStrength {
    session(caller).await.strength()
}

/// Every method that asks who calls, by a session that has shown too little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weak_session_sets_up_what_is_missing_and_nothing_else() {
    for asked in [Asked::TwoFactors, Asked::Passkey] {
        let server = asking(asked).await;
        let installation = server.nobody().await.ops().get_installation(GetInstallationRequest {}).await;
        assert_eq!(installation.expect("an answer").into_inner().log_in_strength, asked.as_str());
        // The first one of a fresh server, too.
        let root = server.sys_admin(EMAIL).await;
        assert_eq!(strength(&root).await, LogInStrength::Password);
        let target = Target {
            account: "account/me".into(),
            session: "session/none".into(),
            // Nothing is looked up: what there is and what not is not told.
            org: "org/none".into(),
            project: "org/none/project/none".into(),
            channel: "org/none/project/none/chat/channel/none".into(),
            message: "org/none/project/none/chat/channel/none/message/1".into(),
            backup: "org/none/job/backup/none".into(),
            environment: "org/none/project/none/environment/none".into(),
            grantee: root.account.clone(),
            on: "org/none".into(),
            unique: "fresh".into(),
            ..Target::default()
        };
        let mut open = BTreeSet::new();
        for rule in rules().values() {
            if matches!(rule.requires, Requirement::Anybody | Requirement::Internal) {
                continue;
            }
            let bytes = request(rule.path, &target);
            let answer = match rule.access {
                Access::Subscription => root.raw_stream(rule.path, bytes).await.map(drop),
                _ => root.raw(rule.path, bytes).await.map(drop),
            };
            let reason = answer.as_ref().err().and_then(Status::get_details_error_info).map(|info| info.reason);
            if reason.as_deref() == Some("LogInTooWeak") {
                too_weak(answer);
            } else {
                open.insert(rule.descriptor.name().to_owned());
            }
        }
        let expected = [
            "BeginPasskey",
            "ConfirmTotp",
            "CreatePasskey",
            "EnrollTotp",
            "GetAccount",
            "GetSecondFactors",
            "ListPasskeys",
            "ListSessions",
            "LogOut",
        ];
        assert_eq!(open.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_factors_are_set_up_and_then_shown() {
    let server = asking(Asked::TwoFactors).await;
    let weak = server.sys_admin(EMAIL).await;
    let said = too_weak(does(&weak).await);
    assert_eq!(
        said,
        "this server asks for two factors, and this session was opened with the password alone; log in again with a \
         code (`canopy identity log-in --code`) or a passkey; who has neither yet sets up an authenticator app first: \
         `canopy identity enroll-totp`, then `confirm-totp`"
    );
    let mut app = enroll(&weak, PASSWORD).await.expect("a secret");
    let recovery = confirm(&weak, &app.code()).await.expect("recovery codes");
    // A session is what it was opened with.
    too_weak(does(&weak).await);
    refused(log_in(&server, PASSWORD, "").await, Code::FailedPrecondition);
    let nobody = server.nobody().await;
    let request =
        LogInRequest { email: EMAIL.into(), password: PASSWORD.into(), code: app.code(), ..LogInRequest::default() };
    let opened = nobody.identity().log_in(request).await.expect("a log-in").into_inner();
    let strong = Caller::of(nobody.channel.clone(), &opened);
    does(&strong).await.expect("two factors do");
    strong.ops().observe(ObserveRequest::default()).await.expect("it is a sys-admin");
    let by_recovery_code = log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    assert_eq!(strength(&by_recovery_code).await, LogInStrength::TwoFactors);
    does(&by_recovery_code).await.expect("so does a recovery code");
    let mut phone = Phone::new();
    make(&strong, &mut phone).await;
    does(&passkeys::log_in(&server, &mut phone).await.expect("a log-in")).await.expect("so does a passkey");

    // It outlives refreshes and restarts.
    let server = server.restart().await;
    let request = RefreshRequest {
        session: strong.session.clone(),
        refresh_token: opened.credentials.expect("credentials").refresh_token,
        request_id: String::new(),
    };
    let nobody = server.nobody().await;
    let refreshed = nobody.identity().refresh(request).await.expect("a refresh").into_inner();
    let token = refreshed.credentials.expect("credentials").access_token;
    let strong = Caller { channel: nobody.channel.clone(), ..strong }.with_token(&token);
    assert_eq!(strength(&strong).await, LogInStrength::TwoFactors);
    does(&strong).await.expect("as before");
    let weak = Caller { channel: nobody.channel.clone(), ..weak };
    too_weak(does(&weak).await);
    let request = LogOutRequest { name: "session/me".into(), request_id: String::new() };
    weak.identity().log_out(request).await.expect("it may go");

    // For a passkey, two factors are too little.
    let server = server.restart_with(|config| config.identity.log_in_strength = Asked::Passkey).await;
    too_weak(does(&Caller { channel: server.channel().await, ..strong.clone() }).await);
    let by_passkey = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    does(&by_passkey).await.expect("a passkey does");
    server.stop().await;
}

/// A fresh server that asks for a passkey: its first person gets in, and administers it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_is_set_up_and_then_shown() {
    let server = asking(Asked::Passkey).await;
    let weak = server.sys_admin(EMAIL).await;
    let said = too_weak(weak.ops().observe(ObserveRequest::default()).await);
    assert_eq!(
        said,
        "this server asks for a log-in with a passkey, and this session was opened without one; log in with a \
         passkey; who has none yet makes one first: `canopy identity begin-passkey`, then `create-passkey`"
    );
    let mut phone = Phone::new();
    let made = make(&weak, &mut phone).await;
    too_weak(does(&weak).await);
    let strong = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    assert_eq!(strength(&strong).await, LogInStrength::Passkey);
    strong.ops().observe(ObserveRequest::default()).await.expect("it is a sys-admin");
    does(&strong).await.expect("a passkey does");
    // The last one stays, until there is another; one that was perhaps copied does not count.
    let status = refused(delete(&strong, &made.name, PASSWORD).await, Code::FailedPrecondition);
    assert_eq!(status.message(), "this server asks for a passkey, and it is the last one");
    let mut other = Phone { counts: true, ..Phone::new() };
    let copied = make(&strong, &mut other).await;
    let mut copy = other.clone();
    passkeys::log_in(&server, &mut other).await.expect("a log-in");
    refused(passkeys::log_in(&server, &mut copy).await, Code::Unauthenticated);
    refused(delete(&strong, &made.name, PASSWORD).await, Code::FailedPrecondition);
    delete(&strong, &copied.name, PASSWORD).await.expect("it is of no use");
    let other = make(&strong, &mut Phone::new()).await;
    delete(&strong, &made.name, PASSWORD).await.expect("there is another");
    refused(delete(&strong, &other.name, PASSWORD).await, Code::FailedPrecondition);
    // An app is as good as none here, and comes and goes.
    let mut app = enroll(&strong, PASSWORD).await.expect("a secret");
    let recovery = confirm(&strong, &app.code()).await.expect("recovery codes");
    too_weak(does(&log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in")).await);
    remove(&strong, PASSWORD, &recovery[1]).await.expect("it goes");
    server.stop().await;
}

/// Somebody has the password of an account that has more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_alone_adds_no_other_factor() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut phone = Phone::new();
    let begun = phone.clone().create(&begin_with(&ada, PASSWORD).await.expect("options")).await;
    let pending = enroll(&ada, PASSWORD).await.expect("a secret").code();
    let server = server.restart_with(|config| config.identity.log_in_strength = Asked::TwoFactors).await;
    let ada = Caller { channel: server.channel().await, ..ada };
    make(&ada, &mut phone).await;
    let thief = server.log_in(EMAIL).await;
    // With a session of now, or one from before, and with what was begun before.
    for thief in [&thief, &ada] {
        too_weak(does(thief).await);
        for said in [
            too_weak(begin_with(thief, PASSWORD).await),
            too_weak(create(thief, "", &begun).await),
            too_weak(enroll(thief, PASSWORD).await),
            too_weak(confirm(thief, &pending).await),
        ] {
            assert!(said.contains("has a factor already") && said.contains("forget-factors"), "{said}");
        }
    }
    let ada = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    let mut app = enroll(&ada, PASSWORD).await.expect("whoever shows the passkey does");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    // Where a passkey is asked for, nor does it with an app that the account has.
    let server = server.restart_with(|config| config.identity.log_in_strength = Asked::Passkey).await;
    let ada = Caller { channel: server.channel().await, ..ada };
    let by_code = log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    too_weak(begin_with(&by_code, PASSWORD).await);
    too_weak(replace(&by_code, PASSWORD, &recovery[1]).await);
    make(&ada, &mut Phone::new()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_before_the_app_makes_no_passkey() {
    let server = asking(Asked::Passkey).await;
    let before = server.person(EMAIL).await;
    let mut app = enroll(&before, PASSWORD).await.expect("a secret");
    let recovery = confirm(&before, &app.code()).await.expect("recovery codes");
    let said = too_weak(begin_with(&before, PASSWORD).await);
    assert!(said.contains("log-in --code"), "{said}");
    let by_code = log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    let mut phone = Phone::new();
    make(&by_code, &mut phone).await;
    does(&passkeys::log_in(&server, &mut phone).await.expect("a log-in")).await.expect("a passkey does");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_two_factors_stays_or_is_replaced() {
    let server = asking(Asked::TwoFactors).await;
    let weak = server.person(EMAIL).await;
    let mut app = enroll(&weak, PASSWORD).await.expect("a secret");
    let recovery = confirm(&weak, &app.code()).await.expect("recovery codes");
    let ada = log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    let status = refused(remove(&ada, PASSWORD, &recovery[1]).await, Code::FailedPrecondition);
    let said = "this server, or an org that you are in, asks for two factors, and it is the last one";
    assert_eq!(status.message(), said);
    let mut next = replace(&ada, PASSWORD, &recovery[1]).await.expect("a secret");
    let renewed = confirm(&ada, &next.code()).await.expect("recovery codes");
    log_in(&server, PASSWORD, &next.code()).await.expect("the next one is asked for");
    let made = make(&ada, &mut Phone::new()).await;
    remove(&ada, PASSWORD, &renewed[0]).await.expect("there is a passkey");
    refused(delete(&ada, &made.name, PASSWORD).await, Code::FailedPrecondition);
    assert_eq!(list(&ada).await.len(), 1);
    server.stop().await;
}

/// An org asks for more than the server, of all who are in it: at once, and to the end of their streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_asks_for_two_factors() {
    let server = Server::start().await;
    let owner = server.person("owner@example.org").await;
    let org = owner.create_org("strict").await.name;
    let project = owner.create_project(&org, "web").await.name;
    let channel = owner.create_channel(&project, "general").await;
    let weak = server.person(EMAIL).await;
    owner.grant(&weak.account, &project, Role::ProjectUser).await;
    let target = Target { org: org.clone(), project, channel: channel.clone(), ..Target::default() };
    let path = "canopy.chat.v1.Chat/Subscribe";
    let mut stream = weak.raw_stream(path, request(path, &target)).await.expect("a stream");
    let mut phone = Phone::new();
    make(&owner, &mut phone).await;
    let strong = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    let set = async |by: &Caller, required: Option<bool>, paths: &[&str]| {
        let org = Org { name: org.clone(), title: "Strict".into(), require_second_factor: required, ..Org::default() };
        let update_mask = Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
        let request = UpdateOrgRequest { org: Some(Wire::new(&org)), update_mask, request_id: String::new() };
        by.orgs().update_org(request).await.map(|org| org.into_inner().decode().expect("an org"))
    };
    assert!(set(&owner, Some(true), &["require_second_factor"]).await.expect("an update").require_second_factor());
    let end = async {
        loop {
            if let Err(end) = stream.message().await {
                return end;
            }
        }
    };
    let end = tokio::time::timeout(std::time::Duration::from_secs(60), end).await.expect("the stream ends");
    too_weak::<()>(Err(end));
    let get = async |by: &Caller| by.orgs().get_org(GetOrgRequest { name: org.clone() }).await.map(drop);
    // Whoever set it, too, and they are told which org it is.
    let said = too_weak(get(&owner).await);
    let expected = format!("`{org}` asks for two factors, and this session was opened with the password alone");
    assert!(said.starts_with(&expected), "{said}");
    too_weak(weak.chat().send_message(crate::harness::message(&channel, "hello")).await);
    too_weak(set(&owner, Some(false), &["require_second_factor"]).await);
    let root = server.sys_admin("root@example.org").await;
    too_weak(get(&root).await);
    refused(get(&server.person("nobody@example.org").await).await, Code::NotFound);
    // Elsewhere all is as before, and the list says which org asks for it.
    let listed = weak.orgs().list_orgs(ListOrgsRequest::default()).await.expect("a list").into_inner().orgs;
    assert!(listed[0].decode().expect("an org").require_second_factor());
    weak.create_org("own").await;
    get(&strong).await.expect("a passkey does");
    // An update that does not say anything of it changes nothing of it.
    assert!(set(&strong, None, &[]).await.expect("an update").require_second_factor());

    // A password alone makes itself no factor here either, and the last one stays.
    too_weak(begin_with(&owner, PASSWORD).await);
    let mut app = enroll(&weak, PASSWORD).await.expect("who has none yet");
    let recovery = confirm(&weak, &app.code()).await.expect("recovery codes");
    let ada = log_in(&server, PASSWORD, &recovery[0]).await.expect("a log-in");
    ada.send(&channel, "hello").await;
    refused(remove(&ada, PASSWORD, &recovery[1]).await, Code::FailedPrecondition);
    set(&strong, Some(false), &["require_second_factor"]).await.expect("an update");
    get(&owner).await.expect("as before");
    remove(&ada, PASSWORD, &recovery[1]).await.expect("it goes");
    server.stop().await;
}

/// Who has lost everything asks a sys-admin. Whoever reads their mail gets no further by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_factors_are_forgotten_by_a_sys_admin_and_by_no_mail() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let mut key = Phone::new();
    make(&root, &mut key).await;
    let server = server.restart_with(|config| config.identity.log_in_strength = Asked::Passkey).await;
    let weak = server.person(EMAIL).await;
    let mut phone = Phone::new();
    make(&weak, &mut phone).await;
    let ada = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    let api_key = {
        let wanted = ApiKey {
            role_max: Role::Guest.into(),
            expire_time_ms: canopy_actors::now_ms() + 86_400_000,
            ..ApiKey::default()
        };
        let request = CreateApiKeyRequest {
            parent: "account/me".into(),
            api_key: Some(Wire::new(&wanted)),
            request_id: String::new(),
        };
        ApiKeysClient::with_interceptor(ada.channel.clone(), ada.token.clone())
            .create_api_key(request)
            .await
            .expect("a key")
            .into_inner()
            .key
    };
    let machine = ada.with_token(&api_key);
    does(&machine).await.expect("a key logs in by nothing");

    let nobody = server.nobody().await;
    let request = RequestPasswordResetRequest { email: EMAIL.into(), request_id: String::new() };
    nobody.verification().request_password_reset(request).await.expect("an answer");
    let token = letter(&server, "Set a new password").await.token();
    let request = ResetPasswordRequest { token, new_password: PASSWORD.into(), request_id: String::new() };
    nobody.verification().reset_password(request).await.expect("a reset");
    refused(does(&ada).await, Code::Unauthenticated);
    let thief = server.log_in(EMAIL).await;
    assert_eq!(list(&thief).await.len(), 1);
    too_weak(begin_with(&thief, PASSWORD).await);
    let ada = passkeys::log_in(&server, &mut phone).await.expect("the passkey is as it was");

    let root = passkeys::log_in(&server, &mut key).await.expect("a log-in");
    let forget = |name: &str| ForgetFactorsRequest { name: format!("account/{name}"), request_id: String::new() };
    refused(ada.account_admin().forget_factors(forget("root@example.org")).await, Code::PermissionDenied);
    root.account_admin().forget_factors(forget(EMAIL)).await.expect("they are forgotten");
    refused(does(&ada).await, Code::Unauthenticated);
    refused(passkeys::log_in(&server, &mut phone).await, Code::Unauthenticated);
    letter(&server, "Your account has no passkey and no authenticator app any more").await;
    let weak = server.log_in(EMAIL).await;
    assert_eq!(list(&weak).await, []);
    let mut phone = Phone::new();
    make(&weak, &mut phone).await;
    let ada = passkeys::log_in(&server, &mut phone).await.expect("a log-in");
    assert!(events(&ada).await.contains(&SecurityEventKind::FactorsForgotten));
    does(&ada).await.expect("a passkey does");
    server.stop().await;
}

/// The first letter with a subject, once it has come.
async fn letter(server: &Server, subject: &str) -> Received {
    let mut n = 0;
    loop {
        let letter = letter_in(&server.config.mail_dir(), EMAIL, n).await;
        if letter.header("Subject") == subject {
            return letter;
        }
        n += 1;
    }
}

/// A session's row as releases before this one wrote it says nothing of how it was opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_an_older_release_counts_as_a_password() {
    let server = Server::start_with(|config| config.actors.idle_passivate_ms = 100).await;
    let weak = server.person(EMAIL).await;
    let mut app = enroll(&weak, PASSWORD).await.expect("a secret");
    confirm(&weak, &app.code()).await.expect("recovery codes");
    let strong = log_in(&server, PASSWORD, &app.code()).await.expect("a log-in");
    let known = session(&strong).await;
    assert_eq!(known.strength(), LogInStrength::TwoFactors);
    let address = Address::parse(&strong.session).expect("an address");
    let newer = Session { is_current: false, ..known };
    let older = Session { strength: 0, ..newer.clone() };
    let mut draft = Draft::default();
    draft.put(&canopy_identity::SESSION, [0], Some(&Wire::new(&newer)), &Wire::new(&older));
    let commit = Commit {
        time_ms: canopy_actors::now_ms(),
        principal: String::new(),
        origin: Origin::default(),
        request_id: String::new(),
        method: canopy_proto::methods::identity::REFRESH.path,
        changes: draft.into_parts().changes,
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    };
    let mut look = tokio::time::interval(std::time::Duration::from_millis(5));
    let asleep = async {
        loop {
            if let Ok(writer) = server.running.node.store().writer(&address, &[]).await {
                return writer;
            }
            look.tick().await;
        }
    };
    let mut writer = tokio::time::timeout(std::time::Duration::from_secs(60), asleep).await.expect("it falls asleep");
    writer.submit(commit).await.expect("it is written");
    drop(writer);
    let server = server.restart_with(|config| config.identity.log_in_strength = Asked::TwoFactors).await;
    let strong = Caller { channel: server.channel().await, ..strong };
    strong.identity().get_account(GetAccountRequest { name: "account/me".into() }).await.expect("it goes on");
    too_weak(does(&strong).await);
    server.stop().await;
}
