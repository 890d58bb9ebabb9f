//! `canopy local keys list|add|remove|rotate-root`: the root key and the ways
//! to it, without a server. What needs the server's accounts to ask for it is
//! `canopy ops`; this is for who has the machine, and one of the secrets.

use std::path::PathBuf;

use canopy_domain::Secret;
use canopy_store::{KeyInfo, KeySlot, Store, StoreError, Unlock};
use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};
use serde_json::json;
use zeroize::Zeroizing;

use super::recovery::{open_existing, print};
use crate::cli::Terminal;

pub(super) fn commands() -> [Command; 4] {
    let file = |id: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    [
        Command::new("list").about("Lists the root key's slots, and the keys of orgs").args(super::config_args()),
        Command::new("add")
            .about("Adds a slot: another secret that opens the root key")
            .arg(file("key-file", "64 hex digits; made where there is no such file"))
            .arg(file("passphrase-file", "Its first line is the passphrase"))
            .group(ArgGroup::new("secret").args(["key-file", "passphrase-file"]).required(true))
            .args(super::config_args()),
        Command::new("remove")
            .about("Removes a slot; the last one stays")
            .long_about(
                "Removes a slot; the last one stays. Who has its secret and a copy of the old key files can still open \
                 that copy: `rotate-root` after it shuts them out of what is written later.",
            )
            .arg(
                Arg::new("slot")
                    .value_name("SLOT")
                    .required(true)
                    .value_parser(value_parser!(u32))
                    .help("As `list` numbers it"),
            )
            .args(super::config_args()),
        Command::new("rotate-root")
            .about("Makes another root key, which every slot opens; no data is touched")
            .args(super::config_args()),
    ]
}

pub(super) async fn run(name: &str, matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), String> {
    // Before anything is opened: what is asked for may be nonsense.
    let secret = if name == "add" { Some(given(matches)?) } else { None };
    let store = open_existing(matches, terminal).await?;
    let done = change(name, matches, secret, &store).await;
    let closed = store.close().await;
    for line in done.map_err(|e| e.to_string())? {
        print(terminal, &line)?;
    }
    closed.map_err(|e| e.to_string())
}

async fn change(
    name: &str,
    matches: &ArgMatches,
    secret: Option<Unlock>,
    store: &Store,
) -> Result<Vec<serde_json::Value>, StoreError> {
    match (name, secret) {
        ("add", Some(secret)) => {
            let id = store.add_key_slot(secret).await?;
            Ok(store.key_slots().iter().filter(|slot| slot.id == id).map(slot_line).collect())
        }
        ("remove", _) => {
            store.remove_key_slot(matches.get_one("slot").copied().unwrap_or_default()).await?;
            Ok(store.key_slots().iter().map(slot_line).collect())
        }
        ("rotate-root", _) => {
            store.rotate_root_key().await?;
            Ok(store.org_keys()?.iter().filter(|key| key.of == "root").map(key_line).collect())
        }
        _ => {
            let slots = store.key_slots();
            Ok(slots.iter().map(slot_line).chain(store.org_keys()?.iter().map(key_line)).collect())
        }
    }
}

/// The secret of a new slot.
fn given(matches: &ArgMatches) -> Result<Unlock, String> {
    if let Some(path) = matches.get_one::<PathBuf>("key-file") {
        return Ok(Unlock::KeyFile(path.clone()));
    }
    let path = matches.get_one::<PathBuf>("passphrase-file").cloned().unwrap_or_default();
    let text = std::fs::read_to_string(&path).map(Zeroizing::new);
    let text = text.map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(Unlock::Passphrase(Secret::new(line))),
        None => Err(format!("`{}` is empty: write the passphrase into its first line", path.display())),
    }
}

fn slot_line(slot: &KeySlot) -> serde_json::Value {
    json!({"slot": slot.id, "kind": slot.kind, "create_time_ms": slot.created_ms, "own": slot.is_own})
}

fn key_line(key: &KeyInfo) -> serde_json::Value {
    let fingerprint: String = key.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"of": key.of, "version": key.version, "create_time_ms": key.created_ms, "fingerprint": fingerprint})
}
