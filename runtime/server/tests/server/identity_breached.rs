//! Passwords that leaked are not taken for new ones, where the server has a file of them.

use std::fmt::Write as _;
use std::path::Path;

use canopy_domain::Wire;
use canopy_proto::identity::v1::{
    Account, ChangePasswordRequest, LogInRequest, RegisterRequest, RequestPasswordResetRequest, ResetPasswordRequest,
};
use sha1::{Digest, Sha1};
use tonic::{Code, Status};

use crate::harness::mailbox::letter_in;
use crate::harness::world::fields;
use crate::harness::{Caller, PASSWORD, Server};

const EMAIL: &str = "ada@example.org";
const LEAKED: [&str; 3] = ["a house by the sea 1987", "Пароль из утечки", "trustno1trustno1!"];
const NEW_PASSWORD: &str = "another horse battery";

/// Puts a list of passwords in the place of the one that is there.
fn replace(path: &Path, passwords: &[&str]) {
    let hex = |password: &str| {
        Sha1::digest(password.as_bytes()).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02X}").expect("a string takes it");
            text
        })
    };
    // A thousand others beside them.
    let others: Vec<String> = (0..1_000).map(|n| format!("somebody's password {n}")).collect();
    let mut hashes: Vec<_> = passwords.iter().copied().chain(others.iter().map(String::as_str)).map(hex).collect();
    hashes.sort();
    let text: String = hashes.iter().map(|hash| format!("{hash}:3\r\n")).collect();
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(&beside, path).expect("it takes the place");
}

async fn register(by: &Caller, email: &str, password: &str) -> Result<(), Status> {
    let account = Account { email: email.into(), ..Account::default() };
    let request = RegisterRequest {
        account: Some(Wire::new(&account)),
        password: password.into(),
        sign_up_token: String::new(),
        request_id: String::new(),
    };
    by.identity().register(request).await.map(drop)
}

async fn change(by: &Caller, old: &str, new: &str) -> Result<(), Status> {
    let request = ChangePasswordRequest {
        name: "account/me".into(),
        old_password: old.into(),
        new_password: new.into(),
        request_id: String::new(),
    };
    by.identity().change_password(request).await.map(drop)
}

async fn reset(by: &Caller, token: &str, password: &str) -> Result<(), Status> {
    let request =
        ResetPasswordRequest { token: token.into(), new_password: password.into(), request_id: String::new() };
    by.verification().reset_password(request).await.map(drop)
}

async fn log_in(by: &Caller, email: &str, password: &str) -> Result<(), Status> {
    let request = LogInRequest { email: email.into(), password: password.into(), ..LogInRequest::default() };
    by.identity().log_in(request).await.map(drop)
}

#[track_caller]
fn refused(answer: Result<(), Status>, field: &str) {
    let status = answer.expect_err(field);
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]), "{status:?}");
    assert!(status.message().contains("leaked"), "{status:?}");
    assert!(LEAKED.iter().all(|password| !status.message().contains(password)), "a password is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_that_leaked_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("pwned.txt");
    replace(&list, &LEAKED);
    let server = Server::start_with(|config| config.identity.breached_passwords_file = Some(list.clone())).await;
    let ada = server.person(EMAIL).await;
    let nobody = server.nobody().await;
    let ask = RequestPasswordResetRequest { email: EMAIL.into(), request_id: String::new() };
    nobody.verification().request_password_reset(ask).await.expect("an answer");
    let token = letter_in(&server.config.mail_dir(), EMAIL, 1).await.token();

    for password in LEAKED {
        refused(register(&nobody, "bob@example.org", password).await, "password");
        refused(change(&ada, PASSWORD, password).await, "new_password");
        refused(reset(&nobody, &token, password).await, "new_password");
    }
    // They count as they were sent; and of what was refused nothing is left.
    register(&nobody, "bob@example.org", &LEAKED[0].to_uppercase()).await.expect("the address is free");
    change(&ada, PASSWORD, &LEAKED[2].to_uppercase()).await.expect("a change");
    reset(&nobody, &token, NEW_PASSWORD).await.expect("the token was not used up");
    // The other list counts, too.
    let status = register(&nobody, "carl@example.org", "password123").await.expect_err("many chose it");
    assert!(status.message().contains("many people chose"), "{status:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_list_takes_its_place_and_nobody_is_locked_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("pwned.txt");
    replace(&list, &LEAKED);
    let server = Server::start_with(|config| config.identity.breached_passwords_file = Some(list.clone())).await;
    let ada = server.person(EMAIL).await;
    replace(&list, &[PASSWORD]);
    refused(register(&ada, "bob@example.org", PASSWORD).await, "password");
    register(&ada, "bob@example.org", LEAKED[0]).await.expect("it is on the list no more");
    log_in(&ada, EMAIL, PASSWORD).await.expect("a password that has leaked since opens its account");
    // Even where it is hashed anew.
    let server = server.restart_with(|config| config.identity.argon2_passes = 2).await;
    let nobody = server.nobody().await;
    log_in(&nobody, EMAIL, PASSWORD).await.expect("a log-in");

    // What cannot be looked up is not taken, and nothing is left of it.
    let damages: [fn(&Path) -> std::io::Result<()>; 2] =
        [|path| std::fs::write(path, "no list\n"), |path| std::fs::remove_file(path)];
    for damage in damages {
        damage(&list).expect("the test's own file");
        let status = register(&nobody, "carl@example.org", NEW_PASSWORD).await.expect_err("nobody knows");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(!status.message().contains("pwned.txt"), "{status:?}");
        log_in(&nobody, EMAIL, PASSWORD).await.expect("log-ins look nothing up");
    }
    replace(&list, &LEAKED);
    register(&nobody, "carl@example.org", NEW_PASSWORD).await.expect("the address is free");
    server.stop().await;
}
