//! `canopy local …`: what works on a data directory without a server.

use std::io::Write as _;
use std::path::PathBuf;

use canopy_domain::{Address, View};
use canopy_store::{SalvageReport, VaultReport};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::recovery;
use crate::boot;
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
        .subcommand(
            Command::new("verify")
                .about("Checks every vault: all rows and feed entries open, are chained, and agree")
                .long_about(
                    "Checks every vault of a server that is stopped: whether all rows and feed entries open, feeds are \
                     chained without gaps, and rows and views are what the feeds make of them. Changes nothing: it \
                     looks at copies, for which the data directory needs some room. Exits with 1 where something is \
                     wrong.",
                )
                .args(super::config_args())
                .arg(output()),
        )
        .subcommand(
            Command::new("salvage")
                .about("Writes what can be proven of a damaged data directory into a new one")
                .long_about(
                    "Writes what can be proven of a damaged data directory into a new one, and tells what cannot. \
                     Changes nothing in the damaged one, beside which it needs some room for copies of vaults. A \
                     vault of which nothing can be opened is copied as it is, and stays quarantined. The new \
                     directory belongs to the same installation, and the same root key opens it. Exits with 1 where \
                     something was wrong, though the new directory is complete.",
                )
                .arg(
                    Arg::new("to")
                        .long("to")
                        .value_name("NEW_DATA_DIR")
                        .required(true)
                        .value_parser(value_parser!(PathBuf))
                        .help("The data directory to be; nothing may be there"),
                )
                .args(super::config_args())
                .arg(output()),
        )
        .subcommand(super::audit::command())
        .subcommands(recovery::commands())
}

fn output() -> Arg {
    Arg::new("output")
        .short('o')
        .long("output")
        .value_parser(["table", "json"])
        .default_value("table")
        .help("A line for each vault, or a JSON object")
}

pub(super) async fn run(matches: &ArgMatches, terminal: &mut Terminal) -> Exit {
    let done = match matches.subcommand() {
        Some(("config", inner)) => config(inner, terminal),
        Some(("ca", inner)) => ca(inner, terminal),
        Some(("verify", inner)) => verify(inner, terminal).await,
        Some(("salvage", inner)) => salvage(inner, terminal).await,
        Some(("audit", inner)) => super::audit::run(inner, terminal).await,
        Some((name, inner)) => recovery::run(name, inner, terminal).await,
        None => return Exit::Usage,
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

async fn verify(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let loaded = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?;
    let options = boot::store_options(&loaded.config).map_err(|e| e.to_string())?;
    let modules = boot::modules();
    let views_of = |address: &Address| -> Vec<View> {
        let kind = address.kind().map(|kind| kind.name()).unwrap_or_default();
        modules.get(kind).map(|module| module.views().to_vec()).unwrap_or_default()
    };
    let as_json = matches.get_one::<String>("output").is_some_and(|format| format == "json");
    let (mut vaults, mut unsound, mut written) = (0u64, 0u64, Ok(()));
    let out = &mut terminal.stdout;
    let each = |report: VaultReport| {
        vaults += 1;
        unsound += u64::from(!report.is_sound());
        let text = if as_json { serde_json::to_string(&report).unwrap_or_default() } else { line(&report) };
        if written.is_ok() {
            written = writeln!(out, "{text}");
        }
    };
    canopy_store::verify(options, &views_of, each).await.map_err(|e| e.to_string())?;
    written.and_then(|()| out.flush()).map_err(|e| e.to_string())?;
    if unsound > 0 {
        return Err(format!("{unsound} of {vaults} vaults are not sound; the server quarantines what it cannot prove"));
    }
    Ok(())
}

async fn salvage(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let loaded = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?;
    let options = boot::store_options(&loaded.config).map_err(|e| e.to_string())?;
    let to = matches.get_one::<PathBuf>("to").cloned().unwrap_or_default();
    let as_json = matches.get_one::<String>("output").is_some_and(|format| format == "json");
    let (mut vaults, mut unsound, mut written) = (0u64, 0u64, Ok(()));
    let out = &mut terminal.stdout;
    let each = |report: SalvageReport| {
        vaults += 1;
        unsound += u64::from(!report.found.is_sound());
        let text = if as_json { serde_json::to_string(&report).unwrap_or_default() } else { salvaged_line(&report) };
        if written.is_ok() {
            written = writeln!(out, "{text}");
        }
    };
    canopy_store::salvage(options, &to, each).await.map_err(|e| e.to_string())?;
    written.and_then(|()| out.flush()).map_err(|e| e.to_string())?;
    if unsound > 0 {
        return Err(format!("{unsound} of {vaults} vaults were not sound; `{}` has all that is proven", to.display()));
    }
    Ok(())
}

fn salvaged_line(report: &SalvageReport) -> String {
    let SalvageReport { found, remade, condensed, quarantined } = report;
    let text = line(found);
    if found.is_sound() {
        return text;
    }
    if *quarantined {
        return format!("{text}\n      nothing of it opens: copied as it is, and stays quarantined");
    }
    let VaultReport { partitions, transactions, rows, .. } = found;
    format!(
        "{text}\n      kept: {partitions} partitions, {transactions} transactions, {rows} rows; made again: {remade} rows; \
         put together into new transactions: {condensed} changes"
    )
}

fn line(report: &VaultReport) -> String {
    let VaultReport { vault, partitions, transactions, rows, shredded, faults, more_faults } = report;
    if report.is_sound() {
        let gone = if *shredded > 0 { format!(", {shredded} changes of what was shredded") } else { String::new() };
        return format!("ok    {vault}: {partitions} partitions, {transactions} transactions, {rows} rows{gone}");
    }
    let mut text = format!("FAIL  {vault}: {}", faults.join("\n      "));
    if *more_faults > 0 {
        text.push_str(&format!("\n      and {more_faults} faults more"));
    }
    text
}
