//! Token refreshes: each durable before it is answered, each with the token that the one before
//! gave.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::client::{ClosedPlan, Sample, closed_loop, median};
use crate::process::ServerProcess;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "refresh",
    about: "token refreshes, durable, per CPU second of the server",
    thresholds: &[Threshold::goal("per_cpu_s", Bound::AtLeast(4_000.0))],
};

/// Sessions that refresh at once.
const SESSIONS: usize = 256;
/// A round's share that is run beforehand, to warm connections, actors and caches.
const WARM_UP: f64 = 0.5;

/// Somebody who holds a session's refresh token.
pub trait Holder: Send {
    /// Shows the token and takes the next one.
    fn refresh(&mut self) -> BoxFuture<'_, Result<(), LoadError>>;
}

/// The side under test.
pub trait Target: Send + Sync {
    /// A server with so many sessions, each with a connection.
    fn launch(&self, sessions: usize) -> BoxFuture<'_, Result<Side, LoadError>>;
}

/// A started server and its sessions.
pub struct Side {
    pub server: ServerProcess,
    pub holders: Vec<Box<dyn Holder>>,
}

/// Measures `subject`.
///
/// # Errors
/// When the server does not start or a session cannot be opened.
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let Side { server, holders } = subject.launch(settings.callers.unwrap_or(SESSIONS).max(1)).await?;
    let holders: Vec<_> = holders.into_iter().map(|holder| Arc::new(Mutex::new(holder))).collect();
    settings.say(&format!("refresh: {} sessions, each its next token when it has the last", holders.len()));
    let round = async |seconds| {
        closed_loop(
            ClosedPlan { callers: holders.len(), seconds },
            || server.cpu_s(),
            |index| Arc::clone(holders.get(index).expect("a holder for each caller")),
            |holder| async move { holder.lock().await.refresh().await }.boxed(),
        )
        .await
    };
    let mut samples = vec![];
    report.errors += round(settings.seconds * WARM_UP).await?.errors;
    for _ in 0..settings.rounds {
        samples.push(round(settings.seconds).await?);
    }
    report.set("per_cpu_s", median(samples.iter().map(Sample::per_cpu_s)));
    report.set("per_s", median(samples.iter().map(Sample::per_s)));
    report.errors += samples.iter().map(|sample| sample.errors).sum::<u64>();
    // Whoever lost a token on the way holds one that is refused.
    for holder in &holders {
        report.lost += u64::from(holder.lock().await.refresh().await.is_err());
    }
    Ok(report)
}
