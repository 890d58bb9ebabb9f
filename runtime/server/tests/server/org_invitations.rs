//! Invitations: by mail and by link, bounded in time and number, and never more
//! than who made them holds.

use std::collections::BTreeSet;

use crate::harness::mailbox::letter_in;
use crate::harness::{Caller, PASSWORD, Server};
use canopy_actors::now_ms;
use canopy_config::{MailMode, SignUp};
use canopy_domain::{Role, Wire};
use canopy_proto::identity::v1::{Account, RegisterRequest, VerifyEmailRequest};
use canopy_proto::org::v1::{
    AcceptInvitationRequest, ArchiveOrgRequest, ArchiveProjectRequest, CreateInvitationRequest, DeleteProjectRequest,
    GetInvitationRequest, GetInvitationResponse, Grant, Invitation, ListGrantsRequest, ListInvitationsRequest,
    ListOrgsRequest, RevokeInvitationRequest, RevokeRoleRequest, UnarchiveOrgRequest, UnarchiveProjectRequest,
};
use futures::future::join_all;
use tonic::{Code, Status};

async fn invite(by: &Caller, parent: &str, invitation: Invitation) -> Result<(Invitation, String), Status> {
    let request = CreateInvitationRequest {
        parent: parent.into(),
        invitation: Some(Wire::new(&invitation)),
        request_id: String::new(),
    };
    let created = by.invitations().create_invitation(request).await?.into_inner();
    Ok((created.invitation.expect("an invitation").decode().expect("an invitation"), created.token))
}

fn link(role: Role, uses_max: i32) -> Invitation {
    Invitation { role: role.into(), uses_max, ..Invitation::default() }
}

fn mailed(role: Role, email: &str) -> Invitation {
    Invitation { role: role.into(), email: email.into(), ..Invitation::default() }
}

async fn accept(by: &Caller, token: &str) -> Result<Grant, Status> {
    let request = AcceptInvitationRequest { token: token.into(), request_id: String::new() };
    Ok(by.invitations().accept_invitation(request).await?.into_inner().decode().expect("a grant"))
}

async fn show(by: &Caller, token: &str) -> Result<GetInvitationResponse, Status> {
    let request = GetInvitationRequest { token: token.into() };
    Ok(by.invitations().get_invitation(request).await?.into_inner())
}

async fn listed(by: &Caller, parent: &str) -> Vec<Invitation> {
    let request = ListInvitationsRequest { parent: parent.into(), ..ListInvitationsRequest::default() };
    let listed = by.invitations().list_invitations(request).await.expect("a list").into_inner();
    listed.invitations.iter().map(|row| row.decode().expect("an invitation")).collect()
}

async fn revoke_role(by: &Caller, account: &str, on: &str, role: Role) {
    let grant = Grant { account: account.into(), on: on.into(), role: role.into(), ..Grant::default() };
    let request = RevokeRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    by.orgs().revoke_role(request).await.expect("it goes");
}

async fn verify(by: &Caller, token: &str) {
    let request = VerifyEmailRequest { token: token.into(), request_id: String::new() };
    by.verification().verify_email(request).await.expect("it is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_lets_so_many_in_and_shows_to_what() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let (invitation, token) = invite(&ada, "org/acme/project/web", link(Role::ProjectUser, 2)).await.expect("a link");
    assert!(invitation.name.starts_with(&format!("{project}/invitation/")), "{}", invitation.name);
    assert!(token.starts_with(&format!("{}/", invitation.name)));
    assert_eq!((invitation.uses_max, invitation.uses, invitation.inviter.as_str()), (2, 0, ada.account.as_str()));

    let nobody = server.nobody().await;
    let shown = show(&nobody, &token).await.expect("anybody with the token may see");
    assert_eq!((shown.org_title.as_str(), shown.project_title.as_str()), ("acme", "web"));
    assert_eq!((shown.on.as_str(), shown.role(), shown.by_mail), (project.as_str(), Role::ProjectUser, false));
    assert_eq!(shown.inviter_name, "ada@example.org");

    let bob = server.person("bob@example.org").await;
    let eve = server.person("eve@example.org").await;
    let carl = server.person("carl@example.org").await;
    let grant = accept(&bob, &token).await.expect("the first");
    assert_eq!(
        (grant.account.as_str(), grant.role(), grant.on.as_str()),
        (bob.account.as_str(), Role::ProjectUser, project.as_str())
    );
    assert_eq!(grant.granted_by, ada.account);
    accept(&bob, &token).await.expect("who has it already takes no place");
    accept(&eve, &token).await.expect("the second");
    assert_eq!(accept(&carl, &token).await.expect_err("used up").code(), Code::NotFound);
    assert_eq!(show(&nobody, &token).await.expect_err("used up").code(), Code::NotFound);
    // The role is there once it is answered.
    let orgs = bob.orgs().list_orgs(ListOrgsRequest::default()).await.expect("a list").into_inner().orgs;
    assert_eq!(orgs.len(), 1);
    assert_eq!(listed(&ada, &project).await[0].uses, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_who_race_for_one_place_one_gets_it() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let emails: Vec<_> = (0..100).map(|n| format!("person-{n}@example.org")).collect();
    let people = join_all(emails.iter().map(|email| server.person(email))).await;
    let (_, token) = invite(&ada, &org, link(Role::ProjectUser, 1)).await.expect("a link");
    let tries = join_all(people.iter().map(|person| accept(person, &token))).await;
    let won: Vec<_> = tries.iter().filter_map(|tried| tried.as_ref().ok()).collect();
    assert_eq!(won.len(), 1);
    let codes: BTreeSet<_> = tries.iter().filter_map(|tried| tried.as_ref().err()).map(|e| e.code() as i32).collect();
    assert_eq!(codes, BTreeSet::from([Code::NotFound as i32]));
    let request = ListGrantsRequest { parent: org, page_size: 1_000, ..ListGrantsRequest::default() };
    let grants = ada.orgs().list_grants(request).await.expect("a list").into_inner().grants;
    assert_eq!(grants.len(), 2, "the org-admin and one more");

    // A repeat by whoever won is the same grant.
    let winner = people.iter().find(|person| person.account == won[0].account).expect("one of them");
    for _ in 0..2 {
        let request = AcceptInvitationRequest { token: token.clone(), request_id: "again".into() };
        assert!(winner.invitations().accept_invitation(request).await.is_err(), "it is used up for them, too");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailed_invitation_is_for_the_address_and_nobody_else() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let (invitation, token) = invite(&ada, &org, mailed(Role::Guest, "Bob@example.org")).await.expect("a letter");
    assert!(token.is_empty(), "it is in the letter alone");
    let dir = server.config.mail_dir();
    let letter = letter_in(&dir, "Bob@example.org", 0).await;
    assert_eq!(letter.header("Subject"), "ada@example.org invites you to acme");
    let token = letter.token();
    assert!(letter.body.contains("canopy org accept-invitation"), "{}", letter.body);

    let eve = server.person("eve@example.org").await;
    verify(&eve, &letter_in(&dir, "eve@example.org", 0).await.token()).await;
    assert_eq!(accept(&eve, &token).await.expect_err("not hers").code(), Code::PermissionDenied);
    let bob = server.person("bob@example.org").await;
    assert_eq!(accept(&bob, &token).await.expect_err("not verified").code(), Code::FailedPrecondition);
    verify(&bob, &letter_in(&dir, "bob@example.org", 0).await.token()).await;
    accept(&bob, &token).await.expect("it is his");
    assert_eq!(listed(&ada, &org).await, [Invitation { uses: 1, ..invitation }]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_more_than_they_hold_nor_for_longer() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let bob = server.person("bob@example.org").await;
    ada.grant(&bob.account, &project, Role::ProjectAdmin).await;
    for (parent, role, code) in [
        (&project, Role::OrgAdmin, Code::InvalidArgument),
        (&project, Role::SysAdmin, Code::InvalidArgument),
        (&org, Role::Guest, Code::NotFound),
    ] {
        let status = invite(&bob, parent, link(role, 1)).await.expect_err("more than he holds");
        assert_eq!(status.code(), code, "{role:?} at {parent}");
    }
    let far = now_ms() + 31 * 86_400_000;
    for wrong in [
        Invitation { expire_time_ms: 1, ..link(Role::Guest, 1) },
        Invitation { expire_time_ms: far, ..link(Role::Guest, 1) },
        link(Role::Guest, 1_001),
        link(Role::Guest, -1),
        link(Role::Unspecified, 1),
        Invitation { uses_max: 2, ..mailed(Role::Guest, "carl@example.org") },
        mailed(Role::Guest, "no address"),
        mailed(Role::Guest, "a@b\r\nBcc: c@d"),
    ] {
        let status = invite(&bob, &project, wrong.clone()).await.expect_err("wrong");
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong:?}");
    }

    // What he gave goes with what he held.
    let (_, token) = invite(&bob, &project, link(Role::ProjectAdmin, 5)).await.expect("as much as he holds");
    let carl = server.person("carl@example.org").await;
    accept(&carl, &token).await.expect("it is good");
    revoke_role(&ada, &bob.account, &project, Role::ProjectAdmin).await;
    let eve = server.person("eve@example.org").await;
    assert_eq!(accept(&eve, &token).await.expect_err("no longer").code(), Code::NotFound);
    assert_eq!(show(&eve, &token).await.expect_err("no longer").code(), Code::NotFound);

    // As does what it is to, and what is taken back.
    let (first, token) = invite(&ada, &project, link(Role::Guest, 5)).await.expect("a link");
    let (_, other) = invite(&ada, &project, link(Role::Guest, 5)).await.expect("a link");
    let revoke = RevokeInvitationRequest { name: first.name.clone(), request_id: String::new() };
    ada.invitations().revoke_invitation(revoke.clone()).await.expect("it is taken back");
    assert_eq!(accept(&eve, &token).await.expect_err("taken back").code(), Code::NotFound);
    assert_eq!(ada.invitations().revoke_invitation(revoke).await.expect_err("it is gone").code(), Code::NotFound);
    assert!(listed(&ada, &org).await.iter().all(|invitation| invitation.name != first.name));
    show(&eve, &other).await.expect("it is still good");
    for wrong in [&other[..other.len() - 1], &format!("{other}0"), &other.replace("/invitation/", "/x/")] {
        assert!(matches!(show(&eve, wrong).await.expect_err(wrong).code(), Code::NotFound | Code::InvalidArgument));
    }
    let delete = DeleteProjectRequest { name: project.clone(), ..DeleteProjectRequest::default() };
    ada.projects().delete_project(delete).await.expect("the project goes");
    assert_eq!(accept(&eve, &other).await.expect_err("to nothing").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_opens_a_closed_server_to_one_person() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let (_, token) = invite(&ada, &org, link(Role::Guest, 1)).await.expect("a link");
    invite(&ada, &org, mailed(Role::Guest, "bob@example.org")).await.expect("a letter");
    let of_bob = letter_in(&server.config.mail_dir(), "bob@example.org", 0).await.token();
    let server = server.restart_with(|config| config.identity.sign_up = SignUp::Closed).await;
    let nobody = server.nobody().await;
    let register = async |email: &str, token: &str| {
        let account = Account { email: email.into(), ..Account::default() };
        let request = RegisterRequest {
            account: Some(Wire::new(&account)),
            password: PASSWORD.into(),
            sign_up_token: token.into(),
            request_id: String::new(),
        };
        nobody.identity().register(request).await.map(drop)
    };
    for wrong in ["", "x", &token[..token.len() - 1], server.running.sign_up_token.expose()] {
        assert!(register("carl@example.org", wrong).await.is_err(), "{wrong}");
    }
    assert_eq!(register("eve@example.org", &of_bob).await.expect_err("not hers").code(), Code::PermissionDenied);
    register("bob@example.org", &of_bob).await.expect("his");
    register("carl@example.org", &token).await.expect("whoever has the link");
    let carl = server.log_in("carl@example.org").await;
    accept(&carl, &token).await.expect("and is let in");
    assert_eq!(register("dora@example.org", &token).await.expect_err("used up").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_mail_there_are_links() {
    let server = Server::start_with(|config| config.mail.mode = MailMode::None).await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let status = invite(&ada, &org, mailed(Role::Guest, "bob@example.org")).await.expect_err("no mail");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let (_, token) = invite(&ada, &org, link(Role::Guest, 0)).await.expect("a link");
    let bob = server.person("bob@example.org").await;
    accept(&bob, &token).await.expect("it is good");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_has_so_many_invitations() {
    const INVITATIONS_MAX: usize = 1_000;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let (first, token) = invite(&ada, &org, link(Role::Guest, 1)).await.expect("a link");
    for _ in 0..9 {
        let made = join_all((0..111).map(|_| invite(&ada, &org, link(Role::Guest, 1)))).await;
        assert!(made.iter().all(Result::is_ok));
    }
    assert_eq!(listed(&ada, &org).await.len(), 50, "a page of them");
    let status = invite(&ada, &org, link(Role::Guest, 1)).await.expect_err("one more than INVITATIONS_MAX");
    assert_eq!(status.code(), Code::ResourceExhausted, "{INVITATIONS_MAX}");
    // Those that are of no use any more make room.
    let bob = server.person("bob@example.org").await;
    accept(&bob, &token).await.expect("it is good");
    invite(&ada, &org, link(Role::Guest, 1)).await.expect("there is room again");
    let request = RevokeInvitationRequest { name: first.name, request_id: String::new() };
    assert_eq!(ada.invitations().revoke_invitation(request).await.expect_err("it is gone").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_an_archived_project() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let (_, token) = invite(&ada, &project, link(Role::Guest, 1)).await.expect("a link");
    let archive = ArchiveProjectRequest { name: project.clone(), ..ArchiveProjectRequest::default() };
    ada.projects().archive_project(archive).await.expect("it is archived");
    let refused = accept(&bob, &token).await.expect_err("it is read-only");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let unarchive = UnarchiveProjectRequest { name: project.clone(), ..UnarchiveProjectRequest::default() };
    ada.projects().unarchive_project(unarchive).await.expect("it is not any more");
    assert_eq!(accept(&bob, &token).await.expect("a grant").on, project);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_an_archived_org() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let (_, token) = invite(&ada, &org, link(Role::Guest, 1)).await.expect("a link");
    let archive = ArchiveOrgRequest { name: org.clone(), ..ArchiveOrgRequest::default() };
    ada.orgs().archive_org(archive).await.expect("it is archived");
    let refused = accept(&bob, &token).await.expect_err("it is read-only");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let unarchive = UnarchiveOrgRequest { name: org.clone(), ..UnarchiveOrgRequest::default() };
    ada.orgs().unarchive_org(unarchive).await.expect("it is not any more");
    assert_eq!(accept(&bob, &token).await.expect("a grant").on, org);
    server.stop().await;
}
