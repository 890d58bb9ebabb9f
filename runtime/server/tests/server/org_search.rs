//! Orgs and projects by words, by former slugs, and the environments of a
//! project.

use std::collections::BTreeSet;

use canopy_domain::{Role, Wire};
use canopy_proto::org::v1::{
    CreateEnvironmentRequest, DeleteEnvironmentRequest, Environment, GetEnvironmentRequest, GetOrgRequest,
    GetProjectRequest, ListEnvironmentsRequest, ListOrgsResponse, ListProjectsResponse, Org, Project,
    SearchOrgsRequest, SearchProjectsRequest, UpdateEnvironmentRequest, UpdateOrgRequest, UpdateProjectRequest,
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::harness::{Caller, Server};

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("it is refused").code()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

async fn rename_org(caller: &Caller, name: &str, slug: &str) -> Result<Org, Status> {
    let org = Org { name: name.into(), slug: slug.into(), ..Org::default() };
    let request = UpdateOrgRequest { org: Some(Wire::new(&org)), update_mask: mask(&["slug"]), ..Default::default() };
    Ok(caller.orgs().update_org(request).await?.into_inner().decode().expect("an org"))
}

async fn rename_project(caller: &Caller, name: &str, slug: &str) -> Result<Project, Status> {
    let project = Project { name: name.into(), slug: slug.into(), ..Project::default() };
    let project = Some(Wire::new(&project));
    let request = UpdateProjectRequest { project, update_mask: mask(&["slug"]), ..Default::default() };
    Ok(caller.projects().update_project(request).await?.into_inner().decode().expect("a project"))
}

async fn org_at(caller: &Caller, name: &str) -> Result<String, Status> {
    let found = caller.orgs().get_org(GetOrgRequest { name: name.into() }).await?;
    Ok(found.into_inner().decode().expect("an org").name)
}

async fn project_at(caller: &Caller, name: &str) -> Result<String, Status> {
    let found = caller.projects().get_project(GetProjectRequest { name: name.into() }).await?;
    Ok(found.into_inner().decode().expect("a project").name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_slug_leads_on_until_somebody_takes_it() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("one").await.name;
    let web = ada.create_project(&org, "web").await.name;
    for slug in ["two", "three", "four", "five", "six"] {
        rename_org(&ada, &org, slug).await.expect("a rename");
    }
    let former = |org: &Org| org.former_slugs.iter().map(|former| former.slug.clone()).collect::<Vec<_>>();
    let renamed = rename_org(&ada, "org/three", "seven").await.expect("by a former slug, too");
    assert_eq!(former(&renamed), ["six", "five", "four", "three", "two"], "the oldest gave way");
    assert!(renamed.former_slugs[0].expire_time_ms > renamed.update_time_ms);
    for slug in ["two", "three", "four", "five", "six", "seven"] {
        assert_eq!(org_at(&ada, &format!("org/{slug}")).await.expect(slug), org);
        assert_eq!(project_at(&ada, &format!("org/{slug}/project/web")).await.expect(slug), web);
        assert_eq!(code(org_at(&bob, &format!("org/{slug}")).await), Code::NotFound, "roles are needed as ever");
    }
    assert_eq!(code(org_at(&ada, "org/one").await), Code::NotFound);
    // Back to one of them: it is no former one any more.
    let renamed = rename_org(&ada, &org, "six").await.expect("a rename");
    assert_eq!(former(&renamed), ["seven", "five", "four", "three", "two"]);
    // Another org takes one, and then it is its own.
    let other = bob.create_org("five").await.name;
    assert_eq!(org_at(&bob, "org/five").await.expect("his"), other);
    assert_eq!(code(org_at(&ada, "org/five").await), Code::NotFound);
    assert_eq!(code(rename_org(&ada, &org, "five").await), Code::AlreadyExists);
    assert_eq!(org_at(&ada, "org/four").await.expect("the others lead on"), org);

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(org_at(&ada, "org/four").await.expect("also after a restart"), org);

    // The same for projects of an org.
    let renamed = rename_project(&ada, &web, "shop").await.expect("a rename");
    assert_eq!(renamed.former_slugs[0].slug, "web");
    for slug in ["web", "shop"] {
        assert_eq!(project_at(&ada, &format!("{org}/project/{slug}")).await.expect(slug), web);
    }
    let other = ada.create_project(&org, "web").await.name;
    assert_eq!(project_at(&ada, &format!("{org}/project/web")).await.expect("the new one"), other);
    assert_eq!(code(rename_project(&ada, &web, "web").await), Code::AlreadyExists);
    assert_eq!(project_at(&ada, &format!("{org}/project/shop")).await.expect("as before"), web);
    let renamed = rename_project(&ada, &other, "site").await.expect("a rename");
    assert_eq!((&renamed.slug[..], renamed.former_slugs.len()), ("site", 1));
    assert_eq!(project_at(&ada, &format!("{org}/project/web")).await.expect("whose it was last"), other);
    server.stop().await;
}

fn titles_of_projects(found: &ListProjectsResponse) -> Vec<String> {
    found.projects.iter().map(|row| row.decode().expect("a project").slug).collect()
}

fn slugs_of_orgs(found: &ListOrgsResponse) -> BTreeSet<String> {
    found.orgs.iter().map(|row| row.decode().expect("an org").slug).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orgs_and_projects_are_found_by_words() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme-works").await.name;
    ada.create_org("garage").await;
    bob.create_org("acme-too").await;
    let search = async |caller: &Caller, query: &str| {
        let request = SearchOrgsRequest { query: query.into(), ..SearchOrgsRequest::default() };
        slugs_of_orgs(&caller.orgs().search_orgs(request).await.expect("a search").into_inner())
    };
    let of = |slugs: &[&str]| slugs.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(search(&ada, "ACME").await, of(&["acme-works"]), "one's own alone");
    assert_eq!(search(&ada, "wor ac").await, of(&["acme-works"]));
    assert_eq!(search(&ada, "g").await, of(&["garage"]));
    assert_eq!(search(&ada, "orks").await, of(&[]));
    ada.delete_org("org/garage").await;
    assert_eq!(search(&ada, "g").await, of(&[]), "what is deleted is not found");

    let mut expected = BTreeSet::new();
    for n in 0..23 {
        let slug = format!("p{n}");
        let project = ada.create_project(&org, &slug).await.name;
        let title = if n % 2 == 0 { "Blue Whale" } else { "Red Fox" };
        let project =
            Project { name: project, title: title.into(), description: "of the sea".into(), ..Project::default() };
        let project = Some(Wire::new(&project));
        let request =
            UpdateProjectRequest { project, update_mask: mask(&["title", "description"]), ..Default::default() };
        ada.projects().update_project(request).await.expect("a change");
        if n % 2 == 0 {
            expected.insert(slug);
        }
    }
    for page_size in [0, 1, 5, 12, 13] {
        let mut request = SearchProjectsRequest {
            parent: "org/acme-works".into(),
            query: "whale SEA".into(),
            page_size,
            page_token: String::new(),
        };
        let mut found = Vec::new();
        loop {
            let page = ada.projects().search_projects(request.clone()).await.expect("a page").into_inner();
            assert!(page_size == 0 || page.projects.len() <= page_size as usize);
            found.extend(titles_of_projects(&page));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found.len(), expected.len(), "by {page_size}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "by {page_size}");
    }
    // The token of a page is good in its own org alone.
    let there = bob.create_org("there").await.name;
    for n in 0..3 {
        bob.create_project(&there, &format!("p{n}")).await;
    }
    let request = |parent: &str, page_token: &str| SearchProjectsRequest {
        parent: parent.into(),
        query: "p".into(),
        page_size: 1,
        page_token: page_token.into(),
    };
    let token = bob.projects().search_projects(request(&there, "")).await.expect("a page").into_inner().next_page_token;
    assert!(!token.is_empty());
    assert_eq!(code(ada.projects().search_projects(request(&org, &token)).await), Code::InvalidArgument);
    ada.grant(&bob.account, &format!("{org}/project/p1"), Role::Guest).await;
    let refused = bob.projects().search_projects(request(&org, "")).await;
    assert_eq!(code(refused), Code::NotFound, "who sees one project is not told of the others");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_has_environments() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let org = ada.create_org("acme").await.name;
    let web = ada.create_project(&org, "web").await.name;
    let list = async |project: &str| {
        let request = ListEnvironmentsRequest { parent: project.into() };
        let listed = ada.environments().list_environments(request).await.expect("a list").into_inner();
        listed.environments.iter().map(|row| row.decode().expect("an environment")).collect::<Vec<_>>()
    };
    let create = async |slug: &str, order: i32| {
        let environment = Environment { slug: slug.into(), order, ..Environment::default() };
        let environment = Some(Wire::new(&environment));
        let request =
            CreateEnvironmentRequest { parent: "org/acme/project/web".into(), environment, ..Default::default() };
        ada.environments().create_environment(request).await.map(|made| made.into_inner().decode().expect("one"))
    };
    let update = async |environment: Environment, paths: &[&str]| {
        let environment = Some(Wire::new(&environment));
        let request = UpdateEnvironmentRequest { environment, update_mask: mask(paths), ..Default::default() };
        ada.environments().update_environment(request).await.map(|made| made.into_inner().decode().expect("one"))
    };
    let delete = async |name: &str, etag: &str| {
        let request = DeleteEnvironmentRequest { name: name.into(), etag: etag.into(), ..Default::default() };
        ada.environments().delete_environment(request).await.map(drop)
    };
    let first = list(&web).await;
    assert_eq!(first.len(), 1);
    assert_eq!((&first[0].slug[..], first[0].protected), ("production", true));
    let by_slug = GetEnvironmentRequest { name: "org/acme/project/web/environment/production".into() };
    let found = ada.environments().get_environment(by_slug).await.expect("by slug").into_inner().decode().unwrap();
    assert_eq!(found, first[0]);

    let staging = create("staging", -1).await;
    assert_eq!(code(staging), Code::InvalidArgument);
    let staging = create("staging", 5).await.expect("an environment");
    let early = create("dev", 0).await.expect("an environment");
    assert_eq!(code(create("staging", 1).await), Code::AlreadyExists);
    let slugs = |listed: Vec<Environment>| listed.into_iter().map(|found| found.slug).collect::<Vec<_>>();
    assert_eq!(slugs(list(&web).await), ["production", "dev", "staging"]);
    // The mask tells what changes, the etag whether somebody was faster.
    let sent =
        Environment { name: staging.name.clone(), slug: "dev".into(), title: "T".into(), order: 9, ..staging.clone() };
    let changed = update(sent.clone(), &["title"]).await.expect("a change");
    assert_eq!((&changed.slug[..], &changed.title[..], changed.order), ("staging", "T", 5));
    assert_eq!(code(update(sent.clone(), &["title"]).await), Code::Aborted);
    let fresh = Environment { etag: changed.etag.clone(), ..sent };
    assert_eq!(code(update(fresh.clone(), &["slug"]).await), Code::AlreadyExists);
    for path in ["name", "create_time_ms", "etag", "project"] {
        assert_eq!(code(update(fresh.clone(), &[path]).await), Code::InvalidArgument, "{path}");
    }
    let moved = update(fresh, &["order"]).await.expect("a change");
    assert_eq!(moved.order, 9);

    assert_eq!(code(delete(&staging.name, &staging.etag).await), Code::Aborted);
    delete(&staging.name, &moved.etag).await.expect("a deletion");
    assert_eq!(code(delete(&staging.name, "").await), Code::NotFound);
    assert_eq!(code(delete(&first[0].name, "").await), Code::FailedPrecondition, "it is protected");
    let free = Environment { protected: false, ..first[0].clone() };
    update(free, &["protected"]).await.expect("a change");
    delete(&first[0].name, "").await.expect("a deletion");
    assert_eq!(code(delete(&early.name, "").await), Code::FailedPrecondition, "it is the last one");
    assert_eq!(slugs(list(&web).await), ["dev"]);

    // A limit, and nothing of another project under this one's name.
    for n in 1..50 {
        create(&format!("e{n}"), 1).await.expect("below the limit");
    }
    assert_eq!(code(create("more", 1).await), Code::ResourceExhausted);
    let ops = ada.create_project(&org, "ops").await.name;
    let borrowed = format!("{ops}/environment/{}", early.name.rsplit('/').next().unwrap());
    assert_eq!(code(delete(&borrowed, "").await), Code::NotFound);
    server.stop().await;
}
