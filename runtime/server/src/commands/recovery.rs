//! `canopy local keys export|backup|verify-backup|restore`: a vault out of a
//! data directory and into another place, without a server.

use std::io::Write as _;
use std::path::PathBuf;

use canopy_domain::Address;
use canopy_store::{BackupSummary, RestoreOptions, Store, StoreOptions, Unlock, export_keys, restore};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::keys;
use crate::boot;
use crate::cli::Terminal;

fn path(id: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(id).value_name(value).required(true).value_parser(value_parser!(PathBuf)).help(help)
}

fn address() -> Arg {
    Arg::new("address").value_name("ADDRESS").required(true).help("Whose vault: org/<id>, or a project or module of it")
}

pub(super) fn commands() -> [Command; 4] {
    [
        Command::new("keys")
            .about("Handles the keys of a data directory")
            .subcommand_required(true)
            .subcommand(
                Command::new("export")
                    .about("Writes all wrapped keys into a file, sealed under the root key, for `restore`")
                    .arg(path("to", "FILE", "The key bundle to be; keep it apart from the backups"))
                    .args(super::config_args()),
            )
            .subcommands(keys::commands()),
        Command::new("backup")
            .about("Writes a backup of one vault: sealed as it is stored, without keys")
            .arg(address())
            .arg(path("to", "FILE", "The backup to be"))
            .args(super::config_args()),
        Command::new("verify-backup")
            .about("Reads a backup of one vault and opens all that is in it")
            .arg(address())
            .arg(path("file", "BACKUP", "The backup"))
            .args(super::config_args()),
        Command::new("restore")
            .about("Restores backups into a new data directory")
            .long_about(
                "Restores backups, one file a vault, into a new data directory. Everything is read and checked \
                 before the directory is there; nothing that exists is written to. It belongs to the installation \
                 that the backups are of, and the same root key opens it.",
            )
            .arg(path("backup", "BACKUP", "Backups, one of each vault").num_args(1..))
            .arg(path("to", "NEW_DATA_DIR", "The data directory to be").long("to"))
            .arg(path("keys", "BUNDLE", "What `canopy local keys export` wrote").long("keys"))
            .arg(
                Arg::new("root-key-file")
                    .long("root-key-file")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Root key of the installation; by default what the configuration names"),
            )
            .arg(
                Arg::new("without-shredded")
                    .long("without-shredded")
                    .action(ArgAction::SetTrue)
                    .help("Leaves out what the bundle has no keys for any more"),
            )
            .args(super::config_args()),
    ]
}

pub(super) async fn run(name: &str, matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    match (name, matches.subcommand()) {
        ("keys", Some(("export", inner))) => export(inner, terminal).await,
        ("keys", Some((name, inner))) => keys::run(name, inner, terminal).await,
        ("backup", _) => back_up(matches, terminal).await,
        ("verify-backup", _) => verify(matches, terminal).await,
        _ => restore_here(matches, terminal).await,
    }
}

fn options(matches: &ArgMatches, terminal: &Terminal) -> Result<StoreOptions, String> {
    let loaded = super::load_config(matches, terminal, false).map_err(|e| e.to_string())?;
    boot::store_options(&loaded.config).map_err(|e| e.to_string())
}

fn given(matches: &ArgMatches, id: &str) -> PathBuf {
    matches.get_one::<PathBuf>(id).cloned().unwrap_or_default()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, canopy_store::StoreError> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

async fn export(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let (options, to) = (options(matches, terminal)?, given(matches, "to"));
    let summary = blocking(move || export_keys(&options, &to)).await?;
    print(terminal, &serde_json::json!(summary))
}

/// The store of an existing directory.
pub(super) async fn open_existing(matches: &ArgMatches, terminal: &Terminal) -> Result<Store, String> {
    let options = options(matches, terminal)?;
    if !options.dir.join("VERSION").exists() {
        return Err(format!("`{}` is no data directory of Canopy", options.dir.display()));
    }
    blocking(move || Store::open(options)).await
}

/// The store of an existing directory, and the address asked for.
async fn opened(matches: &ArgMatches, terminal: &Terminal) -> Result<(Store, Address), String> {
    let named = matches.get_one::<String>("address").map_or("", String::as_str);
    let address = Address::parse(named).map_err(|e| e.to_string())?;
    Ok((open_existing(matches, terminal).await?, address))
}

async fn back_up(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let to = given(matches, "to");
    if to.exists() {
        return Err(format!("`{}` exists already, and nothing is overwritten", to.display()));
    }
    let (store, address) = opened(matches, terminal).await?;
    let summary = store.back_up(&address, &to, canopy_actors::now_ms(), |_| true).await;
    store.close().await.map_err(|e| e.to_string())?;
    print_summary(terminal, &summary.map_err(|e| e.to_string())?)
}

async fn verify(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let (store, address) = opened(matches, terminal).await?;
    let summary = store.verify_backup(&address, &given(matches, "file"), |_| true).await;
    store.close().await.map_err(|e| e.to_string())?;
    print_summary(terminal, &summary.map_err(|e| e.to_string())?)
}

async fn restore_here(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    let unlock = match matches.get_one::<PathBuf>("root-key-file") {
        // Only read: a restore makes no root key.
        Some(path) => Unlock::KeyFile(path.clone()),
        None => options(matches, terminal)?.unlock,
    };
    let options = RestoreOptions {
        backups: matches.get_many::<PathBuf>("backup").into_iter().flatten().cloned().collect(),
        bundle: given(matches, "keys"),
        unlock,
        to: given(matches, "to"),
        without_shredded: matches.get_flag("without-shredded"),
    };
    for summary in blocking(move || restore(&options)).await? {
        print_summary(terminal, &summary)?;
    }
    Ok(())
}

fn print_summary(terminal: &mut Terminal, summary: &BackupSummary) -> Result<(), String> {
    print(terminal, &serde_json::json!(summary))
}

/// One JSON object a line: people can read it, and programs too.
pub(super) fn print(terminal: &mut Terminal, value: &serde_json::Value) -> Result<(), String> {
    let out = &mut terminal.stdout;
    writeln!(out, "{value}").and_then(|()| out.flush()).map_err(|e| e.to_string())
}
