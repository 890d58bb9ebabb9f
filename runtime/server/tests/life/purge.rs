//! The binary, killed while it purges: the next start finishes what was begun.

use std::time::Duration;

use canopy_proto::org::v1::{GetOrgRequest, GetShredCertificateRequest, ListOrgsRequest, PurgeOrgRequest};
use tonic::Code;

use crate::harness::Caller;
use crate::process::{DEADLINE, Process};

/// When it is killed, in milliseconds from the moment that the purge is asked
/// for: before, amid and after what it does.
const KILLED_AFTER_MS: [u64; 8] = [0, 1, 2, 3, 5, 8, 13, 30];

async fn certified(caller: &Caller, name: &str) -> bool {
    let request = GetShredCertificateRequest { name: name.into() };
    let found = caller.orgs().get_shred_certificate(request).await;
    found.is_ok_and(|found| found.into_inner().decode().expect("a certificate").shred_time_ms > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_outlives_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Process::plain(&data);
    Caller::at(&server.url()).await.unwrap().register("ada@example.org", "").await;
    for (round, wait_ms) in KILLED_AFTER_MS.into_iter().enumerate() {
        let ada = Caller::at(&server.url()).await.unwrap().log_in("ada@example.org").await;
        let org = ada.create_org(&format!("acme-{round}")).await.name;
        let project = ada.create_project(&org, "web").await.name;
        let channel = ada.create_channel(&project, "general").await;
        ada.send(&channel, "hello").await;
        let etag = ada.delete_org(&org).await.etag;
        let purge = PurgeOrgRequest { name: org.clone(), etag, request_id: "purge".into() };
        let asked = {
            let (ada, purge) = (ada.clone(), purge.clone());
            tokio::spawn(async move { ada.orgs().purge_org(purge).await.is_ok() })
        };
        server.kill_after(Duration::from_millis(wait_ms)).await;
        let answered = asked.await.unwrap();

        server = Process::plain(&data);
        let ada = Caller::at(&server.url()).await.unwrap().log_in("ada@example.org").await;
        if !answered {
            // It may not have been begun: then the repeat begins it. Or it goes on
            // right now, and the org is not to be had.
            match ada.orgs().purge_org(purge).await.map_err(|status| status.code()) {
                Ok(_) | Err(Code::NotFound | Code::FailedPrecondition | Code::Unavailable) => {}
                Err(code) => panic!("round {round}: {code:?}"),
            }
        }
        let finished = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !certified(&ada, &org).await {
                look.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, finished).await.unwrap_or_else(|_| panic!("round {round}: {}", server.log()));
        let gone = ada.orgs().get_org(GetOrgRequest { name: org.clone() }).await.expect_err("it is gone");
        assert_eq!(gone.code(), Code::NotFound);
        let request = ListOrgsRequest { show_deleted: true, ..Default::default() };
        assert_eq!(ada.orgs().list_orgs(request).await.unwrap().into_inner().orgs.len(), 0, "round {round}");
        ada.create_org(&format!("acme-{round}")).await;
        let etag = ada.delete_org(&format!("org/acme-{round}")).await.etag;
        let again = PurgeOrgRequest { name: format!("org/acme-{round}"), etag, request_id: String::new() };
        ada.orgs().purge_org(again).await.expect("a purge without a crash");
    }
}
