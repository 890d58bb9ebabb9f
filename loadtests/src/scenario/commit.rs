//! Durable commands in process, to raw fjall writing as many plain records of the same sizes with the
//! same group commit: 256 callers over 32 vaults, and all of them on one.

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::baseline::raw_fjall::{RawVaults, Shape};
use crate::client::{ClosedPlan, OpenPlan, Sample, closed_loop, interleave, median, open_loop};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "commit",
    about: "durable commands in process, to raw fjall with group commit, over 32 vaults and on one",
    thresholds: &[
        Threshold::gate("ratio", Bound::AtLeast(0.40)),
        Threshold::goal("ratio", Bound::AtLeast(0.60)),
        Threshold::gate("hot_ratio", Bound::AtLeast(0.40)),
        Threshold::goal("hot_ratio", Bound::AtLeast(0.60)),
    ],
};

/// Callers over all vaults.
const CALLERS: usize = 256;
pub(super) const VAULTS: usize = 32;

/// A side of this scenario.
pub trait Target: Send + Sync {
    /// The records that one command of this side writes; raw fjall writes the same.
    fn shape(&self) -> Shape;

    /// Opens `vaults` vaults under `directory`, ready for commands.
    fn open<'a>(&'a self, directory: &'a Path, vaults: usize) -> BoxFuture<'a, Result<Arc<dyn Committer>, LoadError>>;
}

/// Open vaults that take commands.
pub trait Committer: Send + Sync {
    /// Makes one durable command in vault number `vault`; answers after its fsync.
    fn commit(&self, vault: usize) -> BoxFuture<'_, Result<(), LoadError>>;

    /// Closes the vaults, opens them again from disk and counts the commands found there.
    fn close_and_count(self: Arc<Self>) -> BoxFuture<'static, Result<u64, LoadError>>;
}

/// Opens the baseline.
pub(crate) async fn raw(directory: &Path, vaults: usize, shape: Shape) -> Result<Arc<dyn Committer>, LoadError> {
    let directory = directory.to_owned();
    let opened = tokio::task::spawn_blocking(move || RawVaults::open(&directory, vaults, &shape)).await;
    Ok(Arc::new(opened.map_err(|error| LoadError::Subject(error.to_string()))??))
}

/// A committer under load, and how many commands it has acknowledged.
pub(super) struct Bench {
    committer: Arc<dyn Committer>,
    vaults: usize,
    callers: usize,
    acknowledged: u64,
    pub(super) errors: u64,
}

impl Bench {
    pub(super) fn new(committer: Arc<dyn Committer>, vaults: usize, settings: &Settings) -> Self {
        let callers = settings.callers.unwrap_or(CALLERS).max(1);
        Self { committer, vaults, callers, acknowledged: 0, errors: 0 }
    }

    fn enter(&mut self, sample: Sample) -> Sample {
        self.acknowledged += sample.operations;
        self.errors += sample.errors;
        sample
    }

    pub(super) async fn peak(&mut self, seconds: f64) -> Result<Sample, LoadError> {
        let sample = closed_loop(
            ClosedPlan { callers: self.callers, seconds },
            own_cpu_s,
            |index| (self.committer.clone(), index % self.vaults),
            |(committer, vault)| committer.commit(*vault),
        )
        .await?;
        Ok(self.enter(sample))
    }

    pub(super) async fn at_rate(&mut self, rate_per_s: u64, seconds: f64) -> Result<Sample, LoadError> {
        let (committer, vaults) = (self.committer.clone(), self.vaults);
        let (sample, _) = open_loop(OpenPlan { rate_per_s, seconds }, own_cpu_s, move |arrival| {
            let vault = usize::try_from(arrival.index).unwrap_or_default() % vaults;
            let committer = committer.clone();
            async move { committer.commit(vault).await }
        })
        .await?;
        Ok(self.enter(sample))
    }

    /// Closes and recounts; returns (lost, duplicated). A failed command may have been committed or
    /// not, so duplicates are only those beyond the failed ones.
    pub(super) async fn close(self) -> Result<(u64, u64), LoadError> {
        let found = self.committer.close_and_count().await?;
        let attempted = self.acknowledged + self.errors;
        Ok((self.acknowledged.saturating_sub(found), found.saturating_sub(attempted)))
    }
}

fn own_cpu_s() -> Result<f64, LoadError> {
    crate::process::cpu_s(std::process::id())
}

/// Refuses a directory in memory.
pub(super) fn on_disk(directory: &Path) -> Result<(), LoadError> {
    // statfs(2): TMPFS_MAGIC and RAMFS_MAGIC.
    const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let status = rustix::fs::statfs(directory)
        .map_err(|error| LoadError::io(format!("look at {}", directory.display()))(error.into()))?;
    if IN_MEMORY.contains(&status.f_type) {
        return Err(LoadError::InMemory(directory.to_owned()));
    }
    Ok(())
}

/// Compares `subject` with raw fjall.
///
/// # Errors
/// When a side cannot be opened, or the data directory is in memory.
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    on_disk(&settings.data)?;
    let mut report = Report::new(SCENARIO.name);
    for (vaults, prefix) in [(VAULTS, ""), (1, "hot_")] {
        let (ours_data, raw_data) = (settings.scratch()?, settings.scratch()?);
        let mut ours = Bench::new(subject.open(ours_data.path(), vaults).await?, vaults, settings);
        let mut raw = Bench::new(raw(raw_data.path(), vaults, subject.shape()).await?, vaults, settings);
        settings.say(&format!("commit: {} callers, {vaults} vaults, {:?}", ours.callers, subject.shape().records));
        let peak =
            interleave(settings.rounds, settings.seconds, async |s| ours.peak(s).await, async |s| raw.peak(s).await)
                .await?;
        let peak_per_s = median(peak.a.iter().map(Sample::per_s));
        let mut p99_ms = Vec::new();
        for _ in 0..settings.rounds {
            p99_ms.push(ours.at_rate(Settings::half(peak_per_s), settings.seconds).await?.p99_ms);
        }
        let figures = [
            ("ratio", peak.ratio(Sample::per_s)),
            ("cpu_ratio", peak.ratio(Sample::per_cpu_s)),
            ("commits_per_s", peak_per_s),
            ("commits_per_cpu_s", median(peak.a.iter().map(Sample::per_cpu_s))),
            ("raw_per_s", median(peak.b.iter().map(Sample::per_s))),
            ("p99_ms", median(p99_ms)),
        ];
        for (name, value) in figures {
            report.set(&format!("{prefix}{name}"), value);
        }
        for bench in [ours, raw] {
            report.errors += bench.errors;
            let (lost, duplicated) = bench.close().await?;
            report.lost += lost;
            report.duplicated += duplicated;
        }
    }
    Ok(report)
}
