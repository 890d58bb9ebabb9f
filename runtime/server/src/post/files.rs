//! Letters as files: for development, and for tests.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use canopy_actors::{Delivering, Outbound, Post, Undelivered};

use super::message::Sender;

/// Writes a file for each letter, whole or not at all.
pub(super) struct Files {
    dir: PathBuf,
    sender: Sender,
}

impl Files {
    pub(super) fn new(dir: PathBuf, sender: Sender) -> Self {
        Self { dir, sender }
    }
}

impl Post for Files {
    fn deliver<'a>(&'a self, outbound: &'a Outbound) -> Delivering<'a> {
        Box::pin(async move {
            let message = self.sender.message(outbound)?.formatted();
            let (dir, name) = (self.dir.clone(), format!("{}.eml", outbound.id));
            let written = tokio::task::spawn_blocking(move || write(&dir, &name, &message)).await;
            let written = written.map_err(io::Error::other).flatten();
            written.map_err(|e| Undelivered::Later(format!("{}: {e}", self.dir.display())))
        })
    }
}

/// For nobody else: it holds tokens.
fn write(dir: &Path, name: &str, message: &[u8]) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let part = dir.join(format!("{name}.part"));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(message)?;
    file.sync_all()?;
    std::fs::rename(part, dir.join(name))
}
