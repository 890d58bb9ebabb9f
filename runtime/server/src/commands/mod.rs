//! Commands that need no running server: `serve`, `doctor`, `local`.

mod audit;
mod doctor;
mod keys;
mod local;
mod recovery;
mod serve;

use std::path::PathBuf;

use canopy_config::{ConfigError, DEV_OVERRIDES, LoadRequest, Loaded, load, split_override};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::{Exit, Terminal};

/// Configuration file that is read where none is named and it exists.
const CONFIG_FILE_DEFAULT: &str = "canopy.toml";

/// The hand-written commands of the server.
pub fn commands() -> [Command; 3] {
    [serve::command(), doctor::command(), local::command()]
}

/// Does one of them; nothing, where another was asked for.
pub async fn dispatch(matches: &ArgMatches, terminal: &mut Terminal) -> Option<Exit> {
    let (name, inner) = matches.subcommand()?;
    match name {
        "serve" => Some(serve::run(inner, terminal).await),
        "doctor" => Some(doctor::run(inner, terminal)),
        "local" => Some(local::run(inner, terminal).await),
        _ => None,
    }
}

/// Flags of every command that reads the node's configuration.
fn config_args() -> [Arg; 2] {
    [
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("CANOPY_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .help("Configuration file; canopy.toml in this directory where there is one"),
        Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help("Overrides one key of the configuration, as in --set edge.listen=127.0.0.1:0"),
    ]
}

fn load_config(matches: &ArgMatches, terminal: &Terminal, dev: bool) -> Result<Loaded, ConfigError> {
    let named = matches.get_one::<PathBuf>("config").cloned();
    let file = named.or_else(|| Some(PathBuf::from(CONFIG_FILE_DEFAULT)).filter(|path| path.exists()));
    let mut overrides: Vec<(String, String)> = Vec::new();
    if dev {
        overrides.extend(DEV_OVERRIDES.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    }
    for text in matches.get_many::<String>("set").into_iter().flatten() {
        overrides.push(split_override(text)?);
    }
    let env = terminal.env.iter().map(|(key, value)| (key.clone(), value.clone()));
    load(LoadRequest { file, env, overrides })
}
