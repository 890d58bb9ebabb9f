//! Many more vaults than may be open at once, used at random.
//!
//! `cold_open_ratio` compares the first read of a closed vault (reader, snapshot, one row, with the
//! eviction of another vault) with bare fjall's opening of the same databases and one get, while the
//! store is closed. Both go through all vaults in an order of their own, so that no access finds its
//! vault open, and both keep as many open as the store may; the ratio is that of their p99, the
//! median over rounds. Files are in the system's cache on both sides.
//!
//! `boot_ratio` compares the opening of a store with so many vaults with that of one with ten, by a
//! raw key, so that stretching a passphrase does not hide the rest. `boot_read_ratio` goes on to the
//! first row read, and `boot_unclean_ms` is of a store that was not closed. `rss_mb` is of a process
//! that has only opened the store and read all over it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::resident::{Memory, Residents, memory, own_bytes};
use super::{Scenario, Settings};
use crate::LoadError;
use crate::baseline::bare_vaults::BareVaults;
use crate::canopy::vaults::{Vaults, directory};
use crate::client::{Latencies, median, percentile_ms};
use crate::clock::{now_ns, seconds_between};
use crate::faults::dice::Dice;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "vaults",
    about: "10,000 vaults of 1,000 orgs of which 500 are open: cold reads and boot to bare fjall and ten vaults, memory",
    thresholds: &[
        Threshold::gate("cold_open_ratio", Bound::AtMost(3.0)),
        Threshold::goal("cold_open_ratio", Bound::AtMost(2.0)),
        Threshold::gate("rss_mb", Bound::AtMost(500.0)),
        Threshold::gate("boot_ratio", Bound::AtMost(3.0)),
        Threshold::goal("boot_ratio", Bound::AtMost(2.0)),
    ],
};

/// Vaults of the store that boots are compared with.
const FEW: u64 = 10;
/// Cold reads of a round of the usual length.
const ACCESSES: f64 = 1_200.0;
/// Openings of each store.
const BOOTS: usize = 11;
/// Tries of opening a store that was dropped, and the wait between two.
const UNLOCK_TRIES: usize = 100;
const UNLOCK_WAIT: Duration = Duration::from_millis(10);
const MB: f64 = 1e6;
const SEED: u64 = 11;

/// How many vaults.
#[derive(Clone, Copy, Debug, clap::Args, serde::Serialize, serde::Deserialize)]
#[group(id = "vaults-size")]
pub struct Size {
    /// vaults: how many are made
    #[arg(long, default_value_t = 10_000)]
    pub vaults: u64,
    /// vaults: how many may be open at once
    #[arg(long, default_value_t = 500)]
    pub open_vaults: usize,
    /// vaults: of how many projects each org is
    #[arg(long, default_value_t = 10)]
    pub projects_per_org: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { vaults: 10_000, open_vaults: 500, projects_per_org: 10 }
    }
}

/// All numbers below `count`, shuffled (Fisher and Yates): each comes once.
pub(super) fn order(count: u64, seed: u64) -> Vec<u64> {
    let mut dice = Dice::of(&[SEED, seed]);
    let mut numbers: Vec<u64> = (0..count).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, dice.index(at + 1));
    }
    numbers
}

/// Opens the store, and reads all over it.
pub(super) async fn reside(dir: &Path, size: Size) -> Result<Memory, LoadError> {
    let (vaults, _) = Vaults::open(dir, size).await?;
    let none_bytes = own_bytes()?;
    let mut lost = 0;
    // Each open vault's place is taken several times over.
    let reads = (4 * size.open_vaults).max(1);
    for number in order(size.vaults, 0).into_iter().take(reads) {
        let (_, found) = vaults.access(number).await?;
        lost += u64::from(!found);
    }
    let memory = Memory { none_bytes, full_bytes: own_bytes()?, residents: vaults.open_count() as u64, lost };
    vaults.close().await?;
    Ok(memory)
}

/// Bytes that files take on the disk.
fn disk_bytes(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    const BLOCK: u64 = 512; // stat(2)
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * BLOCK;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// What the rounds and boots found.
#[derive(Default)]
struct Found {
    lost: u64,
    /// p99 of a cold read in each round, in milliseconds.
    cold_ms: Vec<f64>,
    bare_ms: Vec<f64>,
    cold_mean_ms: Vec<f64>,
    bare_mean_ms: Vec<f64>,
}

struct Bench<'a> {
    settings: &'a Settings,
    dir: &'a Path,
    accesses: usize,
    found: Found,
}

impl Bench<'_> {
    /// As many vaults as may be open, and those that are measured behind them.
    fn numbers(&self, round: usize) -> (Vec<u64>, Vec<u64>) {
        let Size { vaults, open_vaults, .. } = self.settings.vaults;
        let mut first = order(vaults, round as u64);
        let rest = first.split_off(open_vaults.min(first.len()));
        let measured = rest.into_iter().take(self.accesses).collect();
        (first, measured)
    }

    async fn cold(&mut self, round: usize) -> Result<Histogram<u64>, LoadError> {
        let (first, measured) = self.numbers(round);
        let (vaults, _) = Vaults::open(self.dir, self.settings.vaults).await?;
        for number in first {
            vaults.access(number).await?;
        }
        let latencies = Latencies::default();
        for number in measured {
            let (spent_ns, is_there) = vaults.access(number).await?;
            latencies.record(0, [spent_ns]);
            self.found.lost += u64::from(!is_there);
        }
        vaults.close().await?;
        Ok(latencies.take())
    }

    async fn bare(&mut self, round: usize) -> Result<Histogram<u64>, LoadError> {
        let (first, measured) = self.numbers(round);
        let (dir, open_max) = (directory(self.dir), self.settings.vaults.open_vaults);
        let work = tokio::task::spawn_blocking(move || {
            let mut bare = BareVaults::new(&dir, open_max)?;
            let index = |number: u64| usize::try_from(number).unwrap_or_default();
            for number in first {
                bare.access(index(number))?;
            }
            let latencies = Latencies::default();
            let mut lost = 0;
            for number in measured {
                let (spent_ns, is_there) = bare.access(index(number))?;
                latencies.record(0, [spent_ns]);
                lost += u64::from(!is_there);
            }
            bare.close()?;
            Ok::<_, LoadError>((latencies.take(), lost))
        });
        let (latencies, lost) = work.await.map_err(|error| LoadError::Subject(error.to_string()))??;
        self.found.lost += lost;
        Ok(latencies)
    }

    async fn round(&mut self, round: usize) -> Result<(), LoadError> {
        // The order swaps, so that a machine that changes over the run favours neither.
        let (cold, bare) = if round.is_multiple_of(2) {
            let cold = self.cold(round).await?;
            (cold, self.bare(round).await?)
        } else {
            let bare = self.bare(round).await?;
            (self.cold(round).await?, bare)
        };
        let mean_ms = |latencies: &Histogram<u64>| latencies.mean() / 1e6;
        let found = &mut self.found;
        found.cold_ms.push(percentile_ms(&cold, 99.0));
        found.bare_ms.push(percentile_ms(&bare, 99.0));
        found.cold_mean_ms.push(mean_ms(&cold));
        found.bare_mean_ms.push(mean_ms(&bare));
        let last = |of: &[f64]| of.last().copied().unwrap_or_default();
        self.settings.say(&format!(
            "vaults: p99 {:.2} ms, bare {:.2} ms; mean {:.2} ms, bare {:.2} ms",
            last(&found.cold_ms),
            last(&found.bare_ms),
            last(&found.cold_mean_ms),
            last(&found.bare_mean_ms),
        ));
        Ok(())
    }
}

/// Milliseconds of one kind of opening.
#[derive(Default)]
struct Boots {
    open_ms: Vec<f64>,
    read_ms: Vec<f64>,
    unclean_ms: Vec<f64>,
}

impl Boots {
    async fn boot(&mut self, dir: &Path, settings: &Settings, number: u64) -> Result<u64, LoadError> {
        let open = settings.vaults;
        let begun_ns = now_ns();
        let (vaults, spent) = Vaults::open(dir, open).await?;
        self.open_ms.push(spent.as_secs_f64() * 1_000.0);
        let (_, is_there) = vaults.access(number).await?;
        self.read_ms.push(seconds_between(begun_ns, now_ns()) * 1_000.0);
        vaults.close().await?;
        // Dropped, and not closed: as after a crash, with a vault that has been made.
        drop(Vaults::open(dir, open).await?);
        unsettle(dir)?;
        let (vaults, spent) = unlocked(dir, open).await?;
        self.unclean_ms.push(spent.as_secs_f64() * 1_000.0);
        vaults.close().await?;
        Ok(u64::from(!is_there))
    }
}

/// Takes away what a store that made a vault would have taken away.
fn unsettle(dir: &Path) -> Result<(), LoadError> {
    std::fs::remove_file(directory(dir).join("settled")).map_err(LoadError::io("have a stop be unclean"))
}

/// Opens a store that was dropped: its last task may still hold it.
async fn unlocked(dir: &Path, size: Size) -> Result<(Vaults, Duration), LoadError> {
    for _ in 0..UNLOCK_TRIES {
        if let Ok(opened) = Vaults::open(dir, size).await {
            return Ok(opened);
        }
        tokio::time::sleep(UNLOCK_WAIT).await;
    }
    Vaults::open(dir, size).await
}

/// Makes a store with vaults; gives how many a second.
#[allow(clippy::cast_precision_loss, reason = "a small number")]
async fn make(dir: &Path, count: u64, settings: &Settings) -> Result<f64, LoadError> {
    let (vaults, _) = Vaults::open(dir, settings.vaults).await?;
    let begun_ns = now_ns();
    vaults.make(count).await?;
    let per_s = count as f64 / seconds_between(begun_ns, now_ns());
    vaults.close().await?;
    Ok(per_s)
}

/// # Errors
/// A store cannot be made, opened or read, or the data directory is in memory.
#[allow(clippy::cast_precision_loss, reason = "sizes and counts far below 2^52")]
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    super::commit::on_disk(&settings.data)?;
    let mut report = Report::new(SCENARIO.name);
    let (many, few) = (Arc::new(settings.scratch()?), settings.scratch()?);
    let count = settings.vaults.vaults;
    settings.say(&format!("vaults: making {count}"));
    let made_per_s = make(many.path(), count, settings).await?;
    make(few.path(), FEW.min(count), settings).await?;
    let sized = many.clone();
    let bytes = tokio::task::spawn_blocking(move || disk_bytes(&directory(sized.path()).join("vaults"))).await;
    let bytes = bytes.map_err(|error| LoadError::Subject(error.to_string()))?.map_err(LoadError::io("count bytes"))?;

    settings.say("vaults: opening stores");
    let (mut full, mut small) = (Boots::default(), Boots::default());
    for round in 0..BOOTS as u64 {
        report.lost += full.boot(many.path(), settings, round % count.max(1)).await?;
        report.lost += small.boot(few.path(), settings, round % FEW.min(count).max(1)).await?;
    }
    let memory = memory(settings, many.path(), Residents::Vaults(settings.vaults)).await?;
    let (vaults, _) = Vaults::open(many.path(), settings.vaults).await?;
    report.lost += count.saturating_sub(vaults.count() as u64) + memory.lost;
    vaults.close().await?;

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    let accesses = (ACCESSES * settings.seconds / super::ROUND_SECONDS).max(20.0) as usize;
    let mut bench = Bench { settings, dir: many.path(), accesses, found: Found::default() };
    for round in 0..settings.rounds {
        bench.round(round).await?;
    }
    let found = bench.found;
    report.lost += found.lost;
    let ratio = |ours: &[f64], theirs: &[f64]| median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
    report.set("cold_open_ratio", ratio(&found.cold_ms, &found.bare_ms));
    report.set("cold_open_mean_ratio", ratio(&found.cold_mean_ms, &found.bare_mean_ms));
    report.set("rss_mb", memory.full_bytes as f64 / MB);
    report.set("boot_ratio", ratio(&full.open_ms, &small.open_ms));
    report.set("boot_read_ratio", ratio(&full.read_ms, &small.read_ms));
    for (name, values) in [
        ("cold_open_p99_ms", &found.cold_ms),
        ("bare_open_p99_ms", &found.bare_ms),
        ("cold_open_mean_ms", &found.cold_mean_ms),
        ("bare_open_mean_ms", &found.bare_mean_ms),
        ("boot_ms", &full.open_ms),
        ("boot_few_ms", &small.open_ms),
        ("boot_read_ms", &full.read_ms),
        ("boot_unclean_ms", &full.unclean_ms),
        ("boot_unclean_few_ms", &small.unclean_ms),
    ] {
        report.set(name, median(values.iter().copied()));
    }
    report.set("rss_opened_mb", memory.none_bytes as f64 / MB);
    report.set("open_vaults", memory.residents as f64);
    report.set("disk_bytes_per_vault", bytes as f64 / count.max(1) as f64);
    report.set("made_per_s", made_per_s);
    Ok(report)
}
