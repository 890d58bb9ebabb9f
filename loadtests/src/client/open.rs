//! Open loop: requests start by a schedule, whether or not the server keeps up.
//!
//! A latency runs from the scheduled start, so the time a request waits because the server (or the
//! client) was busy counts: coordinated omission cannot hide a stall.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use super::{Latencies, Sample, percentile_ms};
use crate::LoadError;
use crate::clock::{nanoseconds, now_ns, seconds_between};

const NS_PER_S: u128 = 1_000_000_000;

/// Evenly spaced start times at `rate_per_s`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start_ns: u64,
    pub rate_per_s: u64,
}

impl Schedule {
    /// When request `index` starts. Computed from the index, so that no rounding adds up.
    pub fn due_ns(&self, index: u64) -> u64 {
        let offset = u128::from(index) * NS_PER_S / u128::from(self.rate_per_s.max(1));
        self.start_ns.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
    }

    /// How many requests the schedule holds in `seconds`.
    pub fn count(&self, seconds: f64) -> u64 {
        let span = u128::from(nanoseconds(Duration::from_secs_f64(seconds)));
        u64::try_from(span * u128::from(self.rate_per_s) / NS_PER_S).unwrap_or(u64::MAX)
    }

    /// Latency of a request that finished at `finished_ns`, from its scheduled start.
    pub fn latency_ns(&self, index: u64, finished_ns: u64) -> u64 {
        finished_ns.saturating_sub(self.due_ns(index))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct OpenPlan {
    pub rate_per_s: u64,
    pub seconds: f64,
}

/// A request that is due.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub index: u64,
    pub due_ns: u64,
}

/// Runs the plan and waits for every request that was begun. The sample's `p99_ms` is corrected
/// for coordinated omission, as is the histogram (nanoseconds).
///
/// # Errors
/// Those of `cpu_s`; failed calls are counted and their latency is recorded too.
pub async fn open_loop<F, Fut>(
    plan: OpenPlan,
    cpu_s: impl Fn() -> Result<f64, LoadError>,
    operation: F,
) -> Result<(Sample, Histogram<u64>), LoadError>
where
    F: Fn(Arrival) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), LoadError>> + Send + 'static,
{
    let cpu_before = cpu_s()?;
    let latencies = Arc::new(Latencies::default());
    let (succeeded, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let schedule = Schedule { start_ns: now_ns(), rate_per_s: plan.rate_per_s.max(1) };
    // Each task holds a sender: the channel closes when the last one has ended.
    let (running, mut all_ended) = mpsc::channel::<()>(1);
    let runtime = tokio::runtime::Handle::current();
    let counts = (latencies.clone(), succeeded.clone(), failed.clone());
    // A thread, for the runtime's timers are a millisecond coarse and requests are not.
    let dispatcher = std::thread::spawn(move || {
        let (latencies, succeeded, failed) = counts;
        for index in 0..schedule.count(plan.seconds) {
            let due_ns = schedule.due_ns(index);
            let now = now_ns();
            if due_ns > now {
                #[allow(clippy::disallowed_methods, reason = "the thread is this loop's own")]
                std::thread::sleep(Duration::from_nanos(due_ns - now));
            }
            let request = operation(Arrival { index, due_ns });
            let (latencies, running) = (latencies.clone(), running.clone());
            let (succeeded, failed) = (succeeded.clone(), failed.clone());
            runtime.spawn(async move {
                let counter = if request.await.is_ok() { succeeded } else { failed };
                counter.fetch_add(1, Ordering::Relaxed);
                let lane = usize::try_from(index).unwrap_or_default();
                latencies.record(lane, [schedule.latency_ns(index, now_ns())]);
                drop(running);
            });
        }
    });
    all_ended.recv().await;
    dispatcher.join().map_err(|_| LoadError::Subject("a call panicked as it was made".to_owned()))?;
    let histogram = latencies.take();
    let sample = Sample {
        operations: succeeded.load(Ordering::Relaxed),
        errors: failed.load(Ordering::Relaxed),
        wall_s: seconds_between(schedule.start_ns, now_ns()),
        cpu_s: cpu_s()? - cpu_before,
        p99_ms: percentile_ms(&histogram, 99.0),
    };
    Ok((sample, histogram))
}
