//! The real binary as a process of its own.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// For what should take a moment: it fails a hung test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Open sign-up and the cheapest hashing that the configuration takes.
pub const CHEAP: [&str; 6] = [
    "--set",
    "identity.sign_up=open",
    "--set",
    "identity.argon2_memory_kib=19456",
    "--set",
    "identity.argon2_passes=2",
];

/// A program of this build without the environment of whoever runs the tests.
pub fn canopy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_canopy"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CANOPY_") {
            command.env_remove(name);
        }
    }
    command
}

/// `canopy serve` on a free port of loopback.
pub fn serve(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = canopy();
    command.args(["serve", "--ready-json", "--set", "edge.listen=127.0.0.1:0", "--set"]);
    command.arg(format!("data_dir={}", data_dir.display())).args(arguments);
    command
}

/// A server that has said that it is ready. Dropped, it is killed.
pub struct Process {
    child: Child,
    pub ready: Json,
    log: PathBuf,
    _logs: tempfile::TempDir,
}

impl Process {
    /// Plain text, with [`CHEAP`].
    pub fn plain(data_dir: &Path) -> Self {
        let mut command = serve(data_dir, &CHEAP);
        command.args(["--set", "edge.tls=off"]);
        Self::start(command)
    }

    pub fn start(mut command: Command) -> Self {
        let logs = tempfile::tempdir().expect("a temporary directory");
        let log = logs.path().join("stderr");
        let stderr = File::create(&log).expect("a file for the log");
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("no ready line ({e}): {line}{said}")
        });
        Self { child, ready, log, _logs: logs }
    }

    pub fn url(&self) -> String {
        self.ready["url"].as_str().expect("a URL").to_owned()
    }

    /// The most memory that was ever resident.
    pub fn peak_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process is there");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.expect("a peak").trim().parse::<u64>().expect("a number") << 10
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// As `kill -9` does, at a moment that somebody drew.
    pub async fn kill_after(self, wait: Duration) {
        tokio::time::sleep(wait).await;
        self.kill();
    }

    /// As `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("it ended");
    }

    /// How it ends by itself.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        (status, self.log())
    }

    pub fn terminate(self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    until("it ends", Duration::from_millis(2), || child.try_wait().expect("a child"))
}

/// Looks until there is something: what another process does can only be
/// polled for.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "the standard library can only poll for a child within a deadline")]
pub fn until<T>(what: &str, every: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what} in time");
        std::thread::sleep(every);
    }
}

/// Runs a command that is expected to end by itself.
pub fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
