//! The command line: a mirror of the API, made at run time from the
//! descriptors, and the few commands that no method answers.

use std::ffi::OsString;
use std::io::Write as _;

use canopy_proto::Requirement;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

pub mod call;
mod comment;
pub mod context;
mod context_command;
mod credentials;
pub mod error;
pub mod field;
pub mod mirror;
pub mod observe;
pub mod options;
pub mod output;
pub mod request;
pub mod terminal;

use call::Client;
use context::{Contexts, Store, Target};
use credentials::Renewed;
pub use error::{Error, Exit};
use mirror::MethodEntry;
use options::Options;
use output::Style;
pub use terminal::Terminal;

/// Commands that are written by hand, here and by the server; no area may be
/// called the same.
pub const HAND_WRITTEN: &[&str] =
    &["serve", "init", "doctor", "context", "completion", "tui", "local", "observe", "help"];

/// Most pages that `--all` follows: a million rows of the largest pages.
pub const PAGES_MAX: usize = 1000;

/// `canopy` with all areas; the server adds its own commands.
pub fn command() -> Command {
    Command::new("canopy")
        .bin_name("canopy")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Canopy: organisations, projects and people on a server of your own.")
        .after_help(error::EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("AREA|COMMAND")
        .subcommand_help_heading("Areas and commands")
        .disable_help_subcommand(true)
        .args(options::args())
        .subcommands(mirror::commands(mirror::areas()))
        .subcommand(context_command::command())
        .subcommand(observe::command())
        .subcommand(completion_command())
}

fn completion_command() -> Command {
    Command::new("completion")
        .about("Prints completions for a shell.")
        .long_about(
            "Prints completions for a shell.\n\n\
             bash: source <(canopy completion bash)\n\
             zsh:  canopy completion zsh > \"${fpath[1]}/_canopy\"\n\
             fish: canopy completion fish > ~/.config/fish/completions/canopy.fish",
        )
        .arg(
            Arg::new("shell")
                .required(true)
                .value_parser(value_parser!(Shell))
                .hide_possible_values(true)
                .value_name("bash|zsh|fish"),
        )
}

/// Reads the command line. Help and version are printed to standard output,
/// mistakes with the nearest suggestion to standard error.
///
/// # Errors
/// How to end: nothing is left to do.
pub fn parse(command: Command, args: Vec<OsString>, terminal: &mut Terminal) -> Result<ArgMatches, Exit> {
    command.try_get_matches_from(args).map_err(|error| {
        let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        let colour = if asked { terminal.stdout_is_terminal } else { terminal.stdin_is_terminal };
        let text = if colour { error.render().ansi().to_string() } else { error.render().to_string() };
        let (out, exit) =
            if asked { (&mut terminal.stdout, Exit::Success) } else { (&mut terminal.stderr, Exit::Usage) };
        // A reader that went away is no reason to fail.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
        exit
    })
}

/// The command line without the server's own commands.
pub async fn run(args: Vec<OsString>, terminal: &mut Terminal) -> Exit {
    match parse(command(), args, terminal) {
        Ok(matches) => dispatch(&matches, terminal).await.unwrap_or(Exit::Usage),
        Err(exit) => exit,
    }
}

/// Does what was asked for; nothing, where that is a command of the server's.
pub async fn dispatch(matches: &ArgMatches, terminal: &mut Terminal) -> Option<Exit> {
    let (name, _) = matches.subcommand()?;
    let is_ours =
        mirror::areas().iter().any(|area| area.name == name) || ["context", "observe", "completion"].contains(&name);
    if !is_ours {
        return None;
    }
    let interrupt = std::mem::replace(&mut terminal.interrupt, Box::pin(std::future::pending()));
    let outcome = tokio::select! {
        outcome = perform(matches, terminal) => outcome,
        () = interrupt => Err(Error::Interrupted),
    };
    let outcome = outcome.and_then(|()| Ok(terminal.stdout.flush()?));
    Some(match outcome {
        Ok(()) => Exit::Success,
        Err(error) => {
            let exit = error.exit();
            if !matches!(error, Error::OutputClosed | Error::Interrupted) {
                terminal.note(error.report().trim_end());
            }
            exit
        }
    })
}

async fn perform(matches: &ArgMatches, terminal: &mut Terminal) -> Result<(), Error> {
    let Some((name, inner)) = matches.subcommand() else {
        return Ok(());
    };
    match name {
        "completion" => {
            let shell = inner.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash);
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "canopy", &mut script);
            Ok(terminal.stdout.write_all(&script)?)
        }
        "context" => {
            let options = Options::read(matches, terminal)?;
            context_command::run(inner, &options, terminal).await
        }
        "observe" => {
            let options = Options::read(matches, terminal)?;
            let (area, command) = ("ops", "observe");
            let method = entry(area, command).ok_or_else(|| Error::usage("this release has no Observe", ""))?;
            let call = Call::prepare(method, options, terminal).await?;
            let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
            observe::run(inner, &call.client, method, timeout, terminal).await
        }
        area => {
            let Some((command, flags)) = inner.subcommand() else {
                return Ok(());
            };
            let Some(method) = entry(area, command) else {
                return Ok(());
            };
            let options = Options::read(matches, terminal)?;
            call_method(method, flags, options, terminal).await
        }
    }
}

fn entry(area: &str, command: &str) -> Option<&'static MethodEntry> {
    mirror::areas().iter().find(|a| a.name == area)?.method(command)
}

/// What a call needs beside its request.
struct Call {
    options: Options,
    store: Store,
    target: Target,
    client: Client,
}

impl Call {
    /// Finds the server and, where the method asks who is calling, the access
    /// token.
    async fn prepare(method: &MethodEntry, options: Options, terminal: &Terminal) -> Result<Self, Error> {
        let mut call = Self::connect(options, terminal)?;
        let needs_token = method.rule.is_none_or(|rule| rule.requires != Requirement::Anybody);
        let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
        if let Some(token) = &call.options.token {
            call.client = call.client.with_token(token)?;
        } else if needs_token {
            let now_ms = (terminal.now_ms)();
            let token = credentials::access_token(&call.store, &call.target, &call.client, timeout, now_ms).await?;
            if let Some(token) = token {
                call.client = call.client.with_token(&token)?;
            }
        }
        Ok(call)
    }

    fn connect(options: Options, terminal: &Terminal) -> Result<Self, Error> {
        let store = Store::locate(terminal)?;
        let contexts: Contexts = store.load()?;
        let target = contexts.target(&options)?;
        let client = Client::new(&target.server, target.ca_pem.as_deref(), target.device.as_ref())?;
        Ok(Self { options, store, target, client })
    }
}

async fn call_method(
    method: &MethodEntry,
    flags: &ArgMatches,
    options: Options,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let style = Style { format: options.format, show_secrets: options.show_secrets };
    let is_bare = flags.ids().all(|id| id.as_str().starts_with('@')) && !flags.contains_id(options::JSON);
    if credentials::is_refresh(method) && is_bare {
        return refresh_own(options, style, terminal).await;
    }
    let request = request::build(&method.descriptor.input(), &method.leaves, flags, terminal)?;
    let call = Call::prepare(method, options, terminal).await?;
    if method.descriptor.is_server_streaming() {
        return follow(method, &call, &request, style, terminal).await;
    }
    let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
    let all = method.page_token().is_some() && flags.get_flag(options::ALL);
    let answer = if all {
        every_page(method, &call, request.clone()).await?
    } else {
        call.client.unary(method, &request, timeout).await?
    };
    // Kept before it is shown: the reader may go away.
    credentials::after_call(method, &request, &answer, &call.store, &call.target, terminal).await?;
    terminal.stdout.write_all(output::answer(&answer, style)?.as_bytes())?;
    terminal.stdout.flush()?;
    let token = answer.get_field_by_name("next_page_token").and_then(|v| v.as_str().map(str::to_owned));
    if let Some(token) = token.filter(|token| !token.is_empty() && method.page_token().is_some()) {
        terminal.note(&format!("There is more: --page-token {}, or --all.", error::printable(&token)));
    }
    Ok(())
}

/// `canopy identity refresh` without flags renews the log-in that is kept.
async fn refresh_own(options: Options, style: Style, terminal: &mut Terminal) -> Result<(), Error> {
    let call = Call::connect(options, terminal)?;
    let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
    match credentials::renew(&call.store, &call.target, &call.client, timeout, None).await? {
        Renewed::Now(_, answer) => Ok(terminal.stdout.write_all(output::answer(&answer, style)?.as_bytes())?),
        Renewed::Already(_) | Renewed::LoggedOut => {
            Err(Error::usage("nobody is logged in here", "canopy identity log-in --email YOU@EXAMPLE.ORG"))
        }
    }
}

async fn follow(
    method: &MethodEntry,
    call: &Call,
    request: &DynamicMessage,
    style: Style,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let work = async {
        let mut stream = call.client.streaming(method, request, call.options.timeout).await?;
        while let Some(message) = stream.message().await? {
            terminal.stdout.write_all(output::event(&message, style)?.as_bytes())?;
            terminal.stdout.flush()?;
            // It goes on with the session, which this renews.
            if credentials::is_expiring(&message) {
                let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
                credentials::renew(&call.store, &call.target, &call.client, timeout, None).await?;
            }
        }
        Ok(())
    };
    match call.options.timeout {
        Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            Err(tonic::Status::deadline_exceeded(format!("the stream outlived --timeout {timeout:?}")).into())
        }),
        None => work.await,
    }
}

/// All pages as one answer.
async fn every_page(method: &MethodEntry, call: &Call, mut request: DynamicMessage) -> Result<DynamicMessage, Error> {
    let timeout = call.options.timeout.unwrap_or(options::TIMEOUT_DEFAULT);
    let mut whole: Option<DynamicMessage> = None;
    for _ in 0..PAGES_MAX {
        let mut page = call.client.unary(method, &request, timeout).await?;
        let token = match page.take_field_by_name("next_page_token") {
            Some(Value::String(token)) => token,
            _ => String::new(),
        };
        whole = Some(match whole {
            Some(whole) => joined(whole, page, &method.descriptor),
            None => page,
        });
        let is_same = request.get_field_by_name("page_token").is_some_and(|v| v.as_str() == Some(&token));
        if token.is_empty() {
            break;
        }
        if is_same {
            return Err(Error::Answer("the server names the same page twice".into()));
        }
        request.set_field_by_name("page_token", Value::String(token.clone()));
        if let Some(whole) = &mut whole {
            whole.set_field_by_name("next_page_token", Value::String(token));
        }
    }
    whole.ok_or_else(|| Error::Answer("there is no page".into()))
}

/// The rows of both; of other fields those of the later page.
fn joined(mut whole: DynamicMessage, mut page: DynamicMessage, method: &MethodDescriptor) -> DynamicMessage {
    whole.clear_field_by_name("next_page_token");
    for field in method.output().fields() {
        if let Some(value) = page.take_field(&field) {
            match (value, whole.get_field_mut(&field)) {
                (Value::List(rows), Value::List(all)) => all.extend(rows),
                (value, old) => *old = value,
            }
        }
    }
    whole
}
