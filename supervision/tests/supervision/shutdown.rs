//! How children are stopped, and how long it may take.

use crate::stage::check;

#[tokio::test(start_paused = true)]
async fn asked_then_killed() {
    check(
        "s one_for_one
         brutal brutal
         quick timeout=100
         slow slow=50 timeout=100
         late slow=200 timeout=100
         patient slow=60000 infinity",
        "shutdown",
        "> start
         started brutal, started quick, started slow, started late, started patient
         > shutdown
         stopped patient, killed late, stopped slow, stopped quick, killed brutal, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_child_is_killed_after_its_time_out() {
    check(
        "s one_for_all\n a timeout=100\n b",
        "hang a\n crash b\n advance 97\n advance 3",
        "> start
         started a, started b
         > hang a
         > crash b
         crashed b
         > advance 97
         > advance 3
         killed a, started a, started b",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_killed_takes_its_children_along() {
    let stage = crate::stage::Stage::default();
    let supervisor = canopy_supervision::Supervisor::new(stage.supervisor("s one_for_one\n a\n b"));
    let cell = supervisor.start(None).await.expect("starts");
    stage.events();
    cell.kill();
    crate::stage::settle().await;
    let mut events: Vec<String> = stage.events().split(", ").map(ToOwned::to_owned).collect();
    events.sort();
    assert_eq!(events, ["killed a", "killed b"]);
    assert!(supervisor.child("a").is_none());
    supervisor.start(None).await.expect("starts again");
    assert_eq!(stage.events(), "started a, started b");
}
