//! A terminal whose streams are kept, a home of its own, and a server that
//! answers what the test says.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::HashMap;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

use canopy::cli::{self, Exit, Terminal};
use tempfile::TempDir;

pub mod server;

/// What the clock shows: 2027-01-15 08:00:00 UTC.
pub const NOW_MS: i64 = 1_800_000_000_000;

#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

pub struct Stage {
    pub home: Arc<TempDir>,
    pub stdin: String,
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    pub typed: String,
    pub env: HashMap<String, String>,
}

impl Stage {
    pub fn new() -> Self {
        Self {
            home: Arc::new(TempDir::new().unwrap()),
            stdin: String::new(),
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            typed: String::new(),
            env: HashMap::new(),
        }
    }

    pub fn terminal(&self) -> (Terminal, Kept, Kept) {
        let (stdout, stderr) = (Kept::default(), Kept::default());
        let typed = self.typed.clone();
        let mut env = self.env.clone();
        env.entry("CANOPY_CONFIG_HOME".into()).or_insert_with(|| self.config().display().to_string());
        let terminal = Terminal {
            stdin: Box::new(Cursor::new(self.stdin.clone().into_bytes())),
            stdin_is_terminal: self.stdin_is_terminal,
            stdout: Box::new(stdout.clone()),
            stdout_is_terminal: self.stdout_is_terminal,
            stderr: Box::new(stderr.clone()),
            env,
            now_ms: || NOW_MS,
            prompt: Box::new(move |_| Ok(typed.clone())),
            interrupt: Box::pin(std::future::pending()),
        };
        (terminal, stdout, stderr)
    }

    pub fn config(&self) -> std::path::PathBuf {
        self.home.path().join("config")
    }

    /// Runs a command line, split at spaces.
    pub async fn run(&self, line: &str) -> Ran {
        self.run_args(&line.split(' ').collect::<Vec<_>>()).await
    }

    pub async fn run_args(&self, args: &[&str]) -> Ran {
        let (mut terminal, stdout, stderr) = self.terminal();
        let args = args.iter().map(Into::into).collect();
        let exit = cli::run(args, &mut terminal).await;
        Ran { exit, stdout: stdout.text(), stderr: stderr.text() }
    }
}
