//! How old connections become.

use std::time::Duration;

/// What a connection's age may differ from the configured one: a tenth, so that clients that
/// connected together (after a restart, say) do not all come back together.
const SPREAD: u64 = 10;
/// Steps of the spread.
const STEPS: u64 = 1 << 16;

/// How long connections are served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// `None`: until the client goes.
    pub(super) age_max: Option<Duration>,
    /// What is under way then may take so long.
    pub(super) grace: Duration,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Serves.
    Young,
    /// Takes nothing new.
    Old,
    /// Is cut off.
    Over,
}

impl Term {
    /// The stage of the connection with a number, at an age.
    pub(super) fn stage(&self, number: u64, age: Duration) -> Stage {
        match self.age_max {
            None => Stage::Young,
            Some(max) => {
                let old = spread(max, number);
                match age {
                    age if age < old => Stage::Young,
                    age if age < old.saturating_add(self.grace) => Stage::Old,
                    _ => Stage::Over,
                }
            }
        }
    }
}

/// A time that is a connection's own, near the given one.
fn spread(age: Duration, number: u64) -> Duration {
    // Fibonacci hashing: numbers that follow each other come to lie far apart.
    let step = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let least = ms - ms / SPREAD;
    let more = u128::from(ms / SPREAD) * 2 * u128::from(step) / u128::from(STEPS);
    Duration::from_millis(least.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn ages_lie_within_a_tenth_and_apart() {
        let mut ages: Vec<Duration> = (0..1_000).map(|number| spread(HOUR, number)).collect();
        assert!(ages.iter().all(|age| (HOUR * 9 / 10..HOUR * 11 / 10).contains(age)), "{ages:?}");
        // No more than twice the even share in any twentieth.
        ages.sort();
        for part in 0..20 {
            let from = HOUR * 9 / 10 + HOUR / 100 * part;
            let count = ages.iter().filter(|age| (from..from + HOUR / 100).contains(*age)).count();
            assert!((25..=100).contains(&count), "{count} from {from:?} on");
        }
    }

    #[test]
    fn a_connection_is_young_then_old_then_over() {
        let term = Term { age_max: Some(HOUR), grace: Duration::from_secs(10) };
        for number in 0..100 {
            let old = spread(HOUR, number);
            let tick = Duration::from_millis(1);
            for (age, stage) in [
                (Duration::ZERO, Stage::Young),
                (old - tick, Stage::Young),
                (old, Stage::Old),
                (old + term.grace - tick, Stage::Old),
                (old + term.grace, Stage::Over),
                (Duration::MAX, Stage::Over),
            ] {
                assert_eq!(term.stage(number, age), stage, "{age:?} of {number}");
            }
        }
        let endless = Term { age_max: None, ..term };
        assert_eq!(endless.stage(1, Duration::MAX), Stage::Young);
    }
}
