//! Has a damaged vault open, on copies of it, with as much in it as will; and
//! tells damage from a batch that a crash tore.
//!
//! fjall refuses a database of which one journal fails a checksum, or one
//! table cannot be read. Here, a journal is cut before what keeps it from
//! being read, and a keyspace that cannot be opened is left out: the other one
//! still tells most of what was in it. The keyspace in which fjall keeps the
//! others' names is the same in all vaults, and taken from a new one.

use std::fs::{self, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::VaultId;
use crate::disk::{OpenError, io_error, keyspaces, open_database};
use crate::journal;
use crate::layout;
use crate::mirror;
use crate::node::Node;
use crate::route::VaultName;
use crate::vault::Vault;
use crate::versions;

/// Where fjall has keyspaces, within a vault's directory.
const KEYSPACES: &str = "db/keyspaces";
/// The keyspace in which it keeps the names of the others.
const NAMES: &str = "0";

/// Where a journal is cut: its file name, and the bytes that stay.
type Cut = (PathBuf, u64);

/// What stands between a vault and its opening.
struct Remains<'a> {
    from: PathBuf,
    /// An empty database, without a journal.
    blank: &'a Path,
    /// Where copies are opened.
    to: &'a Path,
}

/// Opens a copy of a vault in the empty directory `to`; gives it with what was
/// left out. Blocks.
pub(crate) fn open(
    node: &Arc<Node>,
    name: &VaultName,
    id: VaultId,
    to: &Path,
) -> Result<(Arc<Vault>, Vec<String>), OpenError> {
    let blank = mirror::directory(node).map_err(OpenError::Transient)?;
    make_blank(node, blank.path()).map_err(|e| OpenError::io("a new database", &e))?;
    let this = Remains { from: node.catalog.vault_dir(&id), blank: blank.path(), to };
    let attempt = |cuts: &[Cut], without: Option<&Path>| {
        let copied = this.copy_without(cuts, without);
        copied.map_err(|e| OpenError::io("its directory", &e))?;
        quietly(|| Vault::open_at(Arc::clone(node), name.clone(), id, to, None))
    };
    let refused = match attempt(&[], None) {
        Ok(vault) => return Ok((vault, Vec::new())),
        Err(error @ OpenError::Transient(_)) => return Err(error),
        Err(OpenError::Damaged(reason)) => reason,
    };
    let failed = |e: io::Error| OpenError::io("its database", &e);
    let cuts = this.cuts().map_err(failed)?;
    let keyspaces = this.keyspaces().map_err(failed)?;
    for without in std::iter::once(None).chain(keyspaces.iter().map(|path| Some(path.as_path()))) {
        if let Ok(vault) = attempt(&cuts, without) {
            let journals = cuts.iter().map(|(path, len)| format!("{} is damaged behind byte {len}", path.display()));
            let left_out = without.map(|path| format!("{} cannot be opened: {refused}", path.display()));
            return Ok((vault, journals.chain(left_out).collect()));
        }
    }
    Err(OpenError::Damaged(refused))
}

/// Cuts a batch off the end of a vault's last journal, where that batch is all
/// that keeps the vault from being opened with everything it acknowledged: one
/// that was written when power went, of which some sectors are there and others
/// are not. Gives whether that was so; otherwise, the vault is left as it was
/// found. Blocks.
pub(crate) fn cut_torn(
    node: &Arc<Node>,
    name: &VaultName,
    id: VaultId,
    dir: &Path,
    acknowledged: u64,
) -> Result<bool, OpenError> {
    let failed = |e: io::Error| OpenError::io("its journal", &e);
    let Some(last) = journals(dir).map_err(failed)?.pop() else { return Ok(false) };
    let extent = journal::extent(&dir.join(&last)).map_err(failed)?;
    if !extent.is_torn {
        return Ok(false);
    }
    let copy = mirror::directory(node).map_err(OpenError::Transient)?;
    let cut = |vault: &Path| {
        let journal = OpenOptions::new().write(true).open(vault.join(&last))?;
        journal.set_len(extent.whole).and_then(|()| journal.sync_all())
    };
    mirror::copy(dir, copy.path(), false).and_then(|()| cut(copy.path())).map_err(failed)?;
    let opened = quietly(|| Vault::open_at(Arc::clone(node), name.clone(), id, copy.path(), Some(acknowledged)));
    match opened.map(drop) {
        Ok(()) => {
            tracing::warn!(vault = %name, journal = %last.display(), byte = extent.whole, "cut off a torn batch");
            cut(dir).map_err(failed).map(|()| true)
        }
        Err(OpenError::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a database as those of vaults are, and takes its journal away.
fn make_blank(node: &Node, to: &Path) -> io::Result<()> {
    let db = open_database(&to.join("db"), &node.template).map_err(io_error)?;
    keyspaces(&db).map_err(io_error)?;
    drop(db);
    for path in journals(to)? {
        fs::remove_file(to.join(path))?;
    }
    Ok(())
}

/// What panics is damaged: fjall asserts where it finds itself inconsistent.
pub(crate) fn quietly<T>(open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let opened = catch_unwind(AssertUnwindSafe(open));
    opened.unwrap_or_else(|_| Err(OpenError::Damaged("its database panicked while it was opened".into())))
}

/// The journals of a vault, within its directory, oldest first.
fn journals(vault: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(vault.join("db"))? {
        let path = Path::new("db").join(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == "jnl") {
            found.push(path);
        }
    }
    // They are numbered, without leading zeros.
    found.sort_by_cached_key(|path| (path.as_os_str().len(), path.clone()));
    Ok(found)
}

impl Remains<'_> {
    /// Copies the vault, where it may have been copied before.
    fn copy_without(&self, cuts: &[Cut], without: Option<&Path>) -> io::Result<()> {
        let to = self.to;
        fs::remove_dir_all(to)?;
        layout::make_dir(to)?;
        mirror::copy(&self.from, to, false)?;
        for (path, len) in cuts {
            OpenOptions::new().write(true).open(to.join(path))?.set_len(*len)?;
        }
        match without.map(|path| to.join(path)) {
            None => Ok(()),
            Some(names) if names.ends_with(NAMES) => {
                fs::remove_dir_all(&names)?;
                layout::make_dir(&names)?;
                mirror::copy(&self.blank.join(KEYSPACES).join(NAMES), &names, false)
            }
            Some(path) => fs::remove_file(path.join(versions::CURRENT)),
        }
    }

    /// The keyspaces of the vault, within its directory.
    fn keyspaces(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.from.join(KEYSPACES))? {
            found.push(Path::new(KEYSPACES).join(entry?.file_name()));
        }
        found.sort();
        Ok(found)
    }

    /// Where journals have to be cut so that each of them can be read.
    fn cuts(&self) -> io::Result<Vec<Cut>> {
        let mut cuts = Vec::new();
        for path in journals(&self.from)? {
            let extent = journal::extent(&self.from.join(&path))?;
            if extent.is_torn {
                cuts.push((path, extent.whole));
            }
        }
        Ok(cuts)
    }
}
