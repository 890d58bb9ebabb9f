//! Strategies, intensity and retries, as traces.

use canopy_supervision::StartError;

use crate::stage::check;

#[tokio::test(start_paused = true)]
async fn one_for_one_restarts_only_the_child() {
    check(
        "s one_for_one\n a\n b\n c",
        "crash b\n fail a\n kill c\n shutdown",
        "> start
         started a, started b, started c
         > crash b
         crashed b, started b
         > fail a
         crashed a, started a
         > kill c
         killed c, started c
         > shutdown
         stopped c, stopped b, stopped a, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_stops_in_reverse_and_starts_in_order() {
    check(
        "s one_for_all\n a\n b temporary\n c transient\n d",
        "stop c\n crash d\n crash c",
        "> start
         started a, started b, started c, started d
         > stop c
         stopped c
         > crash d
         crashed d, stopped b, stopped a, started a, started c, started d
         > crash c
         crashed c, stopped d, stopped a, started a, started c, started d",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_spares_those_before() {
    check(
        "s rest_for_one\n a\n b\n c temporary\n d",
        "crash b\n crash d\n crash a",
        "> start
         started a, started b, started c, started d
         > crash b
         crashed b, stopped d, stopped c, started b, started d
         > crash d
         crashed d, started d
         > crash a
         crashed a, stopped d, stopped b, started a, started b, started d",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn exactly_the_maximum_is_tolerated_and_one_more_melts_down() {
    check(
        "s one_for_one 2/1000\n a\n b",
        "crash a\n crash b\n crash a",
        "> start
         started a, started b
         > crash a
         crashed a, started a
         > crash b
         crashed b, started b
         > crash a
         crashed a, stopped b, supervisor failed: supervisor s melted down: more than 2 restarts in 1s, the last of a: a panicked",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn restarts_older_than_the_period_do_not_count() {
    check(
        "s one_for_one 1/1000\n a",
        "crash a\n advance 1000\n crash a\n advance 900\n crash a",
        "> start
         started a
         > crash a
         crashed a, started a
         > advance 1000
         > crash a
         crashed a, started a
         > advance 900
         > crash a
         crashed a, supervisor failed: supervisor s melted down: more than 1 restarts in 1s, the last of a: a panicked",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_restart_counts_once() {
    check(
        "s one_for_all 1/1000\n a\n b\n c",
        "crash b",
        "> start
         started a, started b, started c
         > crash b
         crashed b, stopped c, stopped a, started a, started b, started c",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_at_first_stops_the_started_ones_in_reverse() {
    let stage = crate::stage::Stage::default();
    let supervisor = canopy_supervision::Supervisor::new(stage.supervisor("s one_for_one\n a\n b\n c\n d"));
    stage.refuse("c", 1);
    let error = supervisor.start(None).await.expect_err("c refuses");
    assert_eq!(error.to_string(), "child c did not start: start failed: c does not want to");
    assert_eq!(stage.events(), "started a, started b, refused c, stopped b, stopped a");
    assert!(supervisor.cell().is_none());
    supervisor.start(None).await.expect("c is willing now");
    assert_eq!(stage.events(), "started a, started b, started c, started d");
}

#[tokio::test(start_paused = true)]
async fn a_failed_restart_is_tried_again_and_each_try_counts() {
    check(
        "s one_for_one 3/1000\n a\n b",
        "refuse b 2\n crash b\n refuse b 9\n advance 2000\n crash b",
        "> start
         started a, started b
         > refuse b 2
         > crash b
         crashed b, refused b, refused b, started b
         > refuse b 9
         > advance 2000
         > crash b
         crashed b, refused b, refused b, refused b, stopped a, supervisor failed: supervisor s melted down: \
         more than 3 restarts in 1s, the last of b: start failed: b does not want to",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_group_restart_goes_on_from_the_child_that_failed() {
    // rest_for_one: those before it stay. one_for_all: they are stopped again.
    check(
        "s rest_for_one\n a\n b\n c\n d",
        "refuse c 1\n crash b",
        "> start
         started a, started b, started c, started d
         > refuse c 1
         > crash b
         crashed b, stopped d, stopped c, started b, refused c, started c, started d",
    )
    .await;
    check(
        "s one_for_all\n a\n b\n c",
        "refuse b 1\n crash c",
        "> start
         started a, started b, started c
         > refuse b 1
         > crash c
         crashed c, stopped b, stopped a, started a, refused b, stopped a, started a, started b, started c",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn back_off_doubles_and_begins_again_after_a_quiet_period() {
    check(
        "s one_for_one 9/5000 backoff=100\n a\n b",
        "crash a\n advance 98\n advance 1\n crash a\n advance 190\n advance 10\n advance 5001\n crash a\n advance 99",
        "> start
         started a, started b
         > crash a
         crashed a
         > advance 98
         > advance 1
         started a
         > crash a
         crashed a
         > advance 190
         > advance 10
         started a
         > advance 5001
         > crash a
         crashed a
         > advance 99
         started a",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_waits_together_and_an_earlier_sibling_takes_it_over() {
    check(
        "s rest_for_one 9/5000 backoff=100\n a\n b\n c",
        "crash b\n advance 50\n crash a\n advance 60\n advance 60",
        "> start
         started a, started b, started c
         > crash b
         crashed b, stopped c
         > advance 50
         > crash a
         crashed a
         > advance 60
         > advance 60
         started a, started b, started c",
    )
    .await;
}

/// The child ran quietly for long before; the starts that fail now did not.
#[tokio::test(start_paused = true)]
async fn back_off_grows_over_starts_that_fail() {
    check(
        "s one_for_one 9/5000 backoff=100\n a",
        "advance 60000\n refuse a 2\n crash a\n advance 100\n advance 190\n advance 10\n advance 390\n advance 10",
        "> start
         started a
         > advance 60000
         > refuse a 2
         > crash a
         crashed a
         > advance 100
         refused a
         > advance 190
         > advance 10
         refused a
         > advance 390
         > advance 10
         started a",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_back_off_is_final() {
    check(
        "s one_for_all 9/5000 backoff=100\n a\n b",
        "crash a\n shutdown\n advance 500",
        "> start
         started a, started b
         > crash a
         crashed a, stopped b
         > shutdown
         supervisor ended: shutdown
         > advance 500",
    )
    .await;
}

/// OTP's `ignore`.
#[tokio::test(start_paused = true)]
async fn a_child_may_choose_not_to_run() {
    let stage = crate::stage::Stage::default();
    let spec = stage.supervisor("s one_for_all\n a\n b\n c temporary\n d");
    let supervisor = canopy_supervision::Supervisor::new(spec);
    stage.decline("b", 1);
    stage.decline("c", 1);
    supervisor.start(None).await.expect("that is no failure");
    assert_eq!(stage.events(), "started a, declined b, declined c, started d");
    let known = || supervisor.which_children().iter().map(|child| child.id.to_string()).collect::<Vec<_>>();
    assert_eq!(known(), ["a", "b", "d"], "a temporary one is forgotten");
    assert!(supervisor.child("b").is_none());
    stage.decline("b", 1);
    let again = supervisor.restart_child("b").await;
    assert!(matches!(again, Err(canopy_supervision::ChildError::Start(StartError::Ignored))), "{again:?}");
    // A group restart asks it again.
    stage.order("a", crate::stage::Order::Crash);
    crate::stage::settle().await;
    assert_eq!(stage.events(), "declined b, crashed a, stopped d, started a, started b, started d");
    // So does its own, and then it stays away.
    stage.decline("b", 1);
    stage.order("b", crate::stage::Order::Crash);
    crate::stage::settle().await;
    assert_eq!(stage.events(), "crashed b, stopped d, stopped a, started a, declined b, started d");
    // One that is added and declines is kept, unless it is temporary.
    for (line, kept) in [("e", true), ("f temporary", false)] {
        stage.decline(&line[..1], 1);
        let added = supervisor.start_child(stage.child(line)).await;
        assert!(matches!(added, Err(canopy_supervision::ChildError::Start(StartError::Ignored))), "{added:?}");
        assert_eq!(known().contains(&line[..1].to_owned()), kept, "{line}");
    }
    let present = supervisor.start_child(stage.child("e")).await.expect_err("its id is taken");
    assert_eq!(present.to_string(), "child e is present and has no actor: restart it, or delete it first");
}
