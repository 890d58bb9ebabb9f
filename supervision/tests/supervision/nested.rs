//! Supervisors under supervisors.

use std::time::Duration;

use canopy_supervision::{Intensity, Observe, Restart, StartError, Supervisor};

use crate::stage::{Order, Stage, settle, watcher};

fn intensity(restarts_max: u32) -> Intensity {
    Intensity { restarts_max, period: Duration::from_secs(5) }
}

/// root(one_for_one 1) → inner(one_for_one 0) → leaf; a meltdown of inner is a
/// restart for root, and the second one is root's own meltdown.
#[tokio::test(start_paused = true)]
async fn a_meltdown_goes_up() {
    let stage = Stage::default();
    let inner = Supervisor::new(stage.supervisor("inner one_for_one 0/5000\n leaf\n twig"));
    let root = stage.supervisor("root one_for_one\n bark").intensity(intensity(1));
    let root = Supervisor::new(root.child(inner.child_spec()));
    let parent = watcher(&stage).await;
    root.start(Some(parent)).await.expect("starts");
    assert_eq!(stage.events(), "started bark, started leaf, started twig");
    stage.order("leaf", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "crashed leaf, stopped twig, started leaf, started twig");
    assert!(inner.cell().is_some(), "the handle follows the restart");
    stage.order("leaf", Order::Crash);
    settle().await;
    assert_eq!(
        stage.events(),
        "crashed leaf, stopped twig, stopped bark, supervisor failed: supervisor root melted down: more than 1 \
         restarts in 5s, the last of inner: supervisor inner melted down: more than 0 restarts in 5s, the last of \
         leaf: leaf panicked"
    );
}

/// OTP's supervisor would exit with `shutdown` here and stay away.
#[tokio::test(start_paused = true)]
async fn a_meltdown_is_abnormal_for_a_transient_entry() {
    let stage = Stage::default();
    let inner = Supervisor::new(stage.supervisor("inner one_for_one 0/5000\n leaf"));
    let child = inner.child_spec().restart(Restart::Transient);
    let root = Supervisor::new(stage.supervisor("root one_for_one").child(child));
    root.start(None).await.expect("starts");
    stage.order("leaf", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "started leaf, crashed leaf, started leaf");
}

#[tokio::test(start_paused = true)]
async fn a_nested_start_failure_names_the_path() {
    let stage = Stage::default();
    stage.refuse("leaf", 1);
    let inner = Supervisor::new(stage.supervisor("inner one_for_one\n leaf"));
    let root = Supervisor::new(stage.supervisor("root one_for_one\n bark").child(inner.child_spec()));
    let error = root.start(None).await.expect_err("leaf refuses");
    assert_eq!(
        error.to_string(),
        "child inner did not start: child leaf did not start: start failed: leaf does not want to"
    );
    assert_eq!(stage.events(), "started bark, refused leaf, stopped bark");
}

/// The state of an incarnation that was stopped by its parent lies in the
/// parent's queue while the next one starts; dropping it must not touch that.
#[tokio::test(start_paused = true)]
async fn a_group_restart_of_a_supervisor_leaves_the_new_one_intact() {
    let stage = Stage::default();
    let inner = Supervisor::new(stage.supervisor("inner one_for_one\n leaf"));
    let root = Supervisor::new(stage.supervisor("root one_for_all\n bark").child(inner.child_spec()));
    root.start(None).await.expect("starts");
    stage.order("bark", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "started bark, started leaf, crashed bark, stopped leaf, started bark, started leaf");
    assert!(inner.child("leaf").is_some());
    stage.order("leaf", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "crashed leaf, started leaf");
}

/// With real threads, a meltdown and the restart that follows it are one restart
/// and not, through a start that finds the old one still there, two. The gap in
/// which that could happen is nanoseconds wide and cannot be forced from here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_meltdown_is_one_restart_on_several_threads_too() {
    for _ in 0..200 {
        let stage = Stage::default();
        let inner = Supervisor::new(stage.supervisor("inner one_for_one 0/5000\n leaf"));
        let root = stage.supervisor("root one_for_one").intensity(intensity(1));
        let root = Supervisor::new(root.child(inner.child_spec()));
        root.start(None).await.expect("starts");
        assert_eq!(stage.events(), "started leaf");
        stage.order("leaf", Order::Fail);
        let restarted = async {
            while root.observe(1, 1).children.first().is_none_or(|inner| inner.restarts == 0) {
                assert!(root.cell().is_some(), "root melted down");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), restarted).await.expect("it is restarted");
        assert_eq!(stage.events(), "crashed leaf, started leaf");
        root.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_starts_one_supervisor_at_a_time() {
    let stage = Stage::default();
    let supervisor = Supervisor::new(stage.supervisor("s one_for_one\n a"));
    let (one, two) = tokio::join!(supervisor.start(None), supervisor.start(None));
    let cell = one.expect("starts");
    assert!(matches!(two, Err(StartError::AlreadyStarted { cell: same, .. }) if same == cell));
    assert_eq!(stage.events(), "started a");
    assert!(supervisor.child("a").is_some());
}
