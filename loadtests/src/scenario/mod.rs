//! What is measured. Each scenario is a file with a `Target` trait for a side, its thresholds, and
//! a `run` that compares the side under test with the baseline.

pub mod actors;
pub mod authorise;
pub mod baseline;
pub mod chat;
pub mod commit;
pub mod edge;
pub mod faults;
pub mod login;
pub mod overload;
pub mod refresh;
pub mod resident;
pub mod revoke;
mod room;
pub mod seal;
pub mod start;
pub mod vaults;

use std::path::PathBuf;
use std::sync::Arc;

use crate::LoadError;
use crate::baseline::Baseline;
use crate::clock::{now_ns, seconds_between};
use crate::process::{family_cpu_s, machine_cpu_s};
use crate::report::Report;
use crate::threshold::Threshold;

/// Seconds of a measured round unless said otherwise.
pub const ROUND_SECONDS: f64 = 3.0;
/// Connections unless said otherwise.
pub const CONNECTIONS: usize = 100;

/// How to run, as the command line said.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `canopy-load` binary, for child processes.
    pub program: PathBuf,
    /// Seconds of one measured round of one side.
    pub seconds: f64,
    pub rounds: usize,
    pub connections: Option<usize>,
    pub callers: Option<usize>,
    /// Under which directory data is written: a real disk.
    pub data: PathBuf,
    /// Prints what is under way.
    pub progress: bool,
    /// How often the store is attacked.
    pub faults: faults::Points,
    /// How many vaults there are.
    pub vaults: vaults::Size,
    /// How many sessions there are.
    pub actors: actors::Size,
}

impl Settings {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            seconds: ROUND_SECONDS,
            rounds: crate::client::ROUNDS,
            connections: None,
            callers: None,
            data: std::env::temp_dir(),
            progress: false,
            faults: faults::Points::default(),
            vaults: vaults::Size::default(),
            actors: actors::Size::default(),
        }
    }

    pub fn baseline(&self) -> Baseline {
        Baseline { program: self.program.clone() }
    }

    pub(crate) fn say(&self, text: &str) {
        if self.progress {
            println!("{text}");
        }
    }

    /// A directory that is removed afterwards.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir, LoadError> {
        tempfile::tempdir_in(&self.data).map_err(LoadError::io(format!("make a directory in {}", self.data.display())))
    }

    /// Half of a measured peak: the rate at which latencies are taken, at least 1 per second.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
    pub(crate) fn half(peak_per_s: f64) -> u64 {
        ((peak_per_s / 2.0) as u64).max(1)
    }
}

/// The side under test, scenario by scenario.
#[derive(Clone, Default)]
pub struct Subject {
    pub edge: Option<Arc<dyn edge::Target>>,
    pub commit: Option<Arc<dyn commit::Target>>,
    pub chat: Option<Arc<dyn chat::Target>>,
    pub start: Option<Arc<dyn start::Target>>,
    /// The echo admits everybody, so the baseline has none.
    pub overload: Option<Arc<dyn overload::Target>>,
    pub seal: Option<Arc<dyn seal::Target>>,
    /// Compared with the bare hash, which is no server.
    pub login: Option<Arc<dyn login::Target>>,
    pub refresh: Option<Arc<dyn refresh::Target>>,
}

impl Subject {
    /// Canopy: its server as a child of `program`, its actors in this process.
    pub fn canopy(program: &std::path::Path) -> Self {
        let server = Arc::new(crate::canopy::Canopy { program: program.to_owned() });
        Self {
            edge: Some(server.clone()),
            commit: Some(Arc::new(crate::canopy::Actors)),
            chat: Some(server.clone()),
            start: Some(server.clone()),
            overload: Some(server.clone()),
            seal: Some(Arc::new(crate::canopy::Sealed)),
            login: Some(server.clone()),
            refresh: Some(server),
        }
    }

    /// The baseline itself, in every scenario: its ratios say how far the harness can be trusted.
    pub fn baseline(baseline: &Baseline) -> Self {
        let baseline = Arc::new(baseline.clone());
        Self {
            edge: Some(baseline.clone()),
            commit: Some(baseline.clone()),
            chat: Some(baseline.clone()),
            start: Some(baseline),
            overload: None,
            seal: Some(Arc::new(crate::canopy::Sealed::plain())),
            login: None,
            refresh: None,
        }
    }
}

/// A scenario's name, what it is, and what its figures must reach.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub thresholds: &'static [Threshold],
}

pub const CATALOG: [Scenario; 14] = [
    edge::SCENARIO,
    commit::SCENARIO,
    chat::SCENARIO,
    start::SCENARIO,
    overload::SCENARIO,
    seal::SCENARIO,
    login::SCENARIO,
    refresh::SCENARIO,
    vaults::SCENARIO,
    actors::SCENARIO,
    authorise::SCENARIO,
    revoke::SCENARIO,
    faults::SCENARIO,
    baseline::SCENARIO,
];

/// # Errors
/// [`LoadError::UnknownScenario`].
pub fn find(name: &str) -> Result<Scenario, LoadError> {
    CATALOG
        .into_iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| LoadError::UnknownScenario(name.to_owned()))
}

/// Runs a scenario with `subject` as the side under test. The last figure, `elsewhere_share`, says
/// what part of the machine's cores other processes used meanwhile: rates of a run with much of it
/// are low, its ratios still hold, and its latencies do not.
///
/// # Errors
/// When a side cannot be started or stops answering; failed calls are counted in the report.
pub async fn run(scenario: &Scenario, subject: &Subject, settings: &Settings) -> Result<Report, LoadError> {
    let (start_ns, machine_s, own_s) = (now_ns(), machine_cpu_s()?, family_cpu_s()?);
    let mut report = measure(scenario, subject, settings).await?;
    let elsewhere_s = (machine_cpu_s()? - machine_s) - (family_cpu_s()? - own_s);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[allow(clippy::cast_precision_loss, reason = "a number of cores")]
    let share = elsewhere_s / (seconds_between(start_ns, now_ns()) * cores as f64);
    report.set("elsewhere_share", share.max(0.0));
    Ok(report)
}

async fn measure(scenario: &Scenario, subject: &Subject, settings: &Settings) -> Result<Report, LoadError> {
    let absent = LoadError::NoSubject(scenario.name);
    match scenario.name {
        "edge" => edge::run(subject.edge.as_deref().ok_or(absent)?, settings).await,
        "commit" => commit::run(subject.commit.as_deref().ok_or(absent)?, settings).await,
        "chat" => chat::run(subject.chat.as_deref().ok_or(absent)?, settings).await,
        "start" => start::run(subject.start.as_deref().ok_or(absent)?, settings).await,
        "overload" => overload::run(subject.overload.as_deref().ok_or(absent)?, settings).await,
        "seal" => {
            let plain = Arc::new(crate::canopy::Sealed::plain());
            seal::run(subject.seal.as_deref().ok_or(absent)?, plain, settings).await
        }
        "login" => login::run(subject.login.as_deref().ok_or(absent)?, settings).await,
        "refresh" => refresh::run(subject.refresh.as_deref().ok_or(absent)?, settings).await,
        "vaults" => vaults::run(settings).await,
        "actors" => actors::run(settings).await,
        "authorise" => authorise::run(settings).await,
        "revoke" => revoke::run(settings).await,
        "faults" => faults::run(settings).await,
        "baseline" => baseline::run(settings).await,
        name => Err(LoadError::UnknownScenario(name.to_owned())),
    }
}
