//! Pages of lists: each row once, in both directions, whatever their size.

use std::collections::BTreeSet;

use crate::harness::Server;
use canopy_proto::chat::v1::{ListMessagesRequest, Order};
use canopy_proto::org::v1::{ListOrgsRequest, ListProjectsRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_cover_all_exactly_once() {
    const MESSAGES: usize = 61;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let other = ada.create_channel(&project, "other").await;
    for n in 0..MESSAGES {
        ada.send(&channel, &n.to_string()).await;
        if n % 7 == 0 {
            ada.send(&other, "between").await;
        }
    }
    let oldest_first: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    let newest_first: Vec<_> = oldest_first.iter().rev().cloned().collect();
    for (order, expected) in [(Order::Unspecified, oldest_first), (Order::NewestFirst, newest_first)] {
        for (page_size, pages) in [(1, 61), (7, 9), (60, 2), (61, 1), (62, 1), (0, 2), (1000, 1)] {
            let mut request =
                ListMessagesRequest { parent: channel.clone(), order: order.into(), page_size, ..Default::default() };
            let (mut texts, mut count) = (Vec::new(), 0);
            loop {
                let page = ada.chat().list_messages(request.clone()).await.expect("a page").into_inner();
                count += 1;
                texts.extend(page.messages.iter().map(|row| row.decode().expect("a message").text));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!((&texts, count), (&expected, pages), "{order:?} by {page_size}");
        }
    }
    // What comes while somebody leafs is neither doubled nor does it hide what was there.
    let mut request = ListMessagesRequest { parent: other.clone(), page_size: 2, ..Default::default() };
    let mut texts = Vec::new();
    loop {
        let page = ada.chat().list_messages(request.clone()).await.expect("a page").into_inner();
        texts.extend(page.messages.iter().map(|row| row.decode().expect("a message").name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        if texts.len() < 10 {
            ada.send(&other, "late").await;
        }
    }
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len());
    assert!(texts.len() > 9, "{}", texts.len());

    let mut made = BTreeSet::new();
    for n in 0..7 {
        made.insert(ada.create_org(&format!("org-{n}")).await.name);
        ada.create_project("org/acme", &format!("project-{n}")).await;
    }
    let mut orgs = Vec::new();
    let mut request = ListOrgsRequest { page_size: 3, ..Default::default() };
    loop {
        let page = ada.orgs().list_orgs(request.clone()).await.expect("a page").into_inner();
        orgs.extend(page.orgs.iter().map(|row| row.decode().expect("an org").name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(orgs.len(), 8);
    assert!(made.is_subset(&orgs.into_iter().collect()));
    let mut projects = Vec::new();
    let mut request = ListProjectsRequest { parent: "org/acme".into(), page_size: 3, ..Default::default() };
    loop {
        let page = ada.projects().list_projects(request.clone()).await.expect("a page").into_inner();
        projects.extend(page.projects.iter().map(|row| row.decode().expect("a project").slug));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(projects.len(), 8);
    assert_eq!(projects.iter().collect::<BTreeSet<_>>().len(), 8);
    server.stop().await;
}
