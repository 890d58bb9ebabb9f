//! `canopy context`: which servers there are, and which is used.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::call::server_uri;
use super::context::{Context, Contexts, Device, Store, absolute, read_pem};
use super::error::{Error, printable};
use super::options::{self, Options};
use super::output::{Format, time};
use super::terminal::Terminal;

/// Longest name of a context.
pub(super) const NAME_CHARS_MAX: usize = 100;

/// `canopy context …`
pub(super) fn command() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true);
    Command::new("context")
        .about("Names servers and the log-ins there.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(Command::new("list").about("Lists the contexts.").args(options::args()))
        .subcommand(
            Command::new("show")
                .about("Shows a context: the one in use where none is named.")
                .arg(name().required(false))
                .args(options::args()),
        )
        .subcommand(Command::new("use").about("Uses a context from now on.").arg(name()))
        .subcommand(
            Command::new("add")
                .about("Adds a context, or gives one another server.")
                .arg(name())
                .args(options::args())
                .mut_arg("@server", |arg| arg.required(true)),
        )
        .subcommand(Command::new("remove").about("Removes a context with its log-in.").arg(name()))
}

/// What is shown of a context.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    current: bool,
    server: &'a str,
    account: &'a str,
    session: &'a str,
    access_token: &'a str,
    access_token_expire_time_ms: i64,
    refresh_token: &'a str,
    refresh_token_expire_time_ms: i64,
}

impl<'a> Shown<'a> {
    fn new(name: &'a str, contexts: &'a Contexts, context: &'a Context, show_secrets: bool) -> Self {
        let login = context.login.as_ref();
        let secret = |token: Option<&'a str>| token.map_or("", |token| if show_secrets { token } else { "***" });
        Self {
            name,
            current: contexts.current.as_deref() == Some(name),
            server: &context.server,
            account: login.map_or("", |l| &l.account),
            session: login.map_or("", |l| &l.session),
            access_token: secret(login.map(|l| l.access_token.expose())),
            access_token_expire_time_ms: login.map_or(0, |l| l.access_token_expire_time_ms),
            refresh_token: secret(login.map(|l| l.refresh_token.expose())),
            refresh_token_expire_time_ms: login.map_or(0, |l| l.refresh_token_expire_time_ms),
        }
    }
}

/// Does what `canopy context …` asks for.
///
/// # Errors
/// There is no such context, or the file cannot be read or written.
pub(super) async fn run(matches: &ArgMatches, options: &Options, terminal: &mut Terminal) -> Result<(), Error> {
    let store = Store::locate(terminal)?;
    let Some((command, inner)) = matches.subcommand() else {
        return Ok(());
    };
    let name = inner.try_get_one::<String>("name").ok().flatten().map(String::as_str);
    match (command, name) {
        ("list", _) => list(&store.load()?, options, terminal),
        ("show", name) => show(&store.load()?, name.or(options.context.as_deref()), options, terminal),
        ("use", Some(name)) => {
            let lock = store.lock().await?;
            let mut contexts = lock.load()?;
            if !contexts.contexts.contains_key(name) {
                return Err(contexts.no_such(name));
            }
            contexts.current = Some(name.to_owned());
            lock.save(&contexts)
        }
        ("add", Some(name)) => add(&store, name, options).await,
        ("remove", Some(name)) => {
            let lock = store.lock().await?;
            let mut contexts = lock.load()?;
            if contexts.contexts.remove(name).is_none() {
                return Err(contexts.no_such(name));
            }
            contexts.current = contexts.current.filter(|current| current != name);
            lock.save(&contexts)
        }
        _ => Ok(()),
    }
}

async fn add(store: &Store, name: &str, options: &Options) -> Result<(), Error> {
    let fits = name.chars().all(|c| c.is_alphanumeric() || "-_.:@[]".contains(c));
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || !fits {
        return Err(Error::usage(
            format!("{name} cannot name a context"),
            format!("letters, digits and - _ . : @, at most {NAME_CHARS_MAX}"),
        ));
    }
    let server = options.server.clone().unwrap_or_default();
    let uri = server_uri(&server)?;
    let ca_pem = options.ca.as_deref().map(|path: &Path| read_pem(path)).transpose()?;
    if ca_pem.is_none() && uri.scheme_str() == Some("https") {
        return Err(Error::usage(
            format!("no certificate authority is known for {server}"),
            "give the PEM file of the authority that signed the server's certificate: --ca FILE",
        ));
    }
    let client = options.client.as_ref().map(|(cert, key)| Ok::<_, Error>((absolute(cert)?, absolute(key)?)));
    let client = client.transpose()?;
    if let Some((cert, key)) = &client {
        Device::read(cert, key)?;
    }
    let lock = store.lock().await?;
    let mut contexts = lock.load()?;
    let context = contexts.contexts.entry(name.to_owned()).or_default();
    if context.server != server {
        // Tokens of one server are no business of another.
        context.login = None;
    }
    context.server = server;
    context.ca_pem = ca_pem;
    (context.client_cert, context.client_key) = client.unzip();
    contexts.current.get_or_insert_with(|| name.to_owned());
    lock.save(&contexts)
}

fn list(contexts: &Contexts, options: &Options, terminal: &mut Terminal) -> Result<(), Error> {
    let shown: Vec<Shown<'_>> =
        contexts.contexts.iter().map(|(name, c)| Shown::new(name, contexts, c, options.show_secrets)).collect();
    let text = match options.format {
        Format::Table => {
            let width = |of: fn(&Shown<'_>) -> usize, least: usize| shown.iter().map(of).max().unwrap_or(0).max(least);
            let (names, servers) = (width(|s| s.name.chars().count(), 4), width(|s| s.server.chars().count(), 6));
            let mut text = format!("  {:names$}  {:servers$}  ACCOUNT\n", "NAME", "SERVER");
            for context in &shown {
                let mark = if context.current { '*' } else { ' ' };
                let line = format!(
                    "{mark} {:names$}  {:servers$}  {}",
                    context.name,
                    context.server,
                    printable(context.account)
                );
                let _ = writeln!(text, "{}", line.trim_end());
            }
            text
        }
        format => plain(&shown, format)?,
    };
    Ok(terminal.stdout.write_all(text.as_bytes())?)
}

fn show(contexts: &Contexts, name: Option<&str>, options: &Options, terminal: &mut Terminal) -> Result<(), Error> {
    let Some(name) = name.or(contexts.current.as_deref()) else {
        return Err(Error::usage(
            "no context is in use",
            "canopy context add NAME --server https://HOST:PORT --ca FILE",
        ));
    };
    let context = contexts.contexts.get(name).ok_or_else(|| contexts.no_such(name))?;
    let shown = Shown::new(name, contexts, context, options.show_secrets);
    let text = match options.format {
        Format::Table => {
            let lapses = |ms: i64| if ms == 0 { String::new() } else { time(ms) };
            let pairs = [
                ("name", shown.name.to_owned()),
                ("server", shown.server.to_owned()),
                ("account", shown.account.to_owned()),
                ("session", shown.session.to_owned()),
                ("access_token", shown.access_token.to_owned()),
                ("access_token_expires", lapses(shown.access_token_expire_time_ms)),
                ("refresh_token", shown.refresh_token.to_owned()),
                ("refresh_token_expires", lapses(shown.refresh_token_expire_time_ms)),
            ];
            let mut text = String::new();
            for (key, value) in pairs {
                let _ = writeln!(text, "{}", format!("{key:22}{}", printable(&value)).trim_end());
            }
            text
        }
        format => plain(&shown, format)?,
    };
    Ok(terminal.stdout.write_all(text.as_bytes())?)
}

fn plain<T: Serialize>(shown: &T, format: Format) -> Result<String, Error> {
    if format == Format::Yaml {
        return serde_norway::to_string(shown).map_err(|e| Error::Answer(e.into()));
    }
    serde_json::to_string_pretty(shown).map(|text| text + "\n").map_err(|e| Error::Answer(e.into()))
}
