//! Several roles of one person, and what happens when they are taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Caller, Server, message};
use canopy_domain::{Role, Wire};
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{
    Channel, ChannelPosition, GetChannelRequest, SubscribeRequest, SubscribeResponse, UpdateChannelRequest,
};
use canopy_proto::identity::v1::LogOutRequest;
use canopy_proto::org::v1::{
    DeleteOrgRequest, DeleteProjectRequest, Grant, GrantRoleRequest, ListGrantsRequest, ListProjectsRequest,
    RevokeRoleRequest,
};
use tonic::{Code, Status, Streaming};

use Role::{Guest, OrgAdmin, ProjectAdmin, ProjectUser};

/// Longest wait for what must come of itself.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    server: Server,
    owner: Caller,
    org: String,
    project: String,
    channel: String,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let owner = server.person("owner@example.org").await;
        let org = owner.create_org("acme").await.name;
        let project = owner.create_project(&org, "web").await.name;
        let channel = owner.create_channel(&project, "general").await;
        Self { server, owner, org, project, channel }
    }

    async fn person(&self, name: &str) -> Caller {
        self.server.person(&format!("{name}@example.org")).await
    }

    fn on(&self, on: On) -> &str {
        match on {
            On::Org => &self.org,
            On::Project => &self.project,
        }
    }

    /// How far a person gets: 0 sees nothing, 1 reads, 2 writes, 3 runs the
    /// project, 4 runs the org.
    async fn reach(&self, person: &Caller) -> usize {
        let name = self.channel.clone();
        let channel = Channel { name: name.clone(), topic: "a topic".into(), ..Channel::default() };
        let update = UpdateChannelRequest { channel: Some(Wire::new(&channel)), ..Default::default() };
        let grant = grant_of(&person.account, &self.org, Guest);
        let tries = [
            person.chat().get_channel(GetChannelRequest { name }).await.map(drop),
            person.chat().send_message(message(&self.channel, "hello")).await.map(drop),
            person.chat().update_channel(update).await.map(drop),
            // Refused for want of such a grant, once it is the caller's to do.
            match person.orgs().revoke_role(revoke_of(&grant)).await {
                Err(status) if status.message().contains("no such grant") => Ok(()),
                other => other.map(drop),
            },
        ];
        let reach = tries.iter().take_while(|tried| tried.is_ok()).count();
        for refused in tries.iter().skip(reach) {
            let code = refused.as_ref().expect_err("what is above is refused too").code();
            assert!(matches!(code, Code::PermissionDenied | Code::NotFound), "{code:?}");
        }
        reach
    }
}

#[derive(Debug, Clone, Copy)]
enum On {
    Org,
    Project,
}

fn grant_of(account: &str, on: &str, role: Role) -> Grant {
    Grant { account: account.into(), on: on.into(), role: role.into(), ..Grant::default() }
}

fn revoke_of(grant: &Grant) -> RevokeRoleRequest {
    RevokeRoleRequest { grant: Some(Wire::new(grant)), request_id: String::new() }
}

async fn revoke(by: &Caller, account: &str, on: &str, role: Role) -> Result<(), Status> {
    by.orgs().revoke_role(revoke_of(&grant_of(account, on, role))).await.map(drop)
}

async fn grant(by: &Caller, account: &str, on: &str, role: Role) -> Result<(), Status> {
    let grant = Some(Wire::new(&grant_of(account, on, role)));
    by.orgs().grant_role(GrantRoleRequest { grant, request_id: String::new() }).await.map(drop)
}

fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    match items {
        [] => vec![Vec::new()],
        _ => (0..items.len())
            .flat_map(|first| {
                let mut rest = items.to_vec();
                let first = rest.remove(first);
                orders(&rest).into_iter().map(move |tail| [vec![first], tail].concat())
            })
            .collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_highest_of_several_roles_counts_in_any_order() {
    let world = World::new().await;
    let reach_of = |(role, on): (Role, On)| match (role, on) {
        (Guest, On::Project) => 1,
        (ProjectUser, On::Project) => 2,
        (ProjectAdmin, _) => 3,
        (OrgAdmin, On::Org) => 4,
        other => panic!("{other:?} is not among the cases"),
    };
    let sets: [&[(Role, On)]; 3] = [
        &[(Guest, On::Project), (ProjectUser, On::Project), (ProjectAdmin, On::Project)],
        &[(Guest, On::Project), (OrgAdmin, On::Org)],
        &[(ProjectAdmin, On::Project), (OrgAdmin, On::Org), (Guest, On::Project)],
    ];
    for (n, order) in sets.iter().flat_map(|set| orders(set)).enumerate() {
        let person = world.person(&format!("person-{n}")).await;
        assert_eq!(world.reach(&person).await, 0);
        let mut highest = 0;
        for (role, on) in &order {
            world.owner.grant(&person.account, world.on(*on), *role).await;
            highest = highest.max(reach_of((*role, *on)));
            assert_eq!(world.reach(&person).await, highest, "{order:?} up to {role:?}");
        }
        for (gone, (role, on)) in order.iter().enumerate() {
            revoke(&world.owner, &person.account, world.on(*on), *role).await.expect("a revocation");
            let left = order.iter().skip(gone + 1).map(|held| reach_of(*held)).max().unwrap_or(0);
            assert_eq!(world.reach(&person).await, left, "{order:?} without those up to {role:?}");
        }
    }
    world.server.stop().await;
}

async fn subscribe(caller: &Caller, channel: &str) -> Streaming<SubscribeResponse> {
    let channels = vec![ChannelPosition { name: channel.into(), cursor: None }];
    let mut stream = caller.chat().subscribe(SubscribeRequest { channels }).await.expect("a stream").into_inner();
    assert_eq!(text(next(&mut stream).await), Ok("opened".into()));
    stream
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Result<SubscribeResponse, Status> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("something comes of itself");
    next.map(|event| event.expect("a stream ends with a status"))
}

fn text(event: Result<SubscribeResponse, Status>) -> Result<String, Code> {
    match event.map_err(|status| status.code())?.event.expect("an event") {
        Event::Opened(_) => Ok("opened".into()),
        Event::Sent(message) => Ok(message.decode().expect("a message").text),
        other => panic!("unexpected: {other:?}"),
    }
}

/// How somebody comes to be shut out.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Role(Role, On),
    LogOut,
    Project,
    Org,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_answer_nothing_is_delivered() {
    let cases = [
        (Loss::Role(Guest, On::Project), Code::NotFound),
        (Loss::Role(ProjectAdmin, On::Project), Code::NotFound),
        (Loss::Role(ProjectUser, On::Org), Code::NotFound),
        (Loss::LogOut, Code::Unauthenticated),
        (Loss::Project, Code::NotFound),
        (Loss::Org, Code::NotFound),
    ];
    for (loss, code) in cases {
        let world = World::new().await;
        let person = world.person("person").await;
        let (role, on) = match loss {
            Loss::Role(role, on) => (role, on),
            _ => (Guest, On::Project),
        };
        world.owner.grant(&person.account, world.on(on), role).await;
        let mut idle = subscribe(&person, &world.channel).await;
        let mut stream = subscribe(&person, &world.channel).await;
        world.owner.send(&world.channel, "before").await;
        for stream in [&mut idle, &mut stream] {
            assert_eq!(text(next(stream).await), Ok("before".into()));
        }
        let owner = &world.owner;
        match loss {
            Loss::Role(..) => revoke(owner, &person.account, world.on(on), role).await.expect("a revocation"),
            Loss::LogOut => {
                let request = LogOutRequest { name: "session/me".into(), request_id: String::new() };
                person.identity().log_out(request).await.map(drop).expect("a log-out");
            }
            Loss::Project => {
                let request = DeleteProjectRequest { name: world.project.clone(), ..Default::default() };
                owner.projects().delete_project(request).await.map(drop).expect("a deletion");
            }
            Loss::Org => {
                let request = DeleteOrgRequest { name: world.org.clone(), ..Default::default() };
                owner.orgs().delete_org(request).await.map(drop).expect("a deletion");
            }
        }
        let refused = person.chat().get_channel(GetChannelRequest { name: world.channel.clone() }).await;
        assert_eq!(refused.expect_err("the very next call is refused").code(), code, "{loss:?}");
        // Nothing else happens in the channel, and the stream ends all the same.
        assert_eq!(text(next(&mut idle).await), Err(code), "{loss:?}");
        if !matches!(loss, Loss::Project | Loss::Org) {
            world.owner.send(&world.channel, "after").await;
        }
        assert_eq!(text(next(&mut stream).await), Err(code), "{loss:?}");
        world.server.stop().await;
    }
}

/// A role less that leaves another one is no reason to end a stream.
#[tokio::test]
async fn a_stream_goes_on_while_a_role_is_left() {
    let world = World::new().await;
    let person = world.person("person").await;
    for (role, on) in [(Guest, &world.org), (ProjectUser, &world.project), (ProjectAdmin, &world.project)] {
        world.owner.grant(&person.account, on, role).await;
    }
    let mut stream = subscribe(&person, &world.channel).await;
    for (role, on) in [(ProjectAdmin, &world.project), (Guest, &world.org)] {
        revoke(&world.owner, &person.account, on, role).await.expect("a revocation");
        world.owner.send(&world.channel, "still").await;
        assert_eq!(text(next(&mut stream).await), Ok("still".into()));
    }
    revoke(&world.owner, &person.account, &world.project, ProjectUser).await.expect("a revocation");
    assert_eq!(text(next(&mut stream).await), Err(Code::NotFound));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_amid_messages_cuts_cleanly() {
    let world = World::new().await;
    let person = world.person("person").await;
    for round in 0..5 {
        world.owner.grant(&person.account, &world.project, Guest).await;
        let mut stream = subscribe(&person, &world.channel).await;
        let begun = Arc::new(AtomicUsize::new(0));
        let (owner, channel, count) = (world.owner.clone(), world.channel.clone(), Arc::clone(&begun));
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let writer = tokio::spawn(async move {
            while !*stopped.borrow_and_update() {
                let n = count.fetch_add(1, Ordering::SeqCst);
                owner.send(&channel, &n.to_string()).await;
            }
        });
        for expected in 0..10 {
            assert_eq!(text(next(&mut stream).await), Ok(expected.to_string()), "round {round}");
        }
        revoke(&world.owner, &person.account, &world.project, Guest).await.expect("a revocation");
        let begun_before_answer = begun.load(Ordering::SeqCst);
        let mut expected = 10;
        let end = loop {
            match text(next(&mut stream).await) {
                Ok(text) => assert_eq!(text, expected.to_string(), "round {round}"),
                Err(code) => break code,
            }
            expected += 1;
        };
        assert!(expected <= begun_before_answer, "{expected} came, {begun_before_answer} were begun by the answer");
        assert_eq!(end, Code::NotFound);
        stop.send(true).expect("the writer listens");
        writer.await.expect("the writer ends");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_or_revokes_more_than_they_hold() {
    let world = World::new().await;
    let somebody = world.person("somebody").await;
    let holders = [
        ("user", ProjectUser, On::Project),
        ("admin", ProjectAdmin, On::Project),
        ("org-user", ProjectUser, On::Org),
        ("org-wide", ProjectAdmin, On::Org),
        ("org-admin", OrgAdmin, On::Org),
    ];
    let mut callers = vec![("owner", world.owner.clone())];
    for (name, role, on) in holders {
        let caller = world.person(name).await;
        world.owner.grant(&caller.account, world.on(on), role).await;
        callers.push((name, caller));
    }
    let both = world.person("both").await;
    world.owner.grant(&both.account, &world.project, ProjectAdmin).await;
    world.owner.grant(&both.account, &world.org, Guest).await;
    callers.push(("both", both));

    let cases = [
        ("user", Guest, On::Project, Some(Code::PermissionDenied)),
        ("org-user", Guest, On::Org, Some(Code::PermissionDenied)),
        ("admin", Guest, On::Project, None),
        ("admin", ProjectAdmin, On::Project, None),
        ("admin", OrgAdmin, On::Project, Some(Code::InvalidArgument)),
        ("admin", Guest, On::Org, Some(Code::NotFound)),
        ("both", Guest, On::Org, Some(Code::PermissionDenied)),
        ("both", OrgAdmin, On::Org, Some(Code::PermissionDenied)),
        ("org-wide", ProjectAdmin, On::Org, None),
        ("org-wide", ProjectAdmin, On::Project, None),
        ("org-wide", OrgAdmin, On::Org, Some(Code::PermissionDenied)),
        ("org-admin", OrgAdmin, On::Org, None),
        ("org-admin", Role::SysAdmin, On::Org, Some(Code::InvalidArgument)),
        ("org-admin", Role::SysAdmin, On::Project, Some(Code::InvalidArgument)),
        ("org-admin", Role::Unspecified, On::Org, Some(Code::InvalidArgument)),
        ("owner", OrgAdmin, On::Org, None),
    ];
    let grants = async || {
        let request = ListGrantsRequest { parent: world.org.clone(), page_size: 1000, page_token: String::new() };
        world.owner.orgs().list_grants(request).await.expect("a list").into_inner().grants
    };
    let before = grants().await;
    for (name, role, on, refused) in cases {
        let (_, caller) = callers.iter().find(|(other, _)| *other == name).expect("a caller");
        let on = world.on(on);
        let granted = grant(caller, &somebody.account, on, role).await;
        assert_eq!(granted.map_err(|s| s.code()).err(), refused, "{name} grants {role:?} on {on}");
        // What they may not hand out, they may not take away either.
        if refused == Some(Code::PermissionDenied) {
            grant(&world.owner, &somebody.account, on, role).await.expect("a grant");
        }
        let revoked = revoke(caller, &somebody.account, on, role).await;
        assert_eq!(revoked.map_err(|s| s.code()).err(), refused, "{name} revokes {role:?} on {on}");
        if refused == Some(Code::PermissionDenied) {
            revoke(&world.owner, &somebody.account, on, role).await.expect("a revocation");
        }
        assert_eq!(grants().await, before, "{name}, {role:?} on {on}");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_keeps_an_admin() {
    let world = World::new().await;
    let owner = &world.owner;
    let last = revoke(owner, &owner.account, &world.org, OrgAdmin).await.expect_err("there is no other");
    assert_eq!(last.code(), Code::FailedPrecondition);
    // An admin of a project is none of the org.
    let other = world.person("other").await;
    owner.grant(&other.account, &world.org, ProjectAdmin).await;
    let last = revoke(owner, &owner.account, &world.org, OrgAdmin).await.expect_err("there is no other");
    assert_eq!(last.code(), Code::FailedPrecondition);

    for _ in 0..5 {
        owner.grant(&other.account, &world.org, OrgAdmin).await;
        let (one, two) = tokio::join!(
            revoke(owner, &other.account, &world.org, OrgAdmin),
            revoke(&other, &owner.account, &world.org, OrgAdmin),
        );
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1, "{one:?} {two:?}");
        if two.is_ok() {
            other.grant(&owner.account, &world.org, OrgAdmin).await;
            revoke(owner, &other.account, &world.org, OrgAdmin).await.expect("a revocation");
        }
    }
    let request = ListProjectsRequest { parent: world.org.clone(), ..Default::default() };
    owner.projects().list_projects(request).await.expect("the owner still runs the org");
    world.server.stop().await;
}
