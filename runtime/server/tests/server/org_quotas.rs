//! What an org may have at most: each limit is reached, named, and holds for
//! that org alone.

use crate::harness::{Caller, Server, incompressible, message};
use canopy_actors::LEASE_BYTES;
use canopy_domain::{Address, Role, Wire};
use canopy_proto::chat::v1::{
    DeleteChannelRequest, DeleteMessageRequest, ListMessagesRequest, Message, SendMessageRequest,
};
use canopy_proto::ops::v1::{ObserveRequest, TreeNode};
use canopy_proto::org::v1::{
    AcceptInvitationRequest, CreateInvitationRequest, DeleteProjectRequest, GetOrgRequest, GetQuotaRequest, Grant,
    GrantRoleRequest, Invitation, LeaveOrgRequest, ListGrantsRequest, Project, Quota, QuotaUse, RevokeRoleRequest,
    SetQuotaRequest, UndeleteProjectRequest, UpdateProjectRequest,
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

fn bytes(org: &str, bytes_max: i64) -> Quota {
    Quota { org: org.into(), bytes_max: Some(bytes_max), ..Quota::default() }
}

/// Sends a large message.
async fn send(by: &Caller, channel: &str) -> Result<Message, Status> {
    let text = incompressible(TEXT_BYTES);
    Ok(by.chat().send_message(message(channel, &text)).await?.into_inner().decode().expect("a message"))
}

/// An org with a channel: both names.
async fn channel(by: &Caller, slug: &str) -> (String, String) {
    let org = by.create_org(slug).await.name;
    let project = by.create_project(&org, "web").await.name;
    let channel = by.create_channel(&project, "general").await;
    (org, channel)
}

/// Of a large message, and how many of them take more than a lease for sure.
const TEXT_BYTES: usize = 15_000;
const MESSAGES_MAX: usize = 1_000;

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
async fn without_bytes_an_org_reads_and_makes_room_and_others_write() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let (org, general) = channel(&ada, "acme").await;
    let (_, elsewhere) = channel(&ada, "umbrella").await;
    let sent = send(&ada, &general).await.expect("without a limit");
    assert_eq!(shown(&ada, &org).await.2.leased_bytes, 0, "nobody counts where there is no limit");
    let once = SendMessageRequest { request_id: "once".into(), ..message(&general, "once") };
    let first = ada.chat().send_message(once.clone()).await.expect("without a limit").into_inner();

    // Far below what there is: nothing goes, and nothing comes.
    set(&root, bytes(&org, 1), &[]).await.expect("it is set");
    check_named(&send(&ada, &general).await.expect_err("no more"), &org, "bytes_max", 1);
    let request = UpdateProjectRequest {
        project: Some(Wire::new(&Project {
            name: format!("{org}/project/web"),
            title: "Web".into(),
            ..Project::default()
        })),
        ..UpdateProjectRequest::default()
    };
    check_named(&ada.projects().update_project(request).await.expect_err("a module of any"), &org, "bytes_max", 1);
    let again = ada.chat().send_message(once.clone()).await.expect("it was done").into_inner();
    assert_eq!(again, first, "a repeat is told the first answer");
    let fresh = SendMessageRequest { request_id: "fresh".into(), ..once };
    check_named(&ada.chat().send_message(fresh).await.expect_err("no more"), &org, "bytes_max", 1);
    let present = shown(&ada, &org).await.2;
    assert!(present.bytes > 1 && present.leased_bytes == 0, "{present:?}");
    let request = ListMessagesRequest { parent: general.clone(), ..ListMessagesRequest::default() };
    let listed = ada.chat().list_messages(request).await.expect("reading takes nothing").into_inner();
    assert_eq!(listed.messages.len(), 2);
    send(&ada, &elsewhere).await.expect("another org");

    // What makes room, or gets an org out of trouble, is done.
    let request = DeleteMessageRequest { name: sent.name, ..DeleteMessageRequest::default() };
    ada.chat().delete_message(request).await.expect("it makes room");
    let request = DeleteChannelRequest { name: general, ..DeleteChannelRequest::default() };
    ada.chat().delete_channel(request).await.expect("it makes room");
    ada.delete_project("org/acme/project/web").await;

    // A limit that is raised holds at once.
    set(&root, bytes(&org, 0), &[]).await.expect("it is lifted");
    let project = ada.create_project(&org, "more").await.name;
    let general = ada.create_channel(&project, "general").await;
    set(&root, bytes(&org, 1 << 40), &[]).await.expect("it is raised");
    send(&ada, &general).await.expect("there is room");
    let present = shown(&ada, &org).await.2;
    assert_eq!(present.leased_bytes, LEASE_BYTES);
    let request = ObserveRequest { depth: 16, children_max: 1_000 };
    let tree = root.ops().observe(request).await.expect("a tree").into_inner().root.expect("a tree");
    let state = state_of(&tree, &org).expect("the org's actor");
    assert_eq!(state, format!("has leased {LEASE_BYTES} of its {} bytes", 1_i64 << 40));

    // One lease after another, and nobody is refused for want of the next.
    for _ in 0..3 {
        for sent in many_sent(&ada, &general).await {
            sent.expect("there is room");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_fills_its_bytes_and_overruns_them_by_no_lease() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let (org, general) = channel(&ada, "acme").await;
    set(&root, bytes(&org, 1 << 40), &[]).await.expect("it is set");
    send(&ada, &general).await.expect("there is room");
    let address = Address::parse(&org).expect("an address");
    let on_disk = async || {
        let bytes = server.running.node.store().org_bytes(&address).await.expect("a count");
        i64::try_from(bytes).expect("a number")
    };
    let bytes_max = on_disk().await + LEASE_BYTES;
    set(&root, bytes(&org, bytes_max), &[]).await.expect("it is set");
    let mut refused = None;
    for _ in 0..MESSAGES_MAX / 10 {
        let tries = join_all((0..10).map(|_| send(&ada, &general))).await;
        refused = tries.into_iter().find_map(Result::err);
        if refused.is_some() {
            break;
        }
    }
    check_named(&refused.expect("it is full"), &org, "bytes_max", bytes_max);
    let used = on_disk().await;
    assert!(used <= bytes_max + LEASE_BYTES, "{used} of {bytes_max}");
    assert!(used >= bytes_max - LEASE_BYTES / 2, "{used} of {bytes_max}: it was refused too early");

    // After a restart it is as full as it was.
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let refused = many_sent(&ada, &general).await.into_iter().find_map(Result::err).expect("it is full still");
    check_named(&refused, &org, "bytes_max", bytes_max);
    server.stop().await;
}

/// What an actor says of itself.
fn state_of(tree: &TreeNode, id: &str) -> Option<String> {
    let below = || tree.children.iter().find_map(|child| state_of(child, id));
    if tree.id == id { Some(tree.state.clone()) } else { below() }
}

/// As much as a lease at once, for what is sent stands in the feed as well.
async fn many_sent(by: &Caller, channel: &str) -> Vec<Result<Message, Status>> {
    let count = usize::try_from(LEASE_BYTES).expect("a number") / TEXT_BYTES / 2;
    join_all((0..count).map(|_| send(by, channel))).await
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
