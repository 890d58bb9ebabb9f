//! `canopy serve`: runs a node until it is told to stop.

use std::io::Write as _;

use canopy_actors::{Call, now_ms, random_bytes};
use canopy_config::NodeConfig;
use canopy_domain::{Address, Id, Origin, Principal, Refusal, Wire};
use canopy_proto::identity::v1::{Account, RegisterRequest};
use canopy_proto::methods::identity;
use clap::{Arg, ArgAction, ArgMatches, Command};
use prost::Message;
use tokio::signal::unix::{SignalKind, signal};

use crate::boot::{self, BootError, Running, SIGN_UP_TOKEN_FILE};
use crate::cli::{Exit, Terminal};
use crate::telemetry;

/// The throw-away installation's sys-admin.
const DEV_EMAIL: &str = "dev@canopy.test";
/// Known to everybody; `--dev` listens on loopback alone.
const DEV_PASSWORD: &str = "canopy-development";

pub(super) fn command() -> Command {
    Command::new("serve")
        .about("Runs a server")
        .long_about(
            "Runs a server. At its first start it makes its keys, a local certificate authority and a \
             sign-up token in the data directory; whoever signs up first with that token administers it.",
        )
        .args(super::config_args())
        .arg(
            Arg::new("dev")
                .long("dev")
                .action(ArgAction::SetTrue)
                .help("Throw-away installation on loopback: known credentials, plain text, gone when it stops"),
        )
        .arg(
            Arg::new("ready-json")
                .long("ready-json")
                .action(ArgAction::SetTrue)
                .help("Prints one JSON line when it is ready, for programs that start it"),
        )
}

pub(super) async fn run(matches: &ArgMatches, terminal: &mut Terminal) -> Exit {
    match serve(matches, terminal).await {
        Ok(()) => Exit::Success,
        Err(message) => {
            terminal.note(&format!("error: {message}"));
            Exit::Unexpected
        }
    }
}

async fn serve(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let dev = matches.get_flag("dev");
    let mut config = super::load_config(matches, terminal, dev).map_err(|e| e.to_string())?.config;
    // Kept until the end: dropping it removes the throw-away installation.
    let _throw_away = if dev {
        let dir = tempfile::Builder::new().prefix("canopy-dev-").tempdir().map_err(|e| e.to_string())?;
        config.data_dir = dir.path().to_path_buf();
        Some(dir)
    } else {
        None
    };
    telemetry::start_logging(&config.log);
    let metrics = telemetry::start_metrics();
    // Before anything is made, so that a stop at any time leaves in order.
    let stop = stop_signal()?;
    let running = boot::start(&config, metrics).await.map_err(|e| e.to_string())?;
    let told = async {
        if dev {
            register_dev(&running).await.map_err(BootError::from)?;
        }
        announce(&config, &running, dev, matches.get_flag("ready-json"), terminal)
            .map_err(|e| BootError::File("standard output".into(), e))
    };
    let outcome = match told.await {
        Ok(()) => {
            stop.await;
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    };
    running.stop().await.map_err(|e| e.to_string())?;
    outcome
}

/// Listens for SIGTERM and SIGINT from now on; the future ends with the first.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let listen = |kind| signal(kind).map_err(|e| e.to_string());
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    })
}

/// Signs the known sys-admin of a throw-away installation up, by the same
/// method as everybody.
async fn register_dev(running: &Running) -> Result<(), Refusal> {
    let account = Account { email: DEV_EMAIL.into(), display_name: "Developer".into(), ..Account::default() };
    let request = RegisterRequest {
        account: Some(Wire::new(&account)),
        password: DEV_PASSWORD.into(),
        sign_up_token: running.sign_up_token.expose().to_owned(),
        request_id: String::new(),
    };
    let call = Call {
        method: identity::REGISTER.path,
        request: request.encode_to_vec().into(),
        principal: Principal::Nobody,
        origin: Origin::default(),
        role: None,
        request_id: String::new(),
    };
    let address = Address::account(Id::fresh(now_ms(), &random_bytes()));
    running.node.command(&address, call).await.map(drop)
}

fn announce(
    config: &NodeConfig,
    running: &Running,
    dev: bool,
    json: bool,
    terminal: &mut Terminal,
) -> std::io::Result<()> {
    let scheme =
        if running.ca_pem.is_some() || config.edge.tls == canopy_config::TlsMode::Files { "https" } else { "http" };
    let url = format!("{scheme}://{}", running.address);
    let ca = config.data_dir.join("tls").join("ca.pem");
    let out = &mut terminal.stdout;
    if json {
        let ready = serde_json::json!({
            "ready": true,
            "address": running.address.to_string(),
            "url": url,
            "ca": running.ca_pem.as_ref().map(|_| ca.display().to_string()),
            "data_dir": config.data_dir.display().to_string(),
        });
        writeln!(out, "{ready}")?;
        return out.flush();
    }
    writeln!(out, "Canopy {} serves {url}", env!("CARGO_PKG_VERSION"))?;
    let ca_flag = if running.ca_pem.is_some() { format!(" --ca {}", ca.display()) } else { String::new() };
    if dev {
        writeln!(out, "throw-away installation; log in with\n")?;
        writeln!(out, "  canopy --server {url} identity log-in --email {DEV_EMAIL} --password {DEV_PASSWORD}")?;
    } else {
        writeln!(out, "data in {}; to join in:\n", config.data_dir.display())?;
        writeln!(out, "  canopy context add home --server {url}{ca_flag}")?;
        writeln!(
            out,
            "  canopy identity register --email you@example.org --sign-up-token @{}",
            config.data_dir.join(SIGN_UP_TOKEN_FILE).display(),
        )?;
    }
    out.flush()
}
