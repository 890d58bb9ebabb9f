//! Orgs and projects that are archived, deleted, brought back, and purged:
//! then nothing gives anything of them back.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use canopy_actors::Node;
use canopy_domain::{Address, Role, Wire};
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, GetMessageRequest, SubscribeRequest};
use canopy_proto::methods::wakes;
use canopy_proto::org::v1::{
    ArchiveOrgRequest, ArchiveProjectRequest, CreateOrgRequest, GetOrgRequest, GetProjectRequest,
    GetShredCertificateRequest, ListOrgsRequest, ListProjectsRequest, ListShredCertificatesRequest, Org,
    PurgeOrgRequest, PurgeProjectRequest, ShredCertificate, UnarchiveOrgRequest, UnarchiveProjectRequest,
    UndeleteOrgRequest, UndeleteProjectRequest,
};
use canopy_proto::system::v1::{ListWakesRequest, ListWakesResponse};
use canopy_proto::{Access, Reach, Requirement, rules};
use prost::Message;
use tonic::{Code, Status};

use crate::harness::requests::{Target, request};
use crate::harness::{Caller, Server};

/// For what should take a moment: it fails a hung test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until a condition holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let mut look = tokio::time::interval(LOOK);
    let looking = async {
        while !holds().await {
            look.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what} in time"));
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("it is refused").code()
}

async fn get_org(caller: &Caller, name: &str) -> Result<Org, Status> {
    let found = caller.orgs().get_org(GetOrgRequest { name: name.into() }).await?;
    Ok(found.into_inner().decode().expect("an org"))
}

/// Slugs of the orgs that somebody is shown.
async fn orgs(caller: &Caller, show_deleted: bool) -> BTreeSet<String> {
    let request = ListOrgsRequest { show_deleted, ..ListOrgsRequest::default() };
    let listed = caller.orgs().list_orgs(request).await.expect("a list").into_inner().orgs;
    listed.iter().map(|org| org.decode().expect("an org").slug).collect()
}

/// Slugs of the projects that somebody is shown.
async fn projects(caller: &Caller, org: &str, show_deleted: bool) -> BTreeSet<String> {
    let request = ListProjectsRequest { parent: org.into(), show_deleted, ..ListProjectsRequest::default() };
    let listed = caller.projects().list_projects(request).await.expect("a list").into_inner().projects;
    listed.iter().map(|project| project.decode().expect("a project").slug).collect()
}

fn slugs<const N: usize>(slugs: [&str; N]) -> BTreeSet<String> {
    slugs.map(String::from).into()
}

async fn undelete_org(caller: &Caller, name: &str) -> Result<Org, Status> {
    let request = UndeleteOrgRequest { name: name.into(), ..UndeleteOrgRequest::default() };
    Ok(caller.orgs().undelete_org(request).await?.into_inner().decode().expect("an org"))
}

async fn purge_org(caller: &Caller, name: &str, etag: &str, request_id: &str) -> Result<ShredCertificate, Status> {
    let request = PurgeOrgRequest { name: name.into(), etag: etag.into(), request_id: request_id.into() };
    Ok(caller.orgs().purge_org(request).await?.into_inner().decode().expect("a certificate"))
}

pub(crate) async fn certificate(caller: &Caller, name: &str) -> Result<ShredCertificate, Status> {
    let request = GetShredCertificateRequest { name: name.into() };
    Ok(caller.orgs().get_shred_certificate(request).await?.into_inner().decode().expect("a certificate"))
}

/// The certificate, once the keys are destroyed.
pub(crate) async fn shredded(caller: &Caller, name: &str) -> ShredCertificate {
    let is_done = async |found: Result<ShredCertificate, Status>| found.is_ok_and(|found| found.shred_time_ms > 0);
    until("the keys are destroyed", async || is_done(certificate(caller, name).await).await).await;
    certificate(caller, name).await.expect("a certificate")
}

/// Addresses with a wake-up that start so.
async fn wakes(node: &Node, prefix: &str) -> Vec<String> {
    let wakes_of = Address::system("wakes");
    let request = ListWakesRequest { until_ms: i64::MAX, limit: 1000 }.encode_to_vec().into();
    let answer = node.ask(&wakes_of, wakes::LIST_WAKES.path, request, &wakes_of, "").await.expect("a list");
    let due = ListWakesResponse::decode(answer).expect("a list").wakes;
    due.into_iter().map(|wake| wake.address).filter(|address| address.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_org_comes_back_as_it_was() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let eve = server.person("eve@example.org").await;
    let org = ada.create_org("acme").await;
    let project = ada.create_project(&org.name, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let said = ada.send(&channel, "hello").await.name;
    ada.grant(&bob.account, &project, Role::ProjectUser).await;
    ada.grant(&eve.account, &org.name, Role::ProjectAdmin).await;

    let deleted = ada.delete_org("org/acme").await;
    assert_eq!(deleted.purge_time_ms - deleted.delete_time_ms, 30 * 24 * 3_600_000, "the default grace");
    for other in [&bob, &eve] {
        assert_eq!(code(get_org(other, &org.name).await), Code::NotFound);
        assert_eq!((orgs(other, false).await, orgs(other, true).await), (slugs([]), slugs([])));
        assert_eq!(code(undelete_org(other, &org.name).await), Code::NotFound);
    }
    assert_eq!(get_org(&ada, "org/acme").await.expect("an org-admin sees it"), deleted);
    assert_eq!((orgs(&ada, false).await, orgs(&ada, true).await), (slugs([]), slugs(["acme"])));
    let refused = ada.chat().get_message(GetMessageRequest { name: said.clone() }).await.expect_err("it is deleted");
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let bob = server.log_in("bob@example.org").await;
    let eve = server.log_in("eve@example.org").await;
    let request = UndeleteOrgRequest { name: org.name.clone(), etag: org.etag.clone(), ..Default::default() };
    assert_eq!(code(ada.orgs().undelete_org(request).await), Code::Aborted, "with an etag of before");
    let back = undelete_org(&ada, "org/acme").await.expect("it comes back");
    assert_eq!((back.delete_time_ms, back.purge_time_ms), (0, 0));
    assert_eq!(undelete_org(&ada, "org/acme").await.expect("it lives"), back);
    for caller in [&ada, &bob, &eve] {
        assert_eq!(orgs(caller, false).await, slugs(["acme"]));
        caller.chat().get_message(GetMessageRequest { name: said.clone() }).await.expect("all is there");
    }
    assert_eq!(code(purge_org(&ada, &org.name, &back.etag, "").await), Code::FailedPrecondition, "it lives");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_project_comes_back_as_it_was() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    ada.create_project(&org, "ops").await;
    ada.grant(&bob.account, &project, Role::ProjectAdmin).await;

    ada.delete_project(&project).await;
    assert_eq!(orgs(&bob, false).await, slugs([]), "his only role was there");
    assert_eq!(code(bob.projects().get_project(GetProjectRequest { name: project.clone() }).await), Code::NotFound);
    assert_eq!(
        (projects(&ada, &org, false).await, projects(&ada, &org, true).await),
        (slugs(["ops"]), slugs(["ops", "web"]))
    );
    // Who sees the org, but does not run it, is not told what was deleted.
    ada.grant(&bob.account, &org, Role::Guest).await;
    assert_eq!(projects(&bob, &org, true).await, slugs(["ops"]));
    let request = UndeleteProjectRequest { name: project.clone(), ..Default::default() };
    assert_eq!(code(bob.projects().undelete_project(request.clone()).await), Code::NotFound);
    ada.projects().undelete_project(request).await.expect("it comes back");
    assert_eq!(projects(&bob, &org, false).await, slugs(["ops", "web"]));
    bob.projects().get_project(GetProjectRequest { name: project }).await.expect("with his role");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grace_that_ran_out_destroys_the_org() {
    let server = Server::start_with(|config| config.org.delete_grace_s = 1).await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let kept = ada.create_org("kept").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.send(&channel, "hello").await;
    ada.grant(&bob.account, &project, Role::ProjectUser).await;
    ada.create_backup(&org).await;
    let node = &server.running.node;
    let fingerprints: Vec<_> = node.store().org_keys().unwrap().into_iter().filter(|key| key.of == org).collect();
    assert_eq!(fingerprints.len(), 1);
    assert_eq!(code(certificate(&ada, &org).await), Code::NotFound, "it lives");

    let deleted = ada.delete_org(&org).await;
    let certified = shredded(&ada, &org).await;
    assert_eq!(certified.name, org);
    assert!(certified.purge_time_ms >= deleted.purge_time_ms, "not before its time");
    assert_eq!(certified.key_fingerprints, vec![bytes::Bytes::copy_from_slice(&fingerprints[0].fingerprint)]);
    assert_eq!(code(certificate(&bob, &org).await), Code::NotFound, "he did not run it");
    assert_eq!(certificate(&root, &org).await.expect("the sys-admin sees it"), certified);
    let listed = root.orgs().list_shred_certificates(ListShredCertificatesRequest::default()).await.expect("a list");
    assert_eq!(listed.into_inner().certificates.len(), 1);

    // Neither key nor file nor wake-up is left, and nothing of it answers.
    assert!(node.store().org_keys().unwrap().iter().all(|key| key.of != org));
    for address in [&org, &project, &format!("{project}/chat")] {
        assert!(node.store().is_shredded(&Address::parse(address).unwrap()).await, "{address}");
    }
    let backups = fs::read_dir(server.config.backup_dir()).map(Iterator::count).unwrap_or_default();
    assert_eq!(backups, 0);
    assert_eq!((orgs(&ada, true).await, orgs(&bob, true).await), (slugs(["kept"]), slugs([])));
    for caller in [&ada, &bob, &root] {
        assert_eq!(code(get_org(caller, &org).await), Code::NotFound);
        assert_eq!(code(get_org(caller, "org/acme").await), Code::NotFound);
        assert_eq!(code(undelete_org(caller, &org).await), Code::NotFound);
        assert_eq!(
            code(caller.projects().get_project(GetProjectRequest { name: project.clone() }).await),
            Code::NotFound
        );
    }
    until("nothing is to be woken up", async || wakes(node, &org).await.is_empty()).await;
    assert_ne!(bob.create_org("acme").await.name, org, "the slug is free");

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(certificate(&ada, &org).await.expect("it is kept"), certified);
    assert_eq!(code(get_org(&ada, &org).await), Code::NotFound);
    get_org(&ada, &kept).await.expect("its neighbour");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_wait_purges_at_once() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await;
    let project = ada.create_project(&org.name, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.send(&channel, "hello").await;
    let neighbour = ada.create_project(&org.name, "ops").await.name;
    let kept = ada.create_channel(&neighbour, "general").await;
    let store = server.running.node.store().clone();
    let chat = Address::parse(&format!("{project}/chat")).unwrap();

    let purge = |etag: &str| PurgeProjectRequest { name: project.clone(), etag: etag.into(), request_id: "one".into() };
    let deleted = ada.delete_project(&project).await;
    assert_eq!(code(ada.projects().purge_project(purge("")).await), Code::InvalidArgument, "an etag is needed");
    assert_eq!(code(ada.projects().purge_project(purge("0")).await), Code::Aborted);
    ada.projects().purge_project(purge(&deleted.etag)).await.expect("a purge");
    assert_eq!(shredded(&ada, &project).await.key_fingerprints.len(), 3, "the project's, its chat's, its channel's");
    assert!(store.is_shredded(&chat).await && !store.is_shredded(&Address::parse(&org.name).unwrap()).await);
    assert_eq!(projects(&ada, &org.name, true).await, slugs(["ops"]));
    ada.send(&kept, "its neighbour lives").await;

    let deleted = ada.delete_org(&org.name).await;
    assert_eq!(code(purge_org(&ada, &org.name, &org.etag, "").await), Code::Aborted, "with an etag of before");
    let begun = purge_org(&ada, &org.name, &deleted.etag, "two").await.expect("a purge");
    assert_eq!((&begun.name, begun.shred_time_ms), (&org.name, 0));
    shredded(&ada, &org.name).await;
    let again = purge_org(&ada, &org.name, &deleted.etag, "two").await;
    let again = again.expect_err("its first answer is gone with it");
    assert!(matches!(again.code(), Code::NotFound | Code::FailedPrecondition), "{again:?}");
    // Nobody makes it anew under its old address.
    let request = CreateOrgRequest {
        org: Some(Wire::new(&Org { slug: "acme".into(), ..Org::default() })),
        request_id: String::new(),
    };
    let made = ada.orgs().create_org(request).await.expect("the slug is free").into_inner().decode().unwrap();
    assert_ne!(made.name, org.name);
    server.stop().await;
}

/// One place refuses what changes something, whatever module it is of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_archived_is_read_and_not_changed() {
    for whole_org in [true, false] {
        let server = Server::start().await;
        let root = server.sys_admin("root@example.org").await;
        let ada = server.person("ada@example.org").await;
        let bob = server.person("bob@example.org").await;
        let org = ada.create_org("acme").await.name;
        let project = ada.create_project(&org, "web").await.name;
        let channel = ada.create_channel(&project, "general").await;
        let message = ada.send(&channel, "hello").await.name;
        let backup = ada.create_backup(&org).await.name;
        ada.grant(&bob.account, &org, Role::Guest).await;
        let channels = vec![ChannelPosition { name: channel.clone(), cursor: Some(0) }];
        let subscribe = SubscribeRequest { channels };
        let mut stream = bob.chat().subscribe(subscribe.clone()).await.expect("a stream").into_inner();
        for _ in 0..2 {
            stream.message().await.expect("it stands").expect("an event");
        }
        match whole_org {
            true => {
                let request = ArchiveOrgRequest { name: "org/acme".into(), ..Default::default() };
                let archived = ada.orgs().archive_org(request).await.expect("it is archived");
                assert!(archived.into_inner().decode().unwrap().archive_time_ms > 0);
            }
            false => {
                let request = ArchiveProjectRequest { name: project.clone(), ..Default::default() };
                ada.projects().archive_project(request).await.expect("it is archived");
            }
        }
        let on = if whole_org { org.clone() } else { project.clone() };
        let target = Target {
            account: bob.account.clone(),
            grantee: bob.account.clone(),
            unique: "fresh".into(),
            on,
            org: org.clone(),
            project: project.clone(),
            channel: channel.clone(),
            message,
            backup,
            environment: format!("{project}/environment/production"),
            ..Target::default()
        };
        let mut refused = 0;
        for rule in rules().values() {
            let is_below = matches!(rule.requires, Requirement::Least(_))
                && rule.address.starts_with('{')
                && !matches!(rule.owner.as_str(), "account" | "mail");
            let of_org = matches!(rule.owner.as_str(), "org" | "audit") && !rule.address.contains("grant")
                || rule.path.ends_with("CreateProject");
            if !is_below || (!whole_org && of_org) {
                continue;
            }
            let is_command = rule.access == Access::Command;
            for caller in [&ada, &root] {
                let bytes = request(rule.path, &target);
                match (is_command, rule.reach) {
                    (true, Reach::Unspecified) => {
                        let status = caller.raw(rule.path, bytes).await.expect_err(rule.path);
                        assert_eq!(status.code(), Code::FailedPrecondition, "{}: {status:?}", rule.path);
                        assert!(status.message().contains("archived"), "{}: {status:?}", rule.path);
                        refused += 1;
                    }
                    (true, _) => {}
                    (false, _) if rule.access == Access::Subscription => {
                        caller.raw_stream(rule.path, bytes).await.map(drop).expect(rule.path);
                    }
                    (false, _) => drop(caller.raw(rule.path, bytes).await.expect(rule.path)),
                }
            }
            if is_command && rule.reach == Reach::Unspecified {
                // Who may not do it is told that, and not how it is.
                let status = bob.raw(rule.path, request(rule.path, &target)).await.expect_err(rule.path);
                assert_eq!(status.code(), Code::PermissionDenied, "{} by a guest: {status:?}", rule.path);
            }
        }
        assert!(refused >= 12, "{refused} were looked at");

        let server = server.restart().await;
        let ada = server.log_in("ada@example.org").await;
        let bob = server.log_in("bob@example.org").await;
        assert!(ada.chat().send_message(crate::harness::message(&channel, "no")).await.is_err(), "still");
        let mut stream = bob.chat().subscribe(subscribe).await.expect("a stream").into_inner();
        for _ in 0..2 {
            stream.message().await.expect("it stands").expect("an event");
        }
        match whole_org {
            true => {
                let request = UnarchiveOrgRequest { name: org, ..Default::default() };
                drop(ada.orgs().unarchive_org(request).await.expect("it is not archived any more"));
            }
            false => {
                let request = UnarchiveProjectRequest { name: project, ..Default::default() };
                drop(ada.projects().unarchive_project(request).await.expect("it is not archived any more"));
            }
        }
        ada.send(&channel, "at last").await;
        // The stream that was open all the time goes on.
        let event = stream.message().await.expect("it stands").expect("an event").event;
        assert!(matches!(event, Some(Event::Sent(said)) if said.decode().unwrap().text == "at last"));
        server.stop().await;
    }
}
