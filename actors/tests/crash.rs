//! A decision that panics: who waits is told, who queued is served by the
//! successor, and an address that goes on crashing is held back alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use canopy_actors::Limits;
use canopy_domain::Code;
use stage::{Stage, address, limits, open_gate, until, waits_at_gate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_told_to_its_caller_alone() {
    let stage = Stage::start(limits()).await;
    let (here, elsewhere) = (address(1), address(2));
    stage.send(&here, "before").await.unwrap();
    stage.send(&elsewhere, "before").await.unwrap();
    let refusal = stage.send(&here, "panic").await.unwrap_err();
    assert_eq!(refusal.code, Code::Aborted, "{refusal}");
    assert!(refusal.hint.unwrap().contains("request id"));
    assert_eq!(stage.send(&here, "after").await.unwrap(), 2, "nothing of the crashed decision is left");
    assert_eq!(stage.send(&elsewhere, "after").await.unwrap(), 2);
    assert_eq!(stage.rows(&here).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_holds_its_address_back_and_lets_go() {
    let stage = Stage::start(limits()).await;
    let (here, elsewhere) = (address(1), address(2));
    stage.send(&here, "before").await.unwrap();
    let mut crashes = 0;
    let held = loop {
        let refusal = stage.send(&here, "panic").await.unwrap_err();
        match refusal.code {
            Code::Aborted => crashes += 1,
            _ => break refusal,
        }
    };
    assert_eq!(crashes, limits().restarts_max + 1, "one too many");
    assert_eq!(held.code, Code::Unavailable, "{held}");
    let wait_ms = held.retry_after_ms.expect("it says for how long");
    assert!((1..=200).contains(&wait_ms), "{wait_ms} ms");
    assert!(held.hint.is_some());
    assert_eq!(stage.send(&elsewhere, "fine").await.unwrap(), 1, "nobody else is held back");
    assert_eq!(stage.rows(&here).await, ["before"], "what is durable can be read meanwhile");
    until(async || stage.send(&here, "after").await.is_ok()).await;
    assert_eq!(stage.rows(&here).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_queued_behind_a_crash_is_served() {
    const QUEUED: usize = 20;
    let stage = Stage::start(limits()).await;
    let here = address(1);
    let ask = |text: String| {
        let (stage, here) = (stage.clone(), here.clone());
        tokio::spawn(async move { stage.send(&here, &text).await })
    };
    let depth = || stage.actor(&here).map_or(0, |actor| actor.mailbox_depth);
    let held = ask("hold:crash".into());
    until(async || waits_at_gate("crash")).await;
    let mut calls = Vec::new();
    for n in 0..=2 * QUEUED {
        calls.push(ask(if n == QUEUED { "panic".into() } else { n.to_string() }));
        until(async || depth() == n as u64 + 1).await;
    }
    open_gate("crash");
    assert_eq!(held.await.unwrap().unwrap(), 1, "it was decided before the crash, and stands");
    for (n, call) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(_) => assert_ne!(n, QUEUED),
            Err(refusal) => assert_eq!((n, refusal.code), (QUEUED, Code::Aborted), "{refusal}"),
        }
    }
    let mut rows = stage.rows(&here).await;
    assert_eq!(
        rows[..=QUEUED],
        ["hold:crash".to_owned()].into_iter().chain((0..QUEUED).map(|n| n.to_string())).collect::<Vec<_>>()
    );
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), 1 + 2 * QUEUED, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_refuses_at_once() {
    const QUEUED_MAX: usize = 4;
    let stage = Stage::start(Limits { mailbox_max: QUEUED_MAX, ..limits() }).await;
    let here = address(1);
    let ask = |text: String| {
        let (stage, here) = (stage.clone(), here.clone());
        tokio::spawn(async move { stage.send(&here, &text).await })
    };
    let held = ask("hold:full".into());
    until(async || waits_at_gate("full")).await;
    let queued: Vec<_> = (0..QUEUED_MAX).map(|n| ask(n.to_string())).collect();
    until(async || stage.actor(&here).is_some_and(|actor| actor.mailbox_depth == QUEUED_MAX as u64)).await;
    for _ in 0..3 {
        let refusal = stage.send(&here, "one too many").await.unwrap_err();
        assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal}");
        assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 0));
        assert!(refusal.hint.is_some());
    }
    assert_eq!(stage.send(&address(2), "elsewhere").await.unwrap(), 1, "others have their own");
    open_gate("full");
    for call in [held].into_iter().chain(queued) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(stage.rows(&here).await.len(), 1 + QUEUED_MAX);
    stage.send(&here, "room again").await.unwrap();
}
