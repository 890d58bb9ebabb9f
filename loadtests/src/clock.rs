//! The one clock of a load run: nanoseconds since the process first asked.
//!
//! Sender and subscribers live in one process, so a message can carry its sent time in this clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Monotonic nanoseconds since the first call in this process.
pub fn now_ns() -> u64 {
    nanoseconds(ORIGIN.get_or_init(Instant::now).elapsed())
}

/// A duration as whole nanoseconds; 584 years are enough.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds between two readings of `now_ns`.
pub fn seconds_between(start_ns: u64, end_ns: u64) -> f64 {
    Duration::from_nanos(end_ns.saturating_sub(start_ns)).as_secs_f64()
}
