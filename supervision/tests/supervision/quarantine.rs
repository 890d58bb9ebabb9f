//! A key that crashes again and again, and the supervisor that outlives it.

use std::time::Duration;

use canopy_supervision::{DynamicSpec, DynamicSupervisor, Intensity, Observe, OnCrashLoop, StartError, Status};

use crate::stage::{Order, Stage, settle};

/// One crash in 5 s is tolerated; then 10 s, 20 s, 25 s.
async fn started() -> (Stage, DynamicSupervisor) {
    let spec = DynamicSpec {
        intensity: Intensity { restarts_max: 1, period: Duration::from_secs(5) },
        on_crash_loop: OnCrashLoop::Quarantine {
            base: Duration::from_secs(10),
            max: Duration::from_secs(25),
            limit_entries: 100,
        },
        ..DynamicSpec::new("d")
    };
    let supervisor = DynamicSupervisor::new(spec);
    supervisor.start(None).await.expect("starts");
    (Stage::default(), supervisor)
}

async fn crash(stage: &Stage, key: &str) {
    stage.order(key, Order::Crash);
    settle().await;
}

async fn start(supervisor: &DynamicSupervisor, stage: &Stage, line: &str) -> Result<(), StartError> {
    let key = line.split_whitespace().next().expect("a key");
    supervisor.start_child(key, stage.child(line)).await.map(|_| ())
}

/// The seconds that a caller is told to wait, rounded up.
async fn refused(supervisor: &DynamicSupervisor, stage: &Stage, line: &str) -> u64 {
    let error = start(supervisor, stage, line).await.expect_err("quarantined");
    assert!(matches!(&error, StartError::Quarantined { last_error, .. } if last_error.contains('a')), "{error}");
    let wait = error.retry_after().expect("quarantined");
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[tokio::test(start_paused = true)]
async fn a_virtual_actor_is_held_longer_after_each_failed_trial() {
    let (stage, supervisor) = started().await;
    let line = "a temporary";
    start(&supervisor, &stage, line).await.expect("free");
    crash(&stage, "a").await;
    start(&supervisor, &stage, line).await.expect("one crash is tolerated");
    crash(&stage, "a").await;
    for hold_s in [10, 20, 25, 25] {
        assert_eq!(refused(&supervisor, &stage, line).await, hold_s);
        // Others are unaffected, and the supervisor lives.
        start(&supervisor, &stage, "b temporary").await.expect("another key");
        supervisor.terminate_child("b").await.expect("known");
        tokio::time::sleep(Duration::from_secs(hold_s)).await;
        start(&supervisor, &stage, line).await.expect("one trial");
        crash(&stage, "a").await;
    }
    assert!(supervisor.cell().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_lasts_clears_the_record() {
    let (stage, supervisor) = started().await;
    let line = "a temporary";
    for _ in 0..2 {
        start(&supervisor, &stage, line).await.expect("free");
        crash(&stage, "a").await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    start(&supervisor, &stage, line).await.expect("trial");
    tokio::time::sleep(Duration::from_secs(6)).await;
    crash(&stage, "a").await;
    start(&supervisor, &stage, line).await.expect("the first crash of a new history");
}

#[tokio::test(start_paused = true)]
async fn release_lifts_it() {
    let (stage, supervisor) = started().await;
    for _ in 0..2 {
        start(&supervisor, &stage, "a temporary").await.expect("free");
        crash(&stage, "a").await;
    }
    refused(&supervisor, &stage, "a temporary").await;
    assert!(supervisor.release("a"));
    assert!(!supervisor.release("a"));
    start(&supervisor, &stage, "a temporary").await.expect("free again");
}

#[tokio::test(start_paused = true)]
async fn starts_that_fail_count() {
    let (stage, supervisor) = started().await;
    stage.refuse("a", 9);
    for _ in 0..2 {
        let error = start(&supervisor, &stage, "a temporary").await.expect_err("refuses");
        assert!(matches!(error, StartError::Failed { .. }), "{error}");
    }
    assert_eq!(refused(&supervisor, &stage, "a temporary").await, 10);
    assert_eq!(supervisor.count_children().specs, 0);
}

#[tokio::test(start_paused = true)]
async fn normal_exits_do_not_count() {
    let (stage, supervisor) = started().await;
    for _ in 0..10 {
        start(&supervisor, &stage, "a temporary").await.expect("free");
        stage.order("a", Order::Stop(None));
        settle().await;
    }
}

/// The supervisor makes the trial itself for a child that it restarts.
#[tokio::test(start_paused = true)]
async fn a_permanent_child_is_tried_again_by_itself() {
    let (stage, supervisor) = started().await;
    start(&supervisor, &stage, "a permanent").await.expect("free");
    crash(&stage, "a").await;
    crash(&stage, "a").await;
    assert_eq!(stage.events(), "started a, crashed a, started a, crashed a");
    assert_eq!(supervisor.which_children(9)[0].status, Status::Quarantined);
    assert_eq!(refused(&supervisor, &stage, "a permanent").await, 10);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.events(), "started a");
    crash(&stage, "a").await;
    assert_eq!(refused(&supervisor, &stage, "a permanent").await, 20);
    // Released, it starts at once, and the timer of the hold finds nothing to do.
    assert!(supervisor.release("a"));
    settle().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.events(), "crashed a, started a");
}

#[tokio::test(start_paused = true)]
async fn held_keys_are_observed() {
    let (stage, supervisor) = started().await;
    start(&supervisor, &stage, "b temporary").await.expect("free");
    for _ in 0..2 {
        start(&supervisor, &stage, "a temporary").await.expect("free");
        crash(&stage, "a").await;
    }
    let tree = supervisor.observe(1, 10);
    assert_eq!(tree.children_total, 2);
    let held = &tree.children[0];
    assert_eq!((held.id.as_str(), held.status), ("a", Status::Quarantined));
    assert_eq!(held.last_error.as_deref(), Some("a panicked"));
    assert_eq!(tree.children[1].id, "b");
}
