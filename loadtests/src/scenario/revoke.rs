//! Roles that are taken away while 10,000 streams are open: how long each call takes, and whether
//! anything is delivered that was sent after its answer.
//!
//! 100 people follow one channel with 100 streams each. One after the other loses their only role,
//! every other one at the whole org; after each answer a message is sent, which the streams of those
//! who lost theirs must not show, and all others must.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::canopy::Canopy;
use crate::canopy::revoke::Stage;
use crate::client::{Connection, Deliveries, Latencies, percentile_ms};
use crate::clock::now_ns;
use crate::ledger::Stamp;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "revoke",
    about: "10,000 open streams: roles taken away one after the other, from call to answer",
    thresholds: &[
        Threshold::gate("p99_ms", Bound::AtMost(1_000.0)),
        Threshold::gate("deliveries_after", Bound::AtMost(0.0)),
    ],
};

const PEOPLE: usize = 100;
const STREAMS_OF_ONE: usize = 100;
/// Bytes of a message's text.
const TEXT_BYTES: usize = 64;
/// For a stream whose reader may read no more: it ends by itself.
const END_WITHIN: Duration = Duration::from_secs(30);

/// What all streams saw.
#[derive(Default)]
struct Seen {
    /// Messages that were sent after the answer to the reader's revocation.
    after: AtomicU64,
    /// Messages that were sent before the call of it, and shown.
    before: AtomicU64,
    /// Streams that ended as they should.
    ended: AtomicU64,
}

/// # Errors
/// The server does not start, or a call fails.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let stage = Stage::set(&Canopy { program: settings.program.clone() }, PEOPLE).await?;
    settings.say(&format!("revoke: opening {} streams", PEOPLE * STREAMS_OF_ONE));
    let seen = Arc::new(Seen::default());
    let mut streams = JoinSet::new();
    for (number, person) in (0_u64..).zip(&stage.people) {
        let mut connection = Connection::open(&stage.endpoint).await?;
        for _ in 0..STREAMS_OF_ONE {
            let deliveries = connection.subscribe(&person.subscribe).await?;
            streams.spawn(follow(deliveries, number, seen.clone()));
        }
    }
    let mut owner = Connection::open(&stage.endpoint).await?;
    let latencies = Latencies::default();
    for (number, person) in (0_u64..).zip(&stage.people) {
        let called_ns = now_ns();
        report.errors += u64::from(owner.unary(&person.revoke).await.is_err());
        let answered_ns = now_ns();
        latencies.record(0, [answered_ns - called_ns]);
        // Message n is sent after the answer to revocation n.
        let stamp = Stamp { sender: 0, number, sent_ns: answered_ns };
        report.errors += u64::from(owner.unary(&stage.send(&stamp.text(TEXT_BYTES))).await.is_err());
    }
    let all_ended = async { while streams.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout(END_WITHIN, all_ended).await.is_ok();
    let count = |of: &AtomicU64| of.load(Ordering::Acquire);
    let opened = (PEOPLE * STREAMS_OF_ONE) as u64;
    report.errors += opened - count(&seen.ended);
    report.errors += u64::from(!in_time);
    let latencies = latencies.take();
    report.set("p99_ms", percentile_ms(&latencies, 99.0));
    report.set("p50_ms", percentile_ms(&latencies, 50.0));
    report.set("deliveries_after", count(&seen.after) as f64);
    report.set("deliveries_before", count(&seen.before) as f64);
    drop(stage.server);
    Ok(report)
}

/// Reads what comes until the stream ends, as it does when the reader's role goes.
async fn follow(mut deliveries: Deliveries, number: u64, seen: Arc<Seen>) {
    loop {
        match deliveries.data().await {
            Ok(Some(data)) => deliveries.messages(data, |message| {
                Stamp::scan(message, |stamp| {
                    let counter = if stamp.number >= number { &seen.after } else { &seen.before };
                    counter.fetch_add(1, Ordering::AcqRel);
                });
            }),
            Ok(None) => return,
            // Anything but NOT_FOUND is no end that a revocation makes.
            Err(error) => {
                let is_hidden = error.to_string().contains("grpc-status 5 ");
                seen.ended.fetch_add(u64::from(is_hidden), Ordering::AcqRel);
                return;
            }
        }
    }
}
