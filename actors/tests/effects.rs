//! Effects and wake-ups outlive refusals, crashes and restarts, and nobody
//! has to call for them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use std::time::Duration;

use canopy_actors::Limits;
use canopy_domain::Code;
use stage::{Stage, address, limits, refuse_deliveries, until};

#[tokio::test]
async fn an_effect_is_tried_until_it_is_made_once() {
    let stage = Stage::start(limits()).await;
    refuse_deliveries("tried", 3);
    stage.send(&address(1), "settle:tried").await.unwrap();
    assert_eq!(stage.delivered().await, ["tried"], "the answer waited for it");

    // One that is refused holds its successors back: order is kept.
    refuse_deliveries("few-0001", 2);
    stage.send(&address(1), "many:4:few").await.unwrap();
    stage.send(&address(1), "settle:last").await.unwrap();
    assert_eq!(stage.delivered().await[1..], ["few-0000", "few-0001", "few-0002", "few-0003", "last"]);
    let refused = stage.send(&address(1), "refuse").await.unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(stage.delivered().await.len(), 6);
}

#[tokio::test]
async fn effects_go_out_after_a_restart_though_nobody_calls() {
    let stage = Stage::start(limits()).await;
    refuse_deliveries("restart", u32::MAX);
    stage.send(&address(1), "tell:restart").await.unwrap();
    let stage = stage.restart().await;
    refuse_deliveries("restart", 0);
    until(async || stage.delivered().await == ["restart"]).await;

    // It stays at that, whether the actor lives on or comes back.
    let stage = stage.restart().await;
    stage.send(&address(1), "settle:after").await.unwrap();
    assert_eq!(stage.delivered().await, ["restart", "after"]);
}

/// More than one activation reads at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_any_length_goes_out_in_order() {
    const EFFECTS: usize = 1_100;
    let stage = Stage::start(Limits { idle: Duration::from_millis(20), ..limits() }).await;
    refuse_deliveries("long-0000", u32::MAX);
    stage.send(&address(1), &format!("many:{EFFECTS}:long")).await.unwrap();
    let stage = stage.restart().await;
    refuse_deliveries("long-0000", 0);
    until(async || stage.delivered().await.len() >= EFFECTS).await;
    let expected: Vec<_> = (0..EFFECTS).map(|n| format!("long-{n:04}")).collect();
    assert_eq!(stage.delivered().await, expected);
    until(async || stage.actor(&address(1)).is_none()).await;
}

#[tokio::test]
async fn effects_of_a_crashed_actor_are_made_once() {
    let stage = Stage::start(limits()).await;
    refuse_deliveries("crashed", 5);
    stage.send(&address(1), "tell:crashed").await.unwrap();
    assert_eq!(stage.send(&address(1), "panic").await.unwrap_err().code, Code::Aborted);
    stage.send(&address(1), "settle:next").await.unwrap();
    assert_eq!(stage.delivered().await, ["crashed", "next"]);
}

#[tokio::test]
async fn a_wake_up_comes_though_nobody_calls() {
    let here = address(1);
    let stage = Stage::start(limits()).await;
    stage.send(&here, "wake:30").await.unwrap();
    until(async || stage.rows(&here).await == ["wake:30", "woken"]).await;

    // The actor crashed meanwhile.
    stage.send(&here, "wake:60").await.unwrap();
    assert_eq!(stage.send(&here, "panic").await.unwrap_err().code, Code::Aborted);
    until(async || stage.rows(&here).await.len() == 4).await;

    // The node was down when the time came.
    stage.send(&here, "wake:10").await.unwrap();
    let stage = stage.restart().await;
    until(async || stage.rows(&here).await.len() == 6).await;
    assert_eq!(stage.rows(&here).await[2..], ["wake:60", "woken", "wake:10", "woken"]);

    // And it passivated.
    let stage = stage.restart().await;
    assert!(stage.actor(&here).is_none());
    assert_eq!(stage.rows(&here).await.len(), 6, "each once");
}
