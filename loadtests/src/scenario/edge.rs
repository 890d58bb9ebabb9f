//! Authenticated unary reads, to a bare tonic echo of the same reply bytes over as many connections,
//! in plaintext and with TLS.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{CONNECTIONS, Scenario, Settings};
use crate::LoadError;
use crate::client::{
    Call, ClosedPlan, Comparison, Connection, Endpoint, OpenPlan, Sample, closed_loop, interleave, median, open_loop,
};
use crate::process::ServerProcess;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "edge",
    about: "authenticated unary read, to a bare tonic echo, plain and TLS",
    thresholds: &[
        Threshold::gate("ratio", Bound::AtLeast(0.65)),
        Threshold::goal("ratio", Bound::AtLeast(0.80)),
        Threshold::goal("p99_ratio", Bound::AtMost(1.5)),
        Threshold::gate("tls_ratio", Bound::AtLeast(0.65)),
        Threshold::goal("tls_ratio", Bound::AtLeast(0.80)),
        Threshold::goal("tls_p99_ratio", Bound::AtMost(1.5)),
    ],
};

/// Bytes of the stored value that is read.
pub(crate) const PAYLOAD_BYTES: usize = 256;
/// Callers per connection.
const CALLERS: usize = 1;
/// A closed round's share that is run beforehand, to warm connections and caches.
const WARM_UP: f64 = 0.3;

/// A side of this scenario.
pub trait Target: Send + Sync {
    /// Starts a server that answers `call` with a reply that carries `payload_bytes`.
    fn launch(&self, tls: bool, payload_bytes: usize) -> BoxFuture<'_, Result<Side, LoadError>>;
}

/// A started server and the read to send it, with its authorization.
#[derive(Debug)]
pub struct Side {
    pub server: ServerProcess,
    pub endpoint: Endpoint,
    pub call: Call,
}

/// A side with its connections open.
pub(super) struct Station {
    pub(super) side: Side,
    connections: Vec<Connection>,
    callers: usize,
    pub(super) reply_bytes: usize,
}

impl Station {
    pub(super) async fn open(side: Side, settings: &Settings) -> Result<Self, LoadError> {
        let count = settings.connections.unwrap_or(CONNECTIONS).max(1);
        let mut connections = Connection::open_many(&side.endpoint, count).await?;
        let mut reply_bytes = 0;
        for connection in &mut connections {
            reply_bytes = connection.unary(&side.call).await?.len();
        }
        let callers = settings.callers.unwrap_or(CALLERS).max(1);
        let station = Self { side, connections, callers, reply_bytes };
        station.peak(settings.seconds * WARM_UP).await?;
        Ok(station)
    }

    fn connection(&self, index: usize) -> Connection {
        self.connections.get(index % self.connections.len()).expect("at least one connection is open").clone()
    }

    /// As many calls as the server answers.
    pub(super) async fn peak(&self, seconds: f64) -> Result<Sample, LoadError> {
        let callers = self.connections.len() * self.callers;
        closed_loop(
            ClosedPlan { callers, seconds },
            || self.side.server.cpu_s(),
            |index| (self.connection(index), self.side.call.clone()),
            |(connection, call)| async move { connection.unary(call).await.map(drop) }.boxed(),
        )
        .await
    }

    /// Calls at a fixed rate; fills in `p99_ms`.
    pub(super) async fn at_rate(&self, rate_per_s: u64, seconds: f64) -> Result<Sample, LoadError> {
        let connections = self.connections.clone();
        let call = self.side.call.clone();
        let (sample, _) = open_loop(
            OpenPlan { rate_per_s, seconds },
            || self.side.server.cpu_s(),
            move |arrival| {
                let index = usize::try_from(arrival.index).unwrap_or_default() % connections.len();
                let connection = connections.get(index).cloned();
                let call = call.clone();
                async move {
                    let mut connection = connection.expect("the index is below the length");
                    connection.unary(&call).await.map(drop)
                }
            },
        )
        .await?;
        Ok(sample)
    }
}

/// Compares `subject` with the echo.
///
/// # Errors
/// When a server does not start or a connection cannot be opened.
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    for (tls, prefix) in [(false, ""), (true, "tls_")] {
        let ours = Station::open(subject.launch(tls, PAYLOAD_BYTES).await?, settings).await?;
        let echo: &dyn Target = &settings.baseline();
        let echo = Station::open(echo.launch(tls, ours.reply_bytes).await?, settings).await?;
        settings.say(&format!(
            "edge: {} connections, {} callers each, tls {tls}, replies of {} bytes",
            ours.connections.len(),
            ours.callers,
            ours.reply_bytes
        ));
        let seconds = settings.seconds;
        let peak =
            interleave(settings.rounds, seconds, async |s| ours.peak(s).await, async |s| echo.peak(s).await).await?;
        let rate = Settings::half(median(peak.b.iter().map(Sample::per_s)));
        settings.say(&format!("edge: latencies at {rate} calls/s, half of the echo's peak"));
        let paced = interleave(
            settings.rounds,
            seconds,
            async |s| ours.at_rate(rate, s).await,
            async |s| echo.at_rate(rate, s).await,
        )
        .await?;
        enter(&mut report, prefix, &peak, &paced);
    }
    Ok(report)
}

fn enter(report: &mut Report, prefix: &str, peak: &Comparison, paced: &Comparison) {
    let figures = [
        ("ratio", peak.ratio(Sample::per_s)),
        ("cpu_ratio", peak.ratio(Sample::per_cpu_s)),
        ("calls_per_s", median(peak.a.iter().map(Sample::per_s))),
        ("calls_per_cpu_s", median(peak.a.iter().map(Sample::per_cpu_s))),
        ("echo_per_s", median(peak.b.iter().map(Sample::per_s))),
        ("echo_per_cpu_s", median(peak.b.iter().map(Sample::per_cpu_s))),
        ("p99_ratio", paced.ratio(|sample| sample.p99_ms)),
        ("p99_ms", median(paced.a.iter().map(|sample| sample.p99_ms))),
        ("echo_p99_ms", median(paced.b.iter().map(|sample| sample.p99_ms))),
    ];
    for (name, value) in figures {
        report.set(&format!("{prefix}{name}"), value);
    }
    report.errors += peak.errors() + paced.errors();
}
