//! Rotten bits: one bit of what a store has written is turned over, in every kind of file. Whatever was
//! acknowledged reads right, or its vault is in quarantine and named; the others are served.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::finding::{Finding, Kind, Tally, Verdict};
use super::host::{End, Host};
use super::inspect::Inspection;
use super::kill::Place;
use super::tree;
use super::victim::Life;
use crate::LoadError;

/// Commits of the victim whose files rot: enough that its memtables are written out.
const COMMITS: u64 = 300;
/// Partitions of it.
const PARTITIONS: usize = 3;

/// A store that was closed, or killed; a copy of it rots at each point.
struct Patient {
    place: Place,
    seed: u64,
    /// By kind, the files that hold something.
    files: BTreeMap<&'static str, Vec<PathBuf>>,
    /// By directory, the vault's name.
    vaults: BTreeMap<PathBuf, String>,
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
    LoadError::io(what)
}

/// The kind of a file, by its path below the data directory.
fn kind_of(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_table = path.parent().is_some_and(|parent| parent.ends_with("tables"));
    match name {
        "VERSION" => "format",
        "root.slots" => "root",
        "orgs" => "orgs",
        "index" => "index",
        "keyring" => "keyring",
        "head" => "head",
        _ if name.ends_with(".jnl") => "journal",
        _ if is_table => "table",
        _ => "manifest",
    }
}

impl Patient {
    fn grow(host: &mut Host, under: &Path, seed: u64, killed: bool) -> Result<Self, LoadError> {
        let mut place = Place::new(under, if killed { "killed" } else { "closed" });
        let life = Life {
            dir: place.dir.clone(),
            seed,
            life: 0,
            commits: COMMITS,
            partitions: PARTITIONS,
            write_buffer: 1 << 20,
            calm: false,
        };
        let mut victim = host.victim(&life, &[])?;
        // Each commit is a line before and a line after.
        let lines = if killed { usize::try_from(COMMITS).unwrap_or(0) } else { usize::MAX };
        if victim.hear(lines) == End::Hangs {
            return Err(LoadError::Subject("the victim hangs".into()));
        }
        place.enter(&victim.kill())?;
        let mut files: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
        for path in tree::files(&place.dir).map_err(io("list files"))? {
            let path = path.strip_prefix(&place.dir).unwrap_or(&path).to_owned();
            if written(&place.dir.join(&path))? > 0 {
                files.entry(kind_of(&path)).or_default().push(path);
            }
        }
        let mut patient = Self { place, seed, files, vaults: BTreeMap::new() };
        patient.name_vaults(host, under)?;
        Ok(patient)
    }

    /// Finds out which vault is in which directory: the one whose head is destroyed is in quarantine.
    fn name_vaults(&mut self, host: &mut Host, under: &Path) -> Result<(), LoadError> {
        for head in self.files.get("head").cloned().unwrap_or_default() {
            let copy = under.join("copy");
            tree::copy(&self.place.dir, &copy).map_err(io("copy the directory"))?;
            fs::write(copy.join(&head), [0xAA; 128]).map_err(io("damage a head"))?;
            let verdict = self.inspect(host, &copy, false)?;
            let dir = head.parent().unwrap_or(&head).to_owned();
            match verdict.quarantined.into_keys().collect::<Vec<_>>().as_slice() {
                [vault] => drop(self.vaults.insert(dir, vault.clone())),
                other => {
                    return Err(LoadError::Subject(format!("one head is gone, and in quarantine are {other:?}")));
                }
            }
        }
        Ok(())
    }

    fn inspect(&self, host: &mut Host, dir: &Path, replay: bool) -> Result<Verdict, LoadError> {
        let log = self.place.log.clone();
        host.inspect(&Inspection {
            dir: dir.to_owned(),
            log,
            seed: self.seed,
            life: 0,
            probe: true,
            rotten: true,
            replay,
        })
    }

    /// The vault that a file belongs to.
    fn vault_of(&self, file: &Path) -> Option<&String> {
        file.ancestors().find_map(|dir| self.vaults.get(dir))
    }
}

/// Bytes of a file up to the last that is not zero: journals are allocated beyond.
fn written(path: &Path) -> Result<u64, LoadError> {
    let parts = tree::read_extents(path).map_err(io("read a file"))?;
    let ends = parts.iter().filter_map(|(start, bytes)| {
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        Some(start + last as u64 + 1)
    });
    Ok(ends.max().unwrap_or(0))
}

fn flip(path: &Path, at: u64, bit: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    let [byte] = byte;
    file.write_all_at(&[byte ^ (1 << bit)], at)
}

/// Turns over one bit at each of `points` points, by turns in each kind of file.
///
/// # Errors
/// A victim cannot be started, or files cannot be written.
pub fn attack(host: &mut Host, under: &Path, seed: u64, points: u64) -> Result<Tally, LoadError> {
    let mut dice = Dice::of(&[seed, 30]);
    let patients = [Patient::grow(host, under, seed, false)?, Patient::grow(host, under, seed + 1, true)?];
    let mut tally = Tally::default();
    let copy = under.join("copy");
    for point in 0..points {
        let patient = patients.get(dice.index(patients.len())).ok_or_else(|| LoadError::Subject("nobody".into()))?;
        // Journals and tables hold nearly all there is to lose.
        let kinds: Vec<&str> = patient.files.keys().copied().chain(["journal", "journal", "table"]).collect();
        let turn = usize::try_from(point).unwrap_or(0) % kinds.len();
        let files = kinds.get(turn).and_then(|kind| patient.files.get(kind));
        let Some(file) = files.and_then(|files| dice.pick(files)) else { continue };
        tree::copy(&patient.place.dir, &copy).map_err(io("copy the directory"))?;
        let path = copy.join(file);
        let (at, bit) = (dice.below(written(&path)?), dice.below(8));
        flip(&path, at, bit).map_err(io("flip a bit"))?;
        let mut verdict = patient.inspect(host, &copy, dice.percent(30))?;
        judge(patient, file, &mut verdict);
        let name = format!("flip {point} (seed {seed}): bit {bit} of byte {at} of {}", file.display());
        tally.add(&name, verdict);
    }
    Ok(tally)
}

/// What is not in order after a flip in `file`.
fn judge(patient: &Patient, file: &Path, verdict: &mut Verdict) {
    let mut found = Vec::new();
    let own = patient.vault_of(file);
    if let Some(reason) = &verdict.refused {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if own.is_some() {
            found.push(Finding::new(Kind::FalseAlarm, format!("the store does not open for one vault: {reason}")));
        } else if !(reason.contains(name) || name == "VERSION" && reason.contains("has format")) {
            // Another digit of the format is a format that this release does not know.
            found.push(Finding::new(Kind::Unnamed, format!("the store does not open: {reason}")));
        }
    }
    if let Some(own) = own {
        for (vault, reason) in verdict.quarantined.iter().filter(|(vault, _)| *vault != own) {
            found.push(Finding::new(Kind::FalseAlarm, format!("vault `{vault}`: {reason}")));
        }
    }
    verdict.findings.extend(found);
}
