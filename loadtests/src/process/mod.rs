//! Server processes: start, wait for the ready line, kill, start again.

mod accounting;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;

pub use accounting::{cpu_s, family_cpu_s, machine_cpu_s, own_cpu_ns, rss_bytes};

use crate::LoadError;
use crate::clock::{now_ns, seconds_between};

/// Opening a full directory is part of what is measured, so this is only a bound on hanging.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a failed server's last output an error quotes.
const OUTPUT_BYTES_MAX: u64 = 2_000;

/// The JSON object a server prints on stdout once it serves: `{"ready":true,"address":"…",…}`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Ready {
    pub ready: bool,
    /// Where it listens.
    pub address: SocketAddr,
    /// A certificate in PEM to trust, when it speaks TLS.
    pub ca: Option<String>,
    /// Everything else it said.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A running server. Its stdin stays open while this lives; dropping kills it with SIGKILL.
#[derive(Debug)]
pub struct ServerProcess {
    command: Command,
    child: Child,
    ready: Ready,
    started_ns: u64,
}

impl ServerProcess {
    /// Starts `command` and waits for its ready line.
    ///
    /// # Errors
    /// [`LoadError::NotReady`] with the last of its stderr when it ends or stays silent for 60 s.
    pub async fn spawn(mut command: Command) -> Result<Self, LoadError> {
        let (child, ready, started_ns) = start(&mut command).await?;
        Ok(Self { command, child, ready, started_ns })
    }

    /// Kills the server with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// [`LoadError::Process`] when the system refuses.
    pub fn kill(&mut self) -> Result<(), LoadError> {
        let pid = self.pid();
        let process = |error: std::io::Error| LoadError::Process { pid, reason: error.to_string() };
        self.child.kill().map_err(process)?;
        self.child.wait().map_err(process)?;
        Ok(())
    }

    /// Kills the server with SIGKILL and starts it again with the same arguments.
    ///
    /// # Errors
    /// As [`Self::kill`] and [`Self::spawn`].
    pub async fn restart(&mut self) -> Result<(), LoadError> {
        self.kill()?;
        (self.child, self.ready, self.started_ns) = start(&mut self.command).await?;
        Ok(())
    }

    /// Closes stdin and waits for the process to end by itself; returns whether it reported success.
    ///
    /// # Errors
    /// [`LoadError::Process`] when it cannot be waited for.
    pub async fn finish(mut self) -> Result<bool, LoadError> {
        let pid = self.pid();
        drop(self.child.stdin.take());
        let waited = tokio::task::spawn_blocking(move || self.child.wait().map(|status| status.success())).await;
        let process = |reason: String| LoadError::Process { pid, reason };
        waited.map_err(|error| process(error.to_string()))?.map_err(|error| process(error.to_string()))
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the process was spawned, in [`crate::clock`].
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Seconds since the process was spawned.
    pub fn age_s(&self) -> f64 {
        seconds_between(self.started_ns, now_ns())
    }

    /// User and system CPU seconds so far.
    ///
    /// # Errors
    /// [`LoadError::Process`] when it has ended.
    pub fn cpu_s(&self) -> Result<f64, LoadError> {
        cpu_s(self.pid())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// [`LoadError::Process`] when it has ended.
    pub fn rss_bytes(&self) -> Result<u64, LoadError> {
        rss_bytes(self.pid())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Fails only for a process that has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(command: &mut Command) -> Result<(Child, Ready, u64), LoadError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut log = tempfile::tempfile().map_err(LoadError::io("make a file for the server's stderr"))?;
    let stderr = log.try_clone().map_err(LoadError::io("share the file for the server's stderr"))?;
    let started_ns = now_ns();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(LoadError::io(format!("start {program}")))?;
    let stdout = child.stdout.take().expect("stdout was piped above");
    let (found, ready) = oneshot::channel();
    // Reads to the end, so that a talkative server never blocks on a full pipe.
    std::thread::spawn(move || {
        let mut found = Some(found);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if found.is_some()
                && let Ok(ready) = serde_json::from_str::<Ready>(&line)
                && ready.ready
                && let Some(found) = found.take()
            {
                let _ = found.send(ready);
            }
        }
    });
    let reason = match tokio::time::timeout(READY_TIMEOUT, ready).await {
        Ok(Ok(ready)) => return Ok((child, ready, started_ns)),
        Ok(Err(_)) => "its stdout ended without a ready line".to_owned(),
        Err(_) => format!("no ready line in {} s", READY_TIMEOUT.as_secs()),
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(LoadError::NotReady { program, reason, output: tail(&mut log).unwrap_or_default() })
}

fn tail(log: &mut std::fs::File) -> std::io::Result<String> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
