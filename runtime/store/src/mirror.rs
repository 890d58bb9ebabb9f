//! Copies of vaults' directories, to look at: fjall cuts a torn journal off
//! when it opens one, and what is damaged has to stay as it was found.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::StoreError;
use crate::catalog::VaultId;
use crate::disk::OpenError;
use crate::layout;
use crate::node::Node;
use crate::route::VaultName;
use crate::vault::Vault;

/// Prefix of the directories that mirrors stand in.
const PREFIX: &str = ".verify-";

/// A directory for a mirror; it goes when it is dropped.
pub(crate) fn directory(node: &Node) -> Result<TempDir, StoreError> {
    let dir = &node.options.dir;
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir);
    made.map_err(|e| StoreError::io("cannot make a directory in", dir, &e))
}

/// Opens a mirror of a vault, which goes with the directory that comes with
/// it.
pub(crate) async fn open(node: &Arc<Node>, name: VaultName, id: VaultId) -> Result<(TempDir, Arc<Vault>), OpenError> {
    let mirror = directory(node).map_err(OpenError::Transient)?;
    let (node, path) = (Arc::clone(node), mirror.path().to_owned());
    let opened = tokio::task::spawn_blocking(move || {
        copy(&node.catalog.vault_dir(&id), &path, false).map_err(|e| OpenError::io("its directory", &e))?;
        let acknowledged = node.heads.acknowledged(&id);
        Vault::open_whole(&node, &name, id, &path, acknowledged)
    });
    Ok((mirror, opened.await.unwrap_or(Err(OpenError::Transient(StoreError::Closed)))?))
}

/// Removes mirrors that an interrupted run left.
pub(crate) fn remove_left(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // One that stays is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies a vault's directory. Tables are never changed once they are written:
/// links to them do, where both are on one disk and it has links.
pub(crate) fn copy(from: &Path, to: &Path, is_tables: bool) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if path.is_dir() {
            layout::make_dir(&target)?;
            copy(&path, &target, is_tables || name == "tables")?;
        } else if !(is_tables && fs::hard_link(&path, &target).is_ok()) {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
