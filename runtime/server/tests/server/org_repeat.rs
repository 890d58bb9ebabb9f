//! A deletion that is repeated under its request id answers as it did; under another id, or for
//! others, there is nothing.

use crate::harness::{Caller, Server};
use canopy_domain::Role;
use canopy_proto::org::v1::{DeleteOrgRequest, DeleteProjectRequest};
use tonic::Code;

async fn delete_org(caller: &Caller, name: &str, request_id: &str) -> Result<Vec<u8>, Code> {
    let request = DeleteOrgRequest { name: name.into(), etag: String::new(), request_id: request_id.into() };
    let answer = caller.orgs().delete_org(request).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().bytes().to_vec())
}

async fn delete_project(caller: &Caller, name: &str, request_id: &str) -> Result<Vec<u8>, Code> {
    let request = DeleteProjectRequest { name: name.into(), etag: String::new(), request_id: request_id.into() };
    let answer = caller.projects().delete_project(request).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().bytes().to_vec())
}

#[tokio::test]
async fn a_repeated_deletion_answers_as_the_first() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await;
    let project = ada.create_project(&org.name, "web").await;
    ada.grant(&bob.account, &project.name, Role::ProjectAdmin).await;

    let first = delete_project(&ada, &project.name, "one").await.expect("it is deleted");
    assert_eq!(delete_project(&ada, &project.name, "one").await, Ok(first));
    assert_eq!(delete_project(&ada, &project.name, "two").await, Err(Code::FailedPrecondition));
    assert_eq!(delete_project(&bob, &project.name, "one").await, Err(Code::NotFound));

    let first = delete_org(&ada, &org.name, "one").await.expect("it is deleted");
    assert_eq!(delete_org(&ada, &org.name, "one").await, Ok(first.clone()));
    assert_eq!(delete_org(&ada, &org.name, "two").await, Err(Code::FailedPrecondition));
    assert_eq!(delete_org(&ada, &org.name, "").await, Err(Code::FailedPrecondition));
    assert_eq!(delete_org(&bob, &org.name, "one").await, Err(Code::NotFound));

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    assert_eq!(delete_org(&ada, &org.name, "one").await, Ok(first));
    server.stop().await;
}
