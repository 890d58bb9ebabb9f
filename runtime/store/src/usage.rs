//! What an org takes on disk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use canopy_domain::Address;

use crate::{Store, StoreError};

/// Bytes of a block in `stat(2)`, whatever the file system's own are.
const STAT_BLOCK_BYTES: u64 = 512;

impl Store {
    /// What the vaults of an org take on this node's disk, in bytes: blocks that
    /// the file system has allocated, so that what a database reserves and has
    /// not written counts nothing. Costs a look at each file's metadata.
    ///
    /// # Errors
    /// The index of vaults or a directory cannot be read.
    pub async fn org_bytes(&self, org: &Address) -> Result<u64, StoreError> {
        let (node, org) = (self.node().clone(), org.to_string());
        let count = move || {
            let mut bytes = 0;
            for (name, id) in node.catalog.vaults_of(&org)? {
                bytes += allocated(&node.catalog.vault_dir(&id)).map_err(|error| StoreError::Io {
                    what: format!("cannot count the bytes of vault `{name}`"),
                    reason: error.to_string(),
                })?;
            }
            Ok(bytes)
        };
        tokio::task::spawn_blocking(count).await.unwrap_or_else(|error| {
            Err(StoreError::Io { what: "cannot count an org's bytes".into(), reason: error.to_string() })
        })
    }
}

/// Of the files in a directory and below it. What goes meanwhile counts nothing.
fn allocated(dir: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += allocated(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * STAT_BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
