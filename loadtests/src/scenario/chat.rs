//! One channel with 1,000 subscribers and durable sends, to a bare tonic fan-out of the same bytes.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::client::{Call, Endpoint, Sample, interleave, median};
use crate::ledger::STAMP_BYTES;
use crate::process::ServerProcess;
use crate::report::Report;
use crate::scenario::room::Room;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "chat",
    about: "one channel, 1,000 subscribers, durable sends, to a bare tonic fan-out",
    thresholds: &[Threshold::gate("ratio", Bound::AtLeast(0.50)), Threshold::goal("ratio", Bound::AtLeast(0.70))],
};

pub(super) const SUBSCRIBERS: usize = 1_000;
/// Senders at the peak, each waiting for its send's answer. With fewer, streams are woken for a few
/// messages at a time and neither side shows what it can do (64 halve the fan-out's rate).
pub(super) const SENDERS: usize = 512;
/// Length of a message's text.
const TEXT_BYTES: usize = 64;

/// Makes the subscription of subscriber number n.
pub type SubscribeCall = Arc<dyn Fn(usize) -> Call + Send + Sync>;
/// Makes the send of one message with the given text, which must come through unchanged.
/// Each call makes a new message, so a request id must be fresh each time.
pub type SendCall = Arc<dyn Fn(&str) -> Call + Send + Sync>;

/// A side of this scenario.
pub trait Target: Send + Sync {
    /// Starts a server with one channel that `subscribers` may follow.
    fn launch(&self, subscribers: usize) -> BoxFuture<'_, Result<Side, LoadError>>;
}

/// A started server and the calls to make there. A subscription must hear every message sent after
/// its answer's headers have come.
pub struct Side {
    pub server: ServerProcess,
    pub endpoint: Endpoint,
    pub subscribe: SubscribeCall,
    pub send: SendCall,
}

/// Compares `subject` with the fan-out.
///
/// # Errors
/// When a server does not start, a subscription ends, or deliveries stall.
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let ours = Room::open(subject.launch(SUBSCRIBERS).await?, SUBSCRIBERS, TEXT_BYTES, settings).await?;
    // One message over our side tells how many bytes a delivery takes: the fan-out sends as many.
    let bytes = ours.probe().await?;
    let fanout: &dyn Target = &settings.baseline();
    let fanout = Room::open(fanout.launch(SUBSCRIBERS).await?, SUBSCRIBERS, bytes.max(STAMP_BYTES), settings).await?;
    settings.say(&format!("chat: {SUBSCRIBERS} subscribers, deliveries of {bytes} bytes"));
    let senders = settings.callers.unwrap_or(SENDERS);
    let peak = interleave(
        settings.rounds,
        settings.seconds,
        async |s| ours.burst(senders, s).await,
        async |s| fanout.burst(senders, s).await,
    )
    .await?;
    report.set("ratio", peak.ratio(Sample::per_s));
    report.set("cpu_ratio", peak.ratio(Sample::per_cpu_s));
    report.set("deliveries_per_s", median(peak.a.iter().map(Sample::per_s)));
    report.set("deliveries_per_cpu_s", median(peak.a.iter().map(Sample::per_cpu_s)));
    report.set("fanout_per_s", median(peak.b.iter().map(Sample::per_s)));
    report.set("fanout_per_cpu_s", median(peak.b.iter().map(Sample::per_cpu_s)));
    let sends_per_s = median(peak.a.iter().map(Sample::per_s)) / ours.subscribers_f64();
    let rate = Settings::half(sends_per_s);
    settings.say(&format!("chat: latencies at {rate} sends/s, half of the peak"));
    let mut p99_ms = Vec::new();
    for _ in 0..settings.rounds {
        let paced = ours.at_rate(rate, settings.seconds).await?;
        report.errors += paced.errors;
        p99_ms.push(paced.p99_ms);
    }
    report.set("p99_ms", median(p99_ms));
    report.errors += peak.errors();
    let mut late = 0;
    for room in [ours, fanout] {
        let tally = room.close();
        report.lost += tally.lost;
        report.duplicated += tally.duplicated;
        report.errors += tally.reordered;
        late += tally.late;
    }
    #[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    report.set("late", late as f64);
    Ok(report)
}
