//! Lost power between any two calls: the shim's log is replayed up to a point, and what was not synced
//! there is dropped, kept or torn.

use std::path::Path;

use super::dice::Dice;
use super::disk::{self, Disk, Forgotten, Unsynced};
use super::finding::{Finding, Kind, Tally};
use super::history::{Event, History};
use super::host::{End, Host};
use super::inspect::Inspection;
use super::kill::{Place, complain, forbid_alarms};
use super::shim::Shim;
use super::victim::Life;
use crate::LoadError;

/// Points at which the power goes, of one victim's log.
const POINTS_PER_LIFE: u64 = 10;
/// Lives of a directory, each on what the last loss left.
const LIVES: u64 = 4;
/// Commits of a life.
const COMMITS: u64 = 120;

/// How to attack.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub points: u64,
    /// Syncs that count as not made.
    pub forgotten: Forgotten,
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
    LoadError::io(what)
}

/// Loses power at `plan.points` points.
///
/// # Errors
/// A victim cannot be started, files cannot be written, or a call was made that the replay does not know.
pub fn attack(host: &mut Host, under: &Path, plan: Plan) -> Result<Tally, LoadError> {
    let under = under.canonicalize().map_err(io("find the directory"))?;
    let shim = Shim::compile(&under)?;
    let mut dice = Dice::of(&[plan.seed, 20]);
    let mut tally = Tally::default();
    let mut place = Place::new(&under, "power");
    let mut lives = 0;
    while tally.points < plan.points {
        if lives % LIVES == 0 {
            let _ = std::fs::remove_dir_all(&place.dir);
            place = Place::new(&under, "power");
        }
        let life = Life {
            dir: place.dir.clone(),
            seed: plan.seed.wrapping_add(lives / LIVES),
            life: lives % LIVES,
            commits: COMMITS,
            partitions: 1 + dice.index(8),
            write_buffer: 1 << 20,
            calm: dice.percent(20),
        };
        lives += 1;
        let mut disk = Disk::of(&place.dir, plan.forgotten).map_err(io("read the directory"))?;
        let log = under.join("calls");
        let _ = std::fs::remove_file(&log);
        let mut victim = host.victim(&life, &shim.environment(&place.dir, Some(&log), None))?;
        let end = victim.hear(usize::MAX);
        let records = disk::records(&log).map_err(io("read the shim's log"))?;
        if end != (End::Ended { well: true }) {
            // Of a store that forgot syncs, too, the process itself sees nothing.
            tally.findings.push(Finding::new(Kind::Panic, format!("a victim ended by itself: {end:?}")));
        }
        let points = cuts(&records, &mut dice, POINTS_PER_LIFE.min(plan.points - tally.points));
        let mut said = String::new();
        let mut done = 0;
        let last = points.last().copied();
        for cut in points {
            for record in records.get(done..cut).unwrap_or_default() {
                disk.replay(record).map_err(io("replay the shim's log"))?;
                said.push_str(record.said().unwrap_or_default());
            }
            done = cut;
            let unsynced = [Unsynced::Gone, Unsynced::Torn, Unsynced::Torn, Unsynced::Kept];
            let unsynced = *dice.pick(&unsynced).unwrap_or(&Unsynced::Gone);
            let mut found = Place::new(&under, "found");
            disk.lose_power(&found.dir, unsynced, &mut dice).map_err(io("write the disk"))?;
            found.enter(&format!("{}{said}", place.said()))?;
            let inspection = Inspection {
                dir: found.dir.clone(),
                log: found.log.clone(),
                seed: life.seed,
                life: life.life,
                probe: false,
                rotten: false,
                replay: dice.percent(30),
            };
            let mut verdict = host.inspect(&inspection)?;
            forbid_alarms(&mut verdict);
            complain(&found.history(), &mut verdict);
            let point = format!("call {cut} of life {} of seed {}, unsynced {unsynced:?}", life.life, life.seed);
            tally.add(&point, verdict);
            if Some(cut) == last {
                tally.acknowledged += found.history().acknowledged() as u64;
                let _ = std::fs::remove_dir_all(&place.dir);
                std::fs::rename(&found.dir, &place.dir).map_err(io("move the directory"))?;
                place.enter(&said)?;
            }
        }
    }
    Ok(tally)
}

/// Where the power goes, in order: right after an acknowledgement, when most is promised and least was
/// synced since; right before a sync, when most is not; and anywhere.
fn cuts(records: &[disk::Record], dice: &mut Dice, count: u64) -> Vec<usize> {
    let is_ack = |text: &str| text.lines().any(|line| matches!(Event::parse(line), Some(Event::Acknowledged { .. })));
    let (mut acks, mut syncs) = (Vec::new(), Vec::new());
    for (n, record) in records.iter().enumerate() {
        if record.said().is_some_and(is_ack) {
            acks.push(n + 1);
        } else if record.kind == b'S' {
            syncs.push(n);
        }
    }
    let mut cuts: Vec<usize> = (0..count)
        .map(|n| match (dice.pick(&acks), dice.pick(&syncs)) {
            (Some(ack), _) if n % 3 == 0 => *ack,
            (_, Some(sync)) if n % 3 == 1 => *sync,
            _ => dice.index(records.len() + 1),
        })
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Runs a victim under the shim, and gives the directory that the log makes of nothing, for comparison
/// with the one that is there.
///
/// # Errors
/// As [`attack`].
pub fn rebuild(host: &Host, under: &Path, seed: u64, to: &Path) -> Result<(Place, History), LoadError> {
    let under = under.canonicalize().map_err(io("find the directory"))?;
    let shim = Shim::compile(&under)?;
    let mut place = Place::new(&under, "rebuilt");
    let log = under.join("calls");
    let life = Life {
        dir: place.dir.clone(),
        seed,
        life: 0,
        commits: 5 * COMMITS,
        partitions: 3,
        write_buffer: 1 << 20,
        calm: false,
    };
    let mut disk = Disk::of(&place.dir, Forgotten::Nothing).map_err(io("read the directory"))?;
    let mut victim = host.victim(&life, &shim.environment(&place.dir, Some(&log), None))?;
    victim.hear(usize::MAX);
    place.enter(&victim.kill())?;
    let mut said = String::new();
    for record in disk::records(&log).map_err(io("read the shim's log"))? {
        disk.replay(&record).map_err(io("replay the shim's log"))?;
        said.push_str(record.said().unwrap_or_default());
    }
    disk.lose_power(to, Unsynced::Kept, &mut Dice::of(&[seed])).map_err(io("write the disk"))?;
    Ok((place, History::parse(&said)))
}
