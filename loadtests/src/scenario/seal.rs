//! What keeping rows sealed costs: CPU time of putting, getting and scanning rows of 1 KiB through
//! the store, beyond plain fjall's for as many records of the same sizes, to what the cipher alone
//! takes for the same texts.
//!
//! A row that is put is sealed twice, as a row and in its commit's feed entry; plain fjall writes both,
//! and the cipher seals both. Between the two sides stand sealing, associated data, nonces, the
//! attempt to compress, the feed's chain, the overlay, tickets and the hand-over to the group commit.
//! `put_overhead` is of commits of 16 rows, where most of it is for the rows; `commit_overhead` is of
//! commits of one, where much is for the commit. Values are random: what is read and written has the
//! same length on both sides, and what is tried to make it shorter is in vain. CPU time is the
//! process's, from the second commit in a directory until fjall's threads rest: memtables that were
//! written out in between count on both sides, and both write them out after as many bytes. Both
//! hand their commits to another thread, which writes those that wait with one fsync and answers.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::baseline::bare_cipher::BareCipher;
use crate::client::median;
use crate::process::own_cpu_ns;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "seal",
    about: "CPU of sealed 1 KiB puts, gets and scans beyond plain fjall's, to the bare cipher's",
    thresholds: &[
        Threshold::gate("put_overhead", Bound::AtMost(2.0)),
        Threshold::goal("put_overhead", Bound::AtMost(1.3)),
        Threshold::gate("get_overhead", Bound::AtMost(2.0)),
        Threshold::goal("get_overhead", Bound::AtMost(1.3)),
        Threshold::gate("scan_overhead", Bound::AtMost(2.0)),
        Threshold::goal("scan_overhead", Bound::AtMost(1.3)),
    ],
};

/// Bytes of a row.
pub const ROW_BYTES: usize = 1024;
/// Rows of a commit.
const ROWS_PER_COMMIT: u64 = 16;
/// Rows under way: some full groups of the group commit.
pub const ROWS_IN_FLIGHT: u64 = 2048;

/// Rows by number, cut into commits, and these into waves of at most [`ROWS_IN_FLIGHT`] rows: what
/// is submitted before anything is waited for.
pub fn waves(numbers: Range<u64>, rows_per_commit: u64) -> impl Iterator<Item = Vec<Range<u64>>> {
    let cut = |whole: Range<u64>, by: u64| {
        let end = whole.end;
        whole.step_by(usize::try_from(by.max(1)).unwrap_or(usize::MAX)).map(move |start| start..end.min(start + by))
    };
    cut(numbers, ROWS_IN_FLIGHT).map(move |wave| cut(wave, rows_per_commit).collect())
}
/// Rows put into one directory: some three and a half memtables of each side. With a fourth, fjall
/// would begin to compact, which takes either side as long for as many bytes, and now more of them,
/// now fewer.
const ROWS: u64 = 12 * 1024;
/// Directories of a round.
const DIRECTORIES: u32 = 4;
/// Rows read of one directory, by key and by span.
const READS: u64 = 64 * 1024;
/// Reads of one snapshot, and rows of one span.
pub const READS_PER_SNAPSHOT: usize = 256;
/// Bytes written between two rotations of the memtables: many of them, so that what is still in
/// memory at the end of a round is little.
pub const MEMTABLE_BYTES: usize = 8 << 20;
/// Room for every block: what is measured is the CPU's work and not the cache's luck.
pub const CACHE_BYTES: u64 = 512 << 20;

/// A process that takes less CPU time than this in such a while has nothing to do.
const SETTLED: Duration = Duration::from_millis(100);
const SETTLED_CPU_NS_MAX: u64 = 2_000_000;

/// A side of this scenario.
pub trait Target: Send + Sync {
    /// Opens an empty directory, or one of this side's.
    fn open<'a>(&'a self, directory: &'a Path, rows_per_commit: u64)
    -> BoxFuture<'a, Result<Box<dyn Rows>, LoadError>>;

    /// Bytes of the text of a commit's feed entry.
    fn entry_bytes(&self, rows_per_commit: u64) -> usize;
}

/// An open directory of rows.
pub trait Rows: Send {
    /// Puts rows, each durable when this answers.
    fn put(&mut self, numbers: Range<u64>) -> BoxFuture<'_, Result<(), LoadError>>;

    /// Reads rows by their keys from one state; gives the bytes found.
    fn get<'a>(&'a self, numbers: &'a [u64]) -> BoxFuture<'a, Result<u64, LoadError>>;

    /// Reads rows in the order of their keys, from behind a row's key on; gives the bytes found.
    fn scan(&self, behind: u64, rows: usize) -> BoxFuture<'_, Result<u64, LoadError>>;

    /// Closes the directory, and waits for everything that runs in the background.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), LoadError>>;
}

/// Nanoseconds of CPU time per row, of each directory.
#[derive(Clone, Debug, Default)]
struct Costs {
    put: Vec<f64>,
    get: Vec<f64>,
    scan: Vec<f64>,
    /// A put in a commit of its own.
    commit: Vec<f64>,
}

/// One of them.
type Cost = fn(&Costs) -> &[f64];

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a round stay far below 2^52")]
fn per_row(begun_ns: u64, rows: u64) -> f64 {
    (own_cpu_ns().saturating_sub(begun_ns)) as f64 / rows.max(1) as f64
}

/// Waits until nothing runs in the background any more: closing a database breaks off its compactions,
/// and the side that puts its rows more quickly would leave more of them undone.
async fn settled() {
    let mut seen_ns = own_cpu_ns();
    loop {
        tokio::time::sleep(SETTLED).await;
        let now_ns = own_cpu_ns();
        if now_ns.saturating_sub(seen_ns) < SETTLED_CPU_NS_MAX {
            return;
        }
        seen_ns = now_ns;
    }
}

fn rows_of(seconds: f64, full: u64) -> u64 {
    // A round of the usual length is full; shorter ones are for trying the scenario out.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let rows = (full as f64 * (seconds / super::ROUND_SECONDS).min(4.0)) as u64;
    rows.max(READS_PER_SNAPSHOT as u64)
}

/// A side with a directory.
struct Bench<'a> {
    target: &'a dyn Target,
    settings: &'a Settings,
    lost: u64,
}

impl Bench<'_> {
    /// Puts rows into a directory; gives nanoseconds per row.
    async fn put(&mut self, directory: &Path, rows: u64, rows_per_commit: u64) -> Result<f64, LoadError> {
        let mut side = self.target.open(directory, rows_per_commit).await?;
        // What is made with the first commit is no row's cost.
        side.put(0..rows_per_commit).await?;
        let begun_ns = own_cpu_ns();
        side.put(rows_per_commit..rows).await?;
        settled().await;
        let cost = per_row(begun_ns, rows - rows_per_commit);
        side.close().await?;
        Ok(cost)
    }

    /// Reads the rows of a directory by key and by span; gives nanoseconds per row.
    async fn read(&mut self, directory: &Path, rows: u64) -> Result<(f64, f64), LoadError> {
        let reads = rows_of(self.settings.seconds, READS);
        let side = self.target.open(directory, ROWS_PER_COMMIT).await?;
        let stride = (rows / 2) | 1; // far apart, and every row of an even number
        let keys: Vec<u64> = (0..rows).map(|n| n.wrapping_mul(stride) % rows).collect();
        let expected = |rows: u64| rows * ROW_BYTES as u64;
        // Once over everything, so that every block is in memory.
        for numbers in keys.chunks(READS_PER_SNAPSHOT) {
            side.get(numbers).await?;
        }
        let begun_ns = own_cpu_ns();
        let mut read = 0;
        for numbers in keys.chunks(READS_PER_SNAPSHOT).cycle() {
            let missing = expected(numbers.len() as u64).saturating_sub(side.get(numbers).await?);
            self.lost += missing.div_ceil(ROW_BYTES as u64);
            read += numbers.len() as u64;
            if read >= reads {
                break;
            }
        }
        let get = per_row(begun_ns, read);
        let begun_ns = own_cpu_ns();
        let mut bytes = 0;
        for number in keys.iter().cycle() {
            bytes += side.scan(*number, READS_PER_SNAPSHOT).await?;
            if bytes >= expected(reads) {
                break;
            }
        }
        let scan = per_row(begun_ns, bytes / expected(1));
        side.close().await?;
        Ok((get, scan))
    }

    /// One round, in directories of its own.
    async fn round(&mut self, costs: &mut Costs) -> Result<(), LoadError> {
        let rows = rows_of(self.settings.seconds, ROWS) & !1;
        for _ in 0..DIRECTORIES {
            let directory = self.settings.scratch()?;
            costs.commit.push(self.put(directory.path(), rows, 1).await?);
            let directory = self.settings.scratch()?;
            costs.put.push(self.put(directory.path(), rows, ROWS_PER_COMMIT).await?);
            let (get, scan) = self.read(directory.path(), rows).await?;
            costs.get.push(get);
            costs.scan.push(scan);
        }
        Ok(())
    }
}

/// What the cipher alone takes.
fn bare(target: &dyn Target, costs: &mut Costs) {
    let mut bare = BareCipher::new();
    let row = bare.seal_ns(ROW_BYTES);
    let open = bare.open_ns(ROW_BYTES);
    let mut entry_ns = |rows: u64| {
        #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
        let share = 1.0 / rows as f64;
        bare.seal_ns(target.entry_bytes(rows)) * share
    };
    costs.put.push(row + entry_ns(ROWS_PER_COMMIT));
    costs.commit.push(row + entry_ns(1));
    costs.get.push(open);
    costs.scan.push(open);
}

/// Compares `subject` with plain fjall, and their difference with the cipher.
///
/// # Errors
/// When a side cannot be opened, or the data directory is in memory.
pub async fn run(subject: &dyn Target, plain: Arc<dyn Target>, settings: &Settings) -> Result<Report, LoadError> {
    super::commit::on_disk(&settings.data)?;
    let mut report = Report::new(SCENARIO.name);
    let bench = |target| Bench { target, settings, lost: 0 };
    let (mut sealed, mut unsealed) = (bench(subject), bench(plain.as_ref()));
    // Memory that a process takes for the first time is the kernel's work, and whoever goes first would pay for it.
    sealed.round(&mut Costs::default()).await?;
    unsealed.round(&mut Costs::default()).await?;
    let (mut ours, mut theirs, mut cipher) = (Costs::default(), Costs::default(), Costs::default());
    for number in 0..settings.rounds {
        // The order swaps, so that a machine that changes over the run favours neither.
        if number % 2 == 0 {
            sealed.round(&mut ours).await?;
            unsealed.round(&mut theirs).await?;
        } else {
            unsealed.round(&mut theirs).await?;
            sealed.round(&mut ours).await?;
        }
        bare(subject, &mut cipher);
    }
    report.lost = sealed.lost + unsealed.lost;
    let kinds: [(&str, Cost); 4] = [
        ("put", |costs| &costs.put),
        ("get", |costs| &costs.get),
        ("scan", |costs| &costs.scan),
        ("commit", |costs| &costs.commit),
    ];
    // What one directory takes varies by as much as the cipher's cost, and what one side's took has nothing
    // to do with the other's: the medians are compared.
    for (name, of) in kinds {
        let [ours, theirs, cipher] = [&ours, &theirs, &cipher].map(|costs| median(of(costs).iter().copied()));
        report.set(&format!("{name}_overhead"), (ours - theirs) / cipher);
        report.set(&format!("{name}_ns"), ours);
        report.set(&format!("{name}_plain_ns"), theirs);
        report.set(&format!("{name}_cipher_ns"), cipher);
    }
    Ok(report)
}
