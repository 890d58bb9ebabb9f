//! A data directory while it is being made, and a vault in it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::OwnedWriteBatch;

use crate::StoreError;
use crate::disk::Disk;
use crate::key::random;
use crate::layout;
use crate::seal::{Sealer, Space};

/// Bytes written durably at once.
const BATCH_BYTES: usize = 1 << 20;
/// Memory for rows before they go to tables, in bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// A directory beside the place where it is to be. Dropped before it is put
/// there, it is removed with all that is in it.
pub(crate) struct Staging {
    to: PathBuf,
    path: PathBuf,
}

impl Staging {
    /// # Errors
    /// Something is at the place already.
    pub(crate) fn beside(to: &Path) -> Result<Self, StoreError> {
        refuse_existing(to)?;
        let name = to.file_name().map(OsStr::to_string_lossy).ok_or_else(|| StoreError::Exists(to.into()))?;
        let suffix: String = random::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = to.with_file_name(format!("{name}.restoring-{suffix}"));
        Ok(Self { to: to.into(), path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the directory, which is complete and durable, to its place.
    pub(crate) fn put_in_place(self) -> Result<(), StoreError> {
        refuse_existing(&self.to)?;
        fs::rename(&self.path, &self.to)
            .and_then(|()| layout::sync_dir(layout::dir_of(&self.to)))
            .map_err(|e| StoreError::io("cannot put in place", &self.to, &e))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Made under a name of its own; nobody else uses it.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// That nothing is at a path.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(StoreError::Exists(path.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("cannot look at", path, &e)),
    }
}

/// Fills a vault that nobody uses yet.
pub(crate) struct Ingest<'a> {
    disk: &'a Disk,
    batch: OwnedWriteBatch,
    bytes: usize,
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(disk: &'a Disk) -> Self {
        Self { disk, batch: disk.batch(0), bytes: 0 }
    }

    /// Sets a stored value.
    pub(crate) fn set(&mut self, space: Space, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.batch.insert(self.disk.keyspace(space), key, value);
        self.wrote(key.len() + value.len())
    }

    /// Removes a stored value.
    pub(crate) fn remove(&mut self, space: Space, key: &[u8]) -> io::Result<()> {
        self.batch.remove(self.disk.keyspace(space), key);
        self.wrote(key.len())
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.batch, self.disk.batch(0));
        self.disk.ingest(full, std::mem::take(&mut self.bytes) as u64, MEMTABLE_BYTES)
    }

    /// Makes it durable that the vault is complete, at a group.
    pub(crate) fn end(self, group: u64, sealer: &Sealer) -> io::Result<()> {
        self.disk.ingest(self.batch, self.bytes as u64, MEMTABLE_BYTES)?;
        self.disk.restored(group, sealer)
    }
}
