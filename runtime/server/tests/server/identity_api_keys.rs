//! Keys for machines: what they may, for how long, and how they end.

use std::time::Duration;

use crate::harness::mailbox::{letter_in, letters_in};
use crate::harness::{Caller, PASSWORD, Server};
use canopy_actors::now_ms;
use canopy_domain::{Draft, Id, Role, Wire, utc};
use canopy_proto::chat::v1::{ChannelPosition, GetChannelRequest, SubscribeRequest};
use canopy_proto::identity::v1::api_keys_client::ApiKeysClient;
use canopy_proto::identity::v1::{
    ApiKey, ChangePasswordRequest, CreateApiKeyRequest, DisableAccountRequest, GetAccountRequest, ListApiKeysRequest,
    LogOutEverywhereRequest, RequestPasswordResetRequest, ResetPasswordRequest, RevokeApiKeyRequest,
};
use canopy_proto::ops::v1::{ObserveRequest, SuspendAccountRequest};
use canopy_proto::org::v1::{GetOrgRequest, ListOrgsRequest};
use tonic::{Code, Status};

const DAY_MS: i64 = 86_400_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn keys(caller: &Caller) -> ApiKeysClient<crate::harness::Authorised> {
    ApiKeysClient::with_interceptor(caller.channel.clone(), caller.token.clone())
}

pub(crate) fn wanted(role_max: Role, scope: &str, life_ms: i64) -> ApiKey {
    ApiKey {
        display_name: "a machine".into(),
        role_max: role_max.into(),
        scope: scope.into(),
        expire_time_ms: now_ms() + life_ms,
        ..ApiKey::default()
    }
}

/// The key, and a machine that holds it.
pub(crate) async fn create(owner: &Caller, key: ApiKey) -> Result<(ApiKey, Caller), Status> {
    let request =
        CreateApiKeyRequest { parent: "account/me".into(), api_key: Some(Wire::new(&key)), request_id: String::new() };
    let made = keys(owner).create_api_key(request).await?.into_inner();
    let key = made.api_key.expect("a key").decode().expect("a key");
    Ok((key, owner.with_token(&made.key)))
}

async fn list(owner: &Caller) -> Vec<ApiKey> {
    let request = ListApiKeysRequest { parent: "account/me".into(), ..ListApiKeysRequest::default() };
    let listed = keys(owner).list_api_keys(request).await.expect("a list").into_inner().api_keys;
    listed.iter().map(|key| key.decode().expect("a key")).collect()
}

pub(crate) async fn revoke(owner: &Caller, name: &str) -> Result<ApiKey, Status> {
    let request = RevokeApiKeyRequest { name: name.into(), request_id: String::new() };
    Ok(keys(owner).revoke_api_key(request).await?.into_inner().decode().expect("a key"))
}

/// Whether a machine is let in at all.
async fn is_let_in(machine: &Caller) -> bool {
    machine.orgs().list_orgs(ListOrgsRequest::default()).await.is_ok()
}

/// Its times are written past the account's actor: nobody waits for a year.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_are_reminded_once_before_a_key_expires() {
    let email = "ada@example.org";
    let server = Server::start_with(|config| config.actors.idle_passivate_ms = 100).await;
    let ada = server.person(email).await;
    let (made, machine) = create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("a key");
    let (old, _) = create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("a key");
    revoke(&ada, &old.name).await.expect("it is revoked");
    let mut draft = Draft::default();
    let now_ms = now_ms();
    for before in list(&ada).await {
        let id = Id::parse(before.name.rsplit('/').next().expect("an id")).expect("an id");
        let expire_time_ms = now_ms + DAY_MS;
        let after = ApiKey { create_time_ms: now_ms - 364 * DAY_MS, expire_time_ms, ..before.clone() };
        draft.put(&canopy_identity::API_KEYS, *id.as_bytes(), Some(&Wire::new(&before)), &Wire::new(&after));
    }
    server.write_past_actor(&ada.account, draft).await;

    // Used, it has its holder told, after the letters of the registration and of two keys.
    assert!(is_let_in(&machine).await);
    let letter = letter_in(&server.config.mail_dir(), email, 3).await;
    assert!(letter.header("Subject").contains(&utc(now_ms + DAY_MS)), "{letter:?}");
    let revoke_it = format!("revoke-api-key --name {}", made.name);
    for told in ["`a machine`", "create-api-key", &revoke_it, &utc(now_ms + DAY_MS)] {
        assert!(letter.body.contains(told), "`{told}` is not in: {}", letter.body);
    }
    let keys = list(&ada).await;
    let reminded = |name: &str| keys.iter().find(|key| key.name == name).expect("a key").remind_time_ms;
    assert!(reminded(&made.name) >= now_ms && reminded(&old.name) == 0, "{keys:?}");

    let server = server.restart().await;
    assert!(is_let_in(&Caller { channel: server.channel().await, ..machine }).await);
    let ada = server.log_in(email).await;
    create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("a key");
    letter_in(&server.config.mail_dir(), email, 4).await;
    let letters = letters_in(&server.config.mail_dir(), email);
    let told = letters.iter().filter(|letter| letter.header("Subject").contains("expires")).count();
    assert_eq!(told, 1, "{letters:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_shuts_an_account_revokes_its_keys_and_what_ends_sessions_does_not() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let shutting: [&str; 3] = ["disable", "suspend", "reset"];
    for what in shutting {
        let email = format!("{what}@example.org");
        let owner = server.person(&email).await;
        let (_, machine) = create(&owner, wanted(Role::Guest, "", DAY_MS)).await.expect("a key");
        let change = ChangePasswordRequest {
            name: "account/me".into(),
            old_password: PASSWORD.into(),
            new_password: PASSWORD.into(),
            request_id: String::new(),
        };
        owner.identity().change_password(change).await.expect("a change");
        let log_out = LogOutEverywhereRequest { name: "account/me".into(), keep_current: true, ..Default::default() };
        owner.identity().log_out_everywhere(log_out).await.expect("they end");
        assert!(is_let_in(&machine).await, "sessions are no keys");
        let (name, request_id) = (owner.account.clone(), String::new());
        match what {
            "disable" => owner.accounts().disable_account(DisableAccountRequest { name, request_id }).await.map(drop),
            "suspend" => {
                root.account_admin().suspend_account(SuspendAccountRequest { name, request_id }).await.map(drop)
            }
            _ => {
                let ask = RequestPasswordResetRequest { email: email.clone(), request_id: String::new() };
                owner.verification().request_password_reset(ask).await.expect("it is asked for");
                // After those on the key and the password.
                let token = letter_in(&server.config.mail_dir(), &email, 3).await.token();
                let reset = ResetPasswordRequest { token, new_password: PASSWORD.into(), request_id };
                owner.verification().reset_password(reset).await.map(drop)
            }
        }
        .expect("it is shut");
        assert!(!is_let_in(&machine).await, "{what}");
    }
    server.stop().await;
}

async fn reads(machine: &Caller, channel: &str) -> Code {
    let request = GetChannelRequest { name: channel.into() };
    machine.chat().get_channel(request).await.err().map_or(Code::Ok, |status| status.code())
}

async fn sends(machine: &Caller, channel: &str) -> Code {
    let request = crate::harness::message(channel, "by a machine");
    machine.chat().send_message(request).await.err().map_or(Code::Ok, |status| status.code())
}

struct Stage {
    server: Server,
    ada: Caller,
    org: String,
    projects: Vec<String>,
    channels: Vec<String>,
}

/// An org with two projects, a channel in each, of the sys-admin.
async fn stage() -> Stage {
    let server = Server::start().await;
    let ada = server.sys_admin("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let (mut projects, mut channels) = (Vec::new(), Vec::new());
    for slug in ["web", "ops"] {
        let project = ada.create_project(&org, slug).await.name;
        channels.push(ada.create_channel(&project, "general").await);
        projects.push(project);
    }
    Stage { server, ada, org, projects, channels }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_acts_within_its_bounds() {
    let Stage { server, ada, org, projects, channels } = stage().await;
    // Role, scope; what it may read and send in the first and second project.
    let cases = [
        (Role::OrgAdmin, "", [Code::Ok, Code::Ok], [Code::Ok, Code::Ok]),
        (Role::ProjectUser, org.as_str(), [Code::Ok, Code::Ok], [Code::Ok, Code::Ok]),
        (Role::Guest, "", [Code::Ok, Code::PermissionDenied], [Code::Ok, Code::PermissionDenied]),
        (Role::ProjectUser, &projects[0], [Code::Ok, Code::Ok], [Code::NotFound, Code::NotFound]),
        (Role::Guest, &projects[1], [Code::NotFound, Code::NotFound], [Code::Ok, Code::PermissionDenied]),
    ];
    for (role, scope, first, second) in cases {
        let (_, machine) = create(&ada, wanted(role, scope, DAY_MS)).await.expect("a key");
        for (channel, expected) in channels.iter().zip([first, second]) {
            let found = [reads(&machine, channel).await, sends(&machine, channel).await];
            assert_eq!(found, expected, "{role:?} at `{scope}`");
        }
        let reads_org = machine.orgs().get_org(GetOrgRequest { name: org.clone() }).await;
        assert_eq!(reads_org.is_ok(), !scope.contains("project"), "{role:?} at `{scope}`");
        // Neither the installation, nor the account itself, whatever its owner is.
        let observe = machine.ops().observe(ObserveRequest::default()).await.expect_err("not a sys-admin");
        assert_eq!(observe.code(), Code::PermissionDenied);
        let own = machine.identity().get_account(GetAccountRequest { name: "account/me".into() }).await;
        assert_eq!(own.expect_err("not the owner").code(), Code::PermissionDenied);
        let more = create(&machine, wanted(Role::Guest, "", DAY_MS)).await.map(drop);
        assert_eq!(more.expect_err("no key makes keys").code(), Code::PermissionDenied);
        let everywhere = LogOutEverywhereRequest { name: "account/me".into(), ..Default::default() };
        let everywhere = machine.identity().log_out_everywhere(everywhere).await;
        assert_eq!(everywhere.expect_err("nor ends sessions").code(), Code::PermissionDenied);
        let org = canopy_proto::org::v1::Org { slug: "mine".into(), ..Default::default() };
        let request = canopy_proto::org::v1::CreateOrgRequest { org: Some(Wire::new(&org)), request_id: String::new() };
        let made = machine.orgs().create_org(request).await;
        assert_eq!(made.expect_err("nor makes orgs").code(), Code::PermissionDenied);
        let listed = machine.orgs().list_orgs(ListOrgsRequest::default()).await;
        assert_eq!(listed.is_ok(), scope.is_empty(), "{role:?} at `{scope}`");
    }
    // What the account loses, its keys lose.
    let bob = server.person("bob@example.org").await;
    ada.grant(&bob.account, &projects[0], Role::ProjectUser).await;
    let (_, machine) = create(&bob, wanted(Role::OrgAdmin, "", DAY_MS)).await.expect("a key");
    assert_eq!([sends(&machine, &channels[0]).await, reads(&machine, &channels[1]).await], [Code::Ok, Code::NotFound]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_at_once() {
    let Stage { server, ada, channels, .. } = stage().await;
    let (key, machine) = create(&ada, wanted(Role::ProjectUser, "", DAY_MS)).await.expect("a key");
    assert_eq!(sends(&machine, &channels[0]).await, Code::Ok);
    let subscribe = || {
        let position = ChannelPosition { name: channels[0].clone(), cursor: None };
        SubscribeRequest { channels: vec![position] }
    };
    let mut stream = machine.chat().subscribe(subscribe()).await.expect("a stream").into_inner();
    stream.message().await.expect("an event").expect("it stands");

    let bob = server.person("bob@example.org").await;
    assert_eq!(revoke(&bob, &key.name).await.expect_err("not bob's").code(), Code::PermissionDenied);
    assert_eq!(sends(&machine, &channels[0]).await, Code::Ok);
    assert!(revoke(&ada, &key.name).await.expect("a key").revoke_time_ms > 0);
    assert_eq!(sends(&machine, &channels[0]).await, Code::Unauthenticated);
    // The message that it sent before, and then the end.
    let end = async {
        loop {
            if let Err(status) = stream.message().await.map(|event| event.expect("no end without a status")) {
                return status;
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("it ends of itself");
    assert_eq!(end.code(), Code::Unauthenticated);

    let server = server.restart().await;
    let machine = Caller { channel: server.channel().await, ..machine };
    assert_eq!(sends(&machine, &channels[0]).await, Code::Unauthenticated);
    let ada = Caller { channel: server.channel().await, ..ada };
    let listed = list(&ada).await;
    assert_eq!(listed.len(), 1);
    let listed = listed.first().expect("a key");
    assert!(listed.revoke_time_ms > 0 && listed.last_use_time_ms > 0, "{listed:?}");
    assert_eq!(listed.last_use_address, "127.0.0.1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_none() {
    let Stage { server, ada, channels, .. } = stage().await;
    for (about, key, field) in [
        ("without an end", ApiKey { expire_time_ms: 0, ..wanted(Role::Guest, "", DAY_MS) }, "api_key.expire_time_ms"),
        ("of the past", wanted(Role::Guest, "", -1), "api_key.expire_time_ms"),
        ("for two years", wanted(Role::Guest, "", 730 * DAY_MS), "api_key.expire_time_ms"),
        ("for the installation", wanted(Role::SysAdmin, "", DAY_MS), "api_key.role_max"),
        ("without a role", wanted(Role::Unspecified, "", DAY_MS), "api_key.role_max"),
        ("for a slug", wanted(Role::Guest, "org/acme", DAY_MS), "api_key.scope"),
        ("for an account", wanted(Role::Guest, &ada.account, DAY_MS), "api_key.scope"),
        ("for a channel", wanted(Role::Guest, &channels[0], DAY_MS), "api_key.scope"),
    ] {
        let status = create(&ada, key).await.map(drop).expect_err(about);
        assert_eq!(status.code(), Code::InvalidArgument, "{about}");
        assert!(status.message().contains(field), "{about}: {status:?}");
    }
    // A life that ends while it is used.
    let (_, short) = create(&ada, wanted(Role::Guest, "", 1_500)).await.expect("a key");
    let mut stream = {
        let position = ChannelPosition { name: channels[0].clone(), cursor: None };
        short.chat().subscribe(SubscribeRequest { channels: vec![position] }).await.expect("a stream").into_inner()
    };
    stream.message().await.expect("an event").expect("it stands");
    let end = tokio::time::timeout(PATIENCE, stream.message()).await.expect("it ends of itself");
    assert_eq!(end.expect_err("with its key").code(), Code::Unauthenticated);
    assert_eq!(reads(&short, &channels[0]).await, Code::Unauthenticated);

    let request = CreateApiKeyRequest {
        parent: "account/me".into(),
        api_key: Some(Wire::new(&wanted(Role::Guest, "", DAY_MS))),
        request_id: String::new(),
    };
    let text = keys(&ada).create_api_key(request).await.expect("a key").into_inner().key;
    assert!(text.starts_with("canopy_") && text.len() == 131, "{text}");
    assert_eq!(reads(&ada.with_token(&text), &channels[0]).await, Code::Ok);
    // Bits and lengths, all over the key; and whole keys that nobody made.
    for at in (0..text.len()).step_by(5) {
        let mut forged = text.clone().into_bytes();
        forged[at] ^= 1;
        let forged = String::from_utf8_lossy(&forged).into_owned();
        assert_eq!(reads(&ada.with_token(&forged), &channels[0]).await, Code::Unauthenticated, "flipped at {at}");
        assert_eq!(reads(&ada.with_token(&text[..at]), &channels[0]).await, Code::Unauthenticated, "cut at {at}");
    }
    let body = format!("{}{}", &text[..59], "0".repeat(64));
    let digest = <sha2::Sha256 as sha2::Digest>::digest(body.as_bytes());
    let check: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let guessed = ada.with_token(&format!("{body}{check}"));
    assert_eq!(reads(&guessed, &channels[0]).await, Code::Unauthenticated, "well-formed, of another secret");
    let listed = list(&ada).await;
    assert!(listed.iter().all(|key| !format!("{key:?}").contains(&text[60..])), "it is shown once");
    server.stop().await;
}

/// The limit of keys counts those that are good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_so_many_keys_and_no_more() {
    let Stage { server, ada, .. } = stage().await;
    let mut names = Vec::new();
    for _ in 0..100 {
        names.push(create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("a key").0.name);
    }
    let beyond = create(&ada, wanted(Role::Guest, "", DAY_MS)).await.map(drop).expect_err("one too many");
    assert_eq!(beyond.code(), Code::FailedPrecondition);
    revoke(&ada, &names[50]).await.expect("a key");
    create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("its place");
    server.stop().await;
}
