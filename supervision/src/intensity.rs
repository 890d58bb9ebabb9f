//! Restart intensity: how often is too often.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::StartError;

/// `supervisor.erl`, "Restart intensity and period": "if more than `MaxR`
/// restarts occur within `MaxT` seconds, the supervisor terminates all child
/// processes and then itself".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are still tolerated within one period; 0 tolerates none.
    pub restarts_max: u32,
    /// A restart exactly this long ago still counts. Not zero, as in OTP;
    /// unlike OTP's, which has whole seconds, it is measured exactly.
    pub period: Duration,
}

impl Default for Intensity {
    /// OTP's defaults: one restart in five seconds.
    fn default() -> Self {
        Self { restarts_max: 1, period: Duration::from_secs(5) }
    }
}

impl Intensity {
    /// `validPeriod/1` in `supervisor.erl`.
    pub(crate) fn check(&self, supervisor: &Arc<str>) -> Result<(), StartError> {
        if self.period.is_zero() {
            return Err(StartError::InvalidSpec {
                child: Arc::clone(supervisor),
                reason: "an intensity needs a period longer than nothing",
            });
        }
        Ok(())
    }
}

/// The restarts of the last period.
///
/// Holds at most `restarts_max + 1` instants, whatever happens.
#[derive(Debug, Clone, Default)]
pub struct RestartWindow {
    times: VecDeque<Instant>,
}

impl RestartWindow {
    /// Counts a restart at `now`; false when that is one too many.
    pub fn admit(&mut self, intensity: Intensity, now: Instant) -> bool {
        while self.times.front().is_some_and(|&at| now.saturating_duration_since(at) > intensity.period) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        let admitted = self.times.len() <= intensity.restarts_max as usize;
        if !admitted {
            self.times.pop_front();
        }
        admitted
    }

    pub(crate) fn clear(&mut self) {
        self.times = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `script` is the milliseconds at which a restart is wanted; the answer
    /// has a `+` for each that is admitted and a `-` for each that is not.
    fn check(restarts_max: u32, period_ms: u64, script: &[u64], expected: &str) {
        let intensity = Intensity { restarts_max, period: Duration::from_millis(period_ms) };
        let origin = Instant::now();
        let mut window = RestartWindow::default();
        let answer: String = script
            .iter()
            .map(|&at_ms| {
                let admitted = window.admit(intensity, origin + Duration::from_millis(at_ms));
                assert!(window.times.len() <= restarts_max as usize + 1);
                if admitted { '+' } else { '-' }
            })
            .collect();
        assert_eq!(answer, expected, "{script:?}");
    }

    #[test]
    fn exactly_max_is_tolerated_and_one_more_is_not() {
        check(0, 1000, &[0], "-");
        check(1, 1000, &[0, 0], "+-");
        check(3, 1000, &[0, 1, 2, 3], "+++-");
    }

    #[test]
    fn a_restart_as_old_as_the_period_still_counts() {
        check(1, 1000, &[0, 1000], "+-");
        check(1, 1000, &[0, 1001], "++");
        check(2, 1000, &[0, 500, 1000, 1501], "++-+");
    }

    #[test]
    fn the_window_slides() {
        check(2, 1000, &[0, 600, 1200, 1800, 2400], "+++++");
        check(2, 1000, &[0, 400, 800], "++-");
    }
}
