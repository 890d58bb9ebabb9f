//! Letters on their way out: delivered at least once, to a real mail server,
//! however often it is away or refuses.

use std::fs;
use std::time::Duration;

use crate::harness::mailbox::{Event, Received, SmtpSecrets, SmtpServer, letter_in, letters_in};
use crate::harness::{Caller, Server};
use canopy::boot::{self, BootError};
use canopy_config::{MailMode, NodeConfig, SmtpTls, Verification};
use canopy_domain::Address;
use canopy_proto::identity::v1::RequestPasswordResetRequest;
use canopy_proto::methods::mail_effects;
use canopy_proto::ops::v1::{
    DeleteMailRequest, ListMailsRequest, ListMailsResponse, Mail, MailState, RetryMailRequest,
};
use canopy_proto::system::v1::{Letter, LetterKind, PostLetterRequest, PostLetterResponse};
use prost::Message as _;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// A letter as actors post them.
fn letter(to: &str, kind: LetterKind) -> Letter {
    Letter {
        to: to.into(),
        kind: kind.into(),
        token: "org/0/invitation/0/secret".into(),
        about: "Acme".into(),
        sender: "Ada".into(),
        ..Letter::default()
    }
}

async fn post(server: &Server, letter: Letter, request_id: &str) -> PostLetterResponse {
    let request = PostLetterRequest { letter: Some(letter), request_id: request_id.into() }.encode_to_vec().into();
    let (queue, from) = (Address::system("mail"), Address::system("test"));
    let method = mail_effects::POST_LETTER.path;
    let posted = server.running.node.ask(&queue, method, request, &from, request_id).await.expect("a place");
    PostLetterResponse::decode(posted).expect("an answer")
}

async fn list(by: &Caller, state: MailState) -> (Vec<Mail>, ListMailsResponse) {
    let request = ListMailsRequest { state: state.into(), ..ListMailsRequest::default() };
    let listed = by.mails().list_mails(request).await.expect("a list").into_inner();
    (listed.mails.iter().map(|mail| mail.decode().expect("a mail")).collect(), listed)
}

async fn listed(by: &Caller, state: MailState, holds: impl Fn(&[Mail]) -> bool) -> Vec<Mail> {
    let mut look = tokio::time::interval(LOOK);
    let found = async {
        loop {
            let (mails, _) = list(by, state).await;
            if holds(&mails) {
                return mails;
            }
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the mails are so in time")
}

async fn smtp_server(smtp: &SmtpServer) -> Server {
    Server::start_with(|config| {
        smtp.configure(config);
        config.mail.verification = Verification::Off;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_arrives_whole_whatever_people_chose() {
    let mut smtp = SmtpServer::start().await;
    let server = smtp_server(&smtp).await;
    let mut hostile = letter("bob@example.org", LetterKind::Invitation);
    hostile.about = "Ac\u{e9}me\r\nBcc: eve@example.org\r\n\r\n.\r\nRSET".into();
    hostile.sender = "\u{202e}Ada \u{1f40e}\n.\nQUIT".into();
    post(&server, hostile, "").await;
    let got = smtp.letter().await;
    assert_eq!(got.to, ["bob@example.org"]);
    assert_eq!(got.sender, "canopy@localhost");
    assert_eq!(got.header("To"), "bob@example.org");
    assert_eq!(got.header("Subject"), "Ada \u{1f40e} . QUIT invites you to Ac\u{e9}me Bcc: eve@example.org . RSET");
    assert_eq!(got.header("Bcc"), "");
    assert_eq!(got.header("Auto-Submitted"), "auto-generated");
    assert_eq!(got.token(), "org/0/invitation/0/secret");
    let installation = server.running.node.store().installation_id().to_string();
    let id = got.header("Message-ID");
    assert!(id.ends_with(&format!(".{installation}@localhost>")), "{id}");
    assert!(!got.tls && got.user.is_empty());

    // Two letters differ in their ids; one that is posted twice is one.
    post(&server, letter("bob@example.org", LetterKind::Verification), "once").await;
    post(&server, letter("bob@example.org", LetterKind::Verification), "once").await;
    post(&server, letter("carl@example.org", LetterKind::Verification), "").await;
    let mut rest = [smtp.letter().await, smtp.letter().await];
    rest.sort_by_key(|letter| letter.to.clone());
    assert_eq!([&rest[0].to[0], &rest[1].to[0]], ["bob@example.org", "carl@example.org"]);
    assert_ne!(rest[0].header("Message-ID"), rest[1].header("Message-ID"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_says_later_is_asked_later() {
    let mut smtp = SmtpServer::start().await;
    let server = smtp_server(&smtp).await;
    let admin = server.sys_admin("admin@example.org").await;
    post(&server, letter("later-2@example.org", LetterKind::Invitation), "").await;
    let mut refused = 0;
    while refused < 2 {
        refused += usize::from(matches!(smtp.event().await, Event::Refused { to } if to == "later-2@example.org"));
    }
    let waiting = listed(&admin, MailState::Waiting, |mails| mails.iter().any(|mail| mail.attempts == 2)).await;
    assert!(waiting[0].error.contains("not now"), "{}", waiting[0].error);
    assert_eq!(waiting[0].kind, "invitation");
    assert!(waiting[0].next_time_ms > waiting[0].create_time_ms);
    smtp.letter_to("later-2@example.org").await;
    listed(&admin, MailState::Waiting, <[Mail]>::is_empty).await;
    assert!(list(&admin, MailState::Dead).await.0.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_listed_and_can_be_tried_again_or_removed() {
    let mut smtp = SmtpServer::start().await;
    let server = smtp_server(&smtp).await;
    let admin = server.sys_admin("admin@example.org").await;
    for to in ["never@example.org", "no address", "j\u{f6}rg@example.org"] {
        post(&server, letter(to, LetterKind::Invitation), "").await;
    }
    let dead = listed(&admin, MailState::Dead, |mails| mails.len() == 3).await;
    let error = |to: &str| &dead.iter().find(|mail| mail.to == to).expect("it is listed").error;
    assert!(error("never@example.org").contains("no such mailbox"), "{}", error("never@example.org"));
    assert!(error("no address").contains("no address"), "{}", error("no address"));
    assert!(dead.iter().all(|mail| mail.state() == MailState::Dead && mail.attempts == 1 && mail.next_time_ms == 0));
    listed(&admin, MailState::Waiting, <[Mail]>::is_empty).await;

    let never = dead.iter().find(|mail| mail.to == "never@example.org").expect("it is listed");
    let retry = RetryMailRequest { name: never.name.clone(), request_id: String::new() };
    let retried =
        admin.mails().retry_mail(retry.clone()).await.expect("a retry").into_inner().decode().expect("a mail");
    assert_eq!((retried.state(), retried.attempts), (MailState::Waiting, 0));
    listed(&admin, MailState::Dead, |mails| mails.len() == 3).await;
    for mail in &dead {
        let delete = DeleteMailRequest { name: mail.name.clone(), request_id: String::new() };
        admin.mails().delete_mail(delete).await.expect("it goes");
    }
    assert!(list(&admin, MailState::Dead).await.0.is_empty());
    assert_eq!(admin.mails().retry_mail(retry).await.expect_err("it is gone").code(), Code::NotFound);
    for name in ["", "mail/1", "mail/1-2-3", "mail/+1-1", "system/mail"] {
        let request = DeleteMailRequest { name: name.into(), request_id: String::new() };
        let code = admin.mails().delete_mail(request).await.expect_err("no mail").code();
        assert!(matches!(code, Code::NotFound | Code::InvalidArgument), "{name:?}: {code:?}");
    }
    // Nobody else sees them.
    let bob = server.person("bob@example.org").await;
    let refused = bob.mails().list_mails(ListMailsRequest::default()).await.expect_err("not an admin");
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop(smtp.event().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_may_be_away_and_so_may_this_one() {
    let smtp = SmtpServer::start().await;
    let server = smtp_server(&smtp).await;
    let admin = server.sys_admin("admin@example.org").await;
    let port = smtp.port;
    drop(smtp);
    post(&server, letter("bob@example.org", LetterKind::Invitation), "").await;
    let tried = |mails: &[Mail]| mails.iter().any(|mail| mail.to == "bob@example.org" && mail.attempts > 0);
    listed(&admin, MailState::Waiting, tried).await;
    let server = server.restart().await;
    let mut smtp = SmtpServer::start_at(port, None).await;
    let admin = server.log_in("admin@example.org").await;
    assert_eq!(smtp.letter_to("bob@example.org").await.token(), "org/0/invitation/0/secret");
    listed(&admin, MailState::Waiting, |mails| !mails.iter().any(|mail| mail.to == "bob@example.org")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_is_spoken_to_under_tls_and_by_name_and_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    fs::write(path("cert.pem"), made.cert.pem()).expect("a file");
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    fs::write(path("credentials"), "canopy\ncorrect horse\n").expect("a file");
    fs::write(path("wrong"), "canopy\nwrong horse\n").expect("a file");
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let secrets = SmtpSecrets { certificate: &certificate, key: &key, user: "canopy", password: "correct horse" };
    let mut smtp = SmtpServer::start_at(0, Some(secrets)).await;
    let configure = |config: &mut NodeConfig, credentials: &str, ca: bool| {
        smtp.configure(config);
        config.mail.smtp_host = "localhost".into();
        config.mail.smtp_tls = SmtpTls::StartTls;
        config.mail.smtp_credentials_file = Some(path(credentials));
        config.mail.smtp_ca_file = ca.then(|| path("cert.pem"));
        config.mail.verification = Verification::Off;
    };
    // A log-in that fails is no letter's fault, nor is a certificate that
    // nobody vouches for: they wait.
    let server = Server::start_with(|config| configure(config, "wrong", true)).await;
    let admin = server.sys_admin("admin@example.org").await;
    post(&server, letter("bob@example.org", LetterKind::Invitation), "").await;
    let of_bob = |mails: &[Mail]| mails.iter().find(|mail| mail.to == "bob@example.org").cloned();
    let tried = |mails: &[Mail]| of_bob(mails).is_some_and(|mail| mail.attempts > 0);
    let refused = listed(&admin, MailState::Waiting, tried).await;
    let refused = of_bob(&refused).expect("it waits");
    assert!(!refused.error.contains("horse"), "{}", refused.error);
    let server = server.restart_with(|config| configure(config, "credentials", false)).await;
    let admin = Caller { channel: server.channel().await, ..admin };
    let retry = RetryMailRequest { name: refused.name, request_id: String::new() };
    admin.mails().retry_mail(retry).await.expect("a retry");
    let unknown = |mails: &[Mail]| of_bob(mails).is_some_and(|mail| mail.error.contains("ertificate"));
    listed(&admin, MailState::Waiting, unknown).await;
    let server = server.restart_with(|config| configure(config, "credentials", true)).await;
    let got = smtp.letter_to("bob@example.org").await;
    assert_eq!((got.tls, got.user), (true, "canopy".to_owned()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_flooded() {
    let server = Server::start().await;
    let admin = server.sys_admin("admin@example.org").await;
    let nobody = server.nobody().await;
    let mut dropped = 0;
    for _ in 0..20 {
        dropped += u64::from(post(&server, letter("bob@example.org", LetterKind::AccountExists), "").await.dropped);
    }
    // An hour by the clock may end in between.
    assert!((10..=15).contains(&dropped), "{dropped}");
    for _ in 0..20 {
        let request = RequestPasswordResetRequest { email: "Bob@example.org".into(), request_id: String::new() };
        nobody.verification().request_password_reset(request).await.expect("the same answer");
    }
    let told = list(&admin, MailState::Waiting).await.1.dropped;
    assert!(told >= dropped + 10, "{told}");
    // What warns an account's holder is not held back by that.
    for _ in 0..20 {
        assert!(!post(&server, letter("bob@example.org", LetterKind::PasswordWasReset), "").await.dropped);
    }
    let dir = server.config.mail_dir();
    letter_in(&dir, "bob@example.org", 24).await;
    listed(&admin, MailState::Waiting, <[Mail]>::is_empty).await;
    assert!(letters_in(&dir, "bob@example.org").len() <= 30);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_for_their_owner_alone_and_links_lead_where_they_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start_with(|config| config.mail.link_base = "https://canopy.example.org/".into()).await;
    post(&server, letter("bob@example.org", LetterKind::Verification), "").await;
    let dir = server.config.mail_dir();
    let got: Received = letter_in(&dir, "bob@example.org", 0).await;
    assert!(got.body.contains("https://canopy.example.org/verify-email#org/0/invitation/0/secret\n"), "{}", got.body);
    for entry in fs::read_dir(&dir).expect("the directory") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(&dir).expect("the directory").permissions().mode() & 0o777, 0o700);
    server.stop().await;
}

#[tokio::test]
async fn without_mail_nothing_is_promised() {
    let server = Server::start_with(|config| config.mail.mode = MailMode::None).await;
    let nobody = server.nobody().await;
    let request = RequestPasswordResetRequest { email: "bob@example.org".into(), request_id: String::new() };
    let refused = nobody.verification().request_password_reset(request).await.expect_err("there is no mail");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(!server.config.mail_dir().exists());
    let (mut config, dir) = server.stop_and_keep().await;

    // A secret's file that is missing or empty stops the start.
    config.mail.mode = MailMode::Smtp;
    for text in [None, Some(""), Some("canopy\n")] {
        let path = dir.path().join("credentials");
        if let Some(text) = text {
            fs::write(&path, text).expect("a file");
        }
        config.mail.smtp_credentials_file = Some(path);
        assert!(matches!(boot::start(&config, None).await, Err(BootError::Post(_))), "{text:?}");
    }
}
