//! Starts victims and inspectors, with a deadline on each.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::finding::{Finding, Kind, Verdict};
use super::inspect::Inspection;
use super::victim::Life;
use crate::LoadError;

/// A victim or an inspection that takes longer hangs: what they do takes a second on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Lines of a victim that wait to be read. A victim that is faster waits.
const LINES_MAX: usize = 10_000;

/// The `canopy-load` program, and an inspector once one is needed.
pub struct Host {
    program: PathBuf,
    inspector: Option<Inspector>,
}

struct Inspector {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Drop for Inspector {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands on the lines of a child's standard output; ends with it.
fn lines(child: &mut Child) -> Result<Receiver<String>, LoadError> {
    let output = child.stdout.take().ok_or_else(|| LoadError::Subject("a child without a pipe".into()))?;
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            // A line without its end was cut short.
            if !line.ends_with('\n') || sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// A victim that lives, or has lived.
pub struct Victim {
    child: Child,
    output: Receiver<String>,
    /// What it said.
    pub said: String,
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a victim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It said all lines that were waited for, and lives.
    Lives,
    /// It ended by itself; with an error or by a signal, unless `well`.
    Ended {
        well: bool,
    },
    /// It panicked, or a signal ended it.
    Crashed,
    Hangs,
}

/// What the process says of itself when it panics.
const PANICKED: i32 = 101;

impl Victim {
    /// Waits for so many lines, or for the end.
    pub fn hear(&mut self, count: usize) -> End {
        for _ in 0..count {
            match self.output.recv_timeout(DEADLINE) {
                Ok(line) => self.said.push_str(&line),
                Err(RecvTimeoutError::Timeout) => return End::Hangs,
                Err(RecvTimeoutError::Disconnected) => {
                    return match self.child.wait().ok().and_then(|status| status.code()) {
                        None | Some(PANICKED) => End::Crashed,
                        Some(code) => End::Ended { well: code == 0 },
                    };
                }
            }
        }
        End::Lives
    }

    /// Listens for a while, however much it says.
    pub fn hear_for(&mut self, time: Duration) {
        // Between lines only: what it says meanwhile is heard later.
        if let Ok(line) = self.output.recv_timeout(time) {
            self.said.push_str(&line);
        }
    }

    /// Ends it as kill -9 does, and hears what it had said before.
    pub fn kill(mut self) -> String {
        // It may have ended already.
        let _ = self.child.kill();
        self.hear(usize::MAX);
        std::mem::take(&mut self.said)
    }
}

impl Host {
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), inspector: None }
    }

    /// Starts a victim; `environment` is for the shim.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn victim(&self, life: &Life, environment: &[(String, String)]) -> Result<Victim, LoadError> {
        let mut command = Command::new(&self.program);
        command.arg("victim").arg("--dir").arg(&life.dir);
        for (flag, value) in [
            ("--seed", life.seed),
            ("--life", life.life),
            ("--commits", life.commits),
            ("--partitions", life.partitions as u64),
            ("--write-buffer", life.write_buffer),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        if life.calm {
            command.arg("--calm");
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(LoadError::io("start a victim"))?;
        let output = lines(&mut child)?;
        Ok(Victim { child, output, said: String::new() })
    }

    fn inspector(&mut self) -> Result<&mut Inspector, LoadError> {
        if self.inspector.is_none() {
            let mut command = Command::new(&self.program);
            command.arg("inspect").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().map_err(LoadError::io("start an inspector"))?;
            let input = child.stdin.take().ok_or_else(|| LoadError::Subject("a child without a pipe".into()))?;
            let output = lines(&mut child)?;
            self.inspector = Some(Inspector { child, input, output });
        }
        self.inspector.as_mut().ok_or_else(|| LoadError::Subject("no inspector".into()))
    }

    /// Inspects a directory, in another process.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn inspect(&mut self, inspection: &Inspection) -> Result<Verdict, LoadError> {
        let text = serde_json::to_string(inspection).map_err(|e| LoadError::Subject(e.to_string()))?;
        let inspector = self.inspector()?;
        let asked = writeln!(inspector.input, "{text}").and_then(|()| inspector.input.flush());
        let answer = match asked {
            Ok(()) => inspector.output.recv_timeout(DEADLINE),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        let (kind, text) = match answer {
            Ok(line) => return serde_json::from_str(&line).map_err(|e| LoadError::Subject(e.to_string())),
            Err(RecvTimeoutError::Timeout) => (Kind::Hang, "the inspection hangs".to_owned()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = inspector.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                (Kind::Panic, format!("the inspector ended: {status}"))
            }
        };
        self.inspector = None;
        Ok(Verdict { findings: vec![Finding::new(kind, text)], ..Verdict::default() })
    }
}
