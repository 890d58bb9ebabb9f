//! Latencies of many tasks, recorded in a few shards so that they do not meet on one lock.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// More shards than cores; a shard of three digits takes about 150 kB.
const SHARDS: usize = 8;
const LATENCY_NS_MIN: u64 = 1_000;
/// Longer ones are recorded as this: a stalled run fails by its counts.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

#[derive(Debug)]
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(empty())).collect() }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS).expect("the bounds are constants in range")
}

impl Latencies {
    /// What [`Latencies::take`] gives where nothing was recorded, to add others' to.
    pub fn none() -> Histogram<u64> {
        empty()
    }

    /// Records latencies in nanoseconds under one lock; `lane` spreads callers over shards.
    pub fn record(&self, lane: usize, latencies_ns: impl IntoIterator<Item = u64>) {
        if let Some(shard) = self.shards.get(lane % SHARDS) {
            let mut shard = shard.lock();
            for latency_ns in latencies_ns {
                shard.saturating_record(latency_ns);
            }
        }
    }

    /// What was recorded since the last call.
    pub fn take(&self) -> Histogram<u64> {
        let mut sum = empty();
        for shard in &self.shards {
            let mut shard = shard.lock();
            sum.add(&*shard).expect("all shards have the same bounds");
            shard.reset();
        }
        sum
    }
}

/// A percentile (0–100) in milliseconds.
pub fn percentile_ms(latencies: &Histogram<u64>, percentile: f64) -> f64 {
    std::time::Duration::from_nanos(latencies.value_at_percentile(percentile)).as_secs_f64() * 1_000.0
}
