//! Where time and randomness come into the system: decisions get both as
//! arguments.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
#[allow(clippy::disallowed_methods, reason = "the one place that asks the system's clock")]
pub fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// Bytes from the thread's cryptographic generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    rand::random()
}
