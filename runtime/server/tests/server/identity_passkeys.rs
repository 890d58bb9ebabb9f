//! Passkeys: how they are made, and log in.

use canopy_domain::Wire;
use canopy_proto::identity::v1::security_client::SecurityClient;
use canopy_proto::identity::v1::{
    BeginPasskeyLogInRequest, BeginPasskeyLogInResponse, BeginPasskeyRequest, CreatePasskeyRequest,
    DeletePasskeyRequest, DisableAccountRequest, ExportAccountRequest, ListPasskeysRequest, ListSecurityEventsRequest,
    LogInWithPasskeyRequest, Passkey, RequestPasswordResetRequest, ResetPasswordRequest, SecurityEventKind,
    UpdatePasskeyRequest,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::harness::mailbox::{letter_in, letters_in};
use crate::harness::phone::{ORIGIN, Phone};
use crate::harness::{Caller, PASSWORD, Server, refused};
use crate::identity_mail;
use crate::identity_second_factor::{confirm, enroll};

const EMAIL: &str = "ada@example.org";

pub(crate) async fn begin_with(caller: &Caller, password: &str) -> Result<Value, Status> {
    let request =
        BeginPasskeyRequest { name: "account/me".into(), password: password.into(), request_id: String::new() };
    let options = caller.passkeys().begin_passkey(request).await?.into_inner().options;
    Ok(serde_json::from_str(&options).expect("JSON"))
}

pub(crate) async fn begin(caller: &Caller) -> Value {
    begin_with(caller, PASSWORD).await.expect("options")
}

pub(crate) async fn create(caller: &Caller, name: &str, answer: &str) -> Result<Passkey, Status> {
    let passkey = Passkey { display_name: name.into(), ..Passkey::default() };
    let request = CreatePasskeyRequest {
        parent: "account/me".into(),
        passkey: Some(Wire::new(&passkey)),
        answer: answer.into(),
        request_id: String::new(),
    };
    Ok(caller.passkeys().create_passkey(request).await?.into_inner().decode().expect("a passkey"))
}

pub(crate) async fn make(caller: &Caller, phone: &mut Phone) -> Passkey {
    let answer = phone.create(&begin(caller).await).await;
    create(caller, "phone", &answer).await.expect("a passkey")
}

pub(crate) async fn list(caller: &Caller) -> Vec<Passkey> {
    let request = ListPasskeysRequest { parent: "account/me".into(), ..ListPasskeysRequest::default() };
    let listed = caller.passkeys().list_passkeys(request).await.expect("a list").into_inner().passkeys;
    listed.into_iter().map(|passkey| passkey.decode().expect("a passkey")).collect()
}

pub(crate) async fn delete(caller: &Caller, name: &str, password: &str) -> Result<(), Status> {
    let request = DeletePasskeyRequest { name: name.into(), password: password.into(), request_id: String::new() };
    caller.passkeys().delete_passkey(request).await.map(drop)
}

async fn begin_log_in(nobody: &Caller) -> (Value, String) {
    begin_log_in_of(nobody, "").await
}

pub(crate) async fn begin_log_in_of(nobody: &Caller, email: &str) -> (Value, String) {
    let request = BeginPasskeyLogInRequest { email: email.into() };
    let begun = nobody.passkeys().begin_passkey_log_in(request).await.expect("a challenge");
    let BeginPasskeyLogInResponse { options, challenge } = begun.into_inner();
    (serde_json::from_str(&options).expect("JSON"), challenge)
}

pub(crate) async fn answer(nobody: &Caller, challenge: &str, answer: &str) -> Result<Caller, Status> {
    let request = LogInWithPasskeyRequest {
        challenge: challenge.into(),
        answer: answer.into(),
        device: "a phone".into(),
        request_id: String::new(),
    };
    let opened = nobody.passkeys().log_in_with_passkey(request).await?.into_inner();
    assert_eq!(opened.session.as_ref().expect("a session").decode().expect("a session").device, "a phone");
    Ok(Caller::of(nobody.channel.clone(), &opened))
}

pub(crate) async fn log_in(server: &Server, phone: &mut Phone) -> Result<Caller, Status> {
    let nobody = server.nobody().await;
    let (options, challenge) = begin_log_in(&nobody).await;
    let signed = phone.get(&options).await;
    answer(&nobody, &challenge, &signed).await
}

pub(crate) async fn events(caller: &Caller) -> Vec<SecurityEventKind> {
    let mut security = SecurityClient::with_interceptor(caller.channel.clone(), caller.token.clone());
    let request = ListSecurityEventsRequest { parent: "account/me".into(), ..ListSecurityEventsRequest::default() };
    let events = security.list_security_events(request).await.expect("events").into_inner().events;
    events.iter().rev().map(|event| event.decode().expect("an event").kind()).collect()
}

#[tokio::test]
async fn a_passkey_logs_in_without_address_password_or_code() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut app = enroll(&ada, PASSWORD).await.expect("a secret");
    confirm(&ada, &app.code()).await.expect("recovery codes");
    refused(begin_with(&ada, "a wrong password").await, Code::PermissionDenied);
    let options = begin(&ada).await;
    let (key, selection) = (&options["publicKey"], &options["publicKey"]["authenticatorSelection"]);
    assert_eq!(key["rp"]["id"], "canopy.example.org");
    assert_eq!(key["user"]["name"], EMAIL);
    assert_eq!((&selection["residentKey"], &selection["userVerification"]), (&json!("preferred"), &json!("required")));
    assert_eq!(selection["requireResidentKey"], false);
    let mut phone = Phone::new();
    let signed = phone.create(&options).await;
    let made = create(&ada, "phone", &signed).await.expect("a passkey");
    assert_eq!(made.name, format!("{}/passkey/{}", ada.account, made.name.rsplit('/').next().unwrap()));
    assert!(made.display_name == "phone" && made.create_time_ms > 0 && made.last_use_time_ms == 0, "{made:?}");

    let server = server.restart().await;
    let again = log_in(&server, &mut phone).await.expect("a log-in");
    assert_eq!(again.account, ada.account);
    let [seen] = &list(&again).await[..] else { panic!("one passkey") };
    assert!(seen.last_use_time_ms > 0 && seen.last_use_address == "127.0.0.1", "{seen:?}");
    // The authenticator is told which ones there are, so as to make no second.
    let known = begin(&again).await["publicKey"]["excludeCredentials"].clone();
    assert_eq!(known.as_array().map(Vec::len), Some(1));

    let renamed = Passkey { display_name: "old phone".into(), suspect_time_ms: 1, ..seen.clone() };
    let request = UpdatePasskeyRequest { passkey: Some(Wire::new(&renamed)), ..UpdatePasskeyRequest::default() };
    let renamed = again.passkeys().update_passkey(request).await.expect("a new name").into_inner();
    assert_eq!(renamed.decode().unwrap(), Passkey { display_name: "old phone".into(), ..seen.clone() });
    log_in(&server, &mut phone).await.expect("another log-in");
    let request = ExportAccountRequest { name: "account/me".into() };
    let export = again.accounts().export_account(request).await.expect("an export").into_inner();
    assert_eq!(export.passkeys[0].decode().unwrap().name, seen.name);

    refused(delete(&again, &seen.name, "a wrong password").await, Code::PermissionDenied);
    delete(&again, &seen.name, PASSWORD).await.expect("the last one goes, too");
    refused(delete(&again, &seen.name, PASSWORD).await, Code::NotFound);
    refused(log_in(&server, &mut phone).await, Code::Unauthenticated);
    assert_eq!(list(&again).await, []);
    use SecurityEventKind::{CodeRefused, LoggedIn, PasskeyAdded, PasskeyRemoved, SecondFactorAdded};
    let expected =
        [LoggedIn, SecondFactorAdded, CodeRefused, PasskeyAdded, LoggedIn, LoggedIn, CodeRefused, PasskeyRemoved];
    assert_eq!(events(&again).await[..expected.len()], expected);
    server.stop().await;
}

#[tokio::test]
async fn what_was_answered_elsewhere_is_refused() {
    let server = Server::start_with(|config| {
        config.identity.passkey_rp_id = "example.org".into();
        config.identity.passkey_origins = vec![ORIGIN.into(), "https://www.example.org:8443".into()];
    })
    .await;
    let ada = server.person(EMAIL).await;
    let mut phone = Phone::new();
    // A page under the same domain that is none of the server's, or another port.
    for origin in ["https://evil.example.org", "https://www.example.org", "https://canopy.example.org:8443"] {
        let signed = phone.at(origin).create(&begin(&ada).await).await;
        refused(create(&ada, "", &signed).await, Code::InvalidArgument);
    }
    // A passkey for another domain than was asked for.
    let mut options = begin(&ada).await;
    options["publicKey"]["rp"]["id"] = json!("canopy.example.org");
    let signed = phone.create(&options).await;
    refused(create(&ada, "", &signed).await, Code::InvalidArgument);
    // An authenticator that did not make sure of its holder.
    let mut options = begin(&ada).await;
    options["publicKey"]["authenticatorSelection"]["userVerification"] = json!("discouraged");
    let mut careless = Phone { unlocks: false, ..Phone::new() };
    let signed = careless.create(&options).await;
    refused(create(&ada, "", &signed).await, Code::InvalidArgument);
    for text in ["", "{}", "null", "[]", "{\"id\":1}"] {
        refused(create(&ada, "", text).await, Code::InvalidArgument);
    }

    let made = make(&ada, &mut phone.at("https://www.example.org:8443")).await;
    delete(&ada, &made.name, PASSWORD).await.expect("it goes");
    let mut phone = Phone::new();
    make(&ada, &mut phone).await;
    log_in(&server, &mut phone).await.expect("a log-in");
    log_in(&server, &mut phone.at("https://www.example.org:8443")).await.expect("a log-in at the other page");
    let mut seen = Vec::new();
    for origin in ["https://evil.example.org", "https://www.example.org"] {
        seen.push(refused(log_in(&server, &mut phone.at(origin)).await, Code::Unauthenticated));
    }
    let nobody = server.nobody().await;
    let (mut options, challenge) = begin_log_in(&nobody).await;
    options["publicKey"]["rpId"] = json!("canopy.example.org");
    let signed = phone.get(&options).await;
    seen.push(refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated));
    let (mut options, challenge) = begin_log_in(&nobody).await;
    options["publicKey"]["userVerification"] = json!("discouraged");
    let signed = Phone { unlocks: false, ..phone.clone() }.get(&options).await;
    seen.push(refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated));
    // Nobody hears what was wrong, nor that there is such a passkey.
    let stranger = server.person("eve@example.org").await;
    let mut other = Phone::new();
    let removed = make(&stranger, &mut other).await;
    delete(&stranger, &removed.name, PASSWORD).await.expect("it goes");
    seen.push(refused(log_in(&server, &mut other).await, Code::Unauthenticated));
    assert!(seen.iter().all(|status| status.message() == seen[0].message()), "{seen:?}");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_good_once_and_for_its_challenge_alone() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let bob = server.person("bob@example.org").await;
    let (mut phone, mut bobs) = (Phone::new(), Phone::new());
    refused(create(&ada, "", "{}").await, Code::FailedPrecondition);
    // What another account has begun.
    begin(&ada).await;
    let signed = bobs.create(&begin(&bob).await).await;
    refused(create(&ada, "", &signed).await, Code::InvalidArgument);
    create(&bob, "", &signed).await.expect("a passkey");
    assert_eq!(list(&bob).await[0].display_name, "Passkey");
    refused(create(&bob, "", &signed).await, Code::FailedPrecondition);
    // What was begun before.
    let first = begin(&ada).await;
    let second = begin(&ada).await;
    let signed = phone.create(&first).await;
    refused(create(&ada, "", &signed).await, Code::InvalidArgument);
    let signed = phone.create(&second).await;
    let both = tokio::join!(create(&ada, "a", &signed), create(&ada, "b", &signed));
    assert_eq!(usize::from(both.0.is_ok()) + usize::from(both.1.is_ok()), 1, "{both:?}");

    let nobody = server.nobody().await;
    let (options, challenge) = begin_log_in(&nobody).await;
    let (_, another) = begin_log_in(&nobody).await;
    let signed = phone.get(&options).await;
    refused(answer(&nobody, &another, &signed).await, Code::Unauthenticated);
    let both = tokio::join!(answer(&nobody, &challenge, &signed), answer(&nobody, &challenge, &signed));
    assert_eq!(usize::from(both.0.is_ok()) + usize::from(both.1.is_ok()), 1);
    refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated);
    let server = server.restart().await;
    let nobody = server.nobody().await;
    refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated);

    // A challenge that somebody made up, or changed, or took from elsewhere.
    let (options, challenge) = begin_log_in(&nobody).await;
    let signed = phone.get(&options).await;
    let mut changed = challenge.clone().into_bytes();
    changed[40] = if changed[40] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let elsewhere = Server::start().await;
    let (_, foreign) = begin_log_in(&elsewhere.nobody().await).await;
    for challenge in ["none", &changed, &foreign, "v4.local.", "v4.public.AAAA"] {
        refused(answer(&nobody, challenge, &signed).await, Code::Unauthenticated);
    }
    for text in ["{}", "null", &signed[..signed.len() / 2]] {
        refused(answer(&nobody, &challenge, text).await, Code::InvalidArgument);
    }
    // The same answer, in somebody else's name: their account does not have it.
    let mut stolen: Value = serde_json::from_str(&signed).unwrap();
    let bobs: Value = serde_json::from_str(&bobs.get(&options).await).unwrap();
    stolen["response"]["userHandle"] = bobs["response"]["userHandle"].clone();
    refused(answer(&nobody, &challenge, &stolen.to_string()).await, Code::Unauthenticated);
    stolen["response"]["userHandle"] = Value::Null;
    refused(answer(&nobody, &challenge, &stolen.to_string()).await, Code::InvalidArgument);
    // The same request, where its answer got lost.
    let (options, repeated) = begin_log_in(&nobody).await;
    let request = LogInWithPasskeyRequest {
        challenge: repeated,
        answer: phone.get(&options).await,
        device: String::new(),
        request_id: "once".into(),
    };
    let first = nobody.passkeys().log_in_with_passkey(request.clone()).await.expect("a log-in").into_inner();
    let second = nobody.passkeys().log_in_with_passkey(request).await.expect("the same one").into_inner();
    assert_eq!(first.session.unwrap().decode().unwrap(), second.session.unwrap().decode().unwrap());
    // None of these used the challenge up.
    assert_eq!(answer(&nobody, &challenge, &signed).await.expect("a log-in").account, ada.account);
    elsewhere.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_passkey_whose_counter_goes_back_is_refused_from_then_on() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut phone = Phone { counts: true, ..Phone::new() };
    let made = make(&ada, &mut phone).await;
    log_in(&server, &mut phone).await.expect("a log-in");
    let mut copy = phone.clone();
    log_in(&server, &mut copy).await.expect("the thief is first");
    refused(log_in(&server, &mut phone).await, Code::Unauthenticated);
    let [seen] = &list(&ada).await[..] else { panic!("one passkey") };
    assert!(seen.suspect_time_ms > 0, "{seen:?}");
    use SecurityEventKind::{LoggedIn, PasskeyAdded, PasskeySuspected};
    assert_eq!(events(&ada).await, [LoggedIn, PasskeyAdded, LoggedIn, LoggedIn, PasskeySuspected]);
    // Nobody can tell who has the copy: neither comes in, however often they sign.
    let server = server.restart().await;
    for phone in [&mut phone, &mut copy] {
        for _ in 0..3 {
            let status = refused(log_in(&server, phone).await, Code::Unauthenticated);
            assert!(status.message().contains("counter"), "{status:?}");
        }
    }
    let ada = server.log_in(EMAIL).await;
    delete(&ada, &made.name, PASSWORD).await.expect("it goes");
    make(&ada, &mut phone).await;
    log_in(&server, &mut phone).await.expect("a log-in with a new one");
    server.stop().await;
}

#[tokio::test]
async fn who_may_not_log_in_does_not_by_a_passkey() {
    let server = Server::start().await;
    let boss = server.sys_admin("boss@example.org").await;
    let ada = server.person(EMAIL).await;
    let mut phone = Phone::new();
    make(&ada, &mut phone).await;
    let name = ada.account.clone();
    let request = DisableAccountRequest { name: "account/me".into(), request_id: String::new() };
    ada.accounts().disable_account(request).await.expect("it is disabled");
    let disabled = refused(log_in(&server, &mut phone).await, Code::Unauthenticated);
    let unknown = refused(log_in(&server, &mut of_nobody(&phone)).await, Code::Unauthenticated);
    assert_eq!(disabled.message(), unknown.message());
    let request = canopy_proto::ops::v1::EnableAccountRequest { name, request_id: String::new() };
    boss.account_admin().enable_account(request).await.expect("it is enabled");
    let ada = log_in(&server, &mut phone).await.expect("a log-in");
    let request = canopy_proto::identity::v1::DeleteAccountRequest {
        name: "account/me".into(),
        password: PASSWORD.into(),
        ..Default::default()
    };
    ada.accounts().delete_account(request).await.expect("it is deleted");
    let status = refused(log_in(&server, &mut phone).await, Code::FailedPrecondition);
    assert!(status.message().contains("deleted"), "{status:?}");
    server.stop().await;
}

/// Whoever had the account before may have made them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_an_account_back_by_mail_has_it_alone() {
    let server = Server::start().await;
    let squatter = server.person(EMAIL).await;
    let mut phone = Phone::new();
    make(&squatter, &mut phone).await;
    let begun = phone.clone().create(&begin(&squatter).await).await;
    let nobody = server.nobody().await;
    let request = RequestPasswordResetRequest { email: EMAIL.into(), request_id: String::new() };
    nobody.verification().request_password_reset(request).await.expect("an answer");
    // Two letters came before: for the account, and of the passkey.
    let letters = server.config.mail_dir();
    assert_eq!(letter_in(&letters, EMAIL, 1).await.header("Subject"), "Your account has another passkey");
    let token = letter_in(&letters, EMAIL, 2).await.token();
    let request = ResetPasswordRequest { token, new_password: PASSWORD.into(), request_id: String::new() };
    nobody.verification().reset_password(request).await.expect("a reset");
    refused(log_in(&server, &mut phone).await, Code::Unauthenticated);
    let ada = server.log_in(EMAIL).await;
    assert_eq!(list(&ada).await, []);
    refused(create(&ada, "", &begun).await, Code::FailedPrecondition);
    use SecurityEventKind::{LoggedIn, PasskeyAdded, PasskeyRemoved, PasswordReset};
    assert_eq!(events(&ada).await[..4], [LoggedIn, PasskeyAdded, PasswordReset, PasskeyRemoved]);
    server.stop().await;
}

/// Whoever took the address has nothing more to be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_an_address_back_is_told_there_which_passkeys_went() {
    const TAKEN_TO: &str = "mallory@example.org";
    let server = Server::start().await;
    let taken = server.person(EMAIL).await;
    let (nobody, letters) = (server.nobody().await, server.config.mail_dir());
    identity_mail::change(&taken, TAKEN_TO, PASSWORD).await.expect("a letter");
    identity_mail::confirm(&nobody, &letter_in(&letters, TAKEN_TO, 0).await.token()).await.expect("it is good");
    let mut phone = Phone::new();
    make(&taken, &mut phone).await;
    assert_eq!(letter_in(&letters, TAKEN_TO, 1).await.header("Subject"), "Your account has another passkey");
    identity_mail::undo(&nobody, &letter_in(&letters, EMAIL, 1).await.token()).await.expect("she takes it back");
    assert_eq!(letter_in(&letters, EMAIL, 2).await.header("Subject"), "A passkey of your account was removed");
    assert_eq!(letters_in(&letters, TAKEN_TO).len(), 2);
    refused(log_in(&server, &mut phone).await, Code::Unauthenticated);
    server.stop().await;
}

/// The same phone, with a passkey of an account that there is not.
fn of_nobody(phone: &Phone) -> Phone {
    let mut phone = phone.clone();
    phone.held.as_mut().expect("a passkey").user_handle = Some(vec![7; 16].into());
    phone
}

#[tokio::test]
async fn guesses_are_counted_as_passwords_are() {
    let server = Server::start_with(|config| config.identity.failed_log_ins_per_account_max = 2).await;
    let ada = server.person(EMAIL).await;
    let mut phone = Phone::new();
    make(&ada, &mut phone).await;
    for phone in [&mut phone.clone(), &mut of_nobody(&phone)] {
        let mut wrong = phone.at("https://canopy.example.org:1");
        for _ in 0..2 {
            refused(log_in(&server, &mut wrong).await, Code::Unauthenticated);
        }
        refused(log_in(&server, &mut wrong).await, Code::ResourceExhausted);
        // Even the right one, which is not compared.
        let status = refused(log_in(&server, phone).await, Code::ResourceExhausted);
        assert!(status.message().contains("passkey") && !status.message().contains("password"), "{status:?}");
    }
    // The holder hears of those that named the passkey.
    let server = server.restart().await;
    let told = events(&server.log_in(EMAIL).await).await;
    assert_eq!(told.iter().filter(|kind| **kind == SecurityEventKind::LogInRefused).count(), 2, "{told:?}");
    log_in(&server, &mut phone).await.expect("a log-in");
    server.stop().await;
}

#[tokio::test]
async fn an_account_has_twenty_passkeys() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut first = Phone::new();
    let made = make(&ada, &mut first).await;
    for _ in 1..20 {
        make(&ada, &mut Phone::new()).await;
    }
    assert_eq!(list(&ada).await.len(), 20);
    refused(begin_with(&ada, PASSWORD).await, Code::FailedPrecondition);
    log_in(&server, &mut first).await.expect("each is good");
    delete(&ada, &made.name, PASSWORD).await.expect("it goes");
    make(&ada, &mut first).await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_name_there_are_no_passkeys() {
    let server = Server::start_with(|config| config.identity.passkey_rp_id = String::new()).await;
    let ada = server.person(EMAIL).await;
    refused(begin_with(&ada, "a wrong password").await, Code::PermissionDenied);
    let status = refused(begin_with(&ada, PASSWORD).await, Code::FailedPrecondition);
    assert!(status.message().contains("name"), "{status:?}");
    let mut nobody = server.nobody().await.passkeys();
    refused(nobody.begin_passkey_log_in(BeginPasskeyLogInRequest::default()).await, Code::FailedPrecondition);
    // The URL of links in mails is one, too.
    let server = server.restart_with(|config| config.mail.link_base = format!("{ORIGIN}/pages")).await;
    let ada = server.log_in(EMAIL).await;
    let mut phone = Phone::new();
    make(&ada, &mut phone).await;
    log_in(&server, &mut phone).await.expect("a log-in");
    server.stop().await;
}
