//! A million sessions that have committed, a hundred thousand of them resident.
//!
//! `bytes_per_resident` is what a process of its own grows by, from none to as many actors as may be
//! resident, divided by their number. Before, as many rows were read as fill the block cache, and
//! every vault was opened: both are the node's and bounded. Activations go through all sessions in a
//! random order, so that each finds its actor gone, while a sweep ends those idle for a while. Each
//! is a command that the session's actor answers and that changes nothing. `activation_p99_ms` is at
//! half of the measured peak, from the scheduled start, over all rounds together, while as many end
//! as begin.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;

use super::resident::{Memory, Residents, memory, own_bytes};
use super::vaults::order;
use super::{Scenario, Settings};
use crate::LoadError;
use crate::canopy::sessions::{Sessions, populate};
use crate::client::{ClosedPlan, Latencies, OpenPlan, Sample, closed_loop, median, open_loop, percentile_ms};
use crate::clock::{now_ns, seconds_between};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "actors",
    about: "1,000,000 sessions of which 100,000 are resident: memory of one, and activations",
    thresholds: &[
        Threshold::gate("bytes_per_resident", Bound::AtMost(16_000.0)),
        Threshold::goal("bytes_per_resident", Bound::AtMost(12_000.0)),
        Threshold::goal("activation_p99_ms", Bound::AtMost(5.0)),
    ],
};

/// Activations under way at once while the peak is measured.
const CALLERS: usize = 256;
/// Rows read before memory is.
const WARM: u64 = 20_000;
/// How long a process is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a session stays resident without a call while activations are measured.
const IDLE: Duration = Duration::from_secs(2);
/// Beyond that, before latencies are taken.
const LEAD_IN_S: f64 = 1.0;
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// Sessions whose seqs are looked at afterwards.
const CHECKED: u64 = 10_000;
/// As good as never.
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// How many sessions.
#[derive(Clone, Copy, Debug, clap::Args, serde::Serialize, serde::Deserialize)]
#[group(id = "actors-size")]
pub struct Size {
    /// actors: sessions with a commit
    #[arg(long, default_value_t = 1_000_000)]
    pub sessions: u64,
    /// actors: how many of them are resident
    #[arg(long, default_value_t = 100_000)]
    pub resident: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { sessions: 1_000_000, resident: 100_000 }
    }
}

/// Activates sessions.
pub(super) async fn reside(dir: &Path, size: Size) -> Result<Memory, LoadError> {
    let sessions = Sessions::open(dir, FOR_GOOD, FOR_GOOD).await?;
    let numbers = order(size.sessions, 0);
    let of = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    for number in numbers.iter().rev().take(of(WARM)) {
        sessions.seq(*number).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let none_bytes = own_bytes()?;
    futures::stream::iter(numbers.iter().take(of(size.resident)))
        .map(|number| sessions.ask(*number))
        .buffer_unordered(CALLERS)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await?;
    tokio::time::sleep(SETTLE).await;
    let full_bytes = own_bytes()?;
    let memory = Memory { none_bytes, full_bytes, residents: sessions.resident() as u64, lost: sessions.missing() };
    sessions.close().await?;
    Ok(memory)
}

fn own_cpu_s() -> Result<f64, LoadError> {
    crate::process::cpu_s(std::process::id())
}

/// Sessions, taken in an order in which each comes once before any comes again.
struct Bench {
    sessions: Arc<Sessions>,
    numbers: Vec<u64>,
    next: AtomicUsize,
    /// Activations that failed, and the first reason.
    resident_max: AtomicU64,
}

impl Bench {
    async fn activate(&self) -> Result<(), LoadError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let number = self.numbers.get(next % self.numbers.len().max(1)).copied().unwrap_or_default();
        self.sessions.ask(number).await
    }

    fn look(&self) {
        self.resident_max.fetch_max(self.sessions.resident() as u64, Ordering::Relaxed);
    }

    async fn peak(self: &Arc<Self>, callers: usize, seconds: f64) -> Result<Sample, LoadError> {
        let caller = |_| self.clone();
        let sample = closed_loop(ClosedPlan { callers, seconds }, own_cpu_s, caller, |bench| {
            async move { bench.activate().await }.boxed()
        });
        let sample = sample.await?;
        self.look();
        Ok(sample)
    }

    async fn at_rate(self: &Arc<Self>, rate_per_s: u64, seconds: f64) -> Result<(Sample, Histogram<u64>), LoadError> {
        let bench = self.clone();
        let plan = OpenPlan { rate_per_s, seconds };
        let timed = open_loop(plan, own_cpu_s, move |_| {
            let bench = bench.clone();
            async move { bench.activate().await }
        })
        .await?;
        self.look();
        Ok(timed)
    }
}

/// # Errors
/// The node cannot be started, or the data directory is in memory.
#[allow(clippy::cast_precision_loss, reason = "sizes and counts far below 2^52")]
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    super::commit::on_disk(&settings.data)?;
    let mut report = Report::new(SCENARIO.name);
    let scratch = settings.scratch()?;
    let Size { sessions: count, resident } = settings.actors;
    settings.say(&format!("actors: committing {count} sessions"));
    let begun_ns = now_ns();
    populate(scratch.path(), count).await?;
    let populated_s = seconds_between(begun_ns, now_ns());

    let memory = memory(settings, scratch.path(), Residents::Actors(settings.actors)).await?;
    report.lost += memory.lost + resident.min(count).saturating_sub(memory.residents);
    report.set("bytes_per_resident", memory.bytes_per_resident());

    settings.say("actors: activating");
    let sessions = Sessions::open(scratch.path(), IDLE, SWEEP_EVERY).await?;
    let numbers = order(count, 1);
    let bench = Arc::new(Bench { sessions, numbers, next: AtomicUsize::new(0), resident_max: AtomicU64::new(0) });
    let callers = settings.callers.unwrap_or(CALLERS).max(1);
    // Until as many end as begin.
    let warmed = bench.peak(callers, settings.seconds.min(IDLE.as_secs_f64() + 1.0)).await?;
    report.errors += warmed.errors;
    let (mut peaks, mut latencies) = (Vec::new(), Latencies::none());
    for _ in 0..settings.rounds {
        let peak = bench.peak(callers, settings.seconds).await?;
        let rate = Settings::half(peak.per_s());
        // What the peak left ends meanwhile, twice as fast as others begin.
        let (lead_in, _) = bench.at_rate(rate, IDLE.as_secs_f64() + LEAD_IN_S).await?;
        let (paced, paced_latencies) = bench.at_rate(rate, settings.seconds).await?;
        report.errors += peak.errors + lead_in.errors + paced.errors;
        settings.say(&format!("actors: {:.0}/s, p99 {:.1} ms at half of it", peak.per_s(), paced.p99_ms));
        peaks.push(peak.per_s());
        latencies += paced_latencies;
    }
    for number in order(count, 2).into_iter().take(usize::try_from(CHECKED).unwrap_or_default()) {
        match bench.sessions.seq(number).await? {
            0 => report.lost += 1,
            1 => {}
            _ => report.duplicated += 1,
        }
    }
    report.lost += bench.sessions.missing();
    bench.sessions.close().await?;
    report.set("activation_p50_ms", percentile_ms(&latencies, 50.0));
    report.set("activation_p99_ms", percentile_ms(&latencies, 99.0));
    report.set("activations_per_s", median(peaks));
    report.set("resident_max", bench.resident_max.load(Ordering::Relaxed) as f64);
    report.set("rss_none_mb", memory.none_bytes as f64 / 1e6);
    report.set("rss_full_mb", memory.full_bytes as f64 / 1e6);
    report.set("first_commits_per_s", count as f64 / populated_s);
    Ok(report)
}
