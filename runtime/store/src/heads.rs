//! How far every vault had come, in one file beside them: `heads`.
//!
//! A vault's own `head` goes back with its directory when somebody puts an
//! older copy in its place. So the numbers of all vaults' last groups are kept
//! here too, sealed, written every [`HEADS_WRITE_MS`] and at a clean stop. A
//! vault that has less than its number was set back. The file stands outside
//! every vault, so that it is known before any is opened, and watches over the
//! system's own as well.
//!
//! `magic | nonce | ciphertext | tag` over `vault id (16) | group (8)`, again
//! and again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};

use crate::catalog::VaultId;
use crate::key::Key;
use crate::layout;

const MAGIC: &[u8] = b"canopy heads 1\n";
const CONTEXT: &[u8] = b"canopy heads";
const ENTRY_BYTES: usize = 24;

/// How often the file is written while there is something new, in
/// milliseconds: an older copy of a vault that was put in its place within so
/// long after a crash goes unnoticed.
pub(crate) const HEADS_WRITE_MS: u64 = 10_000;

pub(crate) struct Heads {
    path: PathBuf,
    state: Mutex<State>,
    /// One writing at a time.
    writing: Mutex<()>,
}

/// The file's content, and its key.
struct Unread {
    bytes: Vec<u8>,
    key: Option<Key>,
}

#[derive(Default)]
struct State {
    unread: Option<Unread>,
    groups: HashMap<VaultId, u64>,
    is_new: bool,
}

impl Heads {
    /// Reads the file. One that is missing or damaged says nothing: vaults are
    /// served on their own heads' word.
    pub(crate) fn open(path: &Path, key: Option<&Key>) -> io::Result<Self> {
        let unread = match std::fs::read(path) {
            Ok(bytes) => Some(Unread { bytes, key: key.cloned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let state = State { unread, ..State::default() };
        Ok(Self { path: path.into(), state: Mutex::new(state), writing: Mutex::default() })
    }

    /// What is known, opened and parsed by whoever asks first: a start with
    /// many vaults does not wait for it.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if let Some(Unread { bytes, key }) = state.unread.take() {
            state.groups = key.and_then(|key| parse(&key, &bytes)).unwrap_or_else(|| {
                tracing::error!(
                    path = %self.path.display(),
                    "damaged: vaults that were set back to older copies go unnoticed at this start"
                );
                HashMap::new()
            });
        }
        state
    }

    /// Notes a vault's durable group.
    pub(crate) fn note(&self, vault: VaultId, group: u64) {
        let mut state = self.state();
        let noted = state.groups.entry(vault).or_default();
        if *noted < group {
            *noted = group;
            state.is_new = true;
        }
    }

    /// The last group that a vault is known to have acknowledged; 0 for none.
    pub(crate) fn acknowledged(&self, vault: &VaultId) -> u64 {
        self.state().groups.get(vault).copied().unwrap_or(0)
    }

    /// Whether something is new since the file was written.
    pub(crate) fn has_news(&self) -> bool {
        self.state.lock().is_new
    }

    /// Writes the file, where something is new. Blocks.
    pub(crate) fn write(&self, key: &Key) -> io::Result<()> {
        let _writing = self.writing.lock();
        let text = {
            let mut state = self.state();
            if !std::mem::take(&mut state.is_new) {
                return Ok(());
            }
            let mut text = Vec::with_capacity(state.groups.len() * ENTRY_BYTES);
            for (vault, group) in &state.groups {
                text.extend_from_slice(vault);
                text.extend_from_slice(&group.to_be_bytes());
            }
            text
        };
        layout::write_whole(&self.path, &sealed(key, &text)).inspect_err(|_| self.state().is_new = true)
    }
}

/// The file that holds a text.
pub(crate) fn sealed(key: &Key, text: &[u8]) -> Vec<u8> {
    [MAGIC, &key.seal(CONTEXT, text)].concat()
}

fn parse(key: &Key, bytes: &[u8]) -> Option<HashMap<VaultId, u64>> {
    let text = key.open(CONTEXT, bytes.strip_prefix(MAGIC)?)?;
    let entries = text.chunks(ENTRY_BYTES).map(|entry| {
        let (vault, group) = entry.split_first_chunk::<16>()?;
        Some((*vault, u64::from_be_bytes(group.try_into().ok()?)))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again_and_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heads");
        let key = Key::random();
        let heads = Heads::open(&path, Some(&key)).unwrap();
        heads.write(&key).unwrap();
        assert!(!path.exists(), "nothing to write");
        heads.note([1; 16], 7);
        heads.note([2; 16], 1);
        heads.note([1; 16], 3);
        heads.write(&key).unwrap();
        let read = Heads::open(&path, Some(&key)).unwrap();
        assert_eq!([1, 2, 3].map(|n| read.acknowledged(&[n; 16])), [7, 1, 0]);
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heads");
        let key = Key::random();
        let heads = Heads::open(&path, Some(&key)).unwrap();
        heads.note([1; 16], 7);
        heads.write(&key).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(Heads::open(&path, Some(&key)).unwrap().acknowledged(&[1; 16]), 0, "byte {at}");
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Heads::open(&path, Some(&Key::random())).unwrap().acknowledged(&[1; 16]), 0);
    }
}
