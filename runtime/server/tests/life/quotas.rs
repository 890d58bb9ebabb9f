//! The binary, killed while it holds leases: what was not given back is counted
//! anew, and people keep their places.

use std::time::Duration;

use canopy_domain::{Role, Wire};
use canopy_proto::org::v1::{GetQuotaRequest, Grant, GrantRoleRequest, QuotaUse};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Caller, incompressible, message};
use crate::process::{CHEAP, Process, serve};

const ADA: &str = "ada@example.org";
const KILLS: usize = 5;
/// More than one lease and less than one for each kill.
const BYTES_MAX: usize = 12 << 20;
const TEXT_BYTES: usize = 15_000;
/// Sent between two kills.
const MESSAGES: usize = 10;
/// More than there is room for.
const MESSAGES_MAX: usize = 2 * BYTES_MAX / TEXT_BYTES;

fn start(data: &std::path::Path) -> Process {
    let mut command = serve(data, &CHEAP);
    command.args(["--set", "edge.tls=off", "--set", "org.people_max=2", "--set"]);
    command.arg(format!("org.bytes_max={BYTES_MAX}"));
    Process::start(command)
}

async fn log_in(server: &Process, email: &str) -> Caller {
    Caller::at(&server.url()).await.unwrap().log_in(email).await
}

async fn grant(by: &Caller, account: &str, on: &str) -> Result<(), Status> {
    let grant = Grant { account: account.into(), on: on.into(), role: Role::Guest.into(), ..Grant::default() };
    let request = GrantRoleRequest { grant: Some(Wire::new(&grant)), request_id: String::new() };
    by.orgs().grant_role(request).await.map(drop)
}

async fn present(by: &Caller, org: &str) -> QuotaUse {
    let request = GetQuotaRequest { name: org.into() };
    by.quotas().get_quota(request).await.unwrap().into_inner().r#use.unwrap()
}

#[track_caller]
fn check_refused(status: &Status, org: &str, limit: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    let violation = &details.quota_failure().expect("the quota").violations[0];
    assert!(violation.subject == org && violation.description.starts_with(limit), "{violation:?}");
}

/// What the metrics page says: HTTP/1.1 as RFC 9112 has it.
async fn metrics(server: &Process) -> String {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_were_lost_with_the_process_are_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = start(&data);
    let nobody = Caller::at(&server.url()).await.unwrap();
    for email in [ADA, "bob@example.org", "eve@example.org"] {
        nobody.register(email, "").await;
    }
    let [bob, eve] = ["bob@example.org", "eve@example.org"].map(|email| log_in(&server, email));
    let (bob, eve) = (bob.await.account, eve.await.account);
    let ada = log_in(&server, ADA).await;
    let org = ada.create_org("acme").await.name;
    let project = ada.create_project(&org, "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    grant(&ada, &bob, &org).await.expect("the second");
    let text = incompressible(TEXT_BYTES);
    let send = async |by: &Caller| by.chat().send_message(message(&channel, &text)).await.map(drop);
    for kill in 0..KILLS {
        let ada = log_in(&server, ADA).await;
        for sent in join_all((0..MESSAGES).map(|_| send(&ada))).await {
            sent.unwrap_or_else(|status| panic!("after {kill} kills: {status}"));
        }
        assert!(present(&ada, &org).await.leased_bytes > 0, "there is one to lose");
        server.kill_after(Duration::ZERO).await;
        server = start(&data);
    }
    let ada = log_in(&server, ADA).await;
    assert_eq!(present(&ada, &org).await.people, 2);
    let refused = grant(&ada, &eve, &org).await.expect_err("a third");
    check_refused(&refused, &org, "people_max is 2: ");
    let mut refused = None;
    for _ in 0..MESSAGES_MAX / MESSAGES {
        refused = join_all((0..MESSAGES).map(|_| send(&ada))).await.into_iter().find_map(Result::err);
        if refused.is_some() {
            break;
        }
    }
    check_refused(&refused.expect("it is full"), &org, &format!("bytes_max is {BYTES_MAX}: "));

    let page = metrics(&server).await;
    for counter in [
        "canopy_edge_quota_refusals_total{limit=\"people_max\"} 1\n",
        "canopy_edge_quota_refusals_total{limit=\"bytes_max\"} ",
        "canopy_actors_quota_leases_total ",
        "canopy_actors_quota_leased_bytes_total ",
    ] {
        assert!(page.contains(counter), "{counter} is not in {page}");
    }
}
