//! The audit of an org: what its administrators did, and what others were
//! refused.

use canopy_domain::Role;
use canopy_proto::chat::v1::EditMessageRequest;
use canopy_proto::org::v1::audit_client::AuditClient;
use canopy_proto::org::v1::export_audit_response::Line;
use canopy_proto::org::v1::{
    AuditEntry, AuditOutcome, DeleteProjectRequest, ExportAuditRequest, GetOrgRequest, Grant, ListAuditEntriesRequest,
    RevokeRoleRequest, UpdateOrgRequest,
};
use canopy_proto::{Access, Wire, rules};
use tonic::Code;

use crate::harness::{Authorised, Caller, Server};

const AUDITED: &str = include_str!("audited.txt");

fn audit(caller: &Caller) -> AuditClient<Authorised> {
    AuditClient::with_interceptor(caller.channel.clone(), caller.token.clone())
}

/// Every page of a list, oldest first.
async fn listed(caller: &Caller, mut request: ListAuditEntriesRequest) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    loop {
        let page = audit(caller).list_audit_entries(request.clone()).await.expect("a page").into_inner();
        entries.extend(page.entries.iter().map(|entry| entry.decode().expect("an entry")));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            entries.reverse();
            return entries;
        }
    }
}

fn all(parent: &str) -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { parent: format!("{parent}/audit"), page_size: 2, ..ListAuditEntriesRequest::default() }
}

fn denied(parent: &str) -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { outcome: AuditOutcome::Denied.into(), ..all(parent) }
}

/// The method's own name.
fn name(entry: &AuditEntry) -> &str {
    entry.method.rsplit('/').next().unwrap_or_default()
}

fn detail<'a>(entry: &'a AuditEntry, name: &str) -> &'a str {
    entry.details.iter().find(|detail| detail.name == name).map_or("", |detail| &detail.value)
}

/// Every command, and whether it stands in an audit: whoever adds one decides.
#[test]
fn every_command_says_whether_it_is_audited() {
    let is_listed = |rule: &canopy_proto::Rule| rule.access == Access::Command || rule.audited;
    let line =
        |rule: &canopy_proto::Rule| format!("{} {}", if rule.audited { "audited" } else { "-------" }, rule.path);
    let mut lines: Vec<_> = rules().values().filter(|rule| is_listed(rule)).map(line).collect();
    lines.sort_by(|a, b| a.split(' ').next_back().cmp(&b.split(' ').next_back()));
    let known: Vec<_> = AUDITED.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, known, "audited.txt lists what the rules say");
}

#[tokio::test]
async fn what_administrators_do_is_recorded_and_what_people_write_is_not() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    ada.grant(&bob.account, &org, Role::ProjectUser).await;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    bob.send(&channel, "a text that nobody else keeps").await;
    let grant =
        Grant { account: bob.account.clone(), on: org.clone(), role: Role::ProjectUser.into(), ..Grant::default() };
    let revoke = RevokeRoleRequest { grant: Some(Wire::new(&grant)), request_id: "mine".into() };
    ada.orgs().revoke_role(revoke.clone()).await.expect("it is revoked");
    // A repeat does nothing, and leaves nothing.
    ada.orgs().revoke_role(revoke).await.expect("the first answer");
    let delete = DeleteProjectRequest { name: project.clone(), ..DeleteProjectRequest::default() };
    ada.projects().delete_project(delete).await.expect("it is deleted");

    let entries = listed(&ada, all("org/acme")).await;
    let names: Vec<_> = entries.iter().map(name).collect();
    assert_eq!(names, ["CreateOrg", "GrantRole", "CreateProject", "CreateChannel", "RevokeRole", "DeleteProject"]);
    for (n, entry) in (1..).zip(&entries) {
        assert_eq!(
            (entry.seq, entry.principal.as_str(), entry.session.as_str()),
            (n, &ada.account[..], &ada.session[..])
        );
        assert_eq!((entry.outcome(), entry.count, entry.code.as_str()), (AuditOutcome::Allowed, 1, ""));
        assert!(entry.peer.starts_with("127.0.0.1:"), "{entry:?}");
        assert!(entry.client.contains("tonic"), "{entry:?}");
        assert!(entry.time_ms > 0 && entry.target_seq > 0, "{entry:?}");
    }
    assert_eq!((entries[1].target.as_str(), entries[2].target.as_str()), (&org[..], &project[..]));
    for entry in [&entries[1], &entries[4]] {
        let about = (detail(entry, "account"), detail(entry, "on"), detail(entry, "role"));
        assert_eq!(about, (&bob.account[..], &org[..], "ROLE_PROJECT_USER"));
    }
    assert_eq!(detail(&entries[3], "channel"), channel);
    assert_eq!(entries[4].request_id, "mine");
    assert!(!format!("{entries:?}").contains("a text"), "what people write is not in the audit");

    let check = async |request: ListAuditEntriesRequest, expected: &[&str]| {
        let entries = listed(&ada, request).await;
        assert_eq!(entries.iter().map(name).collect::<Vec<_>>(), expected);
    };
    let method = |method: &str| ListAuditEntriesRequest { method: method.into(), ..all(&org) };
    check(method("canopy.org.v1.Orgs/GrantRole"), &["GrantRole"]).await;
    check(method("canopy.org.v1.Projects/"), &["CreateProject", "DeleteProject"]).await;
    check(method("canopy.org.v1.Orgs/Grant"), &[]).await;
    check(ListAuditEntriesRequest { principal: bob.account.clone(), ..all(&org) }, &[]).await;
    check(denied(&org), &[]).await;
    let from = entries[4].time_ms;
    let since = ListAuditEntriesRequest { from_time_ms: from, ..all(&org) };
    let until = ListAuditEntriesRequest { until_time_ms: from, ..all(&org) };
    let (since, until) = (listed(&ada, since).await, listed(&ada, until).await);
    assert_eq!(since.len() + until.len(), entries.len());
    assert!(until.iter().all(|entry| entry.time_ms < from) && since.iter().all(|entry| entry.time_ms >= from));
    server.stop().await;
}

#[tokio::test]
async fn what_is_denied_is_told_apart_and_then_counted() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let eve = server.person("eve@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.grant(&bob.account, &org, Role::ProjectUser).await;
    let message = ada.send(&channel, "hers").await;
    for _ in 0..30 {
        let get = GetOrgRequest { name: org.clone() };
        assert_eq!(eve.orgs().get_org(get).await.expect_err("hidden").code(), Code::NotFound);
    }
    let update = UpdateOrgRequest {
        org: Some(Wire::new(&canopy_proto::org::v1::Org { name: org.clone(), ..Default::default() })),
        ..UpdateOrgRequest::default()
    };
    assert_eq!(bob.orgs().update_org(update).await.expect_err("denied").code(), Code::PermissionDenied);
    // By the owner, which knows whose it is.
    let edit = EditMessageRequest { message: Some(Wire::new(&message)), request_id: String::new() };
    assert_eq!(bob.chat().edit_message(edit).await.expect_err("denied").code(), Code::PermissionDenied);
    // What is not there, or not let in for want of anybody, is no denial of this org's.
    let absent = GetOrgRequest { name: "org/none".into() };
    assert_eq!(eve.orgs().get_org(absent).await.expect_err("absent").code(), Code::NotFound);
    let get = GetOrgRequest { name: org.clone() };
    assert_eq!(server.nobody().await.orgs().get_org(get).await.expect_err("nobody").code(), Code::Unauthenticated);

    // A clean stop writes what is counted.
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let entries = listed(&ada, denied(&org)).await;
    let of_eve: Vec<_> = entries.iter().filter(|entry| entry.principal == eve.account).collect();
    assert_eq!(of_eve.iter().map(|entry| entry.count).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 20]);
    for entry in &of_eve {
        assert_eq!((name(entry), entry.code.as_str(), entry.target.as_str()), ("GetOrg", "NOT_FOUND", &org[..]));
        assert!(entry.session == eve.session && entry.last_time_ms >= entry.time_ms, "{entry:?}");
    }
    let of_bob: Vec<_> = entries.iter().filter(|entry| entry.principal == bob.account).collect();
    let told: Vec<_> = of_bob.iter().map(|entry| (name(entry), entry.code.as_str(), entry.target.clone())).collect();
    let chat = format!("{project}/chat");
    assert_eq!(told, [("UpdateOrg", "PERMISSION_DENIED", org.clone()), ("EditMessage", "PERMISSION_DENIED", chat)]);
    assert_eq!(entries.len(), of_eve.len() + of_bob.len());
    server.stop().await;
}

/// A process that dies after its answer has lost no such denial: it can be read
/// at once.
#[tokio::test]
async fn the_first_denials_stand_there_before_they_are_told() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.grant(&bob.account, &org, Role::ProjectUser).await;
    let message = ada.send(&channel, "hers").await;
    for n in 1..=10 {
        let delete = DeleteProjectRequest { name: project.clone(), ..DeleteProjectRequest::default() };
        assert_eq!(bob.projects().delete_project(delete).await.expect_err("denied").code(), Code::PermissionDenied);
        assert_eq!(listed(&ada, denied(&org)).await.len(), n);
    }
    // What the owner denies, and what is denied at the installation.
    let edit = EditMessageRequest { message: Some(Wire::new(&message)), request_id: String::new() };
    assert_eq!(bob.chat().edit_message(edit).await.expect_err("denied").code(), Code::PermissionDenied);
    assert_eq!(listed(&ada, denied(&org)).await.len(), 11);
    let rotate = canopy_proto::ops::v1::RotateRootKeyRequest {};
    assert_eq!(bob.keys().rotate_root_key(rotate).await.expect_err("denied").code(), Code::PermissionDenied);
    assert_eq!(listed(&root, denied("system")).await.len(), 1);
    // Each is one, though the writer of those that wait saw it as well.
    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let entries = listed(&ada, denied(&org)).await;
    assert_eq!(entries.iter().map(|entry| entry.count).collect::<Vec<_>>(), [1; 11]);
    server.stop().await;
}

#[tokio::test]
async fn keys_stand_in_the_audit_before_they_change() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let rotate = canopy_proto::ops::v1::RotateOrgKeyRequest { name: "org/acme".into() };
    ada.keys().rotate_org_key(rotate).await.expect("it rotates");
    root.keys().rotate_root_key(canopy_proto::ops::v1::RotateRootKeyRequest {}).await.expect("it rotates");
    let refused = ada.keys().rotate_root_key(canopy_proto::ops::v1::RotateRootKeyRequest {}).await;
    assert_eq!(refused.expect_err("denied").code(), Code::PermissionDenied);

    let entries = listed(&ada, all(&org)).await;
    assert_eq!(entries.iter().map(name).collect::<Vec<_>>(), ["CreateOrg", "RotateOrgKey"]);
    assert_eq!(entries[1].target, org);
    let server = server.restart().await;
    let root = server.log_in("root@example.org").await;
    let entries = listed(&root, all("system")).await;
    let told: Vec<_> = entries.iter().map(|e| (name(e), e.principal.as_str(), e.outcome())).collect();
    assert_eq!(told.len(), 3);
    // That orgs come and go outlives them.
    assert_eq!(told[0], ("CreateOrg", &ada.account[..], AuditOutcome::Allowed));
    assert_eq!(told[1], ("RotateRootKey", &root.account[..], AuditOutcome::Allowed));
    assert_eq!(told[2], ("RotateRootKey", &ada.account[..], AuditOutcome::Denied));
    let lines = exported(&root, "system/audit", 0).await;
    assert!(matches!(&lines[..], [Line::Head(head), .., Line::Entry(_)] if head.seq == 4), "{lines:?}");
    server.stop().await;
}

pub(crate) async fn exported(caller: &Caller, parent: &str, after_seq: u64) -> Vec<Line> {
    let request = ExportAuditRequest { parent: parent.into(), after_seq };
    let mut stream = audit(caller).export_audit(request).await.expect("an export").into_inner();
    let mut lines = Vec::new();
    while let Some(line) = stream.message().await.expect("a line") {
        lines.push(line.line.expect("a head or an entry"));
    }
    lines
}

/// More entries than one reading of the feed takes, so that the export is put
/// together from several.
#[tokio::test]
async fn an_export_is_whole_and_ends() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let rotate = canopy_proto::ops::v1::RotateVaultKeyRequest { name: org.clone() };
    for n in 0..300 {
        let update = UpdateOrgRequest {
            org: Some(Wire::new(&canopy_proto::org::v1::Org {
                name: org.clone(),
                title: n.to_string(),
                ..Default::default()
            })),
            ..UpdateOrgRequest::default()
        };
        ada.orgs().update_org(update).await.expect("an update");
        if n == 150 {
            ada.keys().rotate_vault_key(rotate.clone()).await.expect("it rotates");
        }
    }
    let check = |lines: Vec<Line>, after: u64| {
        let mut lines = lines.into_iter();
        let Some(Line::Head(head)) = lines.next() else { panic!("a head comes first") };
        let entries: Vec<_> = lines
            .map(|line| match line {
                Line::Entry(entry) => entry.decode().expect("an entry"),
                Line::Head(_) => panic!("one head"),
            })
            .collect();
        assert_eq!((head.audit, head.after_seq), (format!("{org}/audit"), after));
        assert_eq!(entries.iter().map(|e| e.seq).collect::<Vec<_>>(), (after + 1..=head.seq).collect::<Vec<_>>());
        assert_eq!(entries.last().map(|e| &e.chain), Some(&head.chain));
        (head.seq, entries.last().map(name).unwrap_or_default().to_owned())
    };
    // It stands in the audit itself, and is its own last entry.
    let (seq, last) = check(exported(&ada, "org/acme/audit", 0).await, 0);
    assert_eq!((seq, last.as_str()), (303, "ExportAudit"));
    let (seq, _) = check(exported(&ada, "org/acme/audit", 300).await, 300);
    assert_eq!(seq, 304);
    let beyond = ExportAuditRequest { parent: "org/acme/audit".into(), after_seq: 1_000 };
    assert_eq!(audit(&ada).export_audit(beyond).await.expect_err("beyond").code(), Code::OutOfRange);
    server.stop().await;
}
