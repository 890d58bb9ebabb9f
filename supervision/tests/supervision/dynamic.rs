//! Children by key.

use std::sync::Arc;
use std::time::Duration;

use canopy_supervision::{
    Backoff, ChildCounts, ChildError, ChildSpec, DynamicSpec, DynamicSupervisor, Intensity, Shutdown, StartError,
    Status, Supervisor,
};

use crate::stage::{Order, Stage, settle, watcher};

async fn started(spec: DynamicSpec) -> (Stage, DynamicSupervisor) {
    let stage = Stage::default();
    let supervisor = DynamicSupervisor::new(spec);
    let parent = watcher(&stage).await;
    supervisor.start(Some(parent)).await.expect("starts");
    (stage, supervisor)
}

async fn start(supervisor: &DynamicSupervisor, stage: &Stage, line: &str) {
    let key = line.split_whitespace().next().expect("a key");
    supervisor.start_child(key, stage.child(line)).await.expect("starts");
}

#[tokio::test(start_paused = true)]
async fn restart_types() {
    let spec = DynamicSpec {
        intensity: Intensity { restarts_max: 10, period: Duration::from_secs(5) },
        ..DynamicSpec::new("d")
    };
    let (stage, supervisor) = started(spec).await;
    for line in ["p permanent", "t transient", "x temporary"] {
        start(&supervisor, &stage, line).await;
    }
    assert_eq!(stage.events(), "started p, started t, started x");
    for (key, order, expected) in [
        ("p", Order::Stop(None), "stopped p, started p"),
        ("t", Order::Crash, "crashed t, started t"),
        ("t", Order::Stop(None), "stopped t"),
        ("x", Order::Crash, "crashed x"),
    ] {
        stage.order(key, order);
        settle().await;
        assert_eq!(stage.events(), expected);
    }
    assert_eq!(supervisor.count_children().specs, 1);
    assert!(supervisor.child("p").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_started_once_and_again_when_it_has_ended() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    let child = || stage.child("a temporary slow=100");
    // Two callers meet: one starts it, the other gets the same actor.
    let (one, two) = tokio::join!(supervisor.start_child("a", child()), supervisor.start_child("a", child()));
    let cell = one.expect("the first starts it");
    assert!(matches!(two, Err(StartError::AlreadyStarted { cell: same, .. }) if same == cell));
    // A start that meets an actor on its way out waits, and makes the next one.
    stage.order("a", Order::Stop(None));
    tokio::task::yield_now().await;
    let next = supervisor.start_child("a", child()).await;
    let next = match next {
        Err(StartError::AlreadyStarted { .. }) => {
            settle().await;
            supervisor.start_child("a", child()).await
        }
        other => other,
    };
    assert_ne!(next.expect("starts"), cell);
    assert_eq!(stage.events(), "started a, stopped a, started a");
}

#[tokio::test(start_paused = true)]
async fn terminate_waits_kills_and_forgets() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    start(&supervisor, &stage, "a permanent slow=50 timeout=100").await;
    start(&supervisor, &stage, "b permanent slow=500 timeout=100").await;
    supervisor.terminate_child("a").await.expect("known");
    assert_eq!(stage.events(), "started a, started b, stopped a");
    let again = stage.child("b temporary");
    // A start during the stop waits for it.
    let (ended, next) = tokio::join!(supervisor.terminate_child("b"), supervisor.start_child("b", again));
    ended.expect("known");
    next.expect("starts after the stop");
    assert_eq!(stage.events(), "killed b, started b");
    let unknown = supervisor.terminate_child("a").await;
    assert!(matches!(unknown, Err(ChildError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn stopping_asks_all_at_once_newest_first_under_one_deadline() {
    let spec = DynamicSpec { shutdown_deadline: Duration::from_secs(1), ..DynamicSpec::new("d") };
    let (stage, supervisor) = started(spec).await;
    for line in ["a infinity", "b", "c slow=900", "d slow=5000 infinity", "e slow=800"] {
        start(&supervisor, &stage, line).await;
    }
    stage.events();
    let begun = tokio::time::Instant::now();
    supervisor.stop().await;
    assert_eq!(begun.elapsed().as_millis(), 1000);
    settle().await;
    assert_eq!(stage.events(), "stopped b, stopped a, stopped e, stopped c, killed d, supervisor ended: shutdown");
    let late = supervisor.start_child("f", stage.child("f")).await;
    assert!(matches!(late, Err(StartError::NotRunning { .. })));
}

#[tokio::test(start_paused = true)]
async fn meltdown_counts_all_keys_together() {
    let spec = DynamicSpec {
        intensity: Intensity { restarts_max: 1, period: Duration::from_secs(5) },
        ..DynamicSpec::new("d")
    };
    let (stage, supervisor) = started(spec).await;
    for line in ["a permanent", "b transient", "c temporary"] {
        start(&supervisor, &stage, line).await;
    }
    stage.order("c", Order::Crash);
    settle().await;
    stage.order("a", Order::Crash);
    settle().await;
    stage.events();
    stage.order("b", Order::Fail);
    settle().await;
    assert_eq!(
        stage.events(),
        "crashed b, stopped a, supervisor failed: supervisor d melted down: more than 1 restarts in 5s, the last of \
         b: b failed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_cannot_start_melts_down_too() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    start(&supervisor, &stage, "a permanent").await;
    stage.refuse("a", 9);
    stage.order("a", Order::Crash);
    settle().await;
    assert_eq!(
        stage.events(),
        "started a, crashed a, refused a, supervisor failed: supervisor d melted down: more than 1 restarts in 5s, \
         the last of a: start failed: a does not want to"
    );
}

#[tokio::test(start_paused = true)]
async fn restarts_back_off() {
    let spec = DynamicSpec {
        backoff: Some(Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 }),
        ..DynamicSpec::new("d")
    };
    let (stage, supervisor) = started(spec).await;
    start(&supervisor, &stage, "a permanent").await;
    stage.order("a", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "started a, crashed a");
    assert_eq!(supervisor.which_children(9)[0].status, Status::Restarting);
    let meanwhile = supervisor.start_child("a", stage.child("a")).await;
    assert!(matches!(meanwhile, Err(StartError::Restarting { .. })));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.events(), "started a");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_children_is_bounded() {
    let spec = DynamicSpec { children_max: 2, ..DynamicSpec::new("d") };
    let (stage, supervisor) = started(spec).await;
    start(&supervisor, &stage, "a temporary").await;
    start(&supervisor, &stage, "b temporary").await;
    let third = supervisor.start_child("c", stage.child("c")).await;
    assert!(matches!(third, Err(StartError::ChildLimit { children_max: 2, .. })));
    supervisor.terminate_child("a").await.expect("known");
    start(&supervisor, &stage, "c temporary").await;
}

#[tokio::test(start_paused = true)]
async fn a_start_goes_on_when_its_caller_goes_away() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    let inner = stage.child("a temporary");
    let slow = ChildSpec::worker("a", move |cell| {
        let start = inner.start.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            start(cell).await
        }
    });
    let impatient = tokio::time::timeout(Duration::from_millis(10), supervisor.start_child("a", slow)).await;
    assert!(impatient.is_err());
    assert_eq!(supervisor.which_children(9)[0].status, Status::Starting);
    // Others keep starting meanwhile.
    start(&supervisor, &stage, "b temporary").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.events(), "started b, started a");
    assert!(supervisor.child("a").is_some());
}

/// A child may be gone before its start has been entered.
#[tokio::test(start_paused = true)]
async fn a_child_that_ends_within_its_start_leaves_nothing_behind() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    let inner = stage.child("a temporary");
    let brief = ChildSpec::worker("a", move |cell| {
        let start = inner.start.clone();
        async move {
            let child = start(cell).await?;
            child.stop(None);
            let _ = child.wait(None).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(child)
        }
    })
    .restart(canopy_supervision::Restart::Temporary);
    supervisor.start_child("a", brief).await.expect("it did start");
    assert_eq!(supervisor.count_children().specs, 0);
    start(&supervisor, &stage, "a temporary").await;
    assert_eq!(stage.events(), "started a, stopped a, started a");
}

#[tokio::test(start_paused = true)]
async fn many_come_and_go() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    for round in 0..3 {
        for number in 0..1000 {
            start(&supervisor, &stage, &format!("{round}/{number} temporary")).await;
        }
        assert_eq!(supervisor.count_children().specs, 1000);
        assert_eq!(supervisor.which_children(7).len(), 7);
        for number in 0..1000 {
            stage.order(&format!("{round}/{number}"), Order::Stop(None));
        }
        settle().await;
        assert_eq!(supervisor.count_children().specs, 0);
    }
}

/// The handle and its quarantine outlive the supervisor's own restart; its
/// children do not.
#[tokio::test(start_paused = true)]
async fn the_handle_follows_a_restart_by_the_parent() {
    let stage = Stage::default();
    let supervisor = DynamicSupervisor::new(DynamicSpec::new("d"));
    let root = Supervisor::new(stage.supervisor("root one_for_all\n a").child(supervisor.child_spec()));
    root.start(None).await.expect("starts");
    start(&supervisor, &stage, "x temporary").await;
    stage.order("a", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "started a, started x, crashed a, stopped x, started a");
    assert_eq!(supervisor.count_children().specs, 0);
    start(&supervisor, &stage, "x temporary").await;
    settle().await;
    assert_eq!(supervisor.count_children().specs, 1);
}

#[tokio::test(start_paused = true)]
async fn each_child_has_a_time_out_of_its_own_when_all_are_stopped() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    for line in ["a slow=60000 timeout=300", "b slow=60000 timeout=100", "c slow=200 timeout=300", "d brutal"] {
        start(&supervisor, &stage, line).await;
    }
    stage.events();
    let begun = tokio::time::Instant::now();
    supervisor.stop().await;
    assert_eq!(begun.elapsed().as_millis(), 300);
    settle().await;
    assert_eq!(stage.events(), "killed d, killed b, stopped c, killed a, supervisor ended: shutdown");
}

/// Restarts in a row make it longer, failed starts included; a quiet period
/// makes it short again.
#[tokio::test(start_paused = true)]
async fn back_off_grows_and_begins_again() {
    let spec = DynamicSpec {
        intensity: Intensity { restarts_max: 9, period: Duration::from_secs(5) },
        backoff: Some(Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 }),
        ..DynamicSpec::new("d")
    };
    let (stage, supervisor) = started(spec).await;
    start(&supervisor, &stage, "a permanent").await;
    stage.refuse("a", 1);
    stage.events();
    for (crash, wait_ms, expected) in [
        (true, 100, "crashed a, refused a"),
        (false, 200, "started a"),
        (true, 390, "crashed a"),
        (false, 10, "started a"),
        (false, 5001, ""),
        (true, 101, "crashed a, started a"),
    ] {
        if crash {
            stage.order("a", Order::Crash);
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        tokio::task::yield_now().await;
        assert_eq!(stage.events(), expected, "{wait_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_back_off_is_final() {
    let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
    let (stage, supervisor) = started(DynamicSpec { backoff: Some(backoff), ..DynamicSpec::new("d") }).await;
    start(&supervisor, &stage, "a permanent").await;
    stage.order("a", Order::Crash);
    settle().await;
    supervisor.stop().await;
    settle().await;
    assert_eq!(stage.events(), "started a, crashed a, supervisor ended: shutdown");
    supervisor.start(None).await.expect("starts");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.events(), "", "the restart belonged to the one before");
}

/// ractor links an actor when its `pre_start` is over; until then nothing else
/// ends it with its supervisor.
#[tokio::test(start_paused = true)]
async fn a_start_under_way_ends_with_its_supervisor() {
    for kill in [false, true] {
        let (stage, supervisor) = started(DynamicSpec::new("d")).await;
        let beginning = supervisor.start_child("a", stage.child("a late=60000"));
        let ending = async {
            settle().await;
            assert_eq!(stage.events(), "starting a");
            match supervisor.cell() {
                Some(cell) if kill => cell.kill(),
                _ => supervisor.stop().await,
            }
        };
        let begun = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(beginning, ending);
        assert!(matches!(answer, Err(StartError::NotRunning { .. })), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(1), "nobody waited for it");
        tokio::time::sleep(Duration::from_secs(61)).await;
        let ended = if kill { "supervisor ended: killed" } else { "supervisor ended: shutdown" };
        assert_eq!(stage.events(), ended);
        supervisor.start(None).await.expect("starts again");
        start(&supervisor, &stage, "a").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_chooses_not_to_run_is_forgotten() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    stage.decline("a", 1);
    let declined = supervisor.start_child("a", stage.child("a")).await;
    assert!(matches!(declined, Err(StartError::Ignored)), "{declined:?}");
    assert_eq!(supervisor.count_children(), ChildCounts::default());
    start(&supervisor, &stage, "a").await;
    // At its restart, too.
    stage.decline("a", 1);
    stage.order("a", Order::Crash);
    settle().await;
    assert_eq!(stage.events(), "declined a, started a, crashed a, declined a");
    assert_eq!(supervisor.count_children(), ChildCounts::default());
}

#[tokio::test(start_paused = true)]
async fn children_are_counted_and_their_specs_shown() {
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    let inner = Supervisor::new(stage.supervisor("inner one_for_one"));
    supervisor.start_child("inner", inner.child_spec()).await.expect("starts");
    for line in ["a permanent timeout=77", "b temporary", "c transient"] {
        start(&supervisor, &stage, line).await;
    }
    assert_eq!(supervisor.count_children(), ChildCounts { specs: 4, active: 4, supervisors: 1, workers: 3 });
    supervisor.terminate_child("inner").await.expect("known");
    stage.order("b", Order::Crash);
    stage.order("c", Order::Stop(None));
    stage.refuse("a", 1);
    settle().await;
    assert_eq!(supervisor.count_children(), ChildCounts { specs: 1, active: 1, supervisors: 0, workers: 1 });
    let spec = supervisor.get_childspec("a").expect("it can be started again");
    assert_eq!(spec.shutdown, Shutdown::Timeout(Duration::from_millis(77)));
    start(&supervisor, &stage, "b temporary").await;
    assert!(supervisor.get_childspec("b").is_none(), "a temporary one's start is not kept");
}

/// No time is measured here; it has to end.
#[tokio::test]
async fn a_hundred_thousand_come_and_go() {
    const CHILDREN: usize = 100_000;
    let (stage, supervisor) = started(DynamicSpec::new("d")).await;
    let spec = stage.child("x temporary");
    let keys: Vec<Arc<str>> = (0..CHILDREN).map(|number| format!("org/{number}").into()).collect();
    for key in &keys {
        supervisor.start_child(Arc::clone(key), spec.clone()).await.expect("starts");
    }
    let all = ChildCounts { specs: CHILDREN, active: CHILDREN, supervisors: 0, workers: CHILDREN };
    assert_eq!(supervisor.count_children(), all);
    for key in keys.iter().step_by(2) {
        supervisor.terminate_child(key).await.expect("known");
    }
    assert_eq!(supervisor.count_children().active, CHILDREN / 2);
    supervisor.stop().await;
    assert_eq!(supervisor.count_children(), ChildCounts::default());
    let count = |what: &str, events: &str| events.matches(what).count();
    let events = stage.events();
    assert_eq!(count("started x", &events), CHILDREN);
    assert_eq!(count("stopped x", &events), CHILDREN);
    assert_eq!(count("killed x", &events), 0);
}
