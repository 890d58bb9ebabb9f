//! A disk that is full for a while, or fails at one call or a few: refusals are clean, reads go on, and
//! what was acknowledged is there when the disk works again; also when the power goes then, and takes
//! what a failed sync had left unwritten.

use std::path::Path;

use super::dice::Dice;
use super::disk::{self, Disk, Forgotten, Record, Unsynced};
use super::finding::{Finding, Kind, Tally, Verdict};
use super::history::History;
use super::host::{End, Host};
use super::inspect::Inspection;
use super::kill::{Place, complain, forbid_alarms};
use super::shim::{Failure, Shim};
use super::victim::{self, Life};
use crate::LoadError;

/// No space left on the device, and an error of the device.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// Calls that need space: making files and directories, and writing.
const NEED_SPACE: &str = "CMW";
/// Calls that fail one by one, `S` more often: most hangs on syncs.
const KINDS: [&str; 9] = ["S", "S", "S", "W", "T", "R", "U", "C", "M"];
/// Lives of a directory, each on what the last one left.
const LIVES: u64 = 4;
/// Commits of a life.
const COMMITS: u64 = 150;
/// Calls among which the first failure is drawn before any life was seen.
const CALLS: u64 = 200;

/// What happens to one victim.
fn failure(dice: &mut Dice, records: &[Record]) -> Failure {
    let made = |kinds: &str| {
        // Opens are logged with what they do; those that make a file are meant.
        let is_meant =
            |record: &&Record| kinds.contains(char::from(record.kind)) && (record.kind != b'C' || record.creates());
        match records.iter().filter(is_meant).count() as u64 {
            0 => CALLS,
            calls => calls,
        }
    };
    if dice.percent(40) {
        // Some disks are full for good, most for a while.
        let count = if dice.percent(30) { 1 << 40 } else { 1 + dice.below(60) };
        return Failure { kinds: NEED_SPACE, first: 1 + dice.below(made(NEED_SPACE)), count, errno: ENOSPC };
    }
    let kinds = *dice.pick(&KINDS).unwrap_or(&"S");
    Failure { kinds, first: 1 + dice.below(made(kinds)), count: 1 + dice.below(3), errno: EIO }
}

/// Has `points` victims fail.
///
/// # Errors
/// A victim cannot be started, files cannot be written, or a call was made that the replay does not know.
pub fn attack(host: &mut Host, under: &Path, seed: u64, points: u64) -> Result<Tally, LoadError> {
    let under = under.canonicalize().map_err(LoadError::io("find the directory"))?;
    let shim = Shim::compile(&under)?;
    let mut dice = Dice::of(&[seed, 30]);
    let mut tally = Tally::default();
    let mut place = Place::new(&under, "failing");
    let mut records = Vec::new();
    for point in 0..points {
        if point % LIVES == 0 {
            let _ = std::fs::remove_dir_all(&place.dir);
            place = Place::new(&under, "failing");
        }
        let life = Life {
            dir: place.dir.clone(),
            seed: seed.wrapping_add(point / LIVES),
            life: point % LIVES,
            commits: COMMITS,
            partitions: 1 + dice.index(6),
            write_buffer: 1 << 20,
            calm: dice.percent(30),
        };
        let failure = failure(&mut dice, &records);
        let mut disk = Disk::of(&place.dir, Forgotten::Nothing).map_err(LoadError::io("read the directory"))?;
        let log = under.join("calls");
        let _ = std::fs::remove_file(&log);
        let mut victim = host.victim(&life, &shim.environment(&place.dir, Some(&log), Some(&failure)))?;
        let end = victim.hear(usize::MAX);
        let name = format!("{failure:?} of life {} of seed {}", life.life, life.seed);
        let mut ended = Verdict::default();
        if matches!(end, End::Crashed | End::Hangs | End::Lives) {
            let kind = if end == End::Crashed { Kind::Panic } else { Kind::Hang };
            ended.findings.push(Finding::new(kind, format!("the victim did not end as it should: {end:?}")));
        }
        let before = place.said().to_owned();
        let said = victim.kill();
        place.enter(&said)?;
        records = disk::records(&log).map_err(LoadError::io("read the shim's log"))?;

        // The disk works again.
        let inspect = |host: &mut Host, of: &Place, replay: bool| {
            let (dir, log) = (of.dir.clone(), of.log.clone());
            host.inspect(&Inspection {
                dir,
                log,
                seed: life.seed,
                life: life.life,
                probe: false,
                rotten: false,
                replay,
            })
        };
        let mut verdict = inspect(host, &place, dice.percent(30))?;
        verdict.findings.extend(ended.findings);
        forbid_alarms(&mut verdict);
        if failure.errno == ENOSPC {
            // Not what an earlier life was refused, on a disk that failed otherwise.
            let reads = History::parse(&said).refused;
            let reads = reads.iter().filter(|(_, text)| text.starts_with(victim::READ));
            let refused = |(_, text): &(String, String)| Finding::new(Kind::Unnamed, format!("on a full disk, {text}"));
            verdict.findings.extend(reads.map(refused));
        }
        complain(&place.history(), &mut verdict);
        tally.add(&name, verdict);

        // And the power goes before it did.
        let mut said = String::new();
        for record in &records {
            disk.replay(record).map_err(LoadError::io("replay the shim's log"))?;
            said.push_str(record.said().unwrap_or_default());
        }
        let mut found = Place::new(&under, "found");
        disk.lose_power(&found.dir, Unsynced::Gone, &mut dice).map_err(LoadError::io("write the disk"))?;
        found.enter(&format!("{before}{said}"))?;
        let mut verdict = inspect(host, &found, false)?;
        forbid_alarms(&mut verdict);
        // One directory, judged twice.
        let points = tally.points;
        tally.add(&format!("{name}, then power"), verdict);
        tally.points = points;
    }
    tally.acknowledged += place.history().acknowledged() as u64;
    Ok(tally)
}
