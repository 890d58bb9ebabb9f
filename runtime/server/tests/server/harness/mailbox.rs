//! Where letters of a server arrive: a real mail server, or files.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use canopy_config::{MailMode, NodeConfig, SmtpTls};
use serde::Deserialize;
use tokio::sync::mpsc;

/// For what should take milliseconds: it fails a hung test.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a directory.
const LOOK: Duration = Duration::from_millis(5);
/// Messages that the mail server has told of and the test has not asked for.
const EVENTS_MAX: usize = 1_000;

/// What the mail server tells.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Listening { port: u16 },
    Refused { to: String },
    Mail(Received),
}

/// A letter, as an independent parser reads it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Received {
    pub sender: String,
    pub to: Vec<String>,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub tls: bool,
    pub user: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The token that the letter hands over.
    pub fn token(&self) -> String {
        let after = self.body.split_once("--token ").unwrap_or_else(|| panic!("no token: {}", self.body)).1;
        after.split_whitespace().next().expect("a token").to_owned()
    }
}

/// Debian's `python3-aiosmtpd` is of the system's own Python.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

fn python() -> &'static str {
    let has_it = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    PYTHONS.into_iter().find(has_it).expect("no aiosmtpd: install python3-aiosmtpd, as .ci/test does")
}

/// A mail server that a process of its own runs.
pub struct SmtpServer {
    child: Child,
    events: mpsc::Receiver<Event>,
    pub port: u16,
}

/// What a mail server asks of those who come.
pub struct SmtpSecrets<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub user: &'a str,
    pub password: &'a str,
}

impl SmtpServer {
    pub async fn start() -> Self {
        Self::start_at(0, None).await
    }

    /// At a port that was free before.
    pub async fn start_at(port: u16, secrets: Option<SmtpSecrets<'_>>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/harness/smtp_server.py");
        let mut command = Command::new(python());
        command.arg(script).arg(port.to_string());
        if let Some(secrets) = secrets {
            command.arg(secrets.certificate).arg(secrets.key).args([secrets.user, secrets.password]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                if tell.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        let mut server = Self { child, events, port };
        match server.event().await {
            Event::Listening { port } => server.port = port,
            other => panic!("it did not say where it listens: {other:?}"),
        }
        server
    }

    /// The next thing that it tells.
    pub async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("the mail server hears something").expect("the mail server runs")
    }

    /// The next letter that it takes.
    pub async fn letter(&mut self) -> Received {
        loop {
            if let Event::Mail(letter) = self.event().await {
                return letter;
            }
        }
    }

    /// The next letter to somebody.
    pub async fn letter_to(&mut self, address: &str) -> Received {
        loop {
            let letter = self.letter().await;
            if letter.to == [address] {
                return letter;
            }
        }
    }

    /// Sends letters here, unprotected.
    pub fn configure(&self, config: &mut NodeConfig) {
        config.mail.mode = MailMode::Smtp;
        config.mail.smtp_host = "127.0.0.1".into();
        config.mail.smtp_port = self.port.into();
        config.mail.smtp_tls = SmtpTls::Off;
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Letters to somebody that lie in a directory, oldest first.
pub fn letters_in(dir: &Path, to: &str) -> Vec<Received> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    // `<day>-<number>.<installation>.eml`
    paths.sort_by_key(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.split(['-', '.']).nth(1).and_then(|number| number.parse::<u64>().ok());
        number.expect("a number")
    });
    let letters = paths.iter().map(|path| read(&std::fs::read_to_string(path).expect("a letter")));
    letters.filter(|letter| letter.to.iter().any(|address| address == to)).collect()
}

/// Reads a message whose parts are plain ASCII, as those without names of
/// people are.
fn read(text: &str) -> Received {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let mut headers = HashMap::new();
    for line in head.replace("\r\n ", " ").lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        headers.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(headers.get("Content-Transfer-Encoding").map(String::as_str), Some("7bit"), "{text}");
    let to = headers.get("To").cloned().into_iter().collect();
    Received { to, headers, body: body.replace("\r\n", "\n"), ..Received::default() }
}

/// The `n`-th letter to somebody, from 0, once it is there.
pub async fn letter_in(dir: &Path, to: &str, n: usize) -> Received {
    let mut look = tokio::time::interval(LOOK);
    let found = async {
        loop {
            if let Some(letter) = letters_in(dir, to).into_iter().nth(n) {
                return letter;
            }
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("a letter arrives")
}
