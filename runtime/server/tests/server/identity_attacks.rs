//! Headers, tokens and fields that claim to be somebody else, and floods of sign-ups.

use canopy_actors::now_ms;
use canopy_domain::{Role, Wire};
use canopy_proto::identity::v1::api_keys_client::ApiKeysClient;
use canopy_proto::identity::v1::identity_client::IdentityClient;
use canopy_proto::identity::v1::{
    Account, ApiKey, CreateApiKeyRequest, GetAccountRequest, ListSessionsRequest, LogInRequest, RefreshRequest,
    RegisterRequest, ResetPasswordRequest, Session, UpdateAccountRequest,
};
use canopy_proto::org::v1::{CreateOrgRequest, Grant, GrantRoleRequest, Org};
use hmac::{Hmac, KeyInit, Mac};
use prost_types::FieldMask;
use sha2::Sha256;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::mailbox::letter_in;
use crate::harness::{Caller, PASSWORD, Server};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Who the server takes a caller for that sends these headers and no others.
async fn who(caller: &Caller, headers: &[(&'static str, String)]) -> Result<String, Status> {
    let headers = headers.to_vec();
    let add = move |mut request: Request<()>| {
        for (name, value) in &headers {
            let value = MetadataValue::try_from(value).expect("a header");
            request.metadata_mut().append(*name, value);
        }
        Ok(request)
    };
    let mut client = IdentityClient::with_interceptor(caller.channel.clone(), add);
    let request = GetAccountRequest { name: "account/me".into() };
    Ok(client.get_account(request).await?.into_inner().decode().expect("an account").name)
}

fn header_of(caller: &Caller) -> String {
    caller.token.0.as_ref().expect("a token").to_str().expect("ASCII").to_owned()
}

/// Of two tokens none counts: a proxy on the way may have looked at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorization_headers_are_refused() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let eve = server.person("eve@example.org").await;
    let (hers, eves) = (header_of(&ada), header_of(&eve));
    let (hers, eves) = (hers.as_str(), eves.as_str());
    let one = |value: &str| ("authorization", value.to_owned());
    assert_eq!(who(&eve, &[one(hers)]).await.expect("one is taken"), ada.account);
    for pair in [[hers, eves], [eves, hers], [eves, eves], [hers, "Bearer x"], ["Bearer x", hers], [hers, ""]] {
        let status = who(&eve, &pair.map(one)).await.expect_err("two of them");
        assert_eq!(status.code(), Code::Unauthenticated, "{pair:?}");
        assert!(!status.message().contains(&hers[7..]), "a token is not repeated");
    }
    server.stop().await;
}

/// Nothing but the one header says who calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_header_says_who_calls() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let eve = server.person("eve@example.org").await;
    let token = header_of(&ada);
    let claims = [
        ("proxy-authorization", token.clone()),
        ("x-authorization", token.clone()),
        ("x-forwarded-authorization", token.clone()),
        ("cookie", format!("authorization={token}")),
        ("x-user-id", ada.account.clone()),
        ("x-remote-user", "ada@example.org".into()),
        ("x-forwarded-user", "ada@example.org".into()),
        ("x-canopy-principal", ada.account.clone()),
        ("x-canopy-role", "ROLE_SYS_ADMIN".into()),
        ("principal", ada.account.clone()),
        ("account", ada.account.clone()),
        ("session", ada.session.clone()),
        ("x-original-url", "/canopy.identity.v1.Identity/LogIn".into()),
        ("x-http-method-override", "GET".into()),
        ("x-ssl-client-cert", "ada@example.org".into()),
        ("forwarded", "for=127.0.0.1;by=ada".into()),
    ];
    for claim in &claims {
        let nobody = who(&eve, std::slice::from_ref(claim)).await.expect_err("nobody is signed in");
        assert_eq!(nobody.code(), Code::Unauthenticated, "{claim:?}");
        let both = [claim.clone(), ("authorization", header_of(&eve))];
        assert_eq!(who(&eve, &both).await.expect("eve"), eve.account, "{claim:?}");
    }
    server.stop().await;
}

/// Neither the limits on guesses nor what people see of their sessions goes by
/// an address that the client names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_addresses_are_not_believed() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let guesser = Caller { channel: server.channel_from("127.0.0.2").await, ..server.nobody().await };
    let log_in = async |password: &str, address: String| {
        let add = move |mut request: Request<()>| {
            for name in ["x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "client-ip"] {
                request.metadata_mut().append(name, MetadataValue::try_from(&address).expect("an address"));
            }
            let forwarded = format!("for={address}");
            request.metadata_mut().append("forwarded", MetadataValue::try_from(&forwarded).expect("an address"));
            Ok(request)
        };
        let request =
            LogInRequest { email: "ada@example.org".into(), password: password.into(), ..LogInRequest::default() };
        IdentityClient::with_interceptor(guesser.channel.clone(), add).log_in(request).await
    };
    // The owner's own address, from which nobody else is held back, does not help.
    let named = |n: usize| if n.is_multiple_of(2) { "127.0.0.1".to_owned() } else { format!("198.51.100.{n}") };
    log_in(PASSWORD, named(1)).await.expect("the password is right");
    let list = ListSessionsRequest { parent: "account/me".into(), ..ListSessionsRequest::default() };
    let sessions = ada.identity().list_sessions(list).await.expect("a list").into_inner().sessions;
    let sessions: Vec<Session> = sessions.iter().map(|session| session.decode().expect("a session")).collect();
    let newest = sessions.first().expect("the newest");
    assert_eq!((newest.log_in_address.as_str(), newest.last_address.as_str()), ("127.0.0.2", "127.0.0.2"));
    for n in 0..5 {
        let status = log_in(&format!("a guess, number {n}"), named(n)).await.expect_err("a guess");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    for n in 0..5 {
        let status = log_in(PASSWORD, named(n)).await.expect_err("it has to wait");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    server.stop().await;
}

/// Base64 of URLs, without padding (RFC 4648, 5).
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        text.extend((0..=three.len()).map(|n| char::from(ALPHABET[word >> (18 - 6 * n) & 63])));
    }
    text
}

/// A JSON Web Token of these headers and claims, signed as it is told.
fn jwt(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    format!("{signed}.{}", base64url(&sign(signed.as_bytes())))
}

fn hs256(key: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    move |text| mac.clone().chain_update(text).finalize().into_bytes().to_vec()
}

/// The pair of keys that access tokens are signed with today.
fn key_of_today(server: &Server) -> ed25519_compact::KeyPair {
    let secret = server.running.node.store().derive_key("access tokens, ed25519");
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret[..]).expect("a key");
    mac.update(b"canopy access tokens, day");
    mac.update(&now_ms().div_euclid(DAY_MS).to_be_bytes());
    ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(mac.finalize().into_bytes().into()))
}

/// Whatever a JSON Web Token says and is signed with, be it our own keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_web_tokens_are_refused() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let pair = key_of_today(&server);
    let expire_time_ms = now_ms() + HOUR_MS;
    let claims = format!(r#"{{"sub":"{}","sid":"{}","exp_ms":{expire_time_ms}}}"#, ada.account, ada.session);
    // It is the key: what the server itself would have signed is taken.
    let key = pasetors::keys::AsymmetricSecretKey::<pasetors::version4::V4>::from(&pair.sk[..]).expect("a key");
    let installation = server.running.node.store().installation_id().to_string();
    let own = pasetors::version4::PublicToken::sign(&key, claims.as_bytes(), None, Some(installation.as_bytes()));
    let take = async |token: &str| who(&ada, &[("authorization", format!("Bearer {token}"))]).await;
    assert_eq!(take(&own.expect("a token")).await.expect("it is the server's"), ada.account);

    let claims = format!(
        r#"{{"sub":"{0}","sid":"{1}","session":"{1}","exp_ms":{expire_time_ms},"exp":{2},"aud":"{installation}"}}"#,
        ada.account,
        ada.session,
        expire_time_ms / 1000
    );
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64url(&[&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], &pair.pk[..]].concat())
    );
    let secret = server.running.node.store().derive_key("access tokens, ed25519");
    let ed25519 = |text: &[u8]| pair.sk.sign(text, None).to_vec();
    let with_own_key =
        format!(r#"{{"alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{}"}}}}"#, base64url(&pair.pk[..]));
    let mut forged = vec![
        ("HS256 with the public key", jwt(r#"{"alg":"HS256","typ":"JWT"}"#, &claims, hs256(&pair.pk[..]))),
        ("HS256 with the public key as PEM", jwt(r#"{"alg":"HS256"}"#, &claims, hs256(pem.as_bytes()))),
        ("HS256 with the installation's secret", jwt(r#"{"alg":"HS256"}"#, &claims, hs256(&secret[..]))),
        ("HS256 with an empty key", jwt(r#"{"alg":"HS256","kid":"/dev/null"}"#, &claims, hs256(b""))),
        ("EdDSA with the server's own key", jwt(r#"{"alg":"EdDSA","typ":"JWT"}"#, &claims, ed25519)),
        ("EdDSA with a key that it brings", jwt(&with_own_key, &claims, ed25519)),
    ];
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = format!(r#"{{"alg":"{none}","typ":"JWT"}}"#);
        forged.push(("no algorithm", jwt(&header, &claims, |_| Vec::new())));
        forged.push(("no algorithm, and a signature", jwt(&header, &claims, hs256(&pair.pk[..]))));
    }
    for (about, token) in forged {
        let status = take(&token).await.expect_err(about);
        assert_eq!(status.code(), Code::Unauthenticated, "{about}");
    }
    server.stop().await;
}

/// A credential is good for what it was made for, and for nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_serves_in_place_of_another() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let mailed = letter_in(&server.config.mail_dir(), "ada@example.org", 0).await.token();
    let opened = ada.open_session("ada@example.org").await;
    let session: Session = opened.session.expect("a session").decode().expect("a session");
    let credentials = opened.credentials.expect("credentials");
    let key = ApiKey { role_max: Role::Guest.into(), expire_time_ms: now_ms() + HOUR_MS, ..ApiKey::default() };
    let request =
        CreateApiKeyRequest { parent: "account/me".into(), api_key: Some(Wire::new(&key)), request_id: String::new() };
    let mut keys = ApiKeysClient::with_interceptor(ada.channel.clone(), ada.token.clone());
    let key = keys.create_api_key(request).await.expect("a key").into_inner().key;
    let sign_up = server.running.sign_up_token.expose().to_owned();

    for (about, bearer) in [
        ("refresh token", &credentials.refresh_token),
        ("mailed token", &mailed),
        ("sign-up token", &sign_up),
        ("session's name", &session.name),
    ] {
        let status = who(&ada, &[("authorization", format!("Bearer {bearer}"))]).await.expect_err(about);
        assert_eq!(status.code(), Code::Unauthenticated, "a {about} as an access token");
    }
    for (about, refresh_token) in [
        ("access token", &credentials.access_token),
        ("API key", &key),
        ("mailed token", &mailed),
        ("sign-up token", &sign_up),
    ] {
        let refresh_token = refresh_token.chars().take(200).collect();
        let request = RefreshRequest { session: session.name.clone(), refresh_token, request_id: String::new() };
        let status = ada.identity().refresh(request).await.expect_err(about);
        assert_eq!(status.code(), Code::Unauthenticated, "an {about} as a refresh token");
    }
    for (about, token) in [
        ("access token", &credentials.access_token),
        ("API key", &key),
        ("refresh token", &credentials.refresh_token),
        ("token that verifies an address", &mailed),
    ] {
        let token = token.chars().take(200).collect();
        let request =
            ResetPasswordRequest { token, new_password: "another horse battery".into(), request_id: String::new() };
        let status = ada.verification().reset_password(request).await.expect_err(about);
        let code = status.code();
        assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound), "{about}: {code:?}");
    }
    // None of it ended or changed anything.
    let bearer = format!("Bearer {}", credentials.access_token);
    assert_eq!(who(&ada, &[("authorization", bearer)]).await.expect("it is good"), ada.account);
    let refresh_token = credentials.refresh_token;
    let request = RefreshRequest { session: session.name, refresh_token, request_id: String::new() };
    ada.identity().refresh(request).await.expect("it is good");
    server.stop().await;
}

/// Who sends what the server sets is answered as if they had not: with fields
/// in what they make and in what they change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_sets_is_not_taken_from_clients() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let nobody = server.nobody().await;
    let sent = Account {
        name: ada.account.clone(),
        email: "eve@example.org".into(),
        display_name: "Eve".into(),
        create_time_ms: 1,
        update_time_ms: 1,
        email_verify_time_ms: 1,
        disable_time_ms: 1,
        delete_time_ms: 1,
        purge_time_ms: 1,
        ..Account::default()
    };
    let request = RegisterRequest {
        account: Some(Wire::new(&sent)),
        password: PASSWORD.into(),
        sign_up_token: String::new(),
        request_id: String::new(),
    };
    nobody.identity().register(request).await.expect("a registration");
    let eve = server.log_in("eve@example.org").await;
    let account = async || -> Account {
        let request = GetAccountRequest { name: "account/me".into() };
        eve.identity().get_account(request).await.expect("an account").into_inner().decode().expect("an account")
    };
    let made = account().await;
    assert!(made.name == eve.account && made.name != ada.account && made.create_time_ms > 1);
    let set = |a: &Account| [a.email_verify_time_ms, a.disable_time_ms, a.delete_time_ms, a.purge_time_ms];
    assert_eq!(set(&made), [0; 4]);

    let change = async |paths: &[&str]| {
        let account = Account { name: "account/me".into(), display_name: "Eve again".into(), ..sent.clone() };
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        let request = UpdateAccountRequest {
            account: Some(Wire::new(&account)),
            update_mask: Some(mask),
            request_id: String::new(),
        };
        eve.identity().update_account(request).await.map(drop)
    };
    change(&[]).await.expect("what may be changed is");
    let changed = account().await;
    assert_eq!((changed.display_name.as_str(), changed.email.as_str()), ("Eve again", "eve@example.org"));
    assert_eq!((set(&changed), changed.create_time_ms), ([0; 4], made.create_time_ms));
    for path in ["email_verify_time_ms", "disable_time_ms", "purge_time_ms", "create_time_ms", "name", "email"] {
        let status = change(&["display_name", path]).await.expect_err(path);
        assert_eq!(status.code(), Code::InvalidArgument, "{path}");
    }
    assert_eq!(account().await, changed);

    let key = ApiKey {
        name: format!("{}/key/{}", ada.account, "0".repeat(26)),
        role_max: Role::Guest.into(),
        expire_time_ms: now_ms() + HOUR_MS,
        create_time_ms: 1,
        revoke_time_ms: 1,
        last_use_time_ms: 1,
        last_use_address: "198.51.100.1".into(),
        remind_time_ms: 1,
        ..ApiKey::default()
    };
    let request =
        CreateApiKeyRequest { parent: "account/me".into(), api_key: Some(Wire::new(&key)), request_id: String::new() };
    let mut keys = ApiKeysClient::with_interceptor(eve.channel.clone(), eve.token.clone());
    let made = keys.create_api_key(request).await.expect("a key").into_inner().api_key.expect("a key");
    let made: ApiKey = made.decode().expect("a key");
    assert!(made.name.starts_with(&eve.account) && made.create_time_ms > 1);
    assert_eq!((made.revoke_time_ms, made.last_use_time_ms, made.last_use_address.as_str()), (0, 0, ""));
    assert_eq!(made.remind_time_ms, 0);

    let org = Org {
        name: "org/00000000000000000000000000".into(),
        slug: "acme".into(),
        title: "Acme".into(),
        create_time_ms: 1,
        delete_time_ms: 1,
        purge_time_ms: 1,
        archive_time_ms: 1,
        ..Org::default()
    };
    let request = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: String::new() };
    let made: Org = eve.orgs().create_org(request).await.expect("an org").into_inner().decode().expect("an org");
    assert!(made.name != org.name && made.create_time_ms > 1);
    assert_eq!((made.delete_time_ms, made.purge_time_ms, made.archive_time_ms), (0, 0, 0));
    let grant = Grant {
        account: ada.account.clone(),
        on: made.name.clone(),
        role: Role::Guest.into(),
        create_time_ms: 1,
        granted_by: ada.account.clone(),
    };
    let request = GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    let made: Grant = eve.orgs().grant_role(request).await.expect("a grant").into_inner().decode().expect("a grant");
    assert_eq!(made.granted_by, eve.account);
    assert!(made.create_time_ms > 1);
    server.stop().await;
}

/// Sign-ups at once from one address that are more than are hashed for.
const STORM: usize = 600;

/// With hashing as it is installed: one address has a part of what is hashed,
/// the others go on, and whoever was answered has an account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sign_ups_keeps_nobody_else_out() {
    let server = Server::start_with(|config| {
        let installed = canopy_config::NodeConfig::default().identity;
        config.identity.argon2_memory_kib = installed.argon2_memory_kib;
        config.identity.argon2_passes = installed.argon2_passes;
    })
    .await;
    let ada = server.person("ada@example.org").await;
    let stranger = Caller { channel: server.channel_from("127.0.0.2").await, ..server.nobody().await };
    let sign_up = async |n: usize| {
        let account = Account { email: format!("storm-{n}@example.org"), ..Account::default() };
        let request = RegisterRequest {
            account: Some(Wire::new(&account)),
            password: PASSWORD.into(),
            sign_up_token: String::new(),
            request_id: String::new(),
        };
        stranger.identity().register(request).await.map(|made| made.into_inner().decode().expect("an account").email)
    };
    let storm = futures::future::join_all((0..STORM).map(sign_up));
    let others = async {
        ada.create_org("acme").await;
        let project = ada.create_project("org/acme", "web").await.name;
        let channel = ada.create_channel(&project, "general").await;
        for n in 0..20 {
            ada.send(&channel, &format!("message {n}")).await;
        }
        server.log_in("ada@example.org").await;
        server.register("bob@example.org", "").await;
    };
    let (answers, ()) = tokio::join!(storm, others);
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    for status in refused.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert!(wait.is_some_and(|wait| !wait.is_zero()), "{status:?}");
    }
    assert!(!made.is_empty() && !refused.is_empty(), "{} made, {} refused", made.len(), refused.len());
    let email = made.first().expect("one").as_ref().expect("one");
    server.log_in(email).await;
    server.stop().await;
}
