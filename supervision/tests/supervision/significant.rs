//! Automatic shutdown by significant children.

use canopy_supervision::{StartError, Supervisor};

use crate::stage::{Stage, check};

#[tokio::test(start_paused = true)]
async fn any_significant() {
    check(
        "s one_for_one any\n a\n b transient significant\n c temporary significant\n d transient",
        "stop d\n crash b\n crash c",
        "> start
         started a, started b, started c, started d
         > stop d
         stopped d
         > crash b
         crashed b, started b
         > crash c
         crashed c, stopped b, stopped a, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_significant() {
    check(
        "s one_for_one all\n a\n b transient significant\n c transient significant",
        "stop b\n stop c",
        "> start
         started a, started b, started c
         > stop b
         stopped b
         > stop c
         stopped c, stopped a, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn terminating_one_by_hand_is_no_automatic_shutdown() {
    check(
        "s one_for_one any\n a\n b transient significant",
        "terminate b",
        "> start
         started a, started b
         > terminate b
         stopped b",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn contradicting_specs_are_refused() {
    for (text, reason) in [
        ("s one_for_one\n a transient significant", "needs a supervisor with auto_shutdown"),
        ("s one_for_one any\n a permanent significant", "a permanent child cannot be significant"),
        ("s one_for_one\n a\n b\n a", "its id is taken by a sibling"),
    ] {
        let stage = Stage::default();
        let error = Supervisor::new(stage.supervisor(text)).start(None).await.expect_err(text);
        assert!(matches!(error, StartError::InvalidSpec { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(stage.events(), "", "nothing was started");
    }
}
