//! What proves who is calling, and when it no longer does.

use std::time::Duration;

use crate::harness::{Caller, PASSWORD, Server, Token};
use canopy_actors::{SignUpPolicy, Tokens, now_ms};
use canopy_config::{NodeConfig, SignUp};
use canopy_domain::{Address, Secret, TokenClaims, TokenIssuer, Wire};
use canopy_proto::chat::v1::{ChannelPosition, SubscribeRequest};
use canopy_proto::identity::v1::{
    Account, Credentials, GetAccountRequest, ListSessionsRequest, LogInRequest, LogOutRequest, RefreshRequest,
    RegisterRequest,
};
use canopy_proto::ops::v1::ObserveRequest;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const PATIENCE: Duration = Duration::from_secs(20);

async fn who(caller: &Caller) -> Result<Account, Status> {
    let request = GetAccountRequest { name: "account/me".into() };
    Ok(caller.identity().get_account(request).await?.into_inner().decode().expect("an account"))
}

async fn code_of(caller: &Caller, token: &str) -> Code {
    who(&caller.with_token(token)).await.err().map_or(Code::Ok, |status| status.code())
}

/// Signs as the server does, for an installation of any name.
fn tokens(server: &Server, installation: &str) -> Tokens {
    tokens_of(server, installation, HOUR_MS)
}

/// Tokens that live so long.
fn tokens_of(server: &Server, installation: &str, access_ttl_ms: i64) -> Tokens {
    let secret = server.running.node.store().derive_key("access tokens, ed25519");
    Tokens::new(&secret, installation.into(), access_ttl_ms, 1, SignUpPolicy::Closed).expect("tokens")
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_prove_nothing() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let installation = server.running.node.store().installation_id().to_string();
    let claims =
        |expire_time_ms| TokenClaims { account: address(&ada.account), session: address(&ada.session), expire_time_ms };
    let own = tokens(&server, &installation);
    let good = own.issue(&claims(now_ms() + HOUR_MS));
    assert_eq!(code_of(&ada, &good).await, Code::Ok, "signed as the server signs");

    let seed = [7; 32];
    let stranger = Tokens::new(&seed, installation.clone(), HOUR_MS, 1, SignUpPolicy::Closed).expect("tokens");
    let unborn = canopy_domain::Id::fresh(1, &[9; 16]);
    let other_session = TokenClaims { session: Address::session(unborn), ..claims(now_ms() + HOUR_MS) };
    let not_of_account = TokenClaims { session: address(&bob.session), ..claims(now_ms() + HOUR_MS) };
    let fixed = [
        ("expired", own.issue(&claims(now_ms() - 1))),
        ("expired long ago", own.issue(&claims(0))),
        ("expired before time", own.issue(&claims(-1))),
        ("of another key", stranger.issue(&claims(now_ms() + HOUR_MS))),
        ("of another installation", tokens(&server, &unborn.to_string()).issue(&claims(now_ms() + HOUR_MS))),
        ("of no session", own.issue(&other_session)),
        ("of another's session", own.issue(&not_of_account)),
        // As if they had been issued two days ago, and the day after tomorrow.
        (
            "of a retired key",
            tokens_of(&server, &installation, 2 * DAY_MS + HOUR_MS).issue(&claims(now_ms() + HOUR_MS)),
        ),
        (
            "of a key to come",
            tokens_of(&server, &installation, HOUR_MS).issue(&claims(now_ms() + 2 * DAY_MS + HOUR_MS)),
        ),
        ("of the key before there were days", undated(&server, &claims(now_ms() + HOUR_MS))),
        ("re-signed by another", re_signed(&good, &stranger.issue(&claims(now_ms() + HOUR_MS)))),
        ("without a signature", unsigned(&good)),
        ("for symmetric keys, made of the public one", format!("v4.local.{}", good.trim_start_matches("v4.public."))),
        ("that asks for no algorithm", format!("v4.none.{}", good.trim_start_matches("v4.public."))),
        ("of the other kind, with no algorithm", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhY2NvdW50L21lIn0.".into()),
        ("empty", String::new()),
        ("no token", "nonsense".into()),
        ("too long", format!("{good}{}", "A".repeat(2_000))),
        ("of another version", good.replacen("v4", "v3", 1)),
        ("of another purpose", good.replacen("public", "local", 1)),
        ("with a footer", format!("{good}.Zm9vdGVy")),
    ];
    for (about, token) in &fixed {
        assert_eq!(code_of(&ada, token).await, Code::Unauthenticated, "a token {about}");
    }
    // Bits and lengths, all over the token.
    for at in (0..good.len()).step_by(3) {
        let mut forged = good.clone().into_bytes();
        forged[at] ^= if forged[at] == b'B' { 3 } else { 1 };
        let forged = String::from_utf8_lossy(&forged).into_owned();
        assert_eq!(code_of(&ada, &forged).await, Code::Unauthenticated, "flipped at {at}");
        assert_eq!(code_of(&ada, &good[..at]).await, Code::Unauthenticated, "cut at {at}");
    }
    for header in ["", "Bearer", "Bearer ", &format!("Basic {good}"), &good, &format!("Bearer  {good}"), "Bearer \u{1}"]
    {
        let Ok(value) = MetadataValue::try_from(header) else { continue };
        let caller = Caller { token: Token(Some(value)), ..ada.clone() };
        let status = who(&caller).await.expect_err("no bearer token");
        assert_eq!(status.code(), Code::Unauthenticated, "{header:?}");
        assert!(!status.message().contains(&good), "a token is not repeated");
    }
    let lower = MetadataValue::try_from(format!("bearer {good}")).expect("ASCII");
    let lower = Caller { token: Token(Some(lower)), ..ada.clone() };
    assert_eq!(who(&lower).await.expect("schemes have no case (RFC 9110 §11.1)").name, ada.account);
    server.stop().await;
}

/// Characters of base64 that 64 bytes of signature end in.
const SIGNATURE: usize = 86;

/// One token's payload with another's signature.
fn re_signed(token: &str, other: &str) -> String {
    let (payload, _) = token.split_at(token.len() - SIGNATURE);
    format!("{payload}{}", &other[other.len() - SIGNATURE..])
}

/// A signature of zeros.
fn unsigned(token: &str) -> String {
    format!("{}{}", &token[..token.len() - SIGNATURE], "A".repeat(SIGNATURE))
}

/// Signed with the installation's secret itself, as tokens were before each day had its key.
fn undated(server: &Server, claims: &TokenClaims) -> String {
    let secret = server.running.node.store().derive_key("access tokens, ed25519");
    let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(*secret));
    let key = pasetors::keys::AsymmetricSecretKey::<pasetors::version4::V4>::from(&pair.sk[..]).expect("a key");
    let payload =
        format!(r#"{{"sub":"{}","sid":"{}","exp_ms":{}}}"#, claims.account, claims.session, claims.expire_time_ms);
    let installation = server.running.node.store().installation_id().to_string();
    pasetors::version4::PublicToken::sign(&key, payload.as_bytes(), None, Some(installation.as_bytes()))
        .expect("a token")
}

/// Whoever logs in or refreshes is not held up by an old token.
#[tokio::test]
async fn what_anybody_may_call_looks_at_no_token() {
    let server = Server::start().await;
    server.person("ada@example.org").await;
    let stale = server.nobody().await.with_token("expired");
    let opened = stale.open_session("ada@example.org").await;
    let session = opened.session.expect("a session").decode().expect("a session");
    let refresh_token = opened.credentials.expect("credentials").refresh_token;
    let request = RefreshRequest { session: session.name, refresh_token, request_id: "once".into() };
    let first = stale.identity().refresh(request.clone()).await.expect("a refresh").into_inner();
    let fresh = first.credentials.clone().expect("credentials").access_token;
    let again = stale.with_token(&fresh).identity().refresh(request).await.expect("the same refresh").into_inner();
    assert!(again == first, "the repeat with another token gets the first answer");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_out_ends_tokens_and_streams_at_once() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let opened = ada.open_session("ada@example.org").await;
    let phone = Caller::of(server.channel().await, &opened);
    let credentials = opened.credentials.expect("credentials");

    let subscribe = || {
        let channels = vec![ChannelPosition { name: channel.clone(), cursor: None }];
        SubscribeRequest { channels }
    };
    let mut streams = Vec::new();
    for caller in [&phone, &phone, &ada] {
        let mut stream = caller.chat().subscribe(subscribe()).await.expect("a stream").into_inner();
        stream.message().await.expect("an event").expect("it stands");
        streams.push(stream);
    }
    let request = LogOutRequest { name: "session/me".into(), request_id: String::new() };
    let ended = phone.identity().log_out(request.clone()).await.expect("a log-out").into_inner().session;
    assert!(ended.expect("a session").decode().expect("a session").end_time_ms > 0);

    assert_eq!(who(&phone).await.expect_err("the token is over").code(), Code::Unauthenticated);
    let again = phone.identity().log_out(request).await.expect_err("so is the session");
    assert_eq!(again.code(), Code::Unauthenticated);
    let refresh = refresh(&phone, &phone.session, &credentials.refresh_token, "").await;
    assert_eq!(refresh.expect_err("and its refresh token").code(), Code::Unauthenticated);
    let mut others = streams.pop().expect("three streams");
    for mut stream in streams {
        let end = tokio::time::timeout(PATIENCE, stream.message()).await.expect("it ends of itself");
        assert_eq!(end.expect_err("with a status").code(), Code::Unauthenticated);
    }
    // The other device goes on.
    ada.send(&channel, "still here").await;
    others.message().await.expect("an event").expect("a message");

    let server = server.restart().await;
    let phone = Caller { channel: server.channel().await, ..phone };
    assert_eq!(who(&phone).await.expect_err("a restart forgets nothing").code(), Code::Unauthenticated);
    let ada = Caller { channel: server.channel().await, ..ada };
    let list = ListSessionsRequest { parent: "account/me".into(), ..ListSessionsRequest::default() };
    let sessions = ada.identity().list_sessions(list).await.expect("a list").into_inner().sessions;
    let ended = sessions.iter().map(|s| s.decode().expect("a session").end_time_ms > 0).collect::<Vec<_>>();
    assert_eq!(ended, [true, false], "newest first");
    drop(others);
    server.stop().await;
}

async fn refresh(by: &Caller, session: &str, refresh_token: &str, request_id: &str) -> Result<Credentials, Status> {
    let request =
        RefreshRequest { session: session.into(), refresh_token: refresh_token.into(), request_id: request_id.into() };
    Ok(by.identity().refresh(request).await?.into_inner().credentials.expect("credentials"))
}

/// A session, and the refresh tokens that it had so far.
async fn session_refreshed(server: &Server, times: usize) -> (Caller, Vec<String>) {
    let nobody = server.nobody().await;
    let opened = nobody.open_session("ada@example.org").await;
    let mut caller = Caller::of(server.channel().await, &opened);
    let mut tokens = vec![opened.credentials.expect("credentials").refresh_token];
    for _ in 0..times {
        let credentials = refresh(&nobody, &caller.session, tokens.last().expect("a token"), "").await;
        let credentials = credentials.expect("a refresh");
        caller = caller.with_token(&credentials.access_token);
        tokens.push(credentials.refresh_token);
    }
    (caller, tokens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_good_once() {
    let server = Server::start().await;
    server.person("ada@example.org").await;
    let nobody = server.nobody().await;
    let elsewhere = Caller { channel: server.channel_from("127.0.0.2").await, ..nobody.clone() };
    // However long ago a token was used, showing it again ends the session; the
    // last one alone may be shown once more, by who used it.
    for (reused, by) in [(0, &nobody), (1, &nobody), (2, &elsewhere)] {
        let (caller, tokens) = session_refreshed(&server, 3).await;
        assert!(who(&caller).await.is_ok());
        let again = refresh(&nobody, &caller.session, &tokens[2], "").await.expect("the same client, at once");
        assert_eq!(again.refresh_token, tokens[3]);
        let status = refresh(by, &caller.session, &tokens[reused], "").await.expect_err("it was used");
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(who(&caller).await.expect_err("the session is over").code(), Code::Unauthenticated);
        let last = refresh(&nobody, &caller.session, &tokens[3], "").await.expect_err("for both holders");
        assert_eq!(last.code(), Code::Unauthenticated);
    }
    // What was never a token of the session ends nothing.
    let (caller, tokens) = session_refreshed(&server, 1).await;
    let (_, foreign) = session_refreshed(&server, 1).await;
    for wrong in [&foreign[1], &foreign[0], "nonsense", &"0".repeat(64), &tokens[1].to_uppercase().replace('0', "O")] {
        let status = refresh(&nobody, &caller.session, wrong, "").await.expect_err("not a token");
        assert_eq!(status.code(), Code::Unauthenticated, "{wrong}");
    }
    assert!(who(&caller).await.is_ok(), "guesses end no session");
    refresh(&nobody, &caller.session, &tokens[1], "").await.expect("the token in use");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_refresh_is_one() {
    let server = Server::start().await;
    server.person("ada@example.org").await;
    let nobody = server.nobody().await;
    let (caller, tokens) = session_refreshed(&server, 0).await;
    let tries = (0..10).map(|_| refresh(&nobody, &caller.session, &tokens[0], "one"));
    let answers = futures::future::join_all(tries).await;
    let first = answers[0].as_ref().expect("a refresh");
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer == first)));
    assert!(who(&caller.with_token(&first.access_token)).await.is_ok());
    let other = refresh(&nobody, &caller.session, &first.refresh_token, "one").await;
    assert_eq!(other.expect_err("another request under the same id").code(), Code::InvalidArgument);

    // Without an id, too: the family does not fork.
    let (caller, tokens) = session_refreshed(&server, 0).await;
    let tries = (0..100).map(|_| refresh(&nobody, &caller.session, &tokens[0], ""));
    let answers = futures::future::join_all(tries).await;
    let first = answers[0].as_ref().expect("a refresh");
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer == first)));
    assert!(who(&caller).await.is_ok(), "nothing was stolen");
    // What follows is used, and the race's token shown once more is a theft.
    refresh(&nobody, &caller.session, &first.refresh_token, "").await.expect("the token in use");
    let stale = refresh(&nobody, &caller.session, &tokens[0], "").await;
    assert_eq!(stale.expect_err("used before the last").code(), Code::Unauthenticated);
    assert_eq!(who(&caller).await.expect_err("the session is over").code(), Code::Unauthenticated);

    // Of a thief and the owner at once, whoever comes second ends both.
    let (caller, tokens) = session_refreshed(&server, 0).await;
    let mut thieves = Vec::new();
    for n in 0..10 {
        thieves.push(Caller { channel: server.channel_from(&format!("127.0.0.{}", n + 2)).await, ..nobody.clone() });
    }
    let tries = (0..100).map(|n| refresh(&thieves[n % 10], &caller.session, &tokens[0], ""));
    let answers = futures::future::join_all(tries).await;
    let mut won: Vec<_> = answers.iter().flatten().map(|answer| &answer.refresh_token).collect();
    won.dedup();
    assert_eq!(won.len(), 1, "one family, and no fork of it");
    let last = refresh(&nobody, &caller.session, won[0], "").await;
    assert_eq!(last.expect_err("the session is over").code(), Code::Unauthenticated);
    assert_eq!(who(&caller).await.expect_err("the session is over").code(), Code::Unauthenticated);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_and_unknown_people_look_alike() {
    let server = Server::start().await;
    server.person("Ada@Example.org").await;
    let nobody = server.nobody().await;
    let log_in = async |email: &str, password: &str| {
        let request = LogInRequest { email: email.into(), password: password.into(), ..LogInRequest::default() };
        nobody.identity().log_in(request).await.map(|response| response.into_inner())
    };
    assert!(log_in("ada@example.ORG", PASSWORD).await.is_ok(), "an address has no case");
    let wrong = log_in("ada@example.org", "wrong horse battery").await.expect_err("a wrong password");
    assert_eq!(wrong.code(), Code::Unauthenticated);
    for (email, password) in [
        ("bob@example.org", PASSWORD),
        ("bob@example.org", "wrong horse battery"),
        ("ada@example.org", "x"),
        ("ada@example.org", &PASSWORD.to_uppercase()),
        ("ada@example.org", &format!("{PASSWORD} ")),
    ] {
        let status = log_in(email, password).await.expect_err("no log-in");
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (wrong.code(), wrong.message(), wrong.details())
        );
    }
    for email in ["Ada@Example.org", "ada@example.org", "ADA@EXAMPLE.ORG"] {
        let status = register(&nobody, email, "").await.expect_err("there is such an account");
        assert_eq!(status.code(), Code::AlreadyExists, "{email}");
    }
    let racers = (0..20).map(|n| {
        let email = if n % 2 == 0 { "eve@example.org" } else { "EVE@example.org" };
        register(&nobody, email, "")
    });
    let racers = futures::future::join_all(racers).await;
    assert_eq!(racers.iter().filter(|made| made.is_ok()).count(), 1);
    let codes = racers.iter().filter_map(|made| made.as_ref().err()).map(Status::code);
    assert!(codes.into_iter().all(|code| code == Code::AlreadyExists));
    assert!(log_in("eve@example.org", PASSWORD).await.is_ok());
    server.stop().await;
}

async fn register(by: &Caller, email: &str, sign_up_token: &str) -> Result<(), Status> {
    let account = Account { email: email.into(), ..Account::default() };
    let request = RegisterRequest {
        account: Some(Wire::new(&account)),
        password: PASSWORD.into(),
        sign_up_token: sign_up_token.into(),
        request_id: String::new(),
    };
    by.identity().register(request).await.map(drop)
}

async fn is_sys_admin(caller: &Caller) -> bool {
    match caller.ops().observe(ObserveRequest::default()).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::PermissionDenied);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_is_as_configured() {
    // Policy, without the token, with a wrong one, with it.
    let cases = [
        (SignUp::Token, [Code::PermissionDenied, Code::PermissionDenied, Code::Ok]),
        (SignUp::Open, [Code::Ok, Code::Ok, Code::Ok]),
        (SignUp::Closed, [Code::PermissionDenied; 3]),
    ];
    for (policy, expected) in cases {
        let server = Server::start_with(|config| config.identity.sign_up = policy).await;
        let nobody = server.nobody().await;
        let token = server.running.sign_up_token.expose().to_owned();
        let wrong = Secret::new(token.chars().rev().collect::<String>());
        let shown = ["", wrong.expose(), &token];
        for (n, (sign_up_token, expected)) in shown.into_iter().zip(expected).enumerate() {
            let email = format!("person-{n}@example.org");
            let made = register(&nobody, &email, sign_up_token).await;
            let code = made.err().map_or(Code::Ok, |status| status.code());
            assert_eq!(code, expected, "{policy:?}, token {n}");
            if code == Code::Ok {
                let is_first = sign_up_token == token;
                assert_eq!(is_sys_admin(&server.log_in(&email).await).await, is_first, "{policy:?}, token {n}");
            } else {
                let request = LogInRequest { email, password: PASSWORD.into(), ..LogInRequest::default() };
                let status = nobody.identity().log_in(request).await.expect_err("nobody was made");
                assert_eq!(status.code(), Code::Unauthenticated);
            }
        }
        if policy != SignUp::Closed {
            register(&nobody, "second@example.org", &token).await.expect("a registration");
            assert!(!is_sys_admin(&server.log_in("second@example.org").await).await, "there is one already");
            let server = server.restart().await;
            assert_eq!(server.running.sign_up_token.expose(), token, "it stays the installation's");
            assert!(is_sys_admin(&server.log_in("person-2@example.org").await).await);
            assert!(!is_sys_admin(&server.log_in("second@example.org").await).await);
            server.stop().await;
        } else {
            server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_with_the_token_one_becomes_sys_admin() {
    let server = Server::start().await;
    let nobody = server.nobody().await;
    let token = server.running.sign_up_token.expose().to_owned();
    let emails: Vec<_> = (0..8).map(|n| format!("person-{n}@example.org")).collect();
    let made = futures::future::join_all(emails.iter().map(|email| register(&nobody, email, &token))).await;
    assert!(made.iter().all(Result::is_ok));
    let mut admins = 0;
    for email in &emails {
        admins += usize::from(is_sys_admin(&server.log_in(email).await).await);
    }
    assert_eq!(admins, 1);
    server.stop().await;
}

/// As it is installed, nobody gets in: no account, no password to guess.
#[tokio::test]
async fn a_fresh_server_has_no_account() {
    let server = Server::start_with(|config| {
        config.identity.sign_up = NodeConfig::default().identity.sign_up;
        config.identity.failed_log_ins_per_account_max = 1_000;
        config.identity.failed_log_ins_per_address_max = 1_000;
    })
    .await;
    assert_eq!(server.config.identity.sign_up, SignUp::Token, "what a server is installed with");
    let nobody = server.nobody().await;
    for name in ["admin", "administrator", "superadmin", "root", "canopy", "user"] {
        for host in ["example.org", "localhost", "example.com", "canopy"] {
            for password in ["admin", "password", "superadmin", "canopy", "changeme", name] {
                let email = format!("{name}@{host}");
                let request = LogInRequest { email, password: password.into(), ..LogInRequest::default() };
                let status = nobody.identity().log_in(request).await.expect_err("there is nobody");
                assert_eq!(status.code(), Code::Unauthenticated);
            }
        }
    }
    let token = server.running.sign_up_token.expose().to_owned();
    assert!(token.len() >= 32 && token.chars().all(|c| c.is_ascii_hexdigit()));
    let other = Server::start().await;
    assert_ne!(other.running.sign_up_token.expose(), token, "each installation has its own");
    // Whose token here says nothing there.
    let ada = server_person(&server, &token).await;
    let caller = Caller { channel: other.channel().await, ..ada };
    assert_eq!(who(&caller).await.expect_err("of another installation").code(), Code::Unauthenticated);
    other.stop().await;
    server.stop().await;
}

async fn server_person(server: &Server, token: &str) -> Caller {
    server.register("ada@example.org", token).await;
    server.log_in("ada@example.org").await
}
