//! Log-ins, to the bare hash on the same cores; then, apart, what a storm of them does to other
//! calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hdrhistogram::Histogram;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::baseline::bare_hash::BareHash;
use crate::client::{
    Call, ClosedPlan, Connection, Endpoint, Latencies, OpenPlan, Sample, closed_loop, interleave, median, open_loop,
    percentile_ms,
};
use crate::process::{ServerProcess, own_cpu_ns};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "login",
    about: "log-ins to the bare Argon2id hash, and other calls' p99 during a storm of them to without",
    thresholds: &[
        Threshold::gate("ratio", Bound::AtLeast(0.8)),
        Threshold::gate("p99_ratio", Bound::AtMost(5.0)),
        Threshold::goal("p99_ratio", Bound::AtMost(2.0)),
    ],
};

/// Accounts that log in, in turn.
pub(crate) const ACCOUNTS: usize = 16;
/// Log-ins under way at once: enough to keep every hashing thread busy, and few enough that none
/// is refused for the wait, on a slow machine either.
const CALLERS: usize = 4;
/// Connections of the other calls.
const OTHERS: usize = 32;
/// Before latencies are taken: until each hashing thread is at work.
const LEAD_IN_S: f64 = 0.5;

/// The side under test.
pub trait Target: Send + Sync {
    /// A server with so many accounts, hashing as it is installed to.
    fn launch(&self, accounts: usize) -> BoxFuture<'_, Result<Side, LoadError>>;
}

/// A started server, a log-in of each account, and a read.
#[derive(Debug)]
pub struct Side {
    pub server: ServerProcess,
    pub endpoint: Endpoint,
    pub log_ins: Vec<Call>,
    pub read: Call,
}

/// A side with its connections open.
struct Station {
    side: Side,
    log_ins: Vec<Connection>,
    others: Vec<Connection>,
    next: Arc<AtomicU64>,
}

fn pick<T: Clone>(of: &[T], index: usize) -> T {
    of.get(index % of.len()).expect("the index is below the length").clone()
}

impl Station {
    async fn open(side: Side, settings: &Settings) -> Result<Self, LoadError> {
        let callers = settings.callers.unwrap_or(CALLERS).max(1);
        let log_ins = Connection::open_many(&side.endpoint, callers).await?;
        let others = Connection::open_many(&side.endpoint, settings.connections.unwrap_or(OTHERS).max(1)).await?;
        Ok(Self { side, log_ins, others, next: Arc::default() })
    }

    /// As many log-ins as there can be.
    async fn log_ins(&self, seconds: f64) -> Result<Sample, LoadError> {
        let (calls, next) = (self.side.log_ins.clone(), Arc::clone(&self.next));
        closed_loop(
            ClosedPlan { callers: self.log_ins.len(), seconds },
            || self.side.server.cpu_s(),
            |index| (pick(&self.log_ins, index), calls.clone(), Arc::clone(&next)),
            |(connection, calls, next)| {
                let turn = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or_default();
                let call = pick(calls, turn);
                async move { connection.unary(&call).await.map(drop) }.boxed()
            },
        )
        .await
    }

    async fn peak_of_others(&self, seconds: f64) -> Result<Sample, LoadError> {
        closed_loop(
            ClosedPlan { callers: self.others.len(), seconds },
            || self.side.server.cpu_s(),
            |index| (pick(&self.others, index), self.side.read.clone()),
            |(connection, call)| async move { connection.unary(call).await.map(drop) }.boxed(),
        )
        .await
    }

    async fn others(&self, rate_per_s: u64, seconds: f64) -> Result<(Sample, Histogram<u64>), LoadError> {
        let (connections, call) = (self.others.clone(), self.side.read.clone());
        open_loop(
            OpenPlan { rate_per_s, seconds },
            || self.side.server.cpu_s(),
            move |arrival| {
                let mut connection = pick(&connections, usize::try_from(arrival.index).unwrap_or_default());
                let call = call.clone();
                async move { connection.unary(&call).await.map(drop) }
            },
        )
        .await
    }

    /// The other calls while log-ins come without a pause.
    async fn others_in_a_storm(
        &self,
        rate_per_s: u64,
        seconds: f64,
    ) -> Result<((Sample, Histogram<u64>), u64), LoadError> {
        let over = Arc::new(AtomicBool::new(false));
        let errors = Arc::new(AtomicU64::new(0));
        let mut storm = tokio::task::JoinSet::new();
        for index in 0..self.log_ins.len() {
            let (mut connection, calls) = (pick(&self.log_ins, index), self.side.log_ins.clone());
            let (over, errors) = (Arc::clone(&over), Arc::clone(&errors));
            storm.spawn(async move {
                let mut turn = index;
                while !over.load(Ordering::Relaxed) {
                    turn += 1;
                    if connection.unary(&pick(&calls, turn)).await.is_err() {
                        errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        self.others(rate_per_s, LEAD_IN_S).await?;
        let others = self.others(rate_per_s, seconds).await;
        over.store(true, Ordering::Relaxed);
        while storm.join_next().await.is_some() {}
        Ok((others?, errors.load(Ordering::Relaxed)))
    }
}

/// The hash and nothing else, on as many threads as there are cores.
async fn bare(seconds: f64) -> Result<Sample, LoadError> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[allow(clippy::cast_precision_loss, reason = "seconds of CPU time")]
    let cpu_s = || Ok(own_cpu_ns() as f64 / 1e9);
    closed_loop(
        ClosedPlan { callers: threads, seconds },
        cpu_s,
        |_| (),
        |()| {
            let hashing = tokio::task::spawn_blocking(|| BareHash::installed().verify());
            async move { hashing.await.map_err(|error| LoadError::Subject(error.to_string()))? }.boxed()
        },
    )
    .await
}

/// Compares log-ins with the hash, and other calls with and without a storm.
///
/// # Errors
/// When the server does not start or a connection cannot be opened.
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let station = Station::open(subject.launch(ACCOUNTS).await?, settings).await?;
    settings.say(&format!("login: {} callers, {ACCOUNTS} accounts", station.log_ins.len()));
    let seconds = settings.seconds;
    let logged = interleave(settings.rounds, seconds, async |s| station.log_ins(s).await, bare).await?;
    report.set("ratio", logged.ratio(Sample::per_s));
    report.set("log_ins_per_s", median(logged.a.iter().map(Sample::per_s)));
    report.set("hashes_per_s", median(logged.b.iter().map(Sample::per_s)));

    let peak = station.peak_of_others(seconds).await?;
    let rate = Settings::half(peak.per_s() / 2.0);
    settings.say(&format!("login: latencies at {rate} reads/s, a quarter of their peak"));
    // Over all rounds together: a moment in which the machine does something else is more than a
    // hundredth of a round, and less than that of all of them.
    let (mut storm, mut calm) = (Latencies::none(), Latencies::none());
    let mut stormed = 0;
    let paced = interleave(
        settings.rounds,
        seconds,
        async |s| {
            let ((sample, latencies), errors) = station.others_in_a_storm(rate, s).await?;
            stormed += errors;
            storm += latencies;
            Ok(sample)
        },
        async |s| {
            let (sample, latencies) = station.others(rate, s).await?;
            calm += latencies;
            Ok(sample)
        },
    )
    .await?;
    for (name, percentile) in [("p50", 50.0), ("p99", 99.0)] {
        let (storm_ms, calm_ms) = (percentile_ms(&storm, percentile), percentile_ms(&calm, percentile));
        report.set(&format!("{name}_ratio"), storm_ms / calm_ms);
        report.set(&format!("storm_{name}_ms"), storm_ms);
        report.set(&format!("calm_{name}_ms"), calm_ms);
    }
    report.errors += logged.errors() + peak.errors + paced.errors() + stormed;
    Ok(report)
}
