//! `canopy local …`: what works on a data directory without a server.

use std::io::Write as _;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::{Exit, Terminal};
use crate::edge::authority::Authority;

pub(super) fn command() -> Command {
    Command::new("local")
        .about("Looks at a data directory and its configuration, without a server")
        .subcommand_required(true)
        .subcommand(
            Command::new("config").about("Prints the configuration as it takes effect").args(super::config_args()).arg(
                Arg::new("origin").long("origin").action(ArgAction::SetTrue).help("Says where each value comes from"),
            ),
        )
        .subcommand(
            Command::new("ca")
                .about("Prints the local certificate authority's certificate, for clients")
                .args(super::config_args()),
        )
}

pub(super) fn run(matches: &ArgMatches, terminal: &mut Terminal) -> Exit {
    let done = match matches.subcommand() {
        Some(("config", inner)) => config(inner, terminal),
        Some(("ca", inner)) => ca(inner, terminal),
        _ => return Exit::Usage,
    };
    match done {
        Ok(()) => Exit::Success,
        Err(message) => {
            terminal.note(&format!("error: {message}"));
            Exit::Unexpected
        }
    }
}

fn config(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let loaded = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?;
    let out = &mut terminal.stdout;
    for entry in loaded.explain() {
        let written = if matches.get_flag("origin") {
            writeln!(out, "{} = {}  # {}", entry.key, entry.value, entry.origin)
        } else {
            writeln!(out, "{} = {}", entry.key, entry.value)
        };
        written.map_err(|e| e.to_string())?;
    }
    out.flush().map_err(|e| e.to_string())
}

fn ca(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let loaded = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?;
    let authority = Authority::open(&loaded.config.data_dir).map_err(|e| e.to_string())?;
    terminal.note(&format!("SHA-256 fingerprint: {}", authority.fingerprint()));
    let out = &mut terminal.stdout;
    out.write_all(authority.ca_pem().as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())
}
