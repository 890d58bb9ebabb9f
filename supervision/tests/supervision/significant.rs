//! Automatic shutdown by significant children.

use std::time::Duration;

use canopy_supervision::{AutoShutdown, DynamicSpec, DynamicSupervisor, OnCrashLoop, StartError, Supervisor};

use crate::stage::{Order, Stage, check, settle, watcher};

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

/// `all` counts those that are known; another's restart does not matter.
#[tokio::test(start_paused = true)]
async fn of_a_dynamic_supervisor() {
    for (auto_shutdown, expected) in [
        (AutoShutdown::Never, ["stopped c", "crashed b", "stopped a", ""]),
        (AutoShutdown::AnySignificant, ["stopped c", "crashed b, stopped a, supervisor ended: shutdown", "", ""]),
        (AutoShutdown::AllSignificant, ["stopped c", "crashed b", "stopped a, supervisor ended: shutdown", ""]),
    ] {
        let stage = Stage::default();
        let supervisor = DynamicSupervisor::new(DynamicSpec { auto_shutdown, ..DynamicSpec::new("d") });
        supervisor.start(Some(watcher(&stage).await)).await.expect("starts");
        let significant = if auto_shutdown == AutoShutdown::Never { "" } else { "significant" };
        for line in ["a transient", "b temporary", "c transient"] {
            let line = if line.starts_with('c') { line.to_owned() } else { format!("{line} {significant}") };
            supervisor.start_child(&line[..1], stage.child(&line)).await.expect("starts");
        }
        // By hand it is no automatic shutdown.
        supervisor.start_child("z", stage.child(&format!("z temporary {significant}"))).await.expect("starts");
        supervisor.terminate_child("z").await.expect("known");
        stage.events();
        for (index, expected) in expected.into_iter().enumerate() {
            match (index, supervisor.cell()) {
                (0, _) => stage.order("c", Order::Stop(None)),
                (1, _) => stage.order("b", Order::Crash),
                (2, Some(_)) => stage.order("a", Order::Stop(None)),
                _ => {}
            }
            settle().await;
            assert_eq!(stage.events(), expected, "{auto_shutdown:?} {index}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn contradicting_dynamic_specs_are_refused() {
    let quarantine =
        OnCrashLoop::Quarantine { base: Duration::from_secs(1), max: Duration::from_secs(1), limit_entries: 1 };
    let auto_shutdown = AutoShutdown::AnySignificant;
    let spec = DynamicSpec { on_crash_loop: quarantine, auto_shutdown, ..DynamicSpec::new("d") };
    let error = DynamicSupervisor::new(spec).start(None).await.expect_err("a contradiction");
    assert_eq!(error.to_string(), "child spec d is invalid: a supervisor that quarantines has no auto_shutdown");
    let supervisor = DynamicSupervisor::new(DynamicSpec::new("d"));
    supervisor.start(None).await.expect("starts");
    for (line, reason) in [
        ("a transient significant", "needs a supervisor with auto_shutdown"),
        ("a timeout=0", "a shutdown time-out of nothing: use BrutalKill"),
    ] {
        let error = supervisor.start_child("key", Stage::default().child(line)).await.expect_err(line);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("key"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn contradicting_specs_are_refused() {
    for (text, reason) in [
        ("s one_for_one\n a transient significant", "needs a supervisor with auto_shutdown"),
        ("s one_for_one any\n a permanent significant", "a permanent child cannot be significant"),
        ("s one_for_one\n a\n b\n a", "its id is taken by a sibling"),
        ("s one_for_one\n a timeout=0", "a shutdown time-out of nothing: use BrutalKill"),
        ("s one_for_one 3/0\n a", "an intensity needs a period longer than nothing"),
    ] {
        let stage = Stage::default();
        let error = Supervisor::new(stage.supervisor(text)).start(None).await.expect_err(text);
        assert!(matches!(error, StartError::InvalidSpec { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(stage.events(), "", "nothing was started");
    }
}
