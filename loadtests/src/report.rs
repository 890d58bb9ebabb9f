//! What a run found: figures in the order they were measured, and the three counts that must be 0.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::threshold::{Threshold, judge};

/// Figures by name, in the order of measurement.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<(String, f64)>);

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &rounded(*value))?;
        }
        map.end()
    }
}

/// The result of one scenario. Serialises to the object on the run's last line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub scenario: String,
    pub figures: Figures,
    /// Acknowledged but never delivered or not found after a restart.
    pub lost: u64,
    pub duplicated: u64,
    /// Failed calls, and deliveries out of their sender's order.
    pub errors: u64,
}

impl Report {
    pub fn new(scenario: &str) -> Self {
        Self { scenario: scenario.to_owned(), figures: Figures::default(), lost: 0, duplicated: 0, errors: 0 }
    }

    /// Sets a figure; a second value under the same name replaces the first.
    pub fn set(&mut self, name: &str, value: f64) {
        match self.figures.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.figures.0.push((name.to_owned(), value)),
        }
    }

    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The object of the last line, without a line break.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a map with string keys always serialises")
    }

    /// True when nothing was lost, doubled or failed and every gate holds.
    pub fn passes(&self, thresholds: &[Threshold]) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.errors == 0
            && !judge(thresholds, self).iter().any(crate::threshold::Verdict::fails)
    }

    /// The report for people: a line per figure with its verdicts.
    pub fn human(&self, thresholds: &[Threshold]) -> String {
        use std::fmt::Write as _;
        let verdicts = judge(thresholds, self);
        let mut text = format!("{}\n", self.scenario);
        let mut line = |name: &str, value: String| {
            let marks: Vec<String> =
                verdicts.iter().filter(|verdict| verdict.threshold.figure == name).map(ToString::to_string).collect();
            let _ = writeln!(text, "  {name:<28} {value:>14}  {}", marks.join(", "));
        };
        for (name, value) in &self.figures.0 {
            line(name, rounded(*value).to_string());
        }
        let mut absent: Vec<&str> = thresholds.iter().map(|threshold| threshold.figure).collect();
        absent.dedup();
        for name in absent.into_iter().filter(|name| self.figure(name).is_none()) {
            line(name, "-".to_owned());
        }
        for (name, count) in [("lost", self.lost), ("duplicated", self.duplicated), ("errors", self.errors)] {
            let mark = if count == 0 { "gate 0 met" } else { "gate 0 MISSED" };
            let _ = writeln!(text, "  {name:<28} {count:>14}  {mark}");
        }
        text
    }
}

/// Three decimals below 1,000 and none above: more digits would be noise. Verdicts use the exact value.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1_000.0 { value.round() } else { (value * 1_000.0).round() / 1_000.0 }
}
