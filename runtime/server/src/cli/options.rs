//! Options that do not depend on the method.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};

use super::context::Secret;
use super::error::Error;
use super::output::Format;
use super::terminal::Terminal;

/// Ids in clap; `@` keeps them apart from fields.
pub const JSON: &str = "@json";
/// Follow pages.
pub const ALL: &str = "@all";
const CONTEXT: &str = "@context";
const SERVER: &str = "@server";
const CA: &str = "@ca";
const CLIENT_CERT: &str = "@client-cert";
const CLIENT_KEY: &str = "@client-key";
const TOKEN: &str = "@token";
const TIMEOUT: &str = "@timeout";
const OUTPUT: &str = "@output";
const SHOW_SECRETS: &str = "@show-secrets";

/// How long a call may take, repeats included, where `--timeout` does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Accepted by `canopy`, by each area and by each of its methods.
pub fn args() -> Vec<Arg> {
    let arg = |id: &'static str| Arg::new(id).long(id.trim_start_matches('@')).help_heading("Connection");
    vec![
        arg(CONTEXT).value_name("NAME").help("Which server and log-in to use. [env: CANOPY_CONTEXT]"),
        arg(SERVER).value_name("URL").help("https://HOST:PORT, or http:// for this machine."),
        arg(CA).value_name("FILE").help("PEM of the authority that signed the server's certificate."),
        arg(CLIENT_CERT)
            .value_name("FILE")
            .requires(CLIENT_KEY)
            .help("PEM of this device's certificate, for servers that ask for one."),
        arg(CLIENT_KEY).value_name("FILE").requires(CLIENT_CERT).help("PEM of that certificate's private key."),
        arg(TOKEN).value_name("TEXT").help("Access token, @FILE or @-, instead of the log-in. [env: CANOPY_TOKEN]"),
        arg(TIMEOUT).value_name("TIME").value_parser(duration).help("Such as 500ms, 30s (the default) or 2m."),
        arg(OUTPUT)
            .short('o')
            .value_name("FORMAT")
            .value_parser(["json", "yaml", "table"])
            .hide_possible_values(true)
            .help("json, yaml or table; table on a terminal, else json.")
            .help_heading("Output"),
        arg(SHOW_SECRETS).action(ArgAction::SetTrue).help("Print tokens rather than ***.").help_heading("Output"),
    ]
}

/// What was asked for, from flags and environment.
#[derive(Debug)]
pub struct Options {
    /// Name of a context.
    pub context: Option<String>,
    /// URL.
    pub server: Option<String>,
    /// PEM file.
    pub ca: Option<PathBuf>,
    /// PEM files with this device's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// As given: may be `@FILE`.
    pub token: Option<Secret>,
    /// How long a call may take; a stream lasts until it ends where absent.
    pub timeout: Option<Duration>,
    /// How answers are shown.
    pub format: Format,
    /// Whether tokens are printed.
    pub show_secrets: bool,
}

impl Options {
    /// Reads the matches of `canopy`, of the area and of the method, the
    /// innermost first.
    ///
    /// # Errors
    /// The token's file cannot be read.
    pub fn read(matches: &ArgMatches, terminal: &mut Terminal) -> Result<Self, Error> {
        let mut chain = vec![matches];
        while let Some((_, inner)) = chain.last().and_then(|m| m.subcommand()) {
            chain.push(inner);
        }
        chain.reverse();
        let text = |id: &str| chain.iter().find_map(|m| m.try_get_one::<String>(id).ok().flatten().cloned());
        let env = |name: &str| terminal.env(name).map(str::to_owned);
        let token = text(TOKEN);
        let format = match text(OUTPUT).as_deref() {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            Some(_) => Format::Table,
            None if terminal.stdout_is_terminal => Format::Table,
            None => Format::Json,
        };
        let options = Self {
            context: text(CONTEXT).or_else(|| env("CANOPY_CONTEXT")),
            server: text(SERVER).map(|url| url.trim_end_matches('/').to_owned()),
            ca: text(CA).map(PathBuf::from),
            client: text(CLIENT_CERT).map(PathBuf::from).zip(text(CLIENT_KEY).map(PathBuf::from)),
            token: token.clone().or_else(|| env("CANOPY_TOKEN")).map(Secret::new),
            timeout: chain.iter().find_map(|m| m.try_get_one::<Duration>(TIMEOUT).ok().flatten().copied()),
            format,
            show_secrets: chain.iter().any(|m| m.try_get_one::<bool>(SHOW_SECRETS).ok().flatten() == Some(&true)),
        };
        match token {
            Some(text) => {
                let read = super::request::text_argument("token", &text, terminal)?;
                Ok(Self { token: Some(Secret::new(read)), ..options })
            }
            None => Ok(options),
        }
    }
}

/// `500ms`, `30s`, `2m`; a bare number is seconds.
///
/// # Errors
/// Not a time, or zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write 500ms, 30s, 2m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "write 500ms, 30s, 2m or 1h".to_owned())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("the time must be longer than zero".to_owned()),
    }
}
