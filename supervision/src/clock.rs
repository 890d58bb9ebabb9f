//! The one place that reads clocks.
//!
//! Intervals are tokio's, so a test with a paused clock is deterministic. Unix
//! time is read once and carried forward by the same clock: stamps in one
//! process never run backwards, and stand still while a test's clock does.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

static ANCHOR: LazyLock<(u64, Instant)> = LazyLock::new(|| (wall_ms(), now()));

#[allow(clippy::disallowed_methods, reason = "this module is where time comes in")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "this module is where time comes in")]
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    unix_ms_of(now())
}

/// The same for an instant of this process.
pub(crate) fn unix_ms_of(at: Instant) -> u64 {
    let (unix_ms, anchor) = *ANCHOR;
    let elapsed_ms = at.saturating_duration_since(anchor).as_millis();
    unix_ms.saturating_add(u64::try_from(elapsed_ms).unwrap_or(u64::MAX))
}
