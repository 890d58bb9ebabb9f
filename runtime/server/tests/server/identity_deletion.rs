//! Accounts that are deleted, taken back, and destroyed.

use canopy_domain::{Address, Role, Wire, utc};
use canopy_org::audit_chain;
use canopy_proto::chat::v1::GetMessageRequest;
use canopy_proto::identity::v1::{
    Account, DeleteAccountRequest, GetAccountRequest, LogInRequest, SecurityEventKind, UndeleteAccountRequest,
};
use canopy_proto::org::v1::export_audit_response::Line;
use canopy_proto::org::v1::{
    CreateInvitationRequest, GetOrgRequest, Grant, GrantRoleRequest, Invitation, LeaveOrgRequest,
    ListInvitationsRequest, ListMembersRequest, ListShredCertificatesRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::audit::exported;
use crate::harness::mailbox::letter_in;
use crate::harness::{Caller, PASSWORD, Server, refused};
use crate::identity_api_keys as api_keys;
use crate::identity_second_factor::{confirm, enroll};
use crate::identity_security::events;
use crate::org_end::{certificate, shredded};

const EMAIL: &str = "ada@example.org";
const DAY_MS: i64 = 86_400_000;

async fn delete(by: &Caller, password: &str, code: &str) -> Result<Account, Status> {
    let request = DeleteAccountRequest {
        name: "account/me".into(),
        password: password.into(),
        code: code.into(),
        request_id: String::new(),
    };
    Ok(by.accounts().delete_account(request).await?.into_inner().decode().expect("an account"))
}

async fn undelete(server: &Server, email: &str, password: &str, code: &str) -> Result<Account, Status> {
    let request = UndeleteAccountRequest {
        email: email.into(),
        password: password.into(),
        code: code.into(),
        request_id: String::new(),
    };
    let restored = server.nobody().await.accounts().undelete_account(request).await?.into_inner().account;
    Ok(restored.expect("an account").decode().expect("an account"))
}

async fn log_in(server: &Server, email: &str, password: &str) -> Result<(), Status> {
    let request = LogInRequest { email: email.into(), password: password.into(), ..LogInRequest::default() };
    server.nobody().await.identity().log_in(request).await.map(drop)
}

async fn account_of(caller: &Caller) -> Result<Account, Status> {
    let request = GetAccountRequest { name: "account/me".into() };
    Ok(caller.identity().get_account(request).await?.into_inner().decode().expect("an account"))
}

async fn get_org(caller: &Caller, org: &str) -> Code {
    let answer = caller.orgs().get_org(GetOrgRequest { name: org.into() }).await;
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// Who holds a role there.
async fn members(caller: &Caller, org: &str) -> Vec<String> {
    let request = ListMembersRequest { parent: org.into(), ..ListMembersRequest::default() };
    let members = caller.orgs().list_members(request).await.expect("members").into_inner().members;
    members.into_iter().map(|member| member.account).collect()
}

async fn invitations(caller: &Caller, org: &str) -> Vec<Invitation> {
    let request = ListInvitationsRequest { parent: org.into(), ..ListInvitationsRequest::default() };
    let listed = caller.invitations().list_invitations(request).await.expect("a list").into_inner().invitations;
    listed.iter().map(|row| row.decode().expect("an invitation")).collect()
}

async fn invite(by: &Caller, org: &str, email: &str) {
    let invitation = Invitation { role: Role::Guest.into(), email: email.into(), ..Invitation::default() };
    let (parent, invitation) = (org.to_owned(), Some(Wire::new(&invitation)));
    let request = CreateInvitationRequest { parent, invitation, request_id: String::new() };
    by.invitations().create_invitation(request).await.expect("an invitation");
}

/// That nobody learns from an answer what the other says.
#[track_caller]
fn alike(a: &Status, b: &Status) {
    assert_eq!((a.code(), a.message(), a.details()), (b.code(), b.message(), b.details()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_account_lets_nobody_in_until_it_is_taken_back() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let bob = server.person("bob@example.org").await;
    let elsewhere = server.log_in(EMAIL).await;
    let (_, machine) = api_keys::create(&ada, api_keys::wanted(Role::ProjectUser, "", DAY_MS)).await.expect("a key");
    let org = bob.create_org("acme").await.name;
    bob.grant(&ada.account, &org, Role::ProjectUser).await;
    assert_eq!((get_org(&ada, &org).await, get_org(&machine, &org).await), (Code::Ok, Code::Ok));

    refused(delete(&ada, "another password", "").await, Code::PermissionDenied);
    assert_eq!(account_of(&ada).await.expect("nothing happened").delete_time_ms, 0);
    let deleted = delete(&ada, PASSWORD, "").await.expect("a deletion");
    assert_eq!(deleted.purge_time_ms - deleted.delete_time_ms, 14 * DAY_MS, "the default grace");
    for caller in [&ada, &elsewhere, &machine] {
        assert_eq!(get_org(caller, &org).await, Code::Unauthenticated);
    }
    assert!(members(&bob, &org).await.contains(&ada.account), "roles wait");
    let grant = Grant { account: ada.account.clone(), on: org.clone(), role: Role::Guest.into(), ..Grant::default() };
    let grant = GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    refused(bob.orgs().grant_role(grant).await, Code::NotFound);
    // After those on the key and the wrong password.
    let letter = letter_in(&server.config.mail_dir(), EMAIL, 3).await;
    assert!(letter.header("Subject").contains("deleted"), "{letter:?}");
    assert!(letter.body.contains(&utc(deleted.purge_time_ms)) && letter.body.contains("undelete-account"));

    let server = server.restart().await;
    let unknown = refused(log_in(&server, "nobody@example.org", PASSWORD).await, Code::Unauthenticated);
    alike(&refused(log_in(&server, EMAIL, "another password").await, Code::Unauthenticated), &unknown);
    let told = refused(log_in(&server, EMAIL, PASSWORD).await, Code::FailedPrecondition);
    assert!(told.message().contains(&utc(deleted.purge_time_ms)), "{}", told.message());
    let info = told.get_details_error_info().expect("what to do");
    assert!(info.metadata["hint"].contains("undelete-account"), "{info:?}");
    alike(&refused(undelete(&server, "nobody@example.org", PASSWORD, "").await, Code::Unauthenticated), &unknown);
    alike(&refused(undelete(&server, EMAIL, "another password", "").await, Code::Unauthenticated), &unknown);

    let back = undelete(&server, "Ada@Example.ORG", PASSWORD, "").await.expect("it comes back");
    assert_eq!((&back.name, back.delete_time_ms, back.purge_time_ms), (&ada.account, 0, 0));
    refused(undelete(&server, EMAIL, PASSWORD, "").await, Code::FailedPrecondition);
    alike(&refused(undelete(&server, EMAIL, "another password", "").await, Code::Unauthenticated), &unknown);
    let letter = letter_in(&server.config.mail_dir(), EMAIL, 4).await;
    assert!(letter.header("Subject").contains("not deleted"), "{letter:?}");
    let again = server.log_in(EMAIL).await;
    assert_eq!(get_org(&again, &org).await, Code::Ok, "with its roles");
    let stale = Caller { channel: again.channel.clone(), ..machine };
    assert_eq!(get_org(&stale, &org).await, Code::Unauthenticated, "keys stay revoked");
    let kinds: Vec<_> = events(&again).await.iter().map(|event| (event.kind(), !event.peer.is_empty())).collect();
    for kind in [SecurityEventKind::AccountDeleted, SecurityEventKind::AccountUndeleted] {
        assert!(kinds.contains(&(kind, true)), "{kinds:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_factor_is_asked_for_both_ways() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut app = enroll(&ada, PASSWORD).await.expect("an app");
    let recovery = confirm(&ada, &app.code()).await.expect("recovery codes");
    refused(delete(&ada, PASSWORD, "").await, Code::FailedPrecondition);
    refused(delete(&ada, PASSWORD, "000000x").await, Code::PermissionDenied);
    assert_eq!(account_of(&ada).await.expect("nothing happened").delete_time_ms, 0);
    delete(&ada, PASSWORD, &app.code()).await.expect("a deletion");
    refused(undelete(&server, EMAIL, PASSWORD, "").await, Code::FailedPrecondition);
    refused(undelete(&server, EMAIL, PASSWORD, "000000x").await, Code::Unauthenticated);
    refused(undelete(&server, EMAIL, "another password", &recovery[0]).await, Code::Unauthenticated);
    undelete(&server, EMAIL, PASSWORD, &recovery[0]).await.expect("it comes back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_an_org_alone_hands_it_over_first() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person(EMAIL).await;
    let bob = server.person("bob@example.org").await;
    let shared = bob.create_org("shared").await.name;
    bob.grant(&ada.account, &shared, Role::OrgAdmin).await;
    let own = ada.create_org("own").await.name;
    ada.grant(&bob.account, &own, Role::ProjectUser).await;

    refused(delete(&root, PASSWORD, "").await, Code::FailedPrecondition);
    account_of(&root).await.expect("it is as it was");
    let status = refused(delete(&ada, PASSWORD, "").await, Code::FailedPrecondition);
    assert!(status.message().contains("`org/own`"), "{}", status.message());
    assert_eq!(account_of(&ada).await.expect("it is as it was").delete_time_ms, 0);
    // She runs what they share as before, and he may go.
    let leave = async |org: &str| {
        bob.orgs().leave_org(LeaveOrgRequest { name: org.to_owned(), request_id: String::new() }).await
    };
    leave(&shared).await.expect("she stays");
    ada.grant(&bob.account, &shared, Role::OrgAdmin).await;
    ada.grant(&bob.account, &own, Role::OrgAdmin).await;

    delete(&ada, PASSWORD, "").await.expect("he runs both");
    // Who is about to go does not count: neither may the other one.
    refused(leave(&shared).await, Code::FailedPrecondition);
    let status = refused(delete(&bob, PASSWORD, "").await, Code::FailedPrecondition);
    assert!(status.message().contains("last org-admin"), "{}", status.message());
    undelete(&server, EMAIL, PASSWORD, "").await.expect("it comes back");
    delete(&bob, PASSWORD, "").await.expect("she runs both");
    server.stop().await;
}

/// Each of two who run an org asks at the same moment: one of them stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_go_at_once_one_stays() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    ada.grant(&bob.account, &org, Role::OrgAdmin).await;
    let (one, other) = tokio::join!(delete(&ada, PASSWORD, ""), delete(&bob, PASSWORD, ""));
    let gone = [&one, &other].into_iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(gone, 1, "{one:?} {other:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grace_that_ran_out_destroys_the_account() {
    let server = Server::start_with(|config| config.identity.delete_grace_s = 1).await;
    server.sys_admin("root@example.org").await;
    let ada = server.person(EMAIL).await;
    let second = server.log_in(EMAIL).await;
    let bob = server.person("bob@example.org").await;
    let org = bob.create_org("acme").await.name;
    bob.grant(&ada.account, &org, Role::OrgAdmin).await;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let said = ada.send(&channel, "what stays").await;
    invite(&ada, &org, "eve@example.org").await;
    invite(&bob, &org, EMAIL).await;
    invite(&bob, &org, "carl@example.org").await;
    let (_, machine) = api_keys::create(&ada, api_keys::wanted(Role::ProjectUser, "", DAY_MS)).await.expect("a key");
    let deleted = delete(&ada, PASSWORD, "").await.expect("a deletion");

    // What is due while nobody is there is made up for.
    let server = server.restart().await;
    let root = server.log_in("root@example.org").await;
    let bob = server.log_in("bob@example.org").await;
    let certified = shredded(&root, &ada.account).await;
    assert_eq!(certified.name, ada.account);
    assert!(certified.purge_time_ms >= deleted.purge_time_ms, "not before its time");
    assert_eq!(certified.key_fingerprints.len(), 3, "its own and its two sessions'");
    refused(certificate(&bob, &ada.account).await, Code::NotFound);
    let listed = root.orgs().list_shred_certificates(ListShredCertificatesRequest::default()).await.expect("a list");
    assert_eq!(listed.into_inner().certificates.len(), 1);
    let node = &server.running.node;
    for address in [&ada.account, &ada.session, &second.session] {
        assert!(node.store().is_shredded(&Address::parse(address).unwrap()).await, "{address}");
    }
    assert!(!node.store().is_shredded(&Address::parse(&bob.account).unwrap()).await);

    let unknown = refused(log_in(&server, "nobody@example.org", PASSWORD).await, Code::Unauthenticated);
    alike(&refused(log_in(&server, EMAIL, PASSWORD).await, Code::Unauthenticated), &unknown);
    alike(&refused(undelete(&server, EMAIL, PASSWORD, "").await, Code::Unauthenticated), &unknown);
    for gone in [&ada, &machine] {
        let gone = Caller { channel: bob.channel.clone(), ..gone.clone() };
        assert_eq!(get_org(&gone, &org).await, Code::Unauthenticated);
    }
    // The org goes on without it, and with what it wrote.
    assert_eq!(members(&bob, &org).await, std::slice::from_ref(&bob.account));
    let left: Vec<_> = invitations(&bob, &org).await.into_iter().map(|invitation| invitation.email).collect();
    assert_eq!(left, ["carl@example.org"]);
    let said = said.name;
    let found = bob.chat().get_message(GetMessageRequest { name: said }).await.expect("it stays").into_inner();
    let found = found.decode().expect("a message");
    assert_eq!((found.text.as_str(), &found.author), ("what stays", &ada.account));
    let namesake = server.person(EMAIL).await;
    assert_ne!(namesake.account, ada.account, "the address is free");
    assert_eq!(get_org(&namesake, &org).await, Code::NotFound);

    let server = server.restart().await;
    let root = server.log_in("root@example.org").await;
    assert_eq!(certificate(&root, &ada.account).await.expect("it is kept"), certified);
    // What it did stands in both audits, and they verify.
    let bob = server.log_in("bob@example.org").await;
    let org_audit = format!("{org}/audit");
    assert_eq!(
        verified(exported(&bob, &org_audit, 0).await, &org_audit, &ada.account),
        ["CreateProject", "CreateChannel", "CreateInvitation", "ForgetMember"]
    );
    assert_eq!(verified(exported(&root, "system/audit", 0).await, "system/audit", &ada.account), ["DeleteAccount"]);
    server.stop().await;
}

/// That an export is one unbroken chain; what somebody did in it.
fn verified(lines: Vec<Line>, audit: &str, principal: &str) -> Vec<String> {
    let mut lines = lines.into_iter();
    let Some(Line::Head(head)) = lines.next() else { panic!("a head comes first") };
    let mut chain = audit_chain::root(audit);
    let mut methods = Vec::new();
    for line in lines {
        let Line::Entry(entry) = line else { panic!("one head") };
        let entry = entry.decode().expect("an entry");
        chain = audit_chain::link(&chain, &entry);
        assert_eq!(entry.chain, chain.as_slice(), "{entry:?}");
        if entry.principal == principal {
            methods.push(entry.method.rsplit('/').next().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(head.chain, chain.as_slice());
    methods
}
