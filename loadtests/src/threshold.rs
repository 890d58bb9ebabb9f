//! Gates and goals as data.
//!
//! A gate that does not hold fails the run; a goal that does not hold is reported.

use crate::report::Report;

/// The side of the limit on which a figure must lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Gate,
    Goal,
}

/// A limit on one figure of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    pub figure: &'static str,
    pub weight: Weight,
    pub bound: Bound,
}

impl Threshold {
    pub const fn gate(figure: &'static str, bound: Bound) -> Self {
        Self { figure, weight: Weight::Gate, bound }
    }

    pub const fn goal(figure: &'static str, bound: Bound) -> Self {
        Self { figure, weight: Weight::Goal, bound }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Met,
    Missed,
    /// The scenario did not produce the figure. For a gate this is a failure.
    NotMeasured,
}

/// A threshold and how the run stood against it.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub threshold: Threshold,
    pub outcome: Outcome,
}

impl Verdict {
    pub fn fails(&self) -> bool {
        self.threshold.weight == Weight::Gate && self.outcome != Outcome::Met
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weight = match self.threshold.weight {
            Weight::Gate => "gate",
            Weight::Goal => "goal",
        };
        let outcome = match self.outcome {
            Outcome::Met => "met",
            Outcome::Missed => "MISSED",
            Outcome::NotMeasured => "NOT MEASURED",
        };
        write!(f, "{weight} {} {outcome}", self.threshold.bound)
    }
}

/// Holds a report against its scenario's thresholds. A figure that is not a number misses.
pub fn judge(thresholds: &[Threshold], report: &Report) -> Vec<Verdict> {
    thresholds
        .iter()
        .map(|&threshold| {
            let outcome = match report.figure(threshold.figure) {
                None => Outcome::NotMeasured,
                Some(value) if threshold.bound.holds(value) => Outcome::Met,
                Some(_) => Outcome::Missed,
            };
            Verdict { threshold, outcome }
        })
        .collect()
}
