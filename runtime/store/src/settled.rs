//! That nothing was left to do when the store was closed: `settled`.
//!
//! A crash while a vault is made leaves a directory without a place in the
//! index, and damage to the index may take one away; so the directories are
//! compared with the index when that is read. A crash while an org's key is
//! rotated or destroyed leaves work, too, and damage to the orgs' keys leaves
//! vaults that nothing opens; so all these keys are opened at the start. After a
//! clean stop both would find nothing, and this file says so, sealed: how many
//! records the index had, and of the index, of `heads` (so that an older index
//! with its own `settled` is noticed) and of `keys/orgs` a checksum each. That
//! of the orgs' keys is compared at the start, of the others the lengths alone:
//! their checksums are when the index is read. Of other files, or damaged ones,
//! this one says nothing, and all is looked at as after a crash. It goes,
//! durably, before a directory is made, and comes back at the next clean stop,
//! unless something was left unfinished.
//!
//! `magic | nonce | ciphertext | tag` over `records (8) | index (16) | heads
//! (16) | orgs (16)`, of each file its bytes (8) and their XXH3 (8). A checksum
//! is enough, for each record has a tag of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::StoreError;
use crate::key::Key;
use crate::layout;

const MAGIC: &[u8] = b"canopy settled 2\n";
/// Read at once: few enough to stay in a core's cache.
const CHUNK_BYTES: usize = 128 << 10;
const CONTEXT: &[u8] = b"canopy settled";

/// The file, and those that it is about.
pub(crate) struct Files {
    pub(crate) settled: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) heads: PathBuf,
    pub(crate) orgs: PathBuf,
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Print {
    len: u64,
    sum: u64,
}

impl Print {
    /// Of a file that was read.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { len: bytes.len() as u64, sum: xxh3_64(bytes) }
    }

    /// Of a file as it is; one that is missing is empty.
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::of(&[])),
            file => file?,
        };
        let (mut len, mut sum) = (0u64, Xxh3::new());
        let mut chunk = vec![0u8; CHUNK_BYTES];
        loop {
            let count = file.read(&mut chunk)?;
            let read = chunk.get(..count).unwrap_or_default();
            if read.is_empty() {
                return Ok(Self { len, sum: sum.digest() });
            }
            len += read.len() as u64;
            sum.update(read);
        }
    }

    fn is_length_of(&self, path: &Path) -> bool {
        std::fs::metadata(path).map_or(0, |metadata| metadata.len()) == self.len
    }
}

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    /// Of the index.
    records: u64,
    index: Print,
    heads: Print,
    orgs: Print,
}

impl Said {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Self { records, index, heads, orgs } = self;
        let numbers = [records, index.len, index.sum, heads.len, heads.sum, orgs.len, orgs.sum];
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let numbers: Vec<u64> = bytes.as_chunks().0.iter().map(|number| u64::from_be_bytes(*number)).collect();
        let [records, index, index_sum, heads, heads_sum, orgs, orgs_sum] = numbers.try_into().ok()?;
        let print = |len, sum| Print { len, sum };
        let (index, heads, orgs) = (print(index, index_sum), print(heads, heads_sum), print(orgs, orgs_sum));
        Some(Self { records, index, heads, orgs })
    }
}

pub(crate) struct Settled {
    files: Files,
    /// What the file says, while nothing shows that it does not hold.
    noted: Mutex<Option<Said>>,
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
    /// Reads the file; one that is missing, damaged, or of other keys of orgs
    /// than `orgs`, says nothing.
    pub(crate) fn open(files: Files, purposes: Option<&Key>, orgs: &[u8]) -> Self {
        let noted = purposes.and_then(|purposes| files.read(purposes));
        let noted = noted.filter(|said| {
            let has_lengths = said.index.is_length_of(&files.index) && said.heads.is_length_of(&files.heads);
            has_lengths && said.orgs == Print::of(orgs)
        });
        Self { files, noted: Mutex::new(noted), unfinished: AtomicUsize::new(0) }
    }

    /// Whether the last stop was clean.
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.lock().is_some()
    }

    /// Whether it was, with this index of so many records, and with `heads` as
    /// they are.
    pub(crate) fn holds(&self, records: u64, index: Print) -> bool {
        let mut noted = self.noted.lock();
        let is_same = |said: &Said| {
            said.records == records
                && said.index == index
                && Print::read(&self.files.heads).is_ok_and(|heads| said.heads == heads)
        };
        if !noted.as_ref().is_some_and(is_same) {
            *noted = None;
        }
        noted.is_some()
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
        // Of files that cannot be read there is nothing to say.
        let Ok(said) = self.files.now(records) else { return Ok(()) };
        if self.unfinished.load(Ordering::Acquire) > 0 || *noted == Some(said) {
            return Ok(());
        }
        let path = &self.files.settled;
        layout::write_whole(path, &sealed(purposes, &said.to_bytes()))
            .map_err(|e| StoreError::io("cannot write", path, &e))?;
        *noted = Some(said);
        Ok(())
    }
}

impl Files {
    fn read(&self, purposes: &Key) -> Option<Said> {
        let bytes = std::fs::read(&self.settled).ok()?;
        Said::parse(&file_key(purposes).open(CONTEXT, bytes.strip_prefix(MAGIC)?)?)
    }

    /// What there is to say of an index with so many records.
    pub(crate) fn now(&self, records: u64) -> io::Result<Said> {
        let print = Print::read;
        Ok(Said { records, index: print(&self.index)?, heads: print(&self.heads)?, orgs: print(&self.orgs)? })
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
            for name in ["index", "heads", "orgs"] {
                std::fs::write(this.path(name), b"some bytes").unwrap();
            }
            this
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn open(&self) -> Settled {
            let [settled, index, heads, orgs] = ["settled", "index", "heads", "orgs"].map(|name| self.path(name));
            let read = std::fs::read(&orgs).unwrap();
            Settled::open(Files { settled, index, heads, orgs }, Some(&self.key), &read)
        }

        /// Whether it is believed, first by the start and then by who reads the index, of so many records.
        fn believes(&self, records: u64) -> [bool; 2] {
            let settled = self.open();
            let at_start = settled.is_noted();
            let index = Print::of(&std::fs::read(self.path("index")).unwrap());
            let holds = settled.holds(records, index);
            assert_eq!(settled.is_noted(), holds, "what does not hold is not noted");
            [at_start, holds]
        }
    }

    #[test]
    fn what_is_noted_holds_until_a_vault_is_made() {
        let dir = Dir::new();
        let settled = dir.open();
        assert!(!settled.is_noted());
        settled.note(&dir.key, 7).unwrap();
        assert_eq!(dir.believes(7), [true, true]);
        assert_eq!(dir.believes(8), [true, false]);
        let again = dir.open();
        let making = again.begin().unwrap();
        assert!(!dir.open().is_noted(), "a crash from here on leaves a directory");
        again.note(&dir.key, 8).unwrap();
        assert!(!dir.open().is_noted(), "one is under way");
        making.finish();
        again.note(&dir.key, 8).unwrap();
        assert_eq!(dir.believes(8), [true, true]);
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
        for (name, at_start) in [("settled", false), ("orgs", false), ("index", true), ("heads", true)] {
            let bytes = std::fs::read(dir.path(name)).unwrap();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 4;
                std::fs::write(dir.path(name), &flipped).unwrap();
                assert_eq!(dir.believes(7), [at_start, false], "{name}, byte {at}");
                std::fs::write(dir.path(name), &bytes[..at]).unwrap();
                assert_eq!(dir.believes(7), [false, false], "{name}, {at} bytes");
            }
            std::fs::write(dir.path(name), &bytes).unwrap();
            assert_eq!(dir.believes(7), [true, true], "{name}");
        }
        let other = Dir { key: Key::random(), dir: dir.dir };
        assert!(!other.open().is_noted(), "another installation's");
    }
}
