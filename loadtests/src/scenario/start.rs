//! From the spawn of a killed server's successor to its first authenticated read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Scenario, Settings};
use crate::LoadError;
use crate::client::{Call, Connection, Endpoint, median};
use crate::clock::{now_ns, seconds_between};
use crate::process::{Ready, ServerProcess};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "start",
    about: "after kill -9, to the first authenticated read, empty and with 1,000,000 messages",
    thresholds: &[
        Threshold::goal("empty_ms", Bound::AtMost(300.0)),
        Threshold::goal("full_ms", Bound::AtMost(1_000.0)),
        Threshold::goal("idle_rss_mb", Bound::AtMost(40.0)),
    ],
};

const MESSAGES: u64 = 1_000_000;
/// Between attempts of the first read.
const RETRY: Duration = Duration::from_millis(1);
const FIRST_READ_SECONDS_MAX: f64 = 30.0;
/// How long a server is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);

/// A side of this scenario.
pub trait Target: Send + Sync {
    /// The server's binary.
    fn program(&self) -> PathBuf;

    /// The command that serves `data`; it is started again and again.
    fn command(&self, data: &Path) -> Command;

    /// Whatever `data` needs before the first start.
    fn prepare<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<(), LoadError>>;

    /// Stores messages in a running server; returns how many, 0 when this side stores nothing.
    fn fill<'a>(&'a self, server: &'a ServerProcess, messages: u64) -> BoxFuture<'a, Result<u64, LoadError>>;

    /// The authenticated read that ends the measurement.
    ///
    /// # Errors
    /// When the ready line lacks what it needs.
    fn first_read(&self, ready: &Ready) -> Result<(Endpoint, Call), LoadError>;
}

/// Seconds from the spawn of `server` to the first read that succeeds. Refused reads are retried:
/// a server may say that it is ready before it is.
async fn first_read_s(target: &dyn Target, server: &ServerProcess) -> Result<f64, LoadError> {
    let (endpoint, call) = target.first_read(server.ready())?;
    loop {
        let read = async { Connection::open(&endpoint).await?.unary(&call).await };
        match read.await {
            Ok(_) => return Ok(seconds_between(server.started_ns(), now_ns())),
            Err(error) if server.age_s() > FIRST_READ_SECONDS_MAX => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Median over rounds of kill -9, start, first read, in milliseconds.
async fn restart_ms(target: &dyn Target, server: &mut ServerProcess, rounds: usize) -> Result<f64, LoadError> {
    let mut times_ms = Vec::new();
    for _ in 0..rounds {
        server.restart().await?;
        times_ms.push(first_read_s(target, server).await? * 1_000.0);
    }
    Ok(median(times_ms))
}

/// # Errors
/// When the server does not start, or does not answer the read within 30 s.
#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 bytes")]
pub async fn run(subject: &dyn Target, settings: &Settings) -> Result<Report, LoadError> {
    const MB: f64 = 1e6;
    let mut report = Report::new(SCENARIO.name);
    let data = settings.scratch()?;
    subject.prepare(data.path()).await?;
    let mut server = ServerProcess::spawn(subject.command(data.path())).await?;
    first_read_s(subject, &server).await?;
    report.set("empty_ms", restart_ms(subject, &mut server, settings.rounds).await?);
    tokio::time::sleep(IDLE).await;
    report.set("idle_rss_mb", server.rss_bytes()? as f64 / MB);
    settings.say(&format!("start: storing {MESSAGES} messages"));
    let stored = subject.fill(&server, MESSAGES).await?;
    if stored > 0 {
        report.set("messages", stored as f64);
        report.lost += MESSAGES.saturating_sub(stored);
        report.set("full_ms", restart_ms(subject, &mut server, settings.rounds).await?);
        tokio::time::sleep(IDLE).await;
        report.set("full_idle_rss_mb", server.rss_bytes()? as f64 / MB);
    }
    server.kill()?;
    let program = subject.program();
    let size = std::fs::metadata(&program).map_err(LoadError::io(format!("look at {}", program.display())))?.len();
    report.set("binary_mb", size as f64 / MB);
    Ok(report)
}
