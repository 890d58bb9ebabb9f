//! That every vault's directory has its place in the index: `settled`.
//!
//! A crash while a vault is made leaves a directory without one, and damage to
//! the index may take one away; so the directories are compared with the index
//! when that is read. After a clean stop that would find nothing, and this file
//! says so. It holds how many records and bytes the index had and a checksum of
//! these, sealed: of another index, or a damaged one, it says nothing, so that
//! a start finds damage without opening every record. The same of `heads`, so
//! that an older index with its own `settled` is noticed. It goes, durably,
//! before a directory is made, and comes back at the next clean stop, unless
//! one was not finished.
//!
//! `magic | nonce | ciphertext | tag` over `records (8) | index (16) | heads
//! (16)`, of each file its bytes (8) and their XXH3 (8). A checksum is enough,
//! for each record of the index has a tag of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::StoreError;
use crate::key::Key;
use crate::layout;

const MAGIC: &[u8] = b"canopy settled 1\n";
/// Read at once: few enough to stay in a core's cache.
const CHUNK_BYTES: usize = 128 << 10;
const CONTEXT: &[u8] = b"canopy settled";

/// The file, and those that it is about.
pub(crate) struct Files {
    pub(crate) settled: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) heads: PathBuf,
}

pub(crate) struct Settled {
    files: Files,
    /// What the file says, while it holds.
    noted: Mutex<Option<Vec<u8>>>,
    /// Directories under way, or left by a failure.
    unfinished: AtomicUsize,
}

/// A vault that is being made. Dropped before [`Making::finish`], it leaves a
/// directory for the next start to settle.
pub(crate) struct Making<'a>(&'a Settled);

impl Making<'_> {
    /// The vault has its place in the index.
    pub(crate) fn finish(self) {
        self.0.unfinished.fetch_sub(1, Ordering::AcqRel);
    }
}

fn file_key(purposes: &Key) -> Key {
    purposes.derive("canopy settled")
}

/// The file that holds a text.
pub(crate) fn sealed(purposes: &Key, text: &[u8]) -> Vec<u8> {
    [MAGIC, &file_key(purposes).seal(CONTEXT, text)].concat()
}

impl Settled {
    /// Reads the file; one that is missing, damaged or of another index says
    /// nothing.
    pub(crate) fn open(files: Files, purposes: Option<&Key>) -> Self {
        let noted = purposes.and_then(|purposes| files.read(purposes));
        Self { files, noted: Mutex::new(noted), unfinished: AtomicUsize::new(0) }
    }

    /// Whether the last stop was clean.
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.lock().is_some()
    }

    /// Whether it was, with as many records in the index.
    pub(crate) fn holds(&self, records: u64) -> bool {
        self.noted.lock().as_ref().is_some_and(|noted| noted.starts_with(&records.to_be_bytes()))
    }

    /// Says nothing from now on, durably.
    pub(crate) fn forget(&self) -> Result<(), StoreError> {
        let mut noted = self.noted.lock();
        let path = &self.files.settled;
        let was_there = match std::fs::remove_file(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(StoreError::io("cannot remove", path, &e)),
        };
        // Where it was removed and that could not be synced, it is still noted.
        if was_there || noted.is_some() {
            layout::sync_dir(layout::dir_of(path)).map_err(|e| StoreError::io("cannot sync", path, &e))?;
        }
        *noted = None;
        Ok(())
    }

    /// Before a vault's directory is made.
    pub(crate) fn begin(&self) -> Result<Making<'_>, StoreError> {
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        let making = Making(self);
        if self.is_noted() {
            self.forget()?;
        }
        Ok(making)
    }

    /// Writes the file, where it is not there and nothing was left unfinished.
    pub(crate) fn note(&self, purposes: &Key, records: u64) -> Result<(), StoreError> {
        let mut noted = self.noted.lock();
        let Some(text) = self.files.text(records) else {
            return Ok(());
        };
        if self.unfinished.load(Ordering::Acquire) > 0 || noted.as_ref() == Some(&text) {
            return Ok(());
        }
        let path = &self.files.settled;
        layout::write_whole(path, &sealed(purposes, &text)).map_err(|e| StoreError::io("cannot write", path, &e))?;
        *noted = Some(text);
        Ok(())
    }
}

impl Files {
    /// What the file says, if that holds.
    fn read(&self, purposes: &Key) -> Option<Vec<u8>> {
        let bytes = std::fs::read(&self.settled).ok()?;
        let text = file_key(purposes).open(CONTEXT, bytes.strip_prefix(MAGIC)?)?;
        let records = u64::from_be_bytes(*text.first_chunk()?);
        self.text(records).filter(|now| *now == *text)
    }

    /// What there is to say of an index with so many records.
    pub(crate) fn text(&self, records: u64) -> Option<Vec<u8>> {
        let heads = match print(&self.heads) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => [0; 16],
            print => print.ok()?,
        };
        Some([records.to_be_bytes().as_slice(), &print(&self.index).ok()?, &heads].concat())
    }
}

/// Length and checksum of a file.
fn print(path: &Path) -> io::Result<[u8; 16]> {
    let mut file = File::open(path)?;
    let (mut len, mut sum) = (0u64, Xxh3::new());
    let mut chunk = vec![0u8; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        let read = chunk.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Ok((u128::from(len) << 64 | u128::from(sum.digest())).to_be_bytes());
        }
        len += read.len() as u64;
        sum.update(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir {
        dir: tempfile::TempDir,
        key: Key,
    }

    impl Dir {
        fn new() -> Self {
            let this = Self { dir: tempfile::tempdir().unwrap(), key: Key::random() };
            for name in ["index", "heads"] {
                std::fs::write(this.path(name), b"some bytes").unwrap();
            }
            this
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn open(&self) -> Settled {
            let [settled, index, heads] = ["settled", "index", "heads"].map(|name| self.path(name));
            Settled::open(Files { settled, index, heads }, Some(&self.key))
        }
    }

    #[test]
    fn what_is_noted_holds_until_a_vault_is_made() {
        let dir = Dir::new();
        let settled = dir.open();
        assert!(!settled.is_noted());
        settled.note(&dir.key, 7).unwrap();
        assert!(dir.open().holds(7) && !dir.open().holds(8));
        let again = dir.open();
        let making = again.begin().unwrap();
        assert!(!dir.open().is_noted(), "a crash from here on leaves a directory");
        again.note(&dir.key, 8).unwrap();
        assert!(!dir.open().is_noted(), "one is under way");
        making.finish();
        again.note(&dir.key, 8).unwrap();
        assert!(dir.open().holds(8));
    }

    #[test]
    fn a_vault_that_was_not_finished_is_left_to_the_next_start() {
        let dir = Dir::new();
        let settled = dir.open();
        let _unfinished = settled.begin().unwrap();
        settled.note(&dir.key, 7).unwrap();
        assert!(!dir.path("settled").exists());
    }

    #[test]
    fn a_damaged_file_says_nothing_nor_does_one_of_others() {
        let dir = Dir::new();
        dir.open().note(&dir.key, 7).unwrap();
        for name in ["settled", "index", "heads"] {
            let bytes = std::fs::read(dir.path(name)).unwrap();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 4;
                std::fs::write(dir.path(name), &flipped).unwrap();
                assert!(!dir.open().is_noted(), "{name}, byte {at}");
            }
            std::fs::write(dir.path(name), &bytes).unwrap();
            assert!(dir.open().is_noted(), "{name}");
        }
        let other = Dir { key: Key::random(), dir: dir.dir };
        assert!(!other.open().is_noted(), "another installation's");
    }
}
