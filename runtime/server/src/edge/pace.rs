//! How long calls of a method take at present, so that one whose time is too short is told at
//! once and costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Weight of the newest in the moving average: one eighth, so that about the last 16 matter.
const NEWEST: u64 = 8;

/// The moving average of what a method's calls take, waiting included.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// A call was answered after so long. Losing one of two that come together does not matter.
    pub fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / NEWEST);
        let old = self.0.load(Ordering::Relaxed);
        self.0.store(old - old / NEWEST + us / NEWEST, Ordering::Relaxed);
    }

    /// Whether a call can be expected to be answered in time.
    ///
    /// Each refusal lowers the expectation, so that now and then a call is let through and shows
    /// how long it takes by now.
    ///
    /// # Errors
    /// How long it would take.
    pub fn fits(&self, time: Duration) -> Result<(), Duration> {
        let us = self.0.load(Ordering::Relaxed);
        let expected = Duration::from_micros(us);
        if expected <= time {
            return Ok(());
        }
        self.0.store(us - us / NEWEST, Ordering::Relaxed);
        Err(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_calls_take_and_tries_again() {
        let (short, long) = (Duration::from_millis(10), Duration::from_secs(1));
        let pace = Pace::default();
        assert_eq!(pace.fits(short), Ok(()), "nothing is known yet");
        for _ in 0..50 {
            pace.took(long);
        }
        assert_eq!(pace.fits(long), Ok(()));
        let refused = (0..1_000).take_while(|_| pace.fits(short).is_err()).count();
        assert!((20..60).contains(&refused), "{refused} refusals before one is let through");
        pace.took(long);
        let again = (0..1_000).take_while(|_| pace.fits(short).is_err()).count();
        assert!((1..=refused).contains(&again), "it is as slow as before: {again}");
        for _ in 0..50 {
            pace.took(Duration::from_millis(1));
        }
        assert_eq!(pace.fits(short), Ok(()), "it is quick again");
    }
}
