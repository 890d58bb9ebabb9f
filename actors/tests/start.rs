//! What the last run of a node left undone is known at the next start.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod stage;

use stage::{Stage, address, hooked, limits, until};

/// Sooner than a node counts as just started, and later than this test lasts.
const SOON: &str = "wake:25000";

#[tokio::test]
async fn a_start_finds_who_has_something_left() {
    let stage = Stage::start(limits()).await;
    for address in [address(1), hooked()] {
        stage.send(&address, SOON).await.unwrap();
    }
    assert!(stage.found().is_empty(), "{:?}", stage.found());
    let stage = stage.restart().await;
    until(async || !stage.found().is_empty()).await;
    assert_eq!(stage.found(), [hooked()], "before its time has come, and nobody who is not wanted");
}
