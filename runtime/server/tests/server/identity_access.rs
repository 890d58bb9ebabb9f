//! Accounts that nobody gets in to, whom somebody blocks, and what the server
//! keeps of somebody.

use crate::harness::mailbox::{letter_in, letters_in};
use crate::harness::{Caller, PASSWORD, Server};
use canopy_domain::{Address, Id, Role, Wire};
use canopy_proto::identity::v1::{
    Account, BlockAccountRequest, DisableAccountRequest, ExportAccountRequest, GetAccountRequest, ListBlockedRequest,
    LogInRequest, RequestPasswordResetRequest, ResetPasswordRequest, UnblockAccountRequest,
};
use canopy_proto::ops::v1::{EnableAccountRequest, SuspendAccountRequest};
use canopy_proto::org::v1::{CreateInvitationRequest, Invitation};
use futures::future::join_all;
use tonic::{Code, Status};

async fn who(caller: &Caller) -> Result<Account, Status> {
    let request = GetAccountRequest { name: "account/me".into() };
    Ok(caller.identity().get_account(request).await?.into_inner().decode().expect("an account"))
}

async fn log_in(by: &Caller, email: &str) -> Result<(), Status> {
    let request = LogInRequest { email: email.into(), password: PASSWORD.into(), ..LogInRequest::default() };
    by.identity().log_in(request).await.map(drop)
}

async fn suspend(by: &Caller, name: &str) -> Result<Account, Status> {
    let request = SuspendAccountRequest { name: name.into(), request_id: String::new() };
    Ok(by.account_admin().suspend_account(request).await?.into_inner().decode().expect("an account"))
}

async fn enable(by: &Caller, name: &str) -> Result<Account, Status> {
    let request = EnableAccountRequest { name: name.into(), request_id: String::new() };
    Ok(by.account_admin().enable_account(request).await?.into_inner().decode().expect("an account"))
}

async fn reset_token(server: &Server, nobody: &Caller, email: &str, n: usize) -> String {
    let request = RequestPasswordResetRequest { email: email.into(), request_id: String::new() };
    nobody.verification().request_password_reset(request).await.expect("the same answer");
    letter_in(&server.config.mail_dir(), email, n).await.token()
}

async fn reset(by: &Caller, token: String) -> Result<(), Status> {
    let request = ResetPasswordRequest { token, new_password: PASSWORD.into(), request_id: String::new() };
    by.verification().reset_password(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_account_is_as_if_it_were_not_there() {
    let server = Server::start().await;
    let admin = server.sys_admin("admin@example.org").await;
    let ada = server.person("ada@example.org").await;
    let nobody = server.nobody().await;
    let token = reset_token(&server, &nobody, "ada@example.org", 1).await;
    assert!(suspend(&admin, "account/ada@example.org").await.expect("it is done").disable_time_ms > 0);
    assert_eq!(who(&ada).await.expect_err("her sessions have ended").code(), Code::Unauthenticated);
    let refused = log_in(&nobody, "ada@example.org").await.expect_err("nobody gets in");
    let unknown = log_in(&nobody, "nobody@example.org").await.expect_err("there is nobody");
    assert_eq!((refused.code(), refused.message()), (unknown.code(), unknown.message()));
    // Mail opens no way around it: neither what was sent before, nor anew.
    assert_eq!(reset(&nobody, token).await.expect_err("not by mail").code(), Code::FailedPrecondition);
    let request = RequestPasswordResetRequest { email: "ada@example.org".into(), request_id: String::new() };
    nobody.verification().request_password_reset(request).await.expect("the same answer");
    reset_token(&server, &nobody, "admin@example.org", 1).await;
    assert_eq!(letters_in(&server.config.mail_dir(), "ada@example.org").len(), 2, "the queue has passed hers");
    let server = server.restart().await;
    let nobody = server.nobody().await;
    assert!(log_in(&nobody, "ada@example.org").await.is_err(), "a restart forgets nothing");
    let admin = server.log_in("admin@example.org").await;
    assert_eq!(enable(&admin, &ada.account).await.expect("it is done").disable_time_ms, 0);
    log_in(&nobody, "ada@example.org").await.expect("she gets in");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_disables_their_account_takes_it_back_by_mail() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let phone = server.log_in("ada@example.org").await;
    let request = DisableAccountRequest { name: "account/me".into(), request_id: String::new() };
    ada.accounts().disable_account(request).await.expect("it is done");
    assert!(who(&ada).await.is_err() && who(&phone).await.is_err());
    let nobody = server.nobody().await;
    assert!(log_in(&nobody, "ada@example.org").await.is_err());
    let token = reset_token(&server, &nobody, "ada@example.org", 1).await;
    reset(&nobody, token).await.expect("whoever reads its mail");
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(who(&ada).await.expect("an account").disable_time_ms, 0);
    server.stop().await;
}

/// Others do not learn by the refusal whether there is an account.
#[tokio::test]
async fn only_a_sys_admin_sees_that_an_account_is_not_there() {
    let server = Server::start().await;
    let admin = server.sys_admin("admin@example.org").await;
    let bob = server.person("bob@example.org").await;
    let mut refusals = Vec::new();
    for name in ["account/admin@example.org", "account/nobody@example.org", &admin.account] {
        let status = suspend(&bob, name).await.expect_err("not his to do");
        refusals.push((status.code(), status.message().to_owned()));
    }
    assert_eq!(refusals[0].0, Code::PermissionDenied);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    let status = suspend(&admin, "account/nobody@example.org").await.expect_err("there is nobody");
    assert_eq!(status.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_people_are_blocked_and_no_more() {
    const BLOCKS_MAX: u16 = 1_000;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let block = async |n: u16| {
        let mut id = [7; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        let (name, blocked) = ("account/me".into(), Address::account(Id::from_bytes(id)).to_string());
        ada.accounts().block_account(BlockAccountRequest { name, blocked, request_id: String::new() }).await
    };
    let all: Vec<u16> = (0..BLOCKS_MAX).collect();
    for some in all.chunks(100) {
        for blocked in join_all(some.iter().map(|n| block(*n))).await {
            drop(blocked.expect("there is room"));
        }
    }
    let refused = block(BLOCKS_MAX).await.expect_err("there is none");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("1000 people"), "{refused:?}");
    drop(block(0).await.expect("they are blocked already"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_persons_invitations_do_not_arrive() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let eve = server.person("eve@example.org").await;
    let block = |blocked: &str| BlockAccountRequest {
        name: "account/me".into(),
        blocked: blocked.into(),
        request_id: String::new(),
    };
    for wrong in ["account/eve@example.org", "account/me", "org/acme", "eve", ada.account.as_str()] {
        let status = ada.accounts().block_account(block(wrong)).await.expect_err(wrong);
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}");
    }
    for _ in 0..2 {
        ada.accounts().block_account(block(&eve.account)).await.expect("a block");
    }
    let list = || ListBlockedRequest { parent: "account/me".into(), ..ListBlockedRequest::default() };
    let blocked = ada.accounts().list_blocked(list()).await.expect("a list").into_inner().blocked;
    assert_eq!(blocked.len(), 1);
    assert_eq!(blocked[0].decode().expect("a block").account, eve.account);

    let invite = async |by: &Caller, parent: &str| {
        let invitation =
            Invitation { role: Role::Guest.into(), email: "ada@example.org".into(), ..Invitation::default() };
        let request = CreateInvitationRequest {
            parent: parent.into(),
            invitation: Some(Wire::new(&invitation)),
            request_id: String::new(),
        };
        by.invitations().create_invitation(request).await.expect("eve is not told");
    };
    eve.create_org("spam").await;
    invite(&eve, "org/spam").await;
    let bob = server.person("bob@example.org").await;
    bob.create_org("fine").await;
    invite(&bob, "org/fine").await;
    let dir = server.config.mail_dir();
    let letter = letter_in(&dir, "ada@example.org", 1).await;
    assert!(letter.header("Subject").contains("fine"), "{}", letter.header("Subject"));
    let unblock =
        UnblockAccountRequest { name: "account/me".into(), blocked: eve.account.clone(), request_id: String::new() };
    ada.accounts().unblock_account(unblock).await.expect("it ends");
    assert!(ada.accounts().list_blocked(list()).await.expect("a list").into_inner().blocked.is_empty());
    invite(&eve, "org/spam").await;
    let letter = letter_in(&dir, "ada@example.org", 2).await;
    assert!(letter.header("Subject").contains("spam"), "only the one from before was kept away");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_holds_what_is_kept_and_no_secret() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    server.log_in("ada@example.org").await;
    ada.create_org("acme").await;
    let request = ExportAccountRequest { name: "account/me".into() };
    let export = ada.accounts().export_account(request.clone()).await.expect("an export").into_inner();
    assert_eq!(export.account.expect("an account").decode().expect("an account").email, "ada@example.org");
    assert_eq!(export.sessions.len(), 2);
    assert_eq!(export.orgs.len(), 1);
    let methods: Vec<_> = export.events.iter().map(|event| event.method.rsplit('/').next().unwrap_or("")).collect();
    assert_eq!(methods.last(), Some(&"Register"), "{methods:?}");
    assert!(methods.contains(&"RecordSession") && methods.contains(&"RecordMembership"), "{methods:?}");
    assert!(export.events.last().is_some_and(|event| event.peer.starts_with("127.0.0.1:")));
    let bytes = ada.raw("canopy.identity.v1.Accounts/ExportAccount", prost::Message::encode_to_vec(&request)).await;
    let text = String::from_utf8_lossy(&bytes.expect("an export")).into_owned();
    assert!(!text.contains("argon2") && !text.contains("verification/"), "no verifier, no token");
    let bob = server.person("bob@example.org").await;
    let request = ExportAccountRequest { name: ada.account.clone() };
    let status = bob.accounts().export_account(request).await.expect_err("not his");
    assert_eq!(status.code(), Code::PermissionDenied);
    server.stop().await;
}
