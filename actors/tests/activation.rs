//! An address always exists: its first message activates the actor, idleness
//! passivates it, and neither is noticed by callers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use std::time::Duration;

use canopy_actors::Limits;
use canopy_domain::Code;
use futures::future::join_all;
use stage::{Stage, address, limits, until};

#[tokio::test]
async fn a_message_activates_and_idleness_passivates() {
    let stage = Stage::start(Limits { idle: Duration::from_millis(20), ..limits() }).await;
    let here = address(1);
    assert_eq!(stage.rows(&here).await, [""; 0]);
    assert!(stage.actor(&here).is_none(), "a query activates nobody");
    for (n, text) in ["one", "two", "three"].into_iter().enumerate() {
        assert_eq!(stage.send(&here, text).await.unwrap(), n as u64 + 1, "the state goes on");
        until(async || stage.actor(&here).is_none()).await;
    }
    assert_eq!(stage.send(&here, "refuse").await.unwrap_err().code, Code::FailedPrecondition);
    assert_eq!(stage.rows(&here).await, ["one", "two", "three"]);
}

/// With no idle time at all an actor is told to end again and again while it
/// is called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_not_notice_passivation() {
    const CALLERS: usize = 4;
    const CALLS: usize = 100;
    let stage = Stage::start(Limits { idle: Duration::ZERO, ..limits() }).await;
    let callers = (0..CALLERS).map(|caller| {
        let stage = stage.clone();
        tokio::spawn(async move {
            let mut seqs = Vec::new();
            for n in 0..CALLS {
                seqs.push(stage.send(&address(1), &format!("{caller} {n}")).await.unwrap());
            }
            seqs
        })
    });
    let mut seqs: Vec<u64> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(1..=(CALLERS * CALLS) as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_at_once_commit_without_a_gap() {
    const CALLS: u64 = 1_000;
    let stage = Stage::start(limits()).await;
    let calls = (0..CALLS).map(|n| {
        let stage = stage.clone();
        tokio::spawn(async move { stage.send(&address(1), &n.to_string()).await.unwrap() })
    });
    let mut seqs: Vec<u64> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(1..=CALLS));
    let stage = stage.restart().await;
    assert_eq!(stage.rows(&address(1)).await.len() as u64, CALLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_done_once() {
    let mut stage = Stage::start(limits()).await;
    let here = address(1);
    for round in 0..2 {
        let calls = (0..20).map(|_| {
            let (stage, here) = (stage.clone(), here.clone());
            tokio::spawn(async move { stage.send_once(&here, "once", "id").await })
        });
        for call in join_all(calls).await {
            assert_eq!(call.unwrap().unwrap(), 1, "round {round}");
        }
        let other = stage.send_once(&here, "something else", "id").await.unwrap_err();
        assert_eq!(other.code, Code::InvalidArgument, "{other}");
        assert_eq!(stage.rows(&here).await, ["once"]);
        stage = stage.restart().await;
    }
}
