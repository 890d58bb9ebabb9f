//! Which passwords are taken, and what is told and asked for when credentials change.

use std::collections::BTreeSet;
use std::path::PathBuf;

use canopy_domain::{Role, Wire};
use canopy_proto::identity::v1::second_factors_client::SecondFactorsClient;
use canopy_proto::identity::v1::{
    Account, ChangePasswordRequest, EnrollTotpRequest, LogInRequest, RefreshRequest, RegisterRequest,
    RequestPasswordResetRequest, ResetPasswordRequest,
};
use canopy_proto::ops::v1::ListMailsRequest;
use canopy_proto::rules;
use prost_reflect::{Kind, MessageDescriptor};
use tonic::{Code, Status};

use crate::harness::mailbox::{letter_in, letters_in};
use crate::harness::world::fields;
use crate::harness::{Caller, PASSWORD, Server};
use crate::identity_api_keys::{create, wanted};
use crate::identity_second_factor::{confirm, enroll};

const EMAIL: &str = "ada@example.org";
const NEW_PASSWORD: &str = "another horse battery";
const DAY_MS: i64 = 86_400_000;
const COMMON_PASSWORDS: &str = include_str!("../../../../modules/identity/src/common_passwords.txt");

fn dir(server: &Server) -> PathBuf {
    server.config.mail_dir()
}

async fn register(by: &Caller, email: &str, name: &str, password: &str) -> Result<(), Status> {
    let account = Account { email: email.into(), display_name: name.into(), ..Account::default() };
    let request = RegisterRequest {
        account: Some(Wire::new(&account)),
        password: password.into(),
        sign_up_token: String::new(),
        request_id: String::new(),
    };
    by.identity().register(request).await.map(drop)
}

pub(crate) async fn change(by: &Caller, name: &str, old: &str, new: &str) -> Result<(), Status> {
    let request = ChangePasswordRequest {
        name: name.into(),
        old_password: old.into(),
        new_password: new.into(),
        request_id: String::new(),
    };
    by.identity().change_password(request).await.map(drop)
}

pub(crate) async fn ask_reset(by: &Caller, email: &str) -> Vec<u8> {
    let request = RequestPasswordResetRequest { email: email.into(), request_id: String::new() };
    let answer = by.verification().request_password_reset(request).await.expect("always the same answer");
    prost::Message::encode_to_vec(&answer.into_inner())
}

pub(crate) async fn reset(by: &Caller, token: &str, password: &str) -> Result<(), Status> {
    let request =
        ResetPasswordRequest { token: token.into(), new_password: password.into(), request_id: String::new() };
    by.verification().reset_password(request).await.map(drop)
}

async fn log_in(by: &Caller, email: &str, password: &str, code: &str) -> Result<Caller, Status> {
    let request =
        LogInRequest { email: email.into(), password: password.into(), code: code.into(), ..LogInRequest::default() };
    let response = by.identity().log_in(request).await?.into_inner();
    Ok(Caller::of(by.channel.clone(), &response))
}

#[track_caller]
fn refused(answer: Result<(), Status>, field: &str, password: &str) {
    let status = answer.expect_err(password);
    assert_eq!(status.code(), Code::InvalidArgument, "{password}: {status:?}");
    assert_eq!(fields(&status), [field], "{password}");
    assert!(!status.message().contains(password), "a password is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_that_are_guessed_first_are_refused() {
    let server = Server::start().await;
    let nobody = server.nobody().await;
    register(&nobody, EMAIL, "Ada Lovelace", PASSWORD).await.expect("a registration");
    let ada = server.log_in(EMAIL).await;
    ask_reset(&nobody, EMAIL).await;
    let token = letter_in(&dir(&server), EMAIL, 1).await.token();

    let listed = COMMON_PASSWORDS.lines().step_by(500);
    let by_hand = ["1234567890", "Password123", "QWERTYUIOP", "1q2w3e4r5t", "basketball"];
    // Of the product, of her name, of her address.
    let known = ["canopy-canopy", "Canopy2026!!", "lovelace-1815", "ada@example.org", "Ada.Lovelace", "exampleexample"];
    for password in listed.chain(by_hand).chain(known) {
        let made = register(&nobody, "ada@example.com", "Ada Lovelace", password).await;
        refused(made, "password", password);
        refused(change(&ada, "account/me", PASSWORD, password).await, "new_password", password);
        refused(reset(&nobody, &token, password).await, "new_password", password);
    }
    // Another's name is no word of hers, and one of hers beside others does no harm.
    register(&nobody, "bob@example.com", "Bob", "lovelace-1815").await.expect("a registration");
    change(&ada, "account/me", PASSWORD, "lovelace, a horse, a battery").await.expect("a change");
    reset(&nobody, &token, NEW_PASSWORD).await.expect("refusals have not used the token up");
    log_in(&nobody, EMAIL, NEW_PASSWORD, "").await.expect("the password of the reset");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_passwords_of_any_characters_count_whole() {
    let server = Server::start().await;
    let nobody = server.nobody().await;
    let long = |n: usize| "an endless row of words ".chars().cycle().take(n).collect::<String>();
    let passwords =
        [long(64), long(256), "пароль из многих слов".into(), "🐎🔋📎🌲 🐎🔋📎🌲 🐎".into(), "!!!!!!!!!!!!".into()];
    for (n, password) in passwords.iter().enumerate() {
        let email = format!("person-{n}@example.org");
        register(&nobody, &email, "", password).await.expect(password);
        log_in(&nobody, &email, password, "").await.expect(password);
        let mut shorter = password.clone();
        shorter.pop();
        let status = log_in(&nobody, &email, &shorter, "").await.err().expect("its last character counts");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    refused(register(&nobody, EMAIL, "", &long(257)).await, "password", &long(257));
    refused(register(&nobody, EMAIL, "", &long(9)).await, "password", &long(9));
    server.stop().await;
}

/// Names of all fields that a message holds, at any depth.
fn names(message: &MessageDescriptor, seen: &mut BTreeSet<String>, names_seen: &mut BTreeSet<String>) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        names_seen.insert(field.name().to_owned());
        if let Kind::Message(held) = field.kind() {
            names(&held, seen, names_seen);
        }
    }
}

#[test]
fn no_method_asks_for_a_hint_or_a_secret_question() {
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    for rule in rules().values() {
        names(&rule.descriptor.input(), &mut seen, &mut found);
    }
    assert!(found.contains("new_password") && found.contains("display_name"), "fields are looked at");
    for word in ["hint", "question", "reminder", "maiden", "birth"] {
        assert!(!found.iter().any(|name| name.contains(word)), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_leads_around_no_second_factor() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let nobody = server.nobody().await;
    let mut app = enroll(&ada, PASSWORD).await.expect("a secret");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    ask_reset(&nobody, EMAIL).await;
    // The first verifies the address, the second tells of the app.
    let token = letter_in(&dir(&server), EMAIL, 2).await.token();
    reset(&nobody, &token, NEW_PASSWORD).await.expect("a new password");
    let status = log_in(&nobody, EMAIL, NEW_PASSWORD, "").await.err().expect("the code is asked for");
    assert_eq!(status.code(), Code::FailedPrecondition);
    log_in(&nobody, EMAIL, NEW_PASSWORD, &recovery[0]).await.expect("a recovery code of before is good");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_has_a_reset_mailed_and_sets_nobodys_password() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person(EMAIL).await;
    assert!(ask_reset(&root, EMAIL).await.is_empty(), "the answer says nothing");
    let token = letter_in(&dir(&server), EMAIL, 1).await.token();
    let listed = root.mails().list_mails(ListMailsRequest::default()).await.expect("a list").into_inner();
    let secret = token.rsplit('/').next().expect("a secret");
    assert!(!format!("{listed:?}").contains(secret), "mails are listed without what they say");
    for old in [PASSWORD, "not known to root"] {
        let status = change(&root, &ada.account, old, NEW_PASSWORD).await.expect_err("it is hers");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // These set one, and each asks for what only its holder has.
    let setting = rules().values().filter(|rule| {
        let input = rule.descriptor.input();
        input.get_field_by_name("new_password").is_some()
    });
    let setting: BTreeSet<_> = setting.map(|rule| rule.descriptor.name().to_owned()).collect();
    assert_eq!(setting, BTreeSet::from(["ChangePassword".to_owned(), "ResetPassword".to_owned()]));
    reset(&server.nobody().await, &token, NEW_PASSWORD).await.expect("she sets it");
    log_in(&root, EMAIL, NEW_PASSWORD, "").await.expect("her own");
    server.stop().await;
}

/// What is random is drawn anew each time, and its bits are even.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_seeds_and_tokens_are_random() {
    const PEOPLE: usize = 10;
    /// Recovery codes: base32 of 120 bits each.
    const CODE_CHARS: usize = 24;
    let server = Server::start().await;
    let (mut codes, mut seeds, mut tokens) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for n in 0..PEOPLE {
        // The app's own test expects her address.
        let email = if n == 0 { EMAIL.to_owned() } else { format!("person-{n}@example.org") };
        let person = server.person(&email).await;
        tokens
            .insert(letter_in(&dir(&server), &email, 0).await.token().rsplit('/').next().expect("a secret").to_owned());
        let mut factors = SecondFactorsClient::with_interceptor(person.channel.clone(), person.token.clone());
        let request = EnrollTotpRequest { name: "account/me".into(), password: PASSWORD.into(), ..Default::default() };
        seeds.insert(factors.enroll_totp(request).await.expect("a secret").into_inner().secret);
        if n == 0 {
            let mut app = enroll(&person, PASSWORD).await.expect("a secret");
            codes.extend(confirm(&person, &app.code()).await.expect("recovery codes"));
        }
    }
    assert_eq!((tokens.len(), seeds.len()), (PEOPLE, PEOPLE));
    assert!(seeds.iter().all(|seed| seed.len() == 32), "base32 of 160 bits (RFC 4226, 4)");
    assert!(tokens.iter().all(|token| token.len() == 64 && token.bytes().all(|c| c.is_ascii_hexdigit())));
    let plain: BTreeSet<String> = codes.iter().map(|code| code.replace('-', "")).collect();
    assert_eq!(plain.len(), codes.len());
    assert!(plain.iter().all(|code| code.len() == CODE_CHARS));
    // Of 2,560 fair bits, fewer than 1,080 or more than 1,480 are ones once in 10^14 times.
    let ones: u32 =
        tokens.iter().flat_map(|token| token.chars()).filter_map(|c| c.to_digit(16)).map(u32::count_ones).sum();
    assert!((1_080..=1_480).contains(&ones), "{ones}");
    // Each place of 10 codes has different letters.
    for at in 0..CODE_CHARS {
        assert!(plain.iter().map(|code| code.as_bytes()[at]).collect::<BTreeSet<_>>().len() > 1, "{at}");
    }
    server.stop().await;
}

/// Letters come in the order of what they are about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_are_told_of_changed_credentials_by_mail() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let nobody = server.nobody().await;
    let mut told = 1;
    let mut next = async |subject: &str| {
        let letter = letter_in(&dir(&server), EMAIL, told).await;
        told += 1;
        assert_eq!(letter.header("Subject"), subject);
        letter.body
    };
    change(&ada, "account/me", PASSWORD, NEW_PASSWORD).await.expect("a change");
    assert!(next("Your password was changed").await.contains("from 127.0.0.1"));
    create(&ada, wanted(Role::Guest, "", DAY_MS)).await.expect("a key");
    assert!(next("An API key was made for your account").await.contains("revoke-api-key"));
    let mut app = enroll(&ada, NEW_PASSWORD).await.expect("a secret");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    next("Your account has an authenticator app now").await;
    log_in(&nobody, EMAIL, NEW_PASSWORD, "none").await.err().expect("a wrong code");
    next("Somebody was refused at your account").await;
    log_in(&nobody, EMAIL, NEW_PASSWORD, &recovery[0]).await.expect("a recovery code");
    next("A recovery code was used").await;

    let elsewhere = Caller { channel: server.channel_from("127.0.0.9").await, ..nobody.clone() };
    let away = log_in(&elsewhere, EMAIL, NEW_PASSWORD, &recovery[1]).await.expect("a log-in");
    next("A recovery code was used").await;
    assert!(next("Somebody logged in to your account from a new place").await.contains("127.0.0.9"));
    log_in(&elsewhere, EMAIL, NEW_PASSWORD, &recovery[2]).await.expect("a log-in");
    next("A recovery code was used").await;
    change(&away, "account/me", "a wrong password", NEW_PASSWORD).await.expect_err("nothing is changed");
    let letters = letters_in(&dir(&server), EMAIL);
    let all = letters.iter().map(|letter| letter.header("Subject").to_owned()).collect::<Vec<_>>();
    assert_eq!(all.iter().filter(|subject| subject.contains("new place")).count(), 1, "{all:?}");
    let bodies: String = letters.iter().map(|letter| letter.body.as_str()).collect();
    assert!(!bodies.contains(NEW_PASSWORD) && recovery.iter().all(|code| !bodies.contains(code)));
    server.stop().await;
}

/// A stolen session is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_used_twice_is_told_by_mail() {
    let server = Server::start().await;
    server.person(EMAIL).await;
    let nobody = server.nobody().await;
    let opened = nobody.open_session(EMAIL).await;
    let session = opened.session.expect("a session").decode().expect("a session").name;
    let refresh_token = opened.credentials.expect("credentials").refresh_token;
    let refresh = RefreshRequest { session, refresh_token, request_id: String::new() };
    nobody.identity().refresh(refresh.clone()).await.expect("credentials");
    let thief = Caller { channel: server.channel_from("127.0.0.9").await, ..nobody };
    thief.identity().refresh(refresh).await.expect_err("it was used");
    let letter = letter_in(&dir(&server), EMAIL, 1).await;
    assert_eq!(letter.header("Subject"), "A session of yours was ended");
    assert!(letter.body.contains("127.0.0.9"), "{}", letter.body);
    server.stop().await;
}
