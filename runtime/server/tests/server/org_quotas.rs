//! What an org may have at most: each limit is reached, named, and holds for
//! that org alone.

use crate::harness::{Caller, Server};
use canopy_domain::{Role, Wire};
use canopy_proto::org::v1::{
    AcceptInvitationRequest, CreateInvitationRequest, DeleteProjectRequest, GetOrgRequest, GetQuotaRequest, Grant,
    GrantRoleRequest, Invitation, LeaveOrgRequest, ListGrantsRequest, Quota, QuotaUse, RevokeRoleRequest,
    SetQuotaRequest, UndeleteProjectRequest,
};
use futures::future::join_all;
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn set(by: &Caller, quota: Quota, mask: &[&str]) -> Result<Quota, Status> {
    let paths = mask.iter().map(ToString::to_string).collect::<Vec<_>>();
    let request = SetQuotaRequest {
        quota: Some(Wire::new(&quota)),
        update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        request_id: String::new(),
    };
    Ok(by.quotas().set_quota(request).await?.into_inner().decode().expect("a quota"))
}

fn people(org: &str, people_max: i64) -> Quota {
    Quota { org: org.into(), people_max: Some(people_max), ..Quota::default() }
}

/// What was set, what holds, and what there is.
async fn shown(by: &Caller, org: &str) -> (Quota, Quota, QuotaUse) {
    let request = GetQuotaRequest { name: org.into() };
    let shown = by.quotas().get_quota(request).await.expect("a quota").into_inner();
    let decoded = |quota: Option<Wire<Quota>>| quota.expect("a quota").decode().expect("a quota");
    (decoded(shown.quota), decoded(shown.limits), shown.r#use.expect("the use"))
}

async fn grant(by: &Caller, account: &str, on: &str) -> Result<(), Status> {
    let grant = Grant { account: account.into(), on: on.into(), role: Role::ProjectUser.into(), ..Grant::default() };
    by.orgs().grant_role(GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() }).await?;
    Ok(())
}

async fn revoke(by: &Caller, account: &str, on: &str) {
    let grant = Grant { account: account.into(), on: on.into(), role: Role::ProjectUser.into(), ..Grant::default() };
    let request = RevokeRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    by.orgs().revoke_role(request).await.expect("it goes");
}

async fn link(by: &Caller, parent: &str, uses_max: i32) -> String {
    let invitation = Invitation { role: Role::ProjectUser.into(), uses_max, ..Invitation::default() };
    let request = CreateInvitationRequest {
        parent: parent.into(),
        invitation: Some(Wire::new(&invitation)),
        request_id: String::new(),
    };
    by.invitations().create_invitation(request).await.expect("a link").into_inner().token
}

async fn accept(by: &Caller, token: &str) -> Result<(), Status> {
    let request = AcceptInvitationRequest { token: token.into(), request_id: String::new() };
    by.invitations().accept_invitation(request).await.map(drop)
}

fn requests(org: &str, per_s: i64) -> Quota {
    Quota { org: org.into(), requests_per_s_max: Some(per_s), ..Quota::default() }
}

/// Calls at once: many enough that they do not fit into as many seconds.
const CALLS: usize = 60;

/// What many calls at once come to.
async fn many(by: &Caller, org: &str) -> Vec<Result<(), Status>> {
    let call = || async { by.orgs().get_org(GetOrgRequest { name: org.into() }).await.map(drop) };
    join_all((0..CALLS).map(|_| call())).await
}

/// That a refusal names the org, the limit, its value, and what to do.
#[track_caller]
fn check_named(status: &Status, org: &str, limit: &str, max: i64) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    let failure = details.quota_failure().expect("the quota");
    let violation = failure.violations.first().expect("which one");
    assert_eq!(violation.subject, org);
    assert!(violation.description.starts_with(&format!("{limit} is {max}: ")), "{}", violation.description);
    let hint = details.error_info().expect("a reason").metadata["hint"].clone();
    assert!(hint.contains("canopy org set-quota"), "{hint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_takes_so_many_people_and_others_are_not_affected() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let (bob, eve) = (server.person("bob@example.org").await, server.person("eve@example.org").await);
    let org = ada.create_org("acme").await.name;
    let other = ada.create_org("umbrella").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let (quota, limits, present) = shown(&ada, "org/acme").await;
    assert_eq!((quota.people_max, limits.people_max, present.people), (None, Some(0), 1));

    set(&root, people("org/acme", 2), &[]).await.expect("it is set");
    // An invitation takes no place, and accepting one does, at a project too.
    let token = link(&ada, &project, 5).await;
    accept(&bob, &token).await.expect("the second");
    check_named(&accept(&eve, &token).await.expect_err("a third"), &org, "people_max", 2);
    check_named(&grant(&ada, &eve.account, &org).await.expect_err("a third"), &org, "people_max", 2);
    // A further role of somebody who is there takes none.
    grant(&ada, &bob.account, &org).await.expect("he is one of the two");
    assert_eq!(shown(&ada, &org).await.2.people, 2);

    // The other org has no limit.
    grant(&ada, &eve.account, &other).await.expect("another org");
    assert_eq!(shown(&ada, &other).await.1.people_max, Some(0));

    // Who holds another role keeps the place; who leaves gives it up.
    revoke(&ada, &bob.account, &org).await;
    check_named(&accept(&eve, &token).await.expect_err("still"), &org, "people_max", 2);
    let leave = LeaveOrgRequest { name: org.clone(), request_id: String::new() };
    bob.orgs().leave_org(leave).await.expect("he leaves");
    accept(&eve, &token).await.expect("there is a place");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_who_race_for_the_last_place_one_gets_it() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let emails: Vec<_> = (0..20).map(|n| format!("person-{n}@example.org")).collect();
    let people_of = join_all(emails.iter().map(|email| server.person(email))).await;
    set(&root, people(&org, 2), &[]).await.expect("it is set");
    let token = link(&ada, &org, 20).await;
    // Half of them accept, half of them are granted a role.
    let tries = join_all(people_of.iter().enumerate().map(|(n, person)| {
        let (ada, org, token) = (&ada, &org, &token);
        async move {
            match n % 2 {
                0 => accept(person, token).await,
                _ => grant(ada, &person.account, org).await,
            }
        }
    }))
    .await;
    assert_eq!(tries.iter().filter(|tried| tried.is_ok()).count(), 1);
    tries.iter().filter_map(|tried| tried.as_ref().err()).for_each(|e| check_named(e, &org, "people_max", 2));
    let request = ListGrantsRequest { parent: org.clone(), page_size: 1_000, ..ListGrantsRequest::default() };
    let grants = ada.orgs().list_grants(request).await.expect("a list").into_inner().grants;
    assert_eq!(grants.len(), 2, "the org-admin and one more");
    assert_eq!(shown(&ada, &org).await.2.people, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_what_there_is_takes_nothing_away() {
    let server = Server::start_with(|config| config.org.people_max = 3).await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let people_of = join_all((0..4).map(|n| {
        let email = format!("person-{n}@example.org");
        let server = &server;
        async move { server.person(&email).await }
    }))
    .await;
    let org = ada.create_org("acme").await.name;
    for person in &people_of[..2] {
        grant(&ada, &person.account, &org).await.expect("a place");
    }
    // The installation's limit holds where the org has none of its own.
    check_named(&grant(&ada, &people_of[2].account, &org).await.expect_err("a fourth"), &org, "people_max", 3);
    let lowered = set(&root, people(&org, 1), &[]).await.expect("below what there is");
    assert_eq!(shown(&ada, &org).await.2.people, 3, "nobody is sent away");
    check_named(&grant(&ada, &people_of[2].account, &org).await.expect_err("more"), &org, "people_max", 1);
    revoke(&ada, &people_of[0].account, &org).await;
    check_named(&grant(&ada, &people_of[2].account, &org).await.expect_err("still more"), &org, "people_max", 1);

    // A change is refused to who has not seen the last one.
    let stale = Quota { etag: "1".into(), ..people(&org, 9) };
    assert_eq!(set(&root, stale, &[]).await.expect_err("stale").code(), Code::Aborted);
    let fresh = Quota { etag: lowered.etag, ..people(&org, 0) };
    let lifted = set(&root, fresh, &["people_max"]).await.expect("fresh");
    assert_eq!(lifted.people_max, Some(0));
    for person in &people_of {
        grant(&ada, &person.account, &org).await.expect("without a limit");
    }
    // What is named and not set is the installation's again.
    let unset = Quota { org: org.clone(), ..Quota::default() };
    assert_eq!(set(&root, unset.clone(), &[]).await.expect("nothing is named").people_max, Some(0));
    assert_eq!(set(&root, unset, &["people_max"]).await.expect("it is named").people_max, None);
    assert_eq!(shown(&ada, &org).await.1.people_max, Some(3));
    let refused = set(&root, people(&org, 1), &["org"]).await.expect_err("it cannot change");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = set(&root, people(&org, -1), &[]).await.expect_err("less than none");
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_a_deleted_project_keep_their_places() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let (bob, eve) = (server.person("bob@example.org").await, server.person("eve@example.org").await);
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    set(&root, people(&org, 2), &[]).await.expect("it is set");
    grant(&ada, &bob.account, &project).await.expect("the second");
    let request = DeleteProjectRequest { name: project.clone(), ..DeleteProjectRequest::default() };
    ada.projects().delete_project(request).await.expect("it is hidden");
    check_named(&grant(&ada, &eve.account, &org).await.expect_err("he may come back"), &org, "people_max", 2);
    let request = UndeleteProjectRequest { name: project.clone(), ..UndeleteProjectRequest::default() };
    ada.projects().undelete_project(request).await.expect("it is back");
    assert_eq!(shown(&ada, &org).await.2.people, 2);

    // A sys-admin makes a project of a full org, and takes no place in it.
    let made = root.create_project(&org, "more").await;
    let request = ListGrantsRequest { parent: made.name, ..ListGrantsRequest::default() };
    assert!(ada.orgs().list_grants(request).await.expect("a list").into_inner().grants.is_empty());
    assert_eq!(shown(&ada, &org).await.2.people, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_a_second_are_limited_at_once_and_for_one_org_alone() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let other = ada.create_org("umbrella").await.name;
    assert!(many(&ada, &org).await.iter().all(Result::is_ok), "without a limit");

    set(&root, requests(&org, 1), &[]).await.expect("it is set");
    let tried = many(&ada, &org).await;
    let refused: Vec<_> = tried.iter().filter_map(|tried| tried.as_ref().err()).collect();
    assert!(!refused.is_empty(), "one a second, and {CALLS} came at once");
    for status in refused {
        check_named(status, &org, "requests_per_s_max", 1);
        assert!(status.get_error_details().retry_info().is_some(), "it says when to try again");
    }
    assert!(many(&ada, &other).await.iter().all(Result::is_ok), "another org has no limit");

    // A sys-admin is not held up by the limit that they raise.
    for per_s in [2, 1, 0] {
        set(&root, requests(&org, per_s), &[]).await.expect("it is set");
    }
    assert!(many(&ada, &org).await.iter().all(Result::is_ok), "without a limit again");
    assert_eq!(shown(&ada, &org).await.1.requests_per_s_max, Some(0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_may_have_more_calls_a_second_than_all_others() {
    let server = Server::start_with(|config| config.admission.per_org_requests_per_s_max = 10).await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let other = ada.create_org("umbrella").await.name;
    set(&root, requests(&org, 0), &[]).await.expect("it is set");

    // So it is after a restart.
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert!(many(&ada, &org).await.iter().all(Result::is_ok), "no limit of its own");
    let refused = many(&ada, &other).await.into_iter().find_map(Result::err).expect("ten a second");
    check_named(&refused, &other, "requests_per_s_max", 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_people_outlive_a_restart() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    set(&root, people(&org, 1), &[]).await.expect("it is set");
    let before = shown(&ada, &org).await;

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(shown(&ada, &org).await, before);
    check_named(&grant(&ada, &bob.account, &org).await.expect_err("a second"), &org, "people_max", 1);
    server.stop().await;
}
