//! The process's surroundings as values, so that tests bring their own.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IsTerminal, Read, Write};
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

/// Shows a question and reads the answer without echo.
pub type Prompt = Box<dyn FnMut(&str) -> io::Result<String> + Send>;

/// Streams, environment, clock and Ctrl-C of one run.
pub struct Terminal {
    /// Read for `@-`.
    pub stdin: Box<dyn Read + Send>,
    /// Whether somebody can be asked for a secret.
    pub stdin_is_terminal: bool,
    /// Where answers go.
    pub stdout: Box<dyn Write + Send>,
    /// Whether answers are for eyes: tables rather than JSON.
    pub stdout_is_terminal: bool,
    /// Where errors and hints go.
    pub stderr: Box<dyn Write + Send>,
    /// Environment variables.
    pub env: HashMap<String, String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: fn() -> i64,
    /// Asks for a secret without echo.
    pub prompt: Prompt,
    /// Completes on Ctrl-C; polled only while a command runs.
    pub interrupt: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Terminal {
    /// This process's own.
    pub fn of_process() -> Self {
        Self {
            stdin: Box::new(io::stdin()),
            stdin_is_terminal: io::stdin().is_terminal(),
            stdout: Box::new(io::stdout()),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr: Box::new(io::stderr()),
            env: std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            now_ms: system_time_ms,
            prompt: Box::new(|question| rpassword::prompt_password(question)),
            interrupt: Box::pin(async {
                // Without a handler Ctrl-C ends the process, which is as good.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }),
        }
    }

    /// A variable that is set and not empty.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Tells the reader something that is not part of the answer. A closed
    /// standard error is no reason to fail.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "{text}");
    }
}

#[allow(clippy::disallowed_methods, reason = "tokens lapse by the clock on the wall")]
fn system_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
