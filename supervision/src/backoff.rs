//! Waiting between restarts. OTP has none: it restarts at once.

use std::time::Duration;

/// Exponential back-off: `base`, twice that, four times that, up to `max`.
///
/// A child that has run for a whole intensity period begins again at `base`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first restart.
    pub base: Duration,
    /// Never longer than this.
    pub max: Duration,
    /// The share of each delay that is random, 0 to 1: 0.2 waits between 80%
    /// and 100%, so that children that died together do not return together.
    pub jitter: f64,
}

impl Backoff {
    /// The wait before restart number `attempt`, counted from 0. `unit` is
    /// random in `0..1`.
    pub fn delay(&self, attempt: u32, unit: f64) -> Duration {
        let jitter = self.jitter.clamp(0.0, 1.0);
        doubled(self.base, self.max, attempt).mul_f64(1.0 - jitter * unit.clamp(0.0, 1.0))
    }

    pub(crate) fn draw(&self, attempt: u32) -> Duration {
        self.delay(attempt, rand::random())
    }
}

/// `base · 2^exponent`, at most `max`.
pub(crate) fn doubled(base: Duration, max: Duration, exponent: u32) -> Duration {
    // 2^31 nanoseconds · base saturates long before the shift would overflow.
    base.saturating_mul(1_u32 << exponent.min(31)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::cast_possible_truncation)]
    fn check(jitter: f64, unit: f64, expected_ms: &[u64]) {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1), jitter };
        let delays: Vec<u64> =
            (0..expected_ms.len()).map(|attempt| backoff.delay(attempt as u32, unit).as_millis() as u64).collect();
        assert_eq!(delays, expected_ms);
    }

    #[test]
    fn doubles_up_to_the_maximum() {
        check(0.0, 0.7, &[100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn jitter_only_shortens() {
        check(0.5, 0.0, &[100, 200]);
        check(0.5, 1.0, &[50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn a_large_attempt_does_not_overflow() {
        let long = doubled(Duration::from_secs(3600), Duration::MAX, u32::MAX);
        assert!(long >= Duration::from_secs(3600));
        assert_eq!(doubled(Duration::MAX, Duration::from_secs(9), 5), Duration::from_secs(9));
    }
}
