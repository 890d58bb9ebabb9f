//! `canopy observe`: the supervision tree, looked at again and again.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use canopy_proto::ops::v1::{ObserveResponse, TreeNode};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use prost_reflect::{DynamicMessage, Value};

use super::call::Client;
use super::error::{Error, printable};
use super::mirror::MethodEntry;
use super::options;
use super::output::time;
use super::terminal::Terminal;

/// The method that this looks through.
pub const METHOD: &str = "canopy.ops.v1.Ops/Observe";

/// Between two looks, where `--interval` does not say.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// `canopy observe`
pub fn command() -> Command {
    Command::new("observe")
        .about("Watches the supervision tree of the server.")
        .arg(
            Arg::new("interval")
                .long("interval")
                .value_name("TIME")
                .value_parser(options::duration)
                .help("Between two looks: 500ms, 1s (the default), 1m."),
        )
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("Look once."))
        .arg(
            Arg::new("depth")
                .long("depth")
                .value_name("INTEGER")
                .value_parser(value_parser!(u32).range(1..=16))
                .help("How deep to look; 8 where absent."),
        )
        .args(options::args())
}

/// Puts the screen back however the view ends.
struct Screen<'a> {
    terminal: &'a mut Terminal,
    is_alternate: bool,
}

impl<'a> Screen<'a> {
    fn new(terminal: &'a mut Terminal, is_alternate: bool) -> Result<Self, Error> {
        if is_alternate {
            terminal.stdout.write_all(ENTER.as_bytes())?;
        }
        Ok(Self { terminal, is_alternate })
    }

    fn show(&mut self, view: &str) -> Result<(), Error> {
        let out = &mut self.terminal.stdout;
        if self.is_alternate {
            // Overwriting does not flicker as clearing first does.
            let rows = self.terminal.env.get("LINES").and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
            let mut frame = HOME.to_owned();
            for (i, line) in view.lines().take(rows).enumerate() {
                let break_before = if i == 0 { "" } else { "\r\n" };
                let _ = write!(frame, "{break_before}{line}{CLEAR_LINE}");
            }
            out.write_all((frame + CLEAR_BELOW).as_bytes())?;
        } else {
            out.write_all(view.as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        if self.is_alternate {
            // There is nobody left to tell if this fails.
            let _ = self.terminal.stdout.write_all(LEAVE.as_bytes());
            let _ = self.terminal.stdout.flush();
        }
    }
}

/// Shows the tree until interrupted, or once.
///
/// # Errors
/// The first look fails. Later ones show why and go on.
pub async fn run(
    matches: &ArgMatches,
    client: &Client,
    method: &MethodEntry,
    timeout: Duration,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let once = matches.get_flag("once");
    let interval = matches.get_one::<Duration>("interval").copied().unwrap_or(INTERVAL_DEFAULT);
    let mut request = DynamicMessage::new(method.descriptor.input());
    if let Some(depth) = matches.get_one::<u32>("depth") {
        request.set_field_by_name("depth", Value::U32(*depth));
    }
    let now_ms = terminal.now_ms;
    let first = client.unary(method, &request, timeout).await?;
    let mut view = view_of(&first, now_ms())?;
    let is_alternate = terminal.stdout_is_terminal && !once;
    let mut screen = Screen::new(terminal, is_alternate)?;
    loop {
        screen.show(&view)?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
        match client.unary(method, &request, timeout).await {
            Ok(answer) => view = view_of(&answer, now_ms())?,
            // The server may be restarting; the last view stays beside why.
            Err(error) if error.exit() == super::error::Exit::Unavailable => {
                let old: Vec<&str> = view.lines().filter(|l| !l.starts_with("! ")).collect();
                let why = error.report().lines().next().unwrap_or_default().to_owned();
                view = format!("! {why}\n{}\n", old.join("\n"));
            }
            Err(error) => return Err(error),
        }
    }
}

fn view_of(answer: &DynamicMessage, now_ms: i64) -> Result<String, Error> {
    let answer: ObserveResponse = answer.transcode_to().map_err(|why| Error::Answer(why.into()))?;
    Ok(answer.root.map_or_else(|| "nothing to see\n".to_owned(), |root| tree(&root, now_ms)))
}

/// The tree as indented lines under a line of totals.
pub fn tree(root: &TreeNode, now_ms: i64) -> String {
    let mut rows = Vec::new();
    collect(root, 0, now_ms, &mut rows);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max("ACTOR".len());
    let restarts: u64 = rows.iter().map(|row| u64::from(row.restarts)).sum();
    let queued: u64 = rows.iter().map(|row| row.mailbox_depth).sum();
    let mut view = format!(
        "{}   {} shown, {queued} queued, {restarts} restarts\n{:width$}  {:<12} {:>8} {:>8} {:>8}  STATE\n",
        time(now_ms),
        rows.len(),
        "ACTOR",
        "STATUS",
        "MAILBOX",
        "RESTARTS",
        "UP",
    );
    for row in &rows {
        let line = format!(
            "{:width$}  {:<12} {:>8} {:>8} {:>8}  {}",
            row.name, row.status, row.mailbox_depth, row.restarts, row.up, row.state
        );
        view.push_str(line.trim_end());
        view.push('\n');
    }
    view
}

struct Row {
    name: String,
    status: String,
    mailbox_depth: u64,
    restarts: u32,
    up: String,
    state: String,
}

fn collect(node: &TreeNode, depth: usize, now_ms: i64, rows: &mut Vec<Row>) {
    let mut state = printable(&node.state);
    if !node.last_error.is_empty() {
        state = format!("{state}  last error: {}", printable(&node.last_error)).trim_start().to_owned();
    }
    rows.push(Row {
        name: format!("{}{}", "  ".repeat(depth), printable(&node.id)),
        status: printable(&node.status),
        mailbox_depth: node.mailbox_depth,
        restarts: node.restarts,
        up: if node.start_time_ms > 0 { span(now_ms.saturating_sub(node.start_time_ms)) } else { String::new() },
        state,
    });
    for child in &node.children {
        collect(child, depth + 1, now_ms, rows);
    }
    let hidden = node.children_total.saturating_sub(node.children.len() as u64);
    if hidden > 0 {
        rows.push(Row {
            name: format!("{}… {hidden} more", "  ".repeat(depth + 1)),
            status: String::new(),
            mailbox_depth: 0,
            restarts: 0,
            up: String::new(),
            state: String::new(),
        });
    }
}

/// `12s`, `5m03s`, `2h05m`, `3d04h`
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}
