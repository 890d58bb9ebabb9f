//! A command that nobody waits for any more when its turn comes is not done; one that has begun
//! cannot be given up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use std::sync::Arc;

use canopy_actors::Turn;
use canopy_domain::Code;
use stage::{Stage, address, limits, open_gate, until, waits_at_gate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_in_the_queue_is_not_done() {
    const QUEUED: usize = 9;
    let stage = Stage::start(limits()).await;
    let here = address(1);
    let depth = || stage.actor(&here).map_or(0, |actor| actor.mailbox_depth);
    let ask = |text: String| {
        let (stage, here, turn) = (stage.clone(), here.clone(), Arc::<Turn>::default());
        let asked = Arc::clone(&turn);
        (turn, tokio::spawn(async move { stage.send_in_turn(&here, &text, &asked).await }))
    };
    let (begun, held) = ask("hold:turn".into());
    until(async || waits_at_gate("turn")).await;
    let mut calls = Vec::new();
    for n in 0..QUEUED {
        calls.push(ask(n.to_string()));
        until(async || depth() == n as u64 + 1).await;
    }
    assert!(!begun.give_up(), "it is being done");
    for (turn, _) in calls.iter().step_by(2) {
        assert!(turn.give_up());
        assert!(turn.give_up(), "it stays given up");
    }
    open_gate("turn");
    held.await.unwrap().unwrap();
    let mut expected = vec!["hold:turn".to_owned()];
    for (n, (turn, call)) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(()) => expected.push(n.to_string()),
            Err(refusal) => {
                assert_eq!(refusal.code, Code::DeadlineExceeded, "{refusal}");
                assert!(refusal.hint.unwrap().contains("nothing was done"));
            }
        }
        assert_eq!(turn.give_up(), n % 2 == 0, "{n}");
    }
    assert_eq!(expected.len(), 1 + QUEUED / 2);
    assert_eq!(stage.rows(&here).await, expected);
}
