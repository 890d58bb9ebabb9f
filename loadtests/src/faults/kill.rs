//! kill -9 at random points: whatever a victim was promised is there when the next one opens the
//! directory, and nothing twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dice::Dice;
use super::finding::{Finding, Kind, Tally, Verdict};
use super::history::History;
use super::host::{End, Host};
use super::inspect::Inspection;
use super::victim::Life;
use crate::LoadError;

/// A data directory, and what its victims said.
pub struct Place {
    pub dir: PathBuf,
    pub log: PathBuf,
    said: String,
}

impl Place {
    pub fn new(under: &Path, name: &str) -> Self {
        Self { dir: under.join(name), log: under.join(format!("{name}.log")), said: String::new() }
    }

    /// Takes down what a victim said.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn enter(&mut self, said: &str) -> Result<(), LoadError> {
        self.said.push_str(said);
        std::fs::write(&self.log, &self.said).map_err(LoadError::io("write the log"))
    }

    pub fn history(&self) -> History {
        History::parse(&self.said)
    }

    pub fn said(&self) -> &str {
        &self.said
    }
}

/// A vault in quarantine, or a store that does not open, where nothing was damaged.
pub fn forbid_alarms(verdict: &mut Verdict) {
    let alarms = verdict.quarantined.iter().map(|(vault, reason)| format!("vault `{vault}`: {reason}"));
    let refused = verdict.refused.iter().map(|reason| format!("the store does not open: {reason}"));
    let alarms: Vec<_> = alarms.chain(refused).map(|text| Finding::new(Kind::FalseAlarm, text)).collect();
    verdict.findings.extend(alarms);
}

/// Directories are used for so many points, so that crashes pile up.
const POINTS_PER_DIRECTORY: u64 = 25;

/// Kills `points` victims.
///
/// # Errors
/// A victim cannot be started, or files cannot be written.
pub fn attack(host: &mut Host, under: &Path, seed: u64, points: u64) -> Result<Tally, LoadError> {
    let mut dice = Dice::of(&[seed, 10]);
    let mut tally = Tally::default();
    let mut place = Place::new(under, "kill-0");
    for point in 0..points {
        if point % POINTS_PER_DIRECTORY == 0 {
            let _ = std::fs::remove_dir_all(&place.dir);
            place = Place::new(under, &format!("kill-{point}"));
        }
        let round = seed.wrapping_add(point / POINTS_PER_DIRECTORY);
        let life = Life {
            dir: place.dir.clone(),
            seed: round,
            life: point % POINTS_PER_DIRECTORY,
            commits: 100_000,
            partitions: 1 + dice.index(6),
            write_buffer: 1 << 20,
            calm: dice.percent(20),
        };
        let mut victim = host.victim(&life, &[])?;
        // Some while it opens, before the first word.
        let lines = if dice.percent(15) { 0 } else { dice.index(120) };
        let end = victim.hear(lines);
        victim.hear_for(Duration::from_micros(dice.below(3_000)));
        let mut verdict = Verdict::default();
        if end != End::Lives {
            verdict.findings.push(Finding::new(Kind::Panic, format!("the victim did not wait for its end: {end:?}")));
        }
        place.enter(&victim.kill())?;
        // Not each time: then the next victim finds what this one left.
        if dice.percent(30) || point + 1 == points || (point + 1) % POINTS_PER_DIRECTORY == 0 {
            let inspection = Inspection {
                dir: place.dir.clone(),
                log: place.log.clone(),
                seed: round,
                life: life.life,
                probe: false,
                rotten: false,
                replay: dice.percent(40),
            };
            let found = host.inspect(&inspection)?;
            let before = std::mem::replace(&mut verdict, found);
            verdict.findings.extend(before.findings);
            forbid_alarms(&mut verdict);
        }
        let history = place.history();
        complain(&history, &mut verdict);
        if (point + 1) % POINTS_PER_DIRECTORY == 0 || point + 1 == points {
            tally.acknowledged += history.acknowledged() as u64;
        }
        tally.add(&format!("kill {point} (seed {seed}, {lines} lines)"), verdict);
    }
    Ok(tally)
}

/// What victims themselves saw.
pub fn complain(history: &History, verdict: &mut Verdict) {
    verdict.findings.extend(history.wrong.iter().map(|text| Finding::new(Kind::Misread, text.clone())));
    let unclean = history.refused.iter().filter(|(code, _)| !super::victim::is_clean(code));
    verdict.findings.extend(unclean.map(|(code, text)| Finding::new(Kind::Unnamed, format!("{code}: {text}"))));
}
