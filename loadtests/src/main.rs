//! `canopy-load`: load scenarios with honest baselines.

use std::process::ExitCode;

use canopy_load::LoadError;
use canopy_load::baseline::{Kind, serve, spin};
use canopy_load::faults::{inspector, victim::live};
use canopy_load::report::Report;
use canopy_load::scenario::{self, CATALOG, Settings, Subject};
use canopy_load::selftest;
use canopy_load::threshold::Threshold;
use clap::{Parser, Subcommand, ValueEnum};

/// The server's own, so that in-process sides and baselines stand as it does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "canopy-load", version, about = "Load scenarios with honest baselines")]
struct CommandLine {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Runs a scenario; the last line is one JSON object
    Run(Run),
    /// Names the scenarios and what their figures must reach
    List,
    /// Plants faults and demands that each is reported
    Selftest {
        /// Prints the JSON object only
        #[arg(long)]
        json: bool,
    },
    #[command(hide = true)]
    ServeBaseline {
        kind: Kind,
        #[arg(long)]
        tls: bool,
    },
    /// Lives and writes until it is killed
    #[command(hide = true)]
    Victim(canopy_load::faults::victim::Life),
    /// Compares directories with what their victims were promised
    #[command(hide = true)]
    Inspect,
    /// Fills itself, and tells its memory
    #[command(hide = true)]
    Reside(scenario::resident::Task),
    #[command(hide = true)]
    Spin {
        #[arg(long)]
        cpu_ms: u64,
    },
}

#[derive(clap::Args)]
struct Run {
    /// One of the names that `list` prints
    #[arg(value_parser = CATALOG.map(|scenario| scenario.name))]
    scenario: String,
    /// Seconds of one measured round of one side
    #[arg(long, default_value_t = scenario::ROUND_SECONDS, value_parser = positive)]
    seconds: f64,
    /// Rounds of each side
    #[arg(long, default_value_t = canopy_load::client::ROUNDS)]
    rounds: usize,
    /// Prints the JSON object only
    #[arg(long)]
    json: bool,
    /// Client connections
    #[arg(long)]
    connections: Option<usize>,
    /// Callers: per connection in edge, in all elsewhere
    #[arg(long)]
    callers: Option<usize>,
    /// Directory under which data is written; must be on a disk
    #[arg(long)]
    data: Option<std::path::PathBuf>,
    /// The side under test
    #[arg(long, value_enum, default_value_t = Side::Canopy)]
    subject: Side,
    #[command(flatten)]
    faults: scenario::faults::Points,
    #[command(flatten)]
    vaults: scenario::vaults::Size,
    #[command(flatten)]
    actors: scenario::actors::Size,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    Canopy,
    /// The baseline against itself: shows how far ratios can be trusted
    Baseline,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3_600.0 => Ok(value),
        _ => Err("give seconds, more than 0 and at most 3600".to_owned()),
    }
}

fn main() -> ExitCode {
    // As `canopy-load canopy …` this is the server: scenarios start it as a process of its own.
    let mut args = std::env::args_os();
    if args.nth(1).is_some_and(|arg| arg == "canopy") {
        return canopy::run([std::ffi::OsString::from("canopy")].into_iter().chain(args).collect());
    }
    measure()
}

#[tokio::main]
async fn measure() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return fail("another TLS provider is installed already");
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(&format!("cannot find this program's own file: {error}")),
    };
    let settings = Settings::new(program);
    match CommandLine::parse().command {
        Action::Run(run) => run.execute(settings).await,
        Action::List => {
            list();
            ExitCode::SUCCESS
        }
        Action::Selftest { json } => check(&settings, json).await,
        Action::ServeBaseline { kind, tls } => ended(serve(kind, tls).await),
        Action::Victim(life) => ended(live(life).await.map_err(|error| LoadError::Subject(error.to_string()))),
        Action::Inspect => ended(inspector::serve().await.map_err(LoadError::io("inspect"))),
        Action::Reside(task) => ended(scenario::resident::reside(task).await),
        Action::Spin { cpu_ms } => ended(spin(cpu_ms).await),
    }
}

impl Run {
    async fn execute(self, defaults: Settings) -> ExitCode {
        let scenario = match scenario::find(&self.scenario) {
            Ok(scenario) => scenario,
            Err(error) => return fail(&error.to_string()),
        };
        let settings = Settings {
            seconds: self.seconds,
            rounds: self.rounds.max(1),
            connections: self.connections,
            callers: self.callers,
            data: self.data.unwrap_or_else(|| defaults.data.clone()),
            progress: !self.json,
            faults: self.faults,
            vaults: self.vaults,
            actors: self.actors,
            ..defaults
        };
        let subject = match self.subject {
            Side::Canopy => Subject::canopy(&settings.program),
            Side::Baseline => Subject::baseline(&settings.baseline()),
        };
        let result = scenario::run(&scenario, &subject, &settings).await;
        conclude(result, scenario.name, scenario.thresholds, self.json)
    }
}

async fn check(settings: &Settings, json: bool) -> ExitCode {
    let result = selftest::run(settings).await.map(|(report, checks)| {
        for check in checks.iter().filter(|check| !json || !check.passed) {
            let mark = if check.passed { "ok    " } else { "MISSED" };
            println!("{mark} {}: {}", check.name, check.detail);
        }
        report
    });
    conclude(result, "selftest", &[], json)
}

fn list() {
    for scenario in CATALOG {
        println!("{:<10} {}", scenario.name, scenario.about);
        for threshold in scenario.thresholds {
            let Threshold { figure, weight, bound } = threshold;
            println!("{:<10}   {figure} {bound} ({})", "", format!("{weight:?}").to_lowercase());
        }
    }
}

/// Prints the report, JSON last. A run that broke off is a report with one error.
fn conclude(result: Result<Report, LoadError>, name: &str, thresholds: &[Threshold], json: bool) -> ExitCode {
    let report = match result {
        Ok(report) => {
            if !json {
                print!("{}", report.human(thresholds));
            }
            report
        }
        Err(error) => {
            complain(&error.to_string());
            let mut report = Report::new(name);
            report.errors = 1;
            report
        }
    };
    println!("{}", report.json());
    if report.passes(thresholds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ended(result: Result<(), LoadError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(message);
    ExitCode::from(2)
}

#[allow(clippy::print_stderr, reason = "this is a command line")]
fn complain(message: &str) {
    eprintln!("canopy-load: {message}");
}
