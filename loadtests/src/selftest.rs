//! Plants faults and demands that each is reported, and nothing else.

use std::process::Command;
use std::time::Duration;

use crate::LoadError;
use crate::baseline::{Kind, fanout};
use crate::client::{Call, Connection, Deliveries, Endpoint, Latencies, Schedule, percentile_ms};
use crate::clock::now_ns;
use crate::ledger::{Ledger, STAMP_BYTES, Stamp, Tally};
use crate::process::ServerProcess;
use crate::report::Report;
use crate::scenario::Settings;
use crate::threshold::{Bound, Threshold};

/// Generous, so that a busy machine makes no message late by itself.
const LATE_AFTER: Duration = Duration::from_secs(2);
const SENDERS: u16 = 4;
const MESSAGES_PER_SENDER: u64 = 100;
const SUBSCRIBERS: usize = 8;
/// What is planted comes in the middle, in the stream of this sender.
const PLANTED: (u16, u64) = (1, 50);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
const SPIN_CPU_MS: u64 = 1_000;
/// Ticks are 10 ms, and the child burns a little before and after it reads its clock.
const CPU_TOLERANCE_S: f64 = 0.06;

/// One thing that was checked.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    pub detail: String,
}

/// What goes wrong with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Lost,
    Doubled,
    Reordered,
    Late,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::None, Self::Lost, Self::Doubled, Self::Reordered, Self::Late];

    /// What one subscriber's ledger must find.
    pub fn expected(self) -> Tally {
        let sent = u64::from(SENDERS) * MESSAGES_PER_SENDER;
        let clean = Tally { received: sent, ..Tally::default() };
        match self {
            Self::None => clean,
            Self::Lost => Tally { received: sent - 1, lost: 1, ..clean },
            Self::Doubled => Tally { received: sent + 1, duplicated: 1, ..clean },
            Self::Reordered => Tally { reordered: 1, ..clean },
            Self::Late => Tally { late: 1, ..clean },
        }
    }

    /// The messages in the order in which they are handed on, as (sender, number); the flag marks
    /// the one that is held back until it is late.
    fn stream(self) -> Vec<(u16, u64, bool)> {
        let mut stream = Vec::new();
        for number in 0..MESSAGES_PER_SENDER {
            for sender in 0..SENDERS {
                let planted = (sender, number) == PLANTED;
                let message = (sender, number, planted && self == Self::Late);
                match self {
                    Self::Lost if planted => {}
                    Self::Doubled if planted => stream.extend([message, message]),
                    // Handed on after its successor instead.
                    Self::Reordered if planted => {}
                    Self::Reordered if (sender, number) == (PLANTED.0, PLANTED.1 + 1) => {
                        stream.extend([message, (PLANTED.0, PLANTED.1, false)]);
                    }
                    _ => stream.push(message),
                }
            }
        }
        stream
    }
}

fn sent() -> Vec<u64> {
    vec![MESSAGES_PER_SENDER; usize::from(SENDERS)]
}

/// A ledger fed with a stream in which `fault` was planted, in simulated time and without a network.
pub fn simulated(fault: Fault) -> Tally {
    let late_after_ns = crate::clock::nanoseconds(LATE_AFTER);
    let mut ledger = Ledger::new(late_after_ns);
    let mut sent_ns = 0;
    for (sender, number, held) in fault.stream() {
        sent_ns += 1_000_000;
        let delay_ns = if held { 2 * late_after_ns } else { 300_000 };
        let text = Stamp { sender, number, sent_ns }.text(2 * STAMP_BYTES);
        Stamp::scan(text.as_bytes(), |stamp| {
            ledger.observe(&stamp, sent_ns + delay_ns);
        });
    }
    ledger.tally(&sent())
}

/// As [`simulated`], but through the fan-out baseline; returns each subscriber's tally.
///
/// # Errors
/// When the server does not start or a call fails.
pub async fn through_fanout(fault: Fault, endpoint: &Endpoint) -> Result<Vec<Tally>, LoadError> {
    let mut connection = Connection::open(endpoint).await?;
    let stream = fault.stream();
    let mut followers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let deliveries = connection.subscribe(&Call::new(&fanout::SUBSCRIBE, &[])).await?;
        followers.push(tokio::spawn(collect(deliveries, stream.len())));
    }
    for (sender, number, held) in stream {
        let text = Stamp { sender, number, sent_ns: now_ns() }.text(2 * STAMP_BYTES);
        if held {
            tokio::time::sleep(LATE_AFTER + LATE_AFTER / 4).await;
        }
        connection.unary(&Call::new(&fanout::SEND, text.as_bytes())).await?;
    }
    let mut tallies = Vec::new();
    for follower in followers {
        tallies.push(follower.await.map_err(|error| LoadError::Stream(error.to_string()))?);
    }
    Ok(tallies)
}

/// Enters deliveries until `expected` have come, or none comes any more.
async fn collect(mut deliveries: Deliveries, expected: usize) -> Tally {
    let mut ledger = Ledger::new(crate::clock::nanoseconds(LATE_AFTER));
    let mut received = 0;
    while received < expected {
        let Ok(Ok(Some(data))) = tokio::time::timeout(DELIVERY_TIMEOUT, deliveries.data()).await else {
            break;
        };
        let now = now_ns();
        deliveries.messages(data, |message| {
            Stamp::scan(message, |stamp| {
                received += 1;
                ledger.observe(&stamp, now);
            });
        });
    }
    ledger.tally(&sent())
}

/// One second at 1,000 requests a second against a server that takes 10 µs a request and stalls once
/// for 100 ms. Returns the 95th percentile in milliseconds from the schedule, and as a client would
/// see it that counts from when it got to send.
pub fn stalled_percentiles_ms() -> (f64, f64) {
    const SERVICE_NS: u64 = 10_000;
    const STALL_NS: u64 = 100_000_000;
    let schedule = Schedule { start_ns: 0, rate_per_s: 1_000 };
    let (corrected, naive) = (Latencies::default(), Latencies::default());
    let mut free_ns = 0;
    for index in 0..schedule.count(1.0) {
        let begun_ns = schedule.due_ns(index).max(free_ns);
        free_ns = begun_ns + SERVICE_NS + if index == 500 { STALL_NS } else { 0 };
        corrected.record(0, [schedule.latency_ns(index, free_ns)]);
        naive.record(0, [free_ns - begun_ns]);
    }
    (percentile_ms(&corrected.take(), 95.0), percentile_ms(&naive.take(), 95.0))
}

/// CPU seconds that accounting sees in a child, and that the child's own clock saw.
///
/// # Errors
/// When the child does not start.
pub async fn accounted_cpu_s(settings: &Settings) -> Result<(f64, f64), LoadError> {
    let mut command = Command::new(&settings.program);
    command.args(["spin", "--cpu-ms", &SPIN_CPU_MS.to_string()]);
    let child = ServerProcess::spawn(command).await?;
    let burnt_ms = child.ready().rest.get("burnt_ms").and_then(serde_json::Value::as_u64);
    let burnt_ms = burnt_ms.ok_or_else(|| LoadError::Subject("the child did not say what it burnt".to_owned()))?;
    Ok((child.cpu_s()?, Duration::from_millis(burnt_ms).as_secs_f64()))
}

/// Deliveries a second that one ledger enters on one core, stamps parsed.
pub fn ledger_per_s() -> f64 {
    const DELIVERIES: u32 = 200_000;
    let texts: Vec<String> =
        (0..DELIVERIES).map(|n| Stamp { sender: 1, number: u64::from(n), sent_ns: 1 }.text(128)).collect();
    let mut ledger = Ledger::new(u64::MAX);
    let start_ns = now_ns();
    for text in &texts {
        Stamp::scan(text.as_bytes(), |stamp| {
            ledger.observe(&stamp, 2);
        });
    }
    f64::from(DELIVERIES) / crate::clock::seconds_between(start_ns, now_ns())
}

/// Runs every check. A missed one counts in the report's `errors`.
///
/// # Errors
/// When a child process cannot be started.
pub async fn run(settings: &Settings) -> Result<(Report, Vec<Check>), LoadError> {
    let mut checks = Vec::new();
    let mut check = |name: String, passed: bool, detail: String| {
        checks.push(Check { name, passed, detail });
    };
    for fault in Fault::ALL {
        let tally = simulated(fault);
        check(format!("simulated stream, planted {fault:?}"), tally == fault.expected(), format!("{tally:?}"));
    }
    let server = settings.baseline().serve(Kind::Fanout, false).await?;
    let endpoint = Endpoint::plain(server.ready().address);
    for fault in Fault::ALL {
        let tallies = through_fanout(fault, &endpoint).await?;
        let wrong: Vec<&Tally> = tallies.iter().filter(|&&tally| tally != fault.expected()).collect();
        let passed = wrong.is_empty() && tallies.len() == SUBSCRIBERS;
        check(format!("fan-out, planted {fault:?}"), passed, format!("{SUBSCRIBERS} subscribers, wrong: {wrong:?}"));
    }
    let (seen_s, burnt_s) = accounted_cpu_s(settings).await?;
    let close = (seen_s - burnt_s).abs() <= CPU_TOLERANCE_S;
    check("CPU seconds of a child".to_owned(), close, format!("burnt {burnt_s} s, accounted {seen_s} s"));
    let (corrected_ms, naive_ms) = stalled_percentiles_ms();
    check(
        "a stall shows in open-loop latencies".to_owned(),
        corrected_ms > 40.0 && naive_ms < 1.0,
        format!("p95 {corrected_ms} ms from the schedule, {naive_ms} ms without"),
    );
    let mut failing = Report::new("planted");
    failing.set("ratio", 0.64);
    let gate = [Threshold::gate("ratio", Bound::AtLeast(0.65))];
    check("a missed gate fails the run".to_owned(), !failing.passes(&gate), "0.64 against ≥ 0.65".to_owned());

    let mut report = Report::new("selftest");
    #[allow(clippy::cast_precision_loss, reason = "a handful of checks")]
    report.set("checks", checks.len() as f64);
    report.set("ledger_deliveries_per_s", ledger_per_s());
    report.errors = u64::try_from(checks.iter().filter(|check| !check.passed).count()).unwrap_or(u64::MAX);
    Ok((report, checks))
}
