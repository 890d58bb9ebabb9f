//! Memory of what is resident, in a process of its own: it fills itself, and says what it grew by.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Settings, actors, vaults};
use crate::LoadError;
use crate::process::rss_bytes;

/// What a process fills itself with.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub enum Residents {
    /// Open vaults.
    Vaults(vaults::Size),
    /// Sessions' actors.
    Actors(actors::Size),
}

/// The process's task.
#[derive(Clone, Debug, clap::Args)]
pub struct Task {
    /// The scenario's directory
    #[arg(long)]
    pub dir: PathBuf,
    /// What becomes resident, as JSON
    #[arg(long, value_parser = parsed)]
    pub residents: Residents,
}

fn parsed(text: &str) -> Result<Residents, serde_json::Error> {
    serde_json::from_str(text)
}

/// What it found.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Memory {
    pub(super) none_bytes: u64,
    pub(super) full_bytes: u64,
    pub(super) residents: u64,
    /// Looked for, and not as they had been made.
    pub(super) lost: u64,
}

impl Memory {
    /// Bytes that the process grew by, of each resident.
    #[allow(clippy::cast_precision_loss, reason = "sizes and counts far below 2^52")]
    pub(super) fn bytes_per_resident(&self) -> f64 {
        self.full_bytes.saturating_sub(self.none_bytes) as f64 / self.residents.max(1) as f64
    }
}

/// Resident memory of this process.
pub(super) fn own_bytes() -> Result<u64, LoadError> {
    rss_bytes(std::process::id())
}

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

/// Runs as the process; prints one line.
///
/// # Errors
/// What is to become resident cannot be started or read.
pub async fn reside(task: Task) -> Result<(), LoadError> {
    let memory = match task.residents {
        Residents::Vaults(size) => vaults::reside(&task.dir, size).await?,
        Residents::Actors(size) => actors::reside(&task.dir, size).await?,
    };
    println!("{}", serde_json::to_string(&memory).map_err(subject)?);
    Ok(())
}

/// Has a process of its own fill itself with what is below `dir`.
pub(super) async fn memory(settings: &Settings, dir: &Path, residents: Residents) -> Result<Memory, LoadError> {
    let mut command = Command::new(&settings.program);
    command.arg("reside").arg("--dir").arg(dir);
    command.arg("--residents").arg(serde_json::to_string(&residents).map_err(subject)?);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.map_err(subject)?.map_err(LoadError::io("start the process whose memory is measured"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|_| LoadError::Subject(format!("the measured process said `{last}`")))
}
