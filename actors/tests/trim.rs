//! Feeds are trimmed by who commits, by who passivates, and by who is woken for it; those that are kept are not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use std::cell::Cell;
use std::time::Duration;

use canopy_actors::Limits;
use canopy_domain::Address;
use stage::{Stage, address, limits, until};

/// Shorter than any actor is idle, in milliseconds.
const AT_ONCE_MS: i64 = 1;

fn restless() -> Limits {
    Limits { idle: Duration::from_millis(20), ..limits() }
}

#[tokio::test]
async fn who_is_never_idle_trims_as_it_commits() {
    let stage = Stage::start_keeping(limits(), AT_ONCE_MS).await;
    let here = address(1);
    let last = Cell::new(0);
    until(async || {
        last.set(stage.send(&here, "on and on").await.unwrap());
        stage.floor(&here).await > 1
    })
    .await;
    let actor = stage.actor(&here).expect("it is active");
    assert!(actor.state.starts_with("trimmed at seq ") && actor.state.contains(", feed kept from "), "{}", actor.state);
    assert_eq!(stage.rows(&here).await.len() as u64, last.get(), "rows stay");
}

#[tokio::test]
async fn who_passivates_trims_all_that_is_too_old() {
    let stage = Stage::start_keeping(restless(), AT_ONCE_MS).await;
    let here = address(1);
    // More than go at once.
    let sent = (0..600).map(|n| {
        let (stage, here) = (stage.clone(), here.clone());
        async move { stage.send(&here, &n.to_string()).await.unwrap() }
    });
    let last = futures::future::join_all(sent).await.into_iter().max().unwrap();
    until(async || stage.actor(&here).is_none() && stage.floor(&here).await == last + 1).await;
    assert_eq!(stage.send(&here, "it goes on").await.unwrap(), last + 1);
}

/// Long enough that actors passivate before, in milliseconds.
const LATER_MS: i64 = 500;

#[tokio::test]
async fn who_is_idle_is_woken_to_trim() {
    let stage = Stage::start_keeping(restless(), LATER_MS).await;
    let all: Vec<_> = (1..6).map(address).collect();
    for here in &all {
        stage.send(here, "once").await.unwrap();
    }
    // Nobody calls any of them again.
    for here in &all {
        until(async || stage.floor(here).await == 2).await;
        until(async || stage.actor(here).is_none()).await;
        assert_eq!(stage.rows(here).await, ["once"]);
    }
}

#[tokio::test]
async fn who_is_idle_is_woken_after_a_restart_too() {
    let stage = Stage::start_keeping(restless(), 4 * LATER_MS).await;
    let here = address(1);
    stage.send(&here, "once").await.unwrap();
    until(async || stage.actor(&here).is_none()).await;
    let stage = stage.restart().await;
    until(async || stage.floor(&here).await == 2).await;
}

#[tokio::test]
async fn wishes_and_effects_are_woken_for_all_the_same() {
    let stage = Stage::start_keeping(restless(), AT_ONCE_MS).await;
    let here = address(1);
    stage.send(&here, "tell:x").await.unwrap();
    stage.send(&here, "wake:300").await.unwrap();
    until(async || stage.delivered().await == ["x"]).await;
    until(async || stage.rows(&here).await == ["tell:x", "wake:300", "woken"]).await;
    until(async || stage.actor(&here).is_none() && stage.floor(&here).await == 4).await;
}

#[tokio::test]
async fn a_feed_that_its_module_keeps_is_kept() {
    let stage = Stage::start_keeping(restless(), AT_ONCE_MS).await;
    let (here, kept) = (address(1), Address::system("directory"));
    for n in 0..3 {
        stage.send(&here, &format!("settle:{n}")).await.unwrap();
    }
    until(async || stage.actor(&kept).is_none()).await;
    until(async || stage.floor(&here).await == 4).await;
    assert_eq!(stage.floor(&kept).await, 1);
    assert_eq!(stage.delivered().await, ["0", "1", "2"]);
}
