//! One org asks for ten times what it may have; what it may have is answered, and another org
//! notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use hdrhistogram::Histogram;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::Runtime;

use super::edge::{Side, Station};
use super::{CONNECTIONS, Scenario, Settings};
use crate::LoadError;
use crate::client::{Call, Connection, Endpoint, Latencies, OpenPlan, Sample, median, open_loop, percentile_ms};
use crate::process::{ServerProcess, cpu_s};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "overload",
    about: "an org that offers ten times what it may have, and a quiet org beside it",
    thresholds: &[
        Threshold::gate("goodput_ratio", Bound::AtLeast(0.90)),
        Threshold::gate("p99_ratio", Bound::AtMost(3.0)),
        Threshold::goal("p99_ratio", Bound::AtMost(2.0)),
    ],
};

/// An org's calls per second, to the peak of unlimited reads.
const ADMITTED_SHARE: f64 = 0.05;
/// What the noisy org offers, to what is admitted.
const OFFERED: u64 = 10;
/// What the quiet org sends: half of what it may, so that it is never refused.
const QUIET_SHARE: u64 = 2;
/// Of the quiet org, which stand for what its people would have.
const QUIET_CONNECTIONS: usize = 8;
/// Rounds in which the peak is looked for.
const PEAK_ROUNDS: usize = 3;
/// Before what is measured: longer than it takes to use up what may come at once.
const LEAD_IN_S: f64 = 0.5;

/// Calls at a rate, and the nanoseconds that they took.
type Timed = (Sample, Histogram<u64>);

/// The side under test.
pub trait Target: Send + Sync {
    /// A server without a limit, and a read.
    fn unlimited(&self) -> BoxFuture<'_, Result<Side, LoadError>>;
    /// A server that admits so many calls of each org per second, and reads of two orgs.
    fn limited(&self, org_calls_per_s: u64) -> BoxFuture<'_, Result<Orgs, LoadError>>;
}

/// A started server, and a read in each of two orgs.
#[derive(Debug)]
pub struct Orgs {
    pub server: ServerProcess,
    pub endpoint: Endpoint,
    pub noisy: Call,
    pub quiet: Call,
}

/// What became of one org's calls.
#[derive(Debug, Default)]
struct Outcomes {
    begun: AtomicU64,
    answered: AtomicU64,
    /// For want of room, as they should be.
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    fn count(&self, outcome: &Result<(), LoadError>) {
        let counter = match outcome {
            Ok(()) => &self.answered,
            Err(error) if error.is_refusal() => &self.refused,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One org's connections and its read.
struct Org {
    connections: Vec<Connection>,
    call: Call,
    outcomes: Arc<Outcomes>,
}

impl Org {
    async fn open(endpoint: Endpoint, call: Call, connections: usize) -> Result<Arc<Self>, LoadError> {
        let connections = Connection::open_many(&endpoint, connections).await?;
        Ok(Arc::new(Self { connections, call, outcomes: Arc::default() }))
    }

    /// Calls at a rate, whatever comes of them.
    async fn at_rate(self: Arc<Self>, server: u32, rate_per_s: u64, seconds: f64) -> Result<Timed, LoadError> {
        let (connections, call, outcomes) = (self.connections.clone(), self.call.clone(), Arc::clone(&self.outcomes));
        open_loop(
            OpenPlan { rate_per_s, seconds },
            || cpu_s(server),
            move |arrival| {
                let index = usize::try_from(arrival.index).unwrap_or_default() % connections.len();
                let connection = connections.get(index).cloned();
                let (call, outcomes) = (call.clone(), Arc::clone(&outcomes));
                async move {
                    outcomes.begun.fetch_add(1, Ordering::Relaxed);
                    let mut connection = connection.expect("the index is below the length");
                    let outcome = connection.unary(&call).await.map(drop);
                    outcomes.count(&outcome);
                    outcome
                }
            },
        )
        .await
    }
}

/// Threads for one org's client: what shares a runtime with the noise is held up by its own
/// side, and that is not the server's doing.
struct Apart(Option<Runtime>);

impl Apart {
    /// With `idle`, these threads run only while no others of the machine want to: the noise
    /// comes from elsewhere, and would take no cores from server and neighbours.
    fn new(idle: bool) -> Result<Self, LoadError> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all();
        if idle {
            runtime.on_thread_start(|| {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                // Refused, the figures are worse and say the same.
                let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
            });
        }
        Ok(Self(Some(runtime.build().map_err(LoadError::io("start a runtime"))?)))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LoadError>> + Send + 'static,
    ) -> Result<T, LoadError> {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.spawn(work).await.map_err(|error| LoadError::Subject(error.to_string()))?
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the rounds found.
struct Found {
    goodput_ratios: Vec<f64>,
    /// The quiet org's, over all rounds together: a moment in which the machine does something
    /// else is more than a hundredth of a round, and less than that of all of them.
    alone: Histogram<u64>,
    crowded: Histogram<u64>,
    /// Server CPU seconds of a refusal, to those of a read at the peak.
    refusal_cost_ratios: Vec<f64>,
}

/// # Errors
/// When a server does not start or a connection cannot be opened.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small rates")]
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let (peak_per_s, per_cpu_s) = peak(subject, settings, &mut report).await?;
    let admitted = ((peak_per_s * ADMITTED_SHARE) as u64).max(1);
    settings.say(&format!("overload: {admitted} calls/s admitted, {} offered", admitted * OFFERED));

    let orgs = subject.limited(admitted).await?;
    let (here, elsewhere) = (Apart::new(false)?, Apart::new(true)?);
    let count = settings.connections.unwrap_or(CONNECTIONS).max(1);
    let noisy = elsewhere.run(Org::open(orgs.endpoint.clone(), orgs.noisy.clone(), count)).await?;
    let quiet = here.run(Org::open(orgs.endpoint.clone(), orgs.quiet.clone(), QUIET_CONNECTIONS)).await?;
    let (server, seconds) = (orgs.server.pid(), settings.seconds);
    let (noise_rate, quiet_rate) = (admitted * OFFERED, (admitted / QUIET_SHARE).max(1));
    let listen = async |seconds| here.run(Arc::clone(&quiet).at_rate(server, quiet_rate, seconds)).await;
    let shout = async |seconds| elsewhere.run(Arc::clone(&noisy).at_rate(server, noise_rate, seconds)).await;
    listen(LEAD_IN_S).await?;
    let (alone, crowded) = (Latencies::none(), Latencies::none());
    let mut found = Found { goodput_ratios: Vec::new(), alone, crowded, refusal_cost_ratios: Vec::new() };
    for round in 0..settings.rounds {
        let alone = async || listen(seconds).await;
        let crowded = async || {
            shout(LEAD_IN_S).await?;
            let (noise, heard) = tokio::join!(shout(seconds), listen(seconds));
            Ok::<_, LoadError>((noise?, heard?))
        };
        let ((alone, calm), ((noise, _), (heard, stormy))) = if round % 2 == 0 {
            let alone = alone().await?;
            (alone, crowded().await?)
        } else {
            let crowded = crowded().await?;
            (alone().await?, crowded)
        };
        found.goodput_ratios.push(noise.operations as f64 / seconds / admitted as f64);
        found.alone += calm;
        found.crowded += stormy;
        // Both orgs' answers cost what they cost alone; the rest is for refusals.
        let answers_s = alone.cpu_s / alone.operations as f64 * (noise.operations + heard.operations) as f64;
        let refusal_s = (noise.cpu_s - answers_s).max(0.0) / noise.errors.max(1) as f64;
        found.refusal_cost_ratios.push(refusal_s * per_cpu_s);
        report.errors += alone.errors + heard.errors;
    }
    enter(&mut report, &found, admitted);
    for org in [&noisy, &quiet] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let outcomes = &org.outcomes;
        let ended = count(&outcomes.answered) + count(&outcomes.refused) + count(&outcomes.failed);
        report.lost += count(&outcomes.begun).saturating_sub(ended);
        report.duplicated += ended.saturating_sub(count(&outcomes.begun));
        report.errors += count(&outcomes.failed);
    }
    Ok(report)
}

/// Reads per second, and per CPU second of the server, when nothing is limited.
async fn peak(subject: &dyn Target, settings: &Settings, report: &mut Report) -> Result<(f64, f64), LoadError> {
    let station = Station::open(subject.unlimited().await?, settings).await?;
    let mut samples = Vec::new();
    for _ in 0..PEAK_ROUNDS.min(settings.rounds) {
        samples.push(station.peak(settings.seconds).await?);
    }
    report.errors += samples.iter().map(|sample| sample.errors).sum::<u64>();
    let peak_per_s = median(samples.iter().map(Sample::per_s));
    report.set("peak_per_s", peak_per_s);
    Ok((peak_per_s, median(samples.iter().map(Sample::per_cpu_s))))
}

#[allow(clippy::cast_precision_loss, reason = "a rate is small")]
fn enter(report: &mut Report, found: &Found, admitted: u64) {
    report.set("admitted_per_s", admitted as f64);
    report.set("goodput_ratio", median(found.goodput_ratios.iter().copied()));
    report.set("refusal_cost_ratio", median(found.refusal_cost_ratios.iter().copied()));
    for (name, percentile) in [("p50", 50.0), ("p99", 99.0)] {
        let (alone_ms, crowded_ms) =
            (percentile_ms(&found.alone, percentile), percentile_ms(&found.crowded, percentile));
        report.set(&format!("{name}_ratio"), crowded_ms / alone_ms);
        report.set(&format!("alone_{name}_ms"), alone_ms);
        report.set(&format!("crowded_{name}_ms"), crowded_ms);
    }
}
