//! Open-loop latencies run from the schedule, so a stall cannot hide.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use canopy_load::LoadError;
use canopy_load::client::{OpenPlan, Schedule, open_loop};
use canopy_load::selftest::stalled_percentiles_ms;
use tokio::sync::Semaphore;

#[test]
fn start_times_are_even_and_do_not_drift() {
    for (rate_per_s, index, expected_ns) in
        [(1, 1, 1_000_000_000), (1_000, 5, 5_000_000), (3, 3, 1_000_000_000), (3, 3_000_000, 1_000_000_000_000_000)]
    {
        let schedule = Schedule { start_ns: 100, rate_per_s };
        assert_eq!(schedule.due_ns(index), 100 + expected_ns, "request {index} at {rate_per_s}/s");
    }
}

#[test]
fn a_schedule_holds_rate_times_seconds() {
    for (rate_per_s, seconds, expected) in [(1_000, 1.0, 1_000), (10, 0.25, 2), (7, 0.0, 0)] {
        assert_eq!(Schedule { start_ns: 0, rate_per_s }.count(seconds), expected);
    }
}

#[test]
fn latency_runs_from_the_schedule() {
    let schedule = Schedule { start_ns: 0, rate_per_s: 10 };
    assert_eq!(schedule.latency_ns(1, 100_000_000), 0);
    assert_eq!(schedule.latency_ns(1, 350_000_000), 250_000_000);
    // The clock is read before it is due only by an error elsewhere; that is no huge latency.
    assert_eq!(schedule.latency_ns(1, 0), 0);
}

#[test]
fn a_stall_is_seen_by_all_who_had_to_wait() {
    let (corrected_ms, naive_ms) = stalled_percentiles_ms();
    // 100 of 1,000 requests were due in the stall; the 95th percentile waited half of it.
    assert!((45.0..=55.0).contains(&corrected_ms), "{corrected_ms}");
    assert!(naive_ms < 1.0, "{naive_ms}");
}

#[tokio::test]
async fn requests_start_although_none_was_answered() {
    let plan = OpenPlan { rate_per_s: 2_000, seconds: 0.1 };
    // Nobody is answered before all have started.
    let started = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (sample, histogram) = open_loop(
        plan,
        || Ok(0.0),
        move |arrival| {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                if started.fetch_add(1, Ordering::AcqRel) + 1 == 200 {
                    gate.add_permits(200);
                }
                gate.acquire().await.expect("the gate is never closed").forget();
                if arrival.index % 4 == 0 { Err(LoadError::Subject("planted".to_owned())) } else { Ok(()) }
            }
        },
    )
    .await
    .unwrap();
    assert_eq!((sample.operations, sample.errors, histogram.len()), (150, 50, 200));
    // The first waited for the last, which was due 99.5 ms later.
    assert!(histogram.max() >= 99_000_000, "{}", histogram.max());
}
