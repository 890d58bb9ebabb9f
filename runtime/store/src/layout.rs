//! The data directory:
//!
//! ```text
//! VERSION          canopy 4
//! LOCK             held while a process has the directory
//! keys/root.slots  ways to the root key
//! keys/orgs        org keys and the installation's secrets, sealed
//! heads            how far each vault had come, sealed
//! settled          after a clean stop: that `vaults/index` is whole, sealed
//! vaults/index     which vault is in which directory, sealed
//! vaults/<id>/     keyring, head, db/ (fjall)
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::StoreError;

/// Format of the directory, and of everything below it.
pub(crate) const FORMAT: &str = "canopy 4";
/// The formats before. Their files are read as they are, and get the new format
/// when they are next written whole; only `VERSION` changes at once, so that
/// the releases before refuse the directory from then on.
const FORMATS_BEFORE: [&str; 3] = ["canopy 1", "canopy 2", "canopy 3"];

/// A data directory that this process has locked.
pub(crate) struct Layout {
    dir: PathBuf,
    _lock: File,
}

impl Layout {
    /// Makes the directory where there is none, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        make_dir(dir).map_err(|e| StoreError::io("cannot make the directory", dir, &e))?;
        let version = dir.join("VERSION");
        if !version.exists() && is_foreign(dir).map_err(|e| StoreError::io("cannot read", dir, &e))? {
            return Err(StoreError::NotOurs(dir.into()));
        }
        let lock = lock(dir)?;
        let is_current = match fs::read_to_string(&version) {
            Ok(text) => check_format(dir, text.trim_end())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(StoreError::io("cannot read", &version, &e)),
        };
        let layout = Self { dir: dir.into(), _lock: lock };
        for part in [layout.keys(), layout.vaults()] {
            make_dir(&part).map_err(|e| StoreError::io("cannot make the directory", &part, &e))?;
        }
        if !is_current {
            write_whole(&version, format!("{FORMAT}\n").as_bytes())
                .map_err(|e| StoreError::io("cannot write", &version, &e))?;
        }
        Ok(layout)
    }

    fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Ways to the root key.
    pub(crate) fn root_slots(&self) -> PathBuf {
        root_slots(&self.dir)
    }

    /// Wrapped org keys.
    pub(crate) fn org_keys(&self) -> PathBuf {
        self.keys().join("orgs")
    }

    /// How far each vault had come.
    pub(crate) fn heads(&self) -> PathBuf {
        self.dir.join("heads")
    }

    /// Where the vaults are.
    pub(crate) fn vaults(&self) -> PathBuf {
        self.dir.join("vaults")
    }

    /// That every vault's directory is in the index.
    pub(crate) fn settled(&self) -> PathBuf {
        self.dir.join("settled")
    }

    /// Which vault is in which directory.
    pub(crate) fn vault_index(&self) -> PathBuf {
        self.vaults().join("index")
    }
}

/// Ways to the root key of a data directory.
pub(crate) fn root_slots(dir: &Path) -> PathBuf {
    dir.join("keys/root.slots")
}

/// Whether a directory has this release's format; if not, it has one before.
fn check_format(dir: &Path, found: &str) -> Result<bool, StoreError> {
    if found == FORMAT || FORMATS_BEFORE.contains(&found) {
        return Ok(found == FORMAT);
    }
    match found.strip_prefix("canopy ").and_then(|n| n.parse::<u32>().ok()) {
        Some(_) => Err(StoreError::NewerFormat { dir: dir.into(), found: found.into(), known: FORMAT }),
        // The root key is there: it is ours, and its format was not always this.
        None if root_slots(dir).exists() => {
            Err(StoreError::CorruptFile { path: dir.join("VERSION"), reason: "it names no format".into() })
        }
        None => Err(StoreError::NotOurs(dir.into())),
    }
}

/// Whether something lies here that we did not put there before VERSION.
fn is_foreign(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let ours = ["LOCK", "keys", "vaults", "VERSION.new"];
        if !ours.iter().any(|our| name == *our) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file =
        private().create(true).truncate(false).open(&path).map_err(|e| StoreError::io("cannot open", &path, &e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(dir.into())),
        Err(e) => Err(StoreError::io("cannot lock", &path, &e.into())),
    }
}

/// Read and write, for nobody else.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// A directory for nobody else, with its parents.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a small file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = private().create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_dir(dir_of(path))
}

/// The directory that holds the entry `path`: of a bare file name, the current
/// one, for which [`Path::parent`] says "".
pub(crate) fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// As [`write_whole`], in place of a file that holds keys: the old bytes are
/// overwritten on the disk, as far as the file system overwrites in place. The
/// new file stands before the old one goes.
pub(crate) fn replace_keys(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = match private().open(path) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    write_whole(path, bytes)?;
    if let Some(Err(error)) = old.map(|old| overwrite(&old)) {
        // The new file stands: what could not be overwritten is only unlinked.
        tracing::warn!(path = %path.display(), %error, "old keys could not be overwritten");
    }
    Ok(())
}

/// Removes a file that holds keys, overwritten first as by [`replace_keys`].
pub(crate) fn remove_keys(path: &Path) -> io::Result<()> {
    match private().open(path) {
        Ok(file) => overwrite(&file).and_then(|()| fs::remove_file(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn overwrite(mut file: &File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    file.rewind()?;
    while left > 0 {
        let zeros = [0u8; 4096];
        let chunk = zeros.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&zeros);
        file.write_all(chunk)?;
        left -= chunk.len() as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn the_old_bytes_of_keys_are_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        for len in [1usize, 4096, 10_000] {
            write_whole(&path, &vec![7; len]).unwrap();
            let mut old = File::open(&path).unwrap();
            replace_keys(&path, b"new").unwrap();
            let mut bytes = Vec::new();
            old.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, vec![0; len]);
            assert_eq!(fs::read(&path).unwrap(), b"new");
            let mut new = File::open(&path).unwrap();
            remove_keys(&path).unwrap();
            new.read_to_end(&mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0) && !path.exists());
        }
    }
}
