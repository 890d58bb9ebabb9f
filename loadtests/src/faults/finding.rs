//! What an inspection finds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Acknowledged and not there, and nothing says so.
    Lost,
    /// Made twice.
    Doubled,
    /// There, and not what was written.
    Misread,
    /// An error that names no vault, or a vault that is damaged and not in quarantine.
    Unnamed,
    /// A healthy vault that is not served.
    FalseAlarm,
    /// No answer within the deadline.
    Hang,
    /// The process ended, or a panic reached the caller.
    Panic,
    /// Text of users in a file.
    Plaintext,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Doubled,
        Self::Misread,
        Self::Unnamed,
        Self::FalseAlarm,
        Self::Hang,
        Self::Panic,
        Self::Plaintext,
    ];

    /// Its name among the figures.
    pub fn figure(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Misread => "misread",
            Self::Unnamed => "unnamed",
            Self::FalseAlarm => "false_alarms",
            Self::Hang => "hangs",
            Self::Panic => "panics",
            Self::Plaintext => "plaintext",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: Kind,
    /// Where, and what was found.
    pub text: String,
}

impl Finding {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.figure(), self.text)
    }
}

/// What one inspection of a directory found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// Vaults in quarantine, and why.
    pub quarantined: BTreeMap<String, String>,
    /// Why the store did not open.
    pub refused: Option<String>,
    /// Transactions that were compared with what was written.
    pub transactions: u64,
    /// Panics that the store contained.
    pub contained_panics: Vec<String>,
}

/// What an attack found, over all of its points.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub points: u64,
    /// Transactions compared, over all points.
    pub transactions: u64,
    /// Acknowledged transactions that victims were promised, over all lives.
    pub acknowledged: u64,
    /// Points after which a vault was in quarantine, or the store did not open, as it must.
    pub noticed: u64,
    pub contained_panics: u64,
    /// With the point at which each was found.
    pub findings: Vec<Finding>,
}

impl Tally {
    pub fn count(&self, kind: Kind) -> u64 {
        self.findings.iter().filter(|finding| finding.kind == kind).count() as u64
    }

    /// Enters what was found at `point`.
    pub fn add(&mut self, point: &str, verdict: Verdict) {
        self.points += 1;
        self.transactions += verdict.transactions;
        self.contained_panics += verdict.contained_panics.len() as u64;
        self.noticed += u64::from(verdict.refused.is_some() || !verdict.quarantined.is_empty());
        let found = verdict.findings.into_iter();
        self.findings.extend(found.map(|f| Finding::new(f.kind, format!("{point}: {}", f.text))));
    }

    /// The findings, a line each; the first `FINDINGS_SHOWN` of them.
    pub fn describe(&self) -> String {
        const FINDINGS_SHOWN: usize = 20;
        let lines: Vec<String> = self.findings.iter().take(FINDINGS_SHOWN).map(ToString::to_string).collect();
        format!("{} findings at {} points\n{}", self.findings.len(), self.points, lines.join("\n"))
    }
}
