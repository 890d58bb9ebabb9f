//! Orgs, projects, channels and messages from their making to their end.

use std::collections::BTreeSet;

use crate::harness::requests::{Target, request};
use crate::harness::{Caller, PASSWORD, Server, message};
use canopy_domain::{Role, Wire};
use canopy_proto::chat::v1::{
    Channel, CreateChannelRequest, DeleteChannelRequest, DeleteMessageRequest, EditMessageRequest, GetChannelRequest,
    GetMessageRequest, ListChannelsRequest, ListMessagesRequest, Message, UpdateChannelRequest,
};
use canopy_proto::identity::v1::{Account, RegisterRequest};
use canopy_proto::org::v1::{
    CreateOrgRequest, CreateProjectRequest, DeleteOrgRequest, DeleteProjectRequest, GetOrgRequest, GetProjectRequest,
    ListOrgsRequest, ListProjectsRequest, Org, Project, PurgeOrgRequest, PurgeProjectRequest, UpdateOrgRequest,
    UpdateProjectRequest,
};
use canopy_proto::rules;
use futures::future::join_all;
use prost_types::FieldMask;
use tonic::{Code, Response, Status};

fn decoded<T: prost::Message + Default>(answer: Response<Wire<T>>) -> T {
    answer.into_inner().decode().expect("a resource")
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("it is refused").code()
}

async fn get_org(caller: &Caller, name: &str) -> Result<Org, Status> {
    Ok(decoded(caller.orgs().get_org(GetOrgRequest { name: name.into() }).await?))
}

async fn get_project(caller: &Caller, name: &str) -> Result<Project, Status> {
    Ok(decoded(caller.projects().get_project(GetProjectRequest { name: name.into() }).await?))
}

async fn get_channel(caller: &Caller, name: &str) -> Result<Channel, Status> {
    Ok(decoded(caller.chat().get_channel(GetChannelRequest { name: name.into() }).await?))
}

async fn update_org(caller: &Caller, org: &Org, paths: &[&str]) -> Result<Org, Status> {
    let update_mask = if paths.is_empty() { None } else { mask(paths) };
    let request = UpdateOrgRequest { org: Some(Wire::new(org)), update_mask, request_id: String::new() };
    Ok(decoded(caller.orgs().update_org(request).await?))
}

async fn delete_org(caller: &Caller, name: &str, etag: &str) -> Result<Org, Status> {
    let request = DeleteOrgRequest { name: name.into(), etag: etag.into(), request_id: String::new() };
    Ok(decoded(caller.orgs().delete_org(request).await?))
}

async fn delete_project(caller: &Caller, name: &str, etag: &str) -> Result<Project, Status> {
    let request = DeleteProjectRequest { name: name.into(), etag: etag.into(), request_id: String::new() };
    Ok(decoded(caller.projects().delete_project(request).await?))
}

async fn create_org(caller: &Caller, slug: &str, request_id: &str) -> Result<Org, Status> {
    let org = Org { slug: slug.into(), ..Org::default() };
    let request = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: request_id.into() };
    Ok(decoded(caller.orgs().create_org(request).await?))
}

async fn create_project(caller: &Caller, org: &str, slug: &str, request_id: &str) -> Result<Project, Status> {
    let project = Project { slug: slug.into(), ..Project::default() };
    let request =
        CreateProjectRequest { parent: org.into(), project: Some(Wire::new(&project)), request_id: request_id.into() };
    Ok(decoded(caller.projects().create_project(request).await?))
}

async fn create_channel(caller: &Caller, project: &str, slug: &str, request_id: &str) -> Result<Channel, Status> {
    let channel = Channel { slug: slug.into(), ..Channel::default() };
    let request = CreateChannelRequest {
        parent: format!("{project}/chat"),
        channel: Some(Wire::new(&channel)),
        request_id: request_id.into(),
    };
    Ok(decoded(caller.chat().create_channel(request).await?))
}

/// Slugs of the orgs that somebody belongs to.
async fn belongs_to(caller: &Caller) -> BTreeSet<String> {
    let orgs = caller.orgs().list_orgs(ListOrgsRequest::default()).await.expect("a list").into_inner().orgs;
    orgs.iter().map(|org| org.decode().expect("an org").slug).collect()
}

fn slugs<const N: usize>(slugs: [&str; N]) -> BTreeSet<String> {
    slugs.map(String::from).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orgs_are_made_changed_and_deleted() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = Org {
        slug: "acme".into(),
        title: "Acme".into(),
        name: "org/mine".into(),
        etag: "x".into(),
        delete_time_ms: 5,
        ..Org::default()
    };
    let request = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: String::new() };
    let made = decoded(ada.orgs().create_org(request).await.expect("an org"));
    assert!(made.name.len() > "org/mine".len() && made.create_time_ms > 0, "{made:?}");
    assert_eq!((&made.slug[..], &made.title[..], made.delete_time_ms), ("acme", "Acme", 0));
    assert_eq!(get_org(&ada, "org/acme").await.expect("by slug"), made);
    assert_eq!(get_org(&ada, &made.name).await.expect("by id"), made);
    assert_eq!(belongs_to(&ada).await, slugs(["acme"]));
    ada.grant(&bob.account, "org/acme", Role::Guest).await;
    assert_eq!(belongs_to(&bob).await, slugs(["acme"]));

    // The mask tells what changes, the etag whether somebody else was faster.
    let sent = Org {
        name: "org/acme".into(),
        slug: "ignored".into(),
        title: "New".into(),
        etag: made.etag.clone(),
        ..Org::default()
    };
    let changed = update_org(&ada, &sent, &["title"]).await.expect("a change");
    assert_eq!((&changed.slug[..], &changed.title[..]), ("acme", "New"));
    assert_eq!(changed.create_time_ms, made.create_time_ms);
    assert_ne!(changed.etag, made.etag);
    assert_eq!(code(update_org(&ada, &sent, &["title"]).await), Code::Aborted);
    assert_eq!(get_org(&ada, "org/acme").await.expect("an org"), changed);

    // A new slug frees the old one, which leads on until somebody takes it.
    let sent = Org { slug: "apex".into(), etag: changed.etag.clone(), ..sent };
    let renamed = update_org(&ada, &sent, &["slug"]).await.expect("a change");
    assert_eq!((&renamed.slug[..], &renamed.title[..], &renamed.name), ("apex", "New", &made.name));
    assert_eq!(get_org(&ada, "org/acme").await.expect("by its former slug"), renamed);
    assert_eq!(get_org(&ada, "org/apex").await.expect("by its new slug"), renamed);
    assert_eq!(belongs_to(&bob).await, slugs(["apex"]));
    create_org(&bob, "acme", "").await.expect("the slug is free");
    assert_eq!(code(get_org(&ada, "org/acme").await), Code::NotFound, "it is another's now");
    assert_eq!(
        code(
            update_org(&ada, &Org { name: made.name.clone(), slug: "acme".into(), ..Org::default() }, &["slug"]).await
        ),
        Code::AlreadyExists
    );

    assert_eq!(code(delete_org(&ada, "org/apex", &made.etag).await), Code::Aborted);
    assert_eq!(code(delete_org(&bob, "org/apex", "").await), Code::PermissionDenied);
    let gone = delete_org(&ada, "org/apex", &renamed.etag).await.expect("a deletion");
    assert!(gone.delete_time_ms > 0);
    assert_eq!(code(delete_org(&ada, &made.name, "").await), Code::FailedPrecondition);
    assert_eq!(belongs_to(&ada).await, slugs([]));
    assert_eq!(belongs_to(&bob).await, slugs(["acme"]));
    // Until the purge it may come back, under its slug.
    assert_eq!(code(create_org(&bob, "apex", "").await), Code::AlreadyExists);
    let purge = PurgeOrgRequest { name: made.name.clone(), etag: gone.etag, request_id: String::new() };
    ada.orgs().purge_org(purge).await.expect("a purge");
    let again = create_org(&bob, "apex", "").await.expect("the slug is free");
    assert_ne!(again.name, made.name);

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    let bob = server.log_in("bob@example.org").await;
    for name in [&made.name[..], "org/apex"] {
        assert_eq!(code(get_org(&ada, name).await), Code::NotFound, "{name}");
    }
    assert_eq!(get_org(&bob, "org/apex").await.expect("the new one"), again);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projects_and_channels_are_made_changed_and_deleted() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    ada.create_org("acme").await;
    let made = create_project(&ada, "org/acme", "web", "").await.expect("a project");
    let name = "org/acme/project/web";
    assert_eq!(get_project(&ada, name).await.expect("by slug"), made);
    assert_eq!(get_project(&ada, &made.name).await.expect("by id"), made);
    ada.grant(&bob.account, name, Role::ProjectUser).await;
    assert_eq!(belongs_to(&bob).await, slugs(["acme"]));

    let sent = Project {
        name: name.into(),
        title: "T".into(),
        description: "D".into(),
        etag: made.etag.clone(),
        ..Project::default()
    };
    let update = |sent: &Project, paths: &[&str]| {
        let update_mask = if paths.is_empty() { None } else { mask(paths) };
        let request = UpdateProjectRequest { project: Some(Wire::new(sent)), update_mask, request_id: String::new() };
        let mut projects = ada.projects();
        async move { projects.update_project(request).await.map(decoded) }
    };
    let changed = update(&sent, &["description"]).await.expect("a change");
    assert_eq!((&changed.title[..], &changed.description[..], &changed.slug[..]), ("", "D", "web"));
    assert_eq!(code(update(&sent, &[]).await), Code::Aborted);
    let changed = update(&Project { etag: changed.etag, ..sent }, &[]).await.expect("a change of all that may");
    assert_eq!((&changed.title[..], &changed.description[..], &changed.slug[..]), ("T", "D", "web"));
    let list = ListProjectsRequest { parent: "org/acme".into(), ..Default::default() };
    let listed = ada.projects().list_projects(list).await.expect("a list").into_inner().projects;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].decode().expect("a project"), changed);

    let channel = create_channel(&ada, name, "general", "").await.expect("a channel");
    let by_slug = format!("{name}/chat/channel/general");
    assert_eq!(get_channel(&bob, &by_slug).await.expect("by slug"), channel);
    assert_eq!(get_channel(&bob, &channel.name).await.expect("by id"), channel);
    let sent = ada.send(&channel.name, "hello").await;
    let renamed =
        Channel { name: by_slug.clone(), slug: "lobby".into(), etag: channel.etag.clone(), ..Channel::default() };
    let rename = UpdateChannelRequest {
        channel: Some(Wire::new(&renamed)),
        update_mask: mask(&["slug"]),
        request_id: String::new(),
    };
    let renamed = decoded(ada.chat().update_channel(rename.clone()).await.expect("a change"));
    assert_eq!((&renamed.slug[..], &renamed.name), ("lobby", &channel.name));
    assert_eq!(code(ada.chat().update_channel(rename).await), Code::NotFound);
    let other = create_channel(&ada, name, "general", "").await.expect("the slug is free");
    let taken = Channel { name: other.name.clone(), slug: "lobby".into(), ..Channel::default() };
    let taken = UpdateChannelRequest {
        channel: Some(Wire::new(&taken)),
        update_mask: mask(&["slug"]),
        request_id: String::new(),
    };
    assert_eq!(code(ada.chat().update_channel(taken).await), Code::AlreadyExists);
    let delete =
        |etag: &str| DeleteChannelRequest { name: channel.name.clone(), etag: etag.into(), request_id: String::new() };
    assert_eq!(code(ada.chat().delete_channel(delete(&channel.etag)).await), Code::Aborted);
    ada.chat().delete_channel(delete(&renamed.etag)).await.expect("a deletion");
    assert_eq!(code(get_channel(&ada, &channel.name).await), Code::NotFound);
    assert_eq!(code(ada.chat().get_message(GetMessageRequest { name: sent.name }).await), Code::NotFound);
    assert_eq!(code(ada.chat().send_message(message(&channel.name, "late")).await), Code::NotFound);
    create_channel(&ada, name, "lobby", "").await.expect("the slug is free");

    assert_eq!(code(delete_project(&ada, name, &made.etag).await), Code::Aborted);
    let gone = delete_project(&ada, name, &changed.etag).await.expect("a deletion");
    assert!(gone.delete_time_ms > 0);
    for name in [name, &made.name] {
        assert_eq!(code(get_project(&bob, name).await), Code::NotFound);
        assert_eq!(get_project(&ada, name).await.expect("an org-admin sees it until its purge"), gone);
    }
    assert_eq!(code(create_project(&ada, "org/acme", "web", "").await), Code::AlreadyExists);
    // Who held a role there alone belongs to the org no longer.
    assert_eq!(belongs_to(&bob).await, slugs([]));
    assert_eq!(belongs_to(&ada).await, slugs(["acme"]));
    let purge = PurgeProjectRequest { name: made.name.clone(), etag: gone.etag, request_id: String::new() };
    ada.projects().purge_project(purge).await.expect("a purge");
    assert_eq!(code(get_project(&ada, &made.name).await), Code::NotFound);
    let again = create_project(&ada, "org/acme", "web", "").await.expect("the slug is free");
    assert_ne!(again.name, made.name);
    assert_eq!(code(get_project(&bob, name).await), Code::NotFound);
    assert_eq!(code(get_channel(&ada, &by_slug).await), Code::NotFound);
    server.stop().await;
}

/// After its deletion, nothing of an org or a project answers, but what may
/// bring it back or end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_hides_all_below() {
    for whole_org in [false, true] {
        let server = Server::start().await;
        server.sys_admin("root@example.org").await;
        let ada = server.person("ada@example.org").await;
        let bob = server.person("bob@example.org").await;
        let org = ada.create_org("acme").await.name;
        let project = ada.create_project(&org, "web").await.name;
        let channel = ada.create_channel(&project, "general").await;
        let message = ada.send(&channel, "hello").await.name;
        let backup = ada.create_backup(&org).await.name;
        let environment = format!("{project}/environment/production");
        for role in [Role::ProjectAdmin, Role::Guest] {
            ada.grant(&bob.account, &org, role).await;
        }
        match whole_org {
            true => drop(delete_org(&ada, "org/acme", "").await.expect("a deletion")),
            false => drop(delete_project(&ada, "org/acme/project/web", "").await.expect("a deletion")),
        }
        let target = Target {
            on: if whole_org { org.clone() } else { project.clone() },
            grantee: ada.account.clone(),
            unique: "fresh".into(),
            org,
            project,
            channel,
            message,
            backup,
            environment,
            ..Target::default()
        };
        let server = server.restart().await;
        let callers = ["ada", "root", "bob"].map(|name| format!("{name}@example.org"));
        let callers = join_all(callers.iter().map(|email| server.log_in(email))).await;
        for rule in rules().values() {
            let is_below = matches!(rule.requires, canopy_proto::Requirement::Least(_))
                && rule.address.starts_with('{')
                && !matches!(rule.owner.as_str(), "account" | "mail");
            let of_org = rule.path.contains("OrgKey")
                || rule.owner == "audit"
                || rule.path.ends_with("/GetBackup")
                || rule.path.ends_with("/DeleteBackup")
                || rule.owner == "org" && !rule.address.contains("grant") && !rule.path.ends_with("ListGrants");
            if !is_below || (!whole_org && (of_org || rule.path.ends_with("CreateProject"))) {
                continue;
            }
            let (whole, part) = callers.split_at(2);
            let hidden = part.iter().map(|caller| (caller, Code::NotFound));
            let is_operators = rule.requires == canopy_proto::Requirement::Least(Role::SysAdmin);
            // An org-admin calls nothing that is for who runs the server.
            let gone = whole.iter().skip(usize::from(is_operators)).map(|caller| (caller, Code::FailedPrecondition));
            let gone = gone.filter(|_| rule.reach != canopy_proto::Reach::Deleted);
            for (caller, expected) in hidden.chain(gone) {
                let bytes = request(rule.path, &target);
                let answer = match rule.access {
                    canopy_proto::Access::Subscription => caller.raw_stream(rule.path, bytes).await.map(drop),
                    _ => caller.raw(rule.path, bytes).await.map(drop),
                };
                assert_eq!(code(answer), expected, "{} after the end, whole org: {whole_org}", rule.path);
            }
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_with_one_slug_one_is_made() {
    const MANY: usize = 20;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let of = |n: usize| if n.is_multiple_of(2) { &ada } else { &bob };
    fn one_name(made: Vec<Result<String, Status>>) -> String {
        let names: Vec<_> = made.iter().filter_map(|made| made.as_ref().ok()).collect();
        assert_eq!(names.len(), 1, "{made:?}");
        let codes = made.iter().filter_map(|made| made.as_ref().err()).map(Status::code);
        assert!(codes.into_iter().all(|code| code == Code::AlreadyExists), "{made:?}");
        names[0].clone()
    }
    for round in 0..3 {
        let slug = format!("acme-{round}");
        let made = join_all((0..MANY).map(async |n| create_org(of(n), &slug, "").await.map(|org| org.name))).await;
        let org = one_name(made);
        let owner = if get_org(&ada, &org).await.is_ok() { &ada } else { &bob };
        assert_eq!(get_org(owner, &format!("org/{slug}")).await.expect("by slug").name, org);
        let made =
            join_all((0..MANY).map(async |_| create_project(owner, &org, "web", "").await.map(|p| p.name))).await;
        let project = one_name(made);
        assert_eq!(get_project(owner, &format!("{org}/project/web")).await.expect("by slug").name, project);
        let made =
            join_all((0..MANY).map(async |_| create_channel(owner, &project, "all", "").await.map(|c| c.name))).await;
        let channel = one_name(made);
        assert_eq!(get_channel(owner, &format!("{project}/chat/channel/all")).await.expect("by slug").name, channel);
        let list = ListProjectsRequest { parent: org.clone(), ..Default::default() };
        let listed = owner.projects().list_projects(list).await.expect("a list").into_inner();
        assert_eq!(listed.projects.len(), 1);
    }
    let of_both: Vec<_> = belongs_to(&ada).await.into_iter().chain(belongs_to(&bob).await).collect();
    assert_eq!(of_both.len(), 3, "{of_both:?}");
    server.stop().await;
}

/// Ten tries at once with one request id make one thing and get one answer;
/// another request under that id is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_makes_a_thing_once() {
    const TRIES: usize = 10;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    fn one<T: PartialEq + std::fmt::Debug>(answers: Vec<Result<T, Status>>) -> T {
        let mut answers = answers.into_iter().map(|answer| answer.expect("each try is answered"));
        let first = answers.next().expect("tries");
        assert!(answers.all(|answer| answer == first));
        first
    }
    let org = one(join_all((0..TRIES).map(|_| create_org(&ada, "acme", "id"))).await);
    assert_eq!(code(create_org(&ada, "other", "id").await), Code::InvalidArgument);
    create_org(&bob, "other", "id").await.expect("an id is its caller's own, and the slug is free");
    let project = one(join_all((0..TRIES).map(|_| create_project(&ada, "org/acme", "web", "id"))).await);
    assert_eq!(code(create_project(&ada, "org/acme", "other", "id").await), Code::InvalidArgument);
    create_project(&ada, "org/acme", "other", "").await.expect("the slug is free");
    let channel = one(join_all((0..TRIES).map(|_| create_channel(&ada, &project.name, "all", "id"))).await);
    assert_eq!(code(create_channel(&ada, &project.name, "other", "id").await), Code::InvalidArgument);
    let send = |text: &str| {
        let request =
            canopy_proto::chat::v1::SendMessageRequest { request_id: "id".into(), ..message(&channel.name, text) };
        let mut chat = ada.chat();
        async move { chat.send_message(request).await.map(decoded) }
    };
    let sent = one(join_all((0..TRIES).map(|_| send("hello"))).await);
    assert_eq!(code(send("other").await), Code::InvalidArgument);
    let edit = |text: &str| {
        let edited = Message { name: sent.name.clone(), text: text.into(), ..Message::default() };
        let request = EditMessageRequest { message: Some(Wire::new(&edited)), request_id: "id".into() };
        let mut chat = ada.chat();
        async move { chat.edit_message(request).await.map(decoded) }
    };
    one(join_all((0..TRIES).map(|_| edit("edited"))).await);
    assert_eq!(code(edit("other").await), Code::InvalidArgument);
    let register = |email: &str, request_id: &str| {
        let account = Account { email: email.into(), ..Account::default() };
        let request = RegisterRequest {
            account: Some(Wire::new(&account)),
            password: PASSWORD.into(),
            sign_up_token: String::new(),
            request_id: request_id.into(),
        };
        let mut identity = ada.identity();
        async move { identity.register(request).await.map(decoded) }
    };
    one(join_all((0..TRIES).map(|_| register("eve@example.org", "id"))).await);
    assert_eq!(code(register("mal@example.org", "id").await), Code::InvalidArgument);
    register("mal@example.org", "").await.expect("the address is free");

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(create_org(&ada, "acme", "id").await.expect("the first answer"), org);
    assert_eq!(create_project(&ada, "org/acme", "web", "id").await.expect("the first answer"), project);
    assert_eq!(create_channel(&ada, &project.name, "all", "id").await.expect("the first answer"), channel);
    let list = ListMessagesRequest { parent: channel.name.clone(), ..ListMessagesRequest::default() };
    assert_eq!(ada.chat().list_messages(list).await.expect("a list").into_inner().messages.len(), 1);
    let list = ListChannelsRequest { parent: format!("{}/chat", project.name), ..ListChannelsRequest::default() };
    assert_eq!(ada.chat().list_channels(list).await.expect("a list").into_inner().channels.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_their_authors() {
    let server = Server::start().await;
    let owner = server.person("owner@example.org").await;
    owner.create_org("acme").await;
    let project = owner.create_project("org/acme", "web").await.name;
    let channel = owner.create_channel(&project, "general").await;
    let author = server.person("author@example.org").await;
    let user = server.person("user@example.org").await;
    let admin = server.person("admin@example.org").await;
    for (person, role) in [(&author, Role::ProjectUser), (&user, Role::ProjectUser), (&admin, Role::ProjectAdmin)] {
        owner.grant(&person.account, &project, role).await;
    }
    let edit = async |by: &Caller, name: &str, text: &str| {
        // What the server sets is not the client's to set.
        let edited = Message {
            name: name.into(),
            text: text.into(),
            author: by.account.clone(),
            create_time_ms: 1,
            delete_time_ms: 1,
            ..Message::default()
        };
        let request = EditMessageRequest { message: Some(Wire::new(&edited)), request_id: String::new() };
        by.chat().edit_message(request).await.map(decoded)
    };
    let delete = async |by: &Caller, name: &str| {
        let request = DeleteMessageRequest { name: name.into(), request_id: String::new() };
        by.chat().delete_message(request).await.map(decoded)
    };
    let sent = author.send(&channel, "first").await;
    assert_eq!((&sent.author, sent.edit_time_ms, sent.delete_time_ms), (&author.account, 0, 0));
    for other in [&user, &admin, &owner] {
        assert_eq!(code(edit(other, &sent.name, "taken over").await), Code::PermissionDenied);
    }
    assert_eq!(code(delete(&user, &sent.name).await), Code::PermissionDenied);
    let edited = edit(&author, &sent.name, "second").await.expect("an edit");
    assert!(edited.edit_time_ms > 0);
    assert_eq!(
        (&edited.text[..], &edited.author, edited.create_time_ms, edited.delete_time_ms),
        ("second", &author.account, sent.create_time_ms, 0)
    );
    assert_eq!(code(edit(&author, &sent.name, " ").await), Code::InvalidArgument);

    for by in [&author, &admin, &owner] {
        let name = author.send(&channel, "private words").await.name;
        let deleted = delete(by, &name).await.expect("a deletion");
        assert!(deleted.delete_time_ms > 0 && deleted.text.is_empty());
        let seen = decoded(user.chat().get_message(GetMessageRequest { name: name.clone() }).await.expect("a mark"));
        assert_eq!(seen, deleted);
        assert_eq!(delete(by, &name).await.expect("it stays deleted"), deleted);
        assert_eq!(code(edit(&author, &name, "back").await), Code::FailedPrecondition);
    }
    // Without a role, one's own words are out of reach too.
    let revoke = canopy_proto::org::v1::RevokeRoleRequest {
        grant: Some(Wire::new(&canopy_proto::org::v1::Grant {
            account: author.account.clone(),
            on: project.clone(),
            role: Role::ProjectUser.into(),
            ..Default::default()
        })),
        request_id: String::new(),
    };
    owner.orgs().revoke_role(revoke).await.expect("a revocation");
    assert_eq!(code(edit(&author, &sent.name, "third").await), Code::NotFound);
    assert_eq!(code(delete(&author, &sent.name).await), Code::NotFound);
    server.stop().await;
}
