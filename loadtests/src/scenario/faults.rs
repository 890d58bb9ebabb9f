//! The store under attack, with as many points as asked for: kill -9, lost power, a full or failing
//! disk, rotten bits; and its files read by a thief.

use std::path::{Path, PathBuf};

use super::{Scenario, Settings};
use crate::LoadError;
use crate::faults::disk::Forgotten;
use crate::faults::finding::{Kind, Tally};
use crate::faults::host::Host;
use crate::faults::power::Plan;
use crate::faults::{failing, flips, kill, plaintext, power};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "faults",
    about: "the store killed, without power, on a failing disk and with rotten bits: what was acknowledged and is not there",
    thresholds: &[
        Threshold::gate("doubled", Bound::AtMost(0.0)),
        Threshold::gate("misread", Bound::AtMost(0.0)),
        Threshold::gate("undetected", Bound::AtMost(0.0)),
        Threshold::gate("false_alarms", Bound::AtMost(0.0)),
        Threshold::gate("hangs", Bound::AtMost(0.0)),
        Threshold::gate("panics", Bound::AtMost(0.0)),
        Threshold::gate("plaintext", Bound::AtMost(0.0)),
    ],
};

/// How often each attack is made.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Points {
    /// faults: victims killed
    #[arg(long, default_value_t = 200)]
    pub kills: u64,
    /// faults: points at which the power goes
    #[arg(long, default_value_t = 100)]
    pub powers: u64,
    /// faults: bits turned over
    #[arg(long, default_value_t = 400)]
    pub flips: u64,
    /// faults: victims whose disk is full or fails
    #[arg(long, default_value_t = 200)]
    pub failures: u64,
    /// faults: operations after which the files are looked through
    #[arg(long, default_value_t = 1_000_000)]
    pub operations: u64,
    /// faults: of every random choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Points {
    fn default() -> Self {
        Self { kills: 200, powers: 100, flips: 400, failures: 200, operations: 1_000_000, seed: 1 }
    }
}

/// Attacks the store of `settings.program`.
///
/// # Errors
/// A victim cannot be started, or files cannot be written.
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    let (points, program) = (settings.faults, settings.program.clone());
    let scratch = settings.scratch()?;
    let dir: PathBuf = scratch.path().to_owned();
    settings.say(&format!("faults: seed {}", points.seed));
    let attacks = tokio::task::spawn_blocking(move || attack(&program, &dir, points)).await;
    let attacks = attacks.map_err(|error| LoadError::Subject(error.to_string()))??;
    let mut report = Report::new(SCENARIO.name);
    let mut sum = |name: &str, count: u64| {
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        report.set(name, report.figure(name).unwrap_or(0.0) + count as f64);
    };
    let (mut lost, mut doubled) = (0, 0);
    for (attack, tally) in &attacks {
        for finding in &tally.findings {
            settings.say(&format!("{attack}: {finding}"));
        }
        sum("points", tally.points);
        sum(&format!("{attack}_points"), tally.points);
        sum("transactions", tally.transactions);
        sum("contained_panics", tally.contained_panics);
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Unnamed) {
            sum(kind.figure(), tally.count(kind));
        }
        // After a flip, whatever is wrong and not said to be is damage that went unnoticed.
        let silent = [Kind::Lost, Kind::Doubled, Kind::Misread, Kind::Unnamed];
        let undetected = if *attack == "flip" { silent.as_slice() } else { &[Kind::Unnamed] };
        sum("undetected", undetected.iter().map(|kind| tally.count(*kind)).sum());
        lost += tally.count(Kind::Lost);
        doubled += tally.count(Kind::Doubled);
    }
    (report.lost, report.duplicated) = (lost, doubled);
    Ok(report)
}

fn attack(program: &Path, dir: &Path, points: Points) -> Result<[(&'static str, Tally); 5], LoadError> {
    let mut host = Host::new(program);
    let plan = Plan { seed: points.seed, points: points.powers, forgotten: Forgotten::Nothing };
    Ok([
        ("kill", kill::attack(&mut host, dir, points.seed, points.kills)?),
        ("power", power::attack(&mut host, dir, plan)?),
        ("failing", failing::attack(&mut host, dir, points.seed, points.failures)?),
        ("plaintext", plaintext::attack(dir, points.seed, points.operations)?),
        (
            "flip",
            if points.flips == 0 {
                Tally::default()
            } else {
                flips::attack(&mut host, dir, points.seed, points.flips)?
            },
        ),
    ])
}
