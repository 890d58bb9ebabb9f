//! A measured round, and two sides compared over interleaved rounds.

use crate::LoadError;

/// Rounds of a comparison: odd, so that the median is one of them.
pub const ROUNDS: usize = 5;

/// What one round did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub operations: u64,
    pub errors: u64,
    pub wall_s: f64,
    /// CPU seconds (user + system) of the server process.
    pub cpu_s: f64,
    /// 99th percentile of latency in milliseconds, where the round measured it.
    pub p99_ms: f64,
}

impl Sample {
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn per_s(&self) -> f64 {
        self.operations as f64 / self.wall_s
    }

    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn per_cpu_s(&self) -> f64 {
        self.operations as f64 / self.cpu_s
    }
}

/// The rounds of sides `a` and `b`, paired by round.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub a: Vec<Sample>,
    pub b: Vec<Sample>,
}

impl Comparison {
    /// Median over rounds of `a`'s measure to `b`'s of the same round.
    pub fn ratio(&self, measure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.a.iter().zip(&self.b).map(|(a, b)| measure(a) / measure(b)))
    }

    pub fn errors(&self) -> u64 {
        self.a.iter().chain(&self.b).map(|sample| sample.errors).sum()
    }
}

/// Runs the rounds of both sides in turn. The order swaps every round, so that a machine that gets
/// slower or faster over the run favours neither.
///
/// # Errors
/// Those of the sides.
pub async fn interleave(
    rounds: usize,
    seconds: f64,
    mut a: impl AsyncFnMut(f64) -> Result<Sample, LoadError>,
    mut b: impl AsyncFnMut(f64) -> Result<Sample, LoadError>,
) -> Result<Comparison, LoadError> {
    let mut comparison = Comparison::default();
    for round in 0..rounds {
        if round % 2 == 0 {
            comparison.a.push(a(seconds).await?);
            comparison.b.push(b(seconds).await?);
        } else {
            comparison.b.push(b(seconds).await?);
            comparison.a.push(a(seconds).await?);
        }
    }
    Ok(comparison)
}

/// The middle value; of an even number, the lower middle one. NaN when there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
