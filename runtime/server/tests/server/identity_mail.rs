//! What is proved by mail, and what nobody learns by asking.

use std::path::PathBuf;

use crate::harness::mailbox::{SmtpServer, letter_in, letters_in};
use crate::harness::{Caller, PASSWORD, Server};
use canopy_config::{SignUp, Verification};
use canopy_domain::Wire;
use canopy_proto::identity::v1::{
    Account, ChangeEmailRequest, ConfirmEmailRequest, GetAccountRequest, LogInRequest, RegisterRequest,
    RequestPasswordResetRequest, RequestVerificationRequest, ResetPasswordRequest, UndoChangeEmailRequest,
    VerifyEmailRequest,
};
use canopy_proto::ops::v1::ObserveRequest;
use futures::future::join_all;
use tonic::{Code, Status};

const NEW_PASSWORD: &str = "a longer horse battery";

async fn required() -> Server {
    Server::start_with(|config| config.mail.verification = Verification::Required).await
}

async fn register(by: &Caller, email: &str, sign_up_token: &str) -> Result<Account, Status> {
    let account = Account { email: email.into(), display_name: "somebody".into(), ..Account::default() };
    let request = RegisterRequest {
        account: Some(Wire::new(&account)),
        password: PASSWORD.into(),
        sign_up_token: sign_up_token.into(),
        request_id: String::new(),
    };
    Ok(by.identity().register(request).await?.into_inner().decode().expect("an account"))
}

async fn log_in(by: &Caller, email: &str, password: &str) -> Result<Caller, Status> {
    let request = LogInRequest { email: email.into(), password: password.into(), ..LogInRequest::default() };
    let response = by.identity().log_in(request).await?.into_inner();
    Ok(Caller::of(by.channel.clone(), &response))
}

async fn verify(by: &Caller, token: &str) -> Result<Account, Status> {
    let request = VerifyEmailRequest { token: token.into(), request_id: String::new() };
    let verified = by.verification().verify_email(request).await?.into_inner().account;
    Ok(verified.expect("an account").decode().expect("an account"))
}

async fn reset(by: &Caller, token: &str, new_password: &str) -> Result<(), Status> {
    let request =
        ResetPasswordRequest { token: token.into(), new_password: new_password.into(), request_id: String::new() };
    by.verification().reset_password(request).await.map(drop)
}

async fn ask_reset(by: &Caller, email: &str) {
    let request = RequestPasswordResetRequest { email: email.into(), request_id: String::new() };
    by.verification().request_password_reset(request).await.expect("always the same answer");
}

async fn who(caller: &Caller) -> Result<Account, Status> {
    let request = GetAccountRequest { name: "account/me".into() };
    Ok(caller.identity().get_account(request).await?.into_inner().decode().expect("an account"))
}

fn dir(server: &Server) -> PathBuf {
    server.config.mail_dir()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_verified_once() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    assert_eq!(who(&ada).await.expect("an account").email_verify_time_ms, 0, "it is of use at once, here");
    let letter = letter_in(&dir(&server), "ada@example.org", 0).await;
    let nobody = server.nobody().await;
    let token = letter.token();
    for wrong in ["x", &token[..token.len() - 1], &token.replace("verification", "password-reset"), &ada.account] {
        let code = verify(&nobody, wrong).await.expect_err("no token").code();
        assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument), "{wrong}: {code:?}");
    }
    let request = VerifyEmailRequest { token: token.clone(), request_id: "once".into() };
    let first = nobody.verification().verify_email(request.clone()).await.expect("it is good").into_inner();
    let again = nobody.verification().verify_email(request).await.expect("a repeat is one").into_inner();
    assert!(first == again);
    assert!(who(&ada).await.expect("an account").email_verify_time_ms > 0);
    assert_eq!(verify(&nobody, &token).await.expect_err("it was used").code(), Code::FailedPrecondition);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_required_nobody_gets_in_before_and_a_taken_address_looks_free() {
    let server = required().await;
    let nobody = server.nobody().await;
    let ada = register(&nobody, "ada@example.org", "").await.expect("a registration");
    let wrong = log_in(&nobody, "nobody@example.org", PASSWORD).await.err().expect("there is nobody");
    let early = log_in(&nobody, "ada@example.org", PASSWORD).await.err().expect("it is not verified");
    assert_eq!((early.code(), early.message(), early.details()), (wrong.code(), wrong.message(), wrong.details()));

    // A later letter replaces an earlier one.
    let first = letter_in(&dir(&server), "ada@example.org", 0).await.token();
    for email in ["ADA@example.org", "nobody@example.org"] {
        let request = RequestVerificationRequest { email: email.into(), request_id: String::new() };
        nobody.verification().request_verification(request).await.expect("always the same answer");
    }
    let second = letter_in(&dir(&server), "ada@example.org", 1).await.token();
    assert_eq!(verify(&nobody, &first).await.expect_err("replaced").code(), Code::FailedPrecondition);
    verify(&nobody, &second).await.expect("the latest is good");
    let caller = log_in(&nobody, "ada@example.org", PASSWORD).await.expect("she gets in");
    assert_eq!(who(&caller).await.expect("an account").name, ada.name);

    // Whoever takes her address is answered like anybody else.
    let other = register(&nobody, "Ada@Example.org", "").await.expect("it looks free");
    let fresh = register(&nobody, "bob@example.org", "").await.expect("it is");
    assert_ne!(other.name, ada.name);
    let shape = |account: &Account| Account {
        name: String::new(),
        email: String::new(),
        create_time_ms: 0,
        update_time_ms: 0,
        ..account.clone()
    };
    assert_eq!(shape(&other), shape(&fresh));
    let told = letter_in(&dir(&server), "Ada@Example.org", 0).await;
    assert_eq!(told.header("Subject"), "You have an account already");
    letter_in(&dir(&server), "bob@example.org", 0).await;
    for email in ["Ada@Example.org", "bob@example.org"] {
        let status = log_in(&nobody, email, NEW_PASSWORD).await.err().expect("no log-in");
        assert_eq!((status.code(), status.message()), (wrong.code(), wrong.message()));
    }
    assert!(who(&caller).await.is_ok(), "nothing happened to her");
    // Neither of the two is anybody to an org.
    caller.create_org("acme").await;
    for account in [&other.name, &fresh.name] {
        let grant = canopy_proto::org::v1::Grant {
            account: account.clone(),
            on: "org/acme".into(),
            role: canopy_domain::Role::Guest.into(),
            ..Default::default()
        };
        let request =
            canopy_proto::org::v1::GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
        let status = caller.orgs().grant_role(request).await.expect_err("nobody is there");
        assert_eq!(status.code(), Code::NotFound, "{account}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_register_an_address_one_gets_it() {
    let server = required().await;
    let nobody = server.nobody().await;
    let made = join_all((0..10).map(|_| register(&nobody, "ada@example.org", ""))).await;
    assert!(made.iter().all(Result::is_ok), "all are answered alike");
    // One to verify it, and of the others as many as are sent within an hour.
    letter_in(&dir(&server), "ada@example.org", 5).await;
    let letters = letters_in(&dir(&server), "ada@example.org");
    let tokens: Vec<_> = letters.iter().filter(|letter| letter.body.contains("--token")).collect();
    assert_eq!(tokens.len(), 1);
    verify(&nobody, &tokens[0].token()).await.expect("it is good");
    log_in(&nobody, "ada@example.org", PASSWORD).await.expect("she gets in");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_mail_server_verification_is_required_and_makes_the_first_sys_admin() {
    let mut smtp = SmtpServer::start().await;
    let server = Server::start_with(|config| {
        smtp.configure(config);
        config.identity.sign_up = SignUp::Token;
    })
    .await;
    let nobody = server.nobody().await;
    assert_eq!(register(&nobody, "ada@example.org", "").await.expect_err("no token").code(), Code::PermissionDenied);
    register(&nobody, "ada@example.org", server.running.sign_up_token.expose()).await.expect("a registration");
    assert!(log_in(&nobody, "ada@example.org", PASSWORD).await.is_err());
    verify(&nobody, &smtp.letter_to("ada@example.org").await.token()).await.expect("it is good");
    let ada = log_in(&nobody, "ada@example.org", PASSWORD).await.expect("she gets in");
    ada.ops().observe(ObserveRequest::default()).await.expect("she runs the installation");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_reset_by_mail_and_ends_all_sessions() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let phone = server.log_in("ada@example.org").await;
    let nobody = server.nobody().await;
    for email in ["nobody@example.org", "Ada@example.org"] {
        ask_reset(&nobody, email).await;
    }
    let letter = letter_in(&dir(&server), "ada@example.org", 1).await;
    assert_eq!(letter.header("Subject"), "Set a new password");
    assert!(letters_in(&dir(&server), "nobody@example.org").is_empty());
    let token = letter.token();
    let bob = server.person("bob@example.org").await;
    let of_bob = token.replace(&ada.account, &bob.account);
    for wrong in [of_bob.as_str(), &token.replace("password-reset", "verification"), &format!("{token}0")] {
        assert_eq!(reset(&nobody, wrong, NEW_PASSWORD).await.expect_err(wrong).code(), Code::FailedPrecondition);
    }
    assert_eq!(reset(&nobody, &token, "short").await.expect_err("too short").code(), Code::InvalidArgument);
    assert!(who(&ada).await.is_ok() && who(&phone).await.is_ok(), "nothing has happened yet");

    // Of many at once with the same token, one sets the password.
    let passwords: Vec<_> = (0..8).map(|n| format!("{NEW_PASSWORD} {n}")).collect();
    let tries = join_all(passwords.iter().map(|password| reset(&nobody, &token, password))).await;
    let good: Vec<_> = tries.iter().zip(&passwords).filter(|(tried, _)| tried.is_ok()).collect();
    assert_eq!(good.len(), 1);
    assert!(who(&ada).await.is_err() && who(&phone).await.is_err(), "all sessions have ended");
    assert!(log_in(&nobody, "ada@example.org", PASSWORD).await.is_err());
    let ada = log_in(&nobody, "ada@example.org", good[0].1).await.expect("the new password");
    assert!(who(&ada).await.expect("an account").email_verify_time_ms > 0, "whoever reads its mail has verified it");
    let told = letter_in(&dir(&server), "ada@example.org", 2).await;
    assert_eq!(told.header("Subject"), "Your password was changed");
    assert!(who(&bob).await.is_ok());

    // A repeat of the request that was done is answered as done.
    ask_reset(&nobody, "ada@example.org").await;
    let token = letter_in(&dir(&server), "ada@example.org", 3).await.token();
    let request = ResetPasswordRequest { token, new_password: NEW_PASSWORD.into(), request_id: "once".into() };
    for _ in 0..2 {
        nobody.verification().reset_password(request.clone()).await.expect("it is done, once");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_squats_on_an_address_loses_it_to_whoever_reads_its_mail() {
    let server = required().await;
    let nobody = server.nobody().await;
    register(&nobody, "ada@example.org", "").await.expect("by somebody else");
    // From here on the address is claimed.
    letter_in(&dir(&server), "ada@example.org", 0).await;
    ask_reset(&nobody, "ada@example.org").await;
    let letter = letter_in(&dir(&server), "ada@example.org", 1).await;
    reset(&nobody, &letter.token(), NEW_PASSWORD).await.expect("it is hers now");
    assert!(log_in(&nobody, "ada@example.org", PASSWORD).await.is_err());
    log_in(&nobody, "ada@example.org", NEW_PASSWORD).await.expect("she gets in");
    server.stop().await;
}

pub(crate) async fn change(by: &Caller, new_email: &str, password: &str) -> Result<(), Status> {
    let request = ChangeEmailRequest {
        name: "account/me".into(),
        new_email: new_email.into(),
        password: password.into(),
        request_id: String::new(),
    };
    by.verification().change_email(request).await.map(drop)
}

pub(crate) async fn confirm(by: &Caller, token: &str) -> Result<Account, Status> {
    let request = ConfirmEmailRequest { token: token.into(), request_id: String::new() };
    let confirmed = by.verification().confirm_email(request).await?.into_inner().account;
    Ok(confirmed.expect("an account").decode().expect("an account"))
}

pub(crate) async fn undo(by: &Caller, token: &str) -> Result<Account, Status> {
    let request = UndoChangeEmailRequest { token: token.into(), request_id: String::new() };
    let undone = by.verification().undo_change_email(request).await?.into_inner().account;
    Ok(undone.expect("an account").decode().expect("an account"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_changed_by_whoever_reads_the_new_one() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    server.person("bob@example.org").await;
    let nobody = server.nobody().await;
    let files = dir(&server);
    let status = change(&ada, "ada@example.com", "wrong horse battery").await.expect_err("a wrong password");
    assert_eq!(status.code(), Code::PermissionDenied);
    // Asking for a taken address tells nothing; its holder may confirm, and is told then.
    change(&ada, "bob@example.org", PASSWORD).await.expect("the same answer");
    let token = letter_in(&files, "bob@example.org", 1).await.token();
    assert_eq!(confirm(&nobody, &token).await.expect_err("it is bob's").code(), Code::AlreadyExists);

    change(&ada, "ada@example.com", PASSWORD).await.expect("a letter");
    let token = letter_in(&files, "ada@example.com", 0).await.token();
    assert_eq!(who(&ada).await.expect("an account").email, "ada@example.org", "not before it is confirmed");
    let confirmed = confirm(&nobody, &token).await.expect("it is good");
    assert_eq!(confirmed.email, "ada@example.com");
    assert!(confirmed.email_verify_time_ms > 0);
    assert_eq!(confirm(&nobody, &token).await.expect_err("it was used").code(), Code::FailedPrecondition);
    assert!(who(&ada).await.is_ok(), "sessions go on");
    log_in(&nobody, "ada@example.com", PASSWORD).await.expect("by the new address");
    // The old one stays hers for as long as she may take it back.
    let status = register(&nobody, "ada@example.org", "").await.expect_err("it is not free");
    assert_eq!(status.code(), Code::AlreadyExists);

    let told = letter_in(&files, "ada@example.org", 1).await;
    assert!(told.body.contains("ada@example.com"), "{}", told.body);
    let undone = undo(&nobody, &told.token()).await.expect("she takes it back");
    assert_eq!(undone.email, "ada@example.org");
    assert!(who(&ada).await.is_err(), "all sessions have ended");
    log_in(&nobody, "ada@example.org", PASSWORD).await.expect("by the old address");
    register(&nobody, "ada@example.com", "").await.expect("the other is free");
    server.stop().await;
}

/// Whoever took an account over and moved it on and on is thrown out by the
/// first address, and has no token left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_an_address_back_takes_back_all_that_came_after() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let nobody = server.nobody().await;
    let files = dir(&server);
    for email in ["eve@example.org", "mallory@example.org"] {
        change(&ada, email, PASSWORD).await.expect("a letter");
        confirm(&nobody, &letter_in(&files, email, 0).await.token()).await.expect("it is good");
    }
    change(&ada, "third@example.org", PASSWORD).await.expect("a letter");
    let third = letter_in(&files, "third@example.org", 0).await.token();
    let of_eve = letter_in(&files, "eve@example.org", 1).await.token();
    let of_ada = letter_in(&files, "ada@example.org", 1).await.token();
    undo(&nobody, &of_ada).await.expect("she takes it back");
    for (token, about) in [(&of_eve, "a later undo"), (&of_ada, "the same again")] {
        assert_eq!(undo(&nobody, token).await.expect_err(about).code(), Code::FailedPrecondition);
    }
    assert_eq!(confirm(&nobody, &third).await.expect_err("what was under way").code(), Code::FailedPrecondition);
    for email in ["eve@example.org", "mallory@example.org"] {
        register(&nobody, email, "").await.expect("it is free again");
    }
    log_in(&nobody, "ada@example.org", PASSWORD).await.expect("by the first address");
    server.stop().await;
}
