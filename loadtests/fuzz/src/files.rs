//! The store's files outside its database. Each input takes the place of a genuine file of a small store,
//! or alters it: the store is opened, and either says what is wrong or reads what was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use canopy_domain::{Address, Change, Id, Reader as _, Secret};
use canopy_proto::system::v1::Origin;
use canopy_store::{Commit, Store, StoreError, StoreOptions, Unlock};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TABLE: u16 = 1;
const KEY: &[u8] = b"key";
pub(crate) const VALUE: &[u8] = b"what was written";

/// In memory where the machine has such a place: a file is written for each input.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory can be made")
}

pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
    built.expect("the machine gives threads")
});

pub(crate) fn address() -> Address {
    Address::org(Id::from_bytes([7; 16]))
}

pub(crate) fn unlock() -> Unlock {
    Unlock::Key(Secret::new("ab".repeat(32)))
}

pub(crate) fn open(directory: &Path) -> Result<Store, StoreError> {
    Store::open(StoreOptions::new(directory, unlock()))
}

/// The row of the store in a directory.
pub(crate) async fn read(directory: &Path) -> Result<Option<Bytes>, StoreError> {
    let store = open(directory)?;
    let read = async { store.reader(&address()).await?.snapshot().await }.await;
    let read = read.map(|snapshot| snapshot.get(TABLE, KEY).expect("a row of a vault that opens can be read"));
    store.close().await.expect("nobody holds the store");
    read
}

/// Makes a store with one row.
pub(crate) async fn write(directory: &Path) {
    let store = open(directory).expect("an empty directory becomes a store");
    let mut writer = store.writer(&address(), &[]).await.expect("a new partition has no writer");
    let change = Change {
        table: TABLE,
        key: KEY.to_vec(),
        before: None,
        after: Some(Bytes::from_static(VALUE)),
        schema_version: 1,
        of_subject: false,
    };
    let commit = Commit {
        time_ms: 1,
        principal: String::new(),
        origin: Origin::default(),
        request_id: String::new(),
        method: "canopy.fuzz.v1.Fuzz/Put",
        changes: vec![change],
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    };
    writer.submit(commit).await.expect("a commit is made");
    drop(writer);
    store.close().await.expect("nobody holds the store");
}

/// A store with one row, and what its files outside the database hold.
struct Genuine {
    directory: TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Genuine {
    fn new() -> Self {
        let directory = scratch();
        RUNTIME.block_on(write(directory.path()));
        let mut files = Vec::new();
        collect(directory.path(), &mut files);
        Self { directory, files }
    }

    /// Puts everything back but the database, which no input touches.
    fn restore(&self) {
        for (path, bytes) in &self.files {
            if fs::read(path).ok().as_ref() != Some(bytes) {
                fs::write(path, bytes).expect("a file can be written");
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.files
            .iter()
            .all(|(path, _)| path.parent().is_some_and(|parent| parent.join("db").exists() || path.exists()))
    }
}

fn collect(directory: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "db") {
                collect(&path, files);
            }
        } else {
            let bytes = fs::read(&path).expect("the file can be read");
            files.push((path, bytes));
        }
    }
}

static GENUINE: LazyLock<Mutex<Genuine>> = LazyLock::new(|| Mutex::new(Genuine::new()));

/// `data` in the place of the file, or, where its first byte is even, bytes to alter it by: place (2)
/// and what to flip there (1), again and again. Whether the store could be read.
fn try_file(name: &str, data: &[u8]) -> bool {
    let mut genuine = GENUINE.lock().unwrap_or_else(PoisonError::into_inner);
    if !genuine.is_whole() {
        *genuine = Genuine::new();
    }
    let (path, original) = genuine.files.iter().find(|(path, _)| path.ends_with(name)).expect("the store has the file");
    let Some((how, rest)) = data.split_first() else { return true };
    let bytes = if how % 2 == 1 { rest.to_vec() } else { altered(original, *how, rest) };
    fs::write(path, &bytes).expect("a file can be written");
    let read = RUNTIME.block_on(read(genuine.directory.path()));
    genuine.restore();
    match &read {
        Ok(value) => assert_eq!(value.as_deref(), Some(VALUE), "something else was read than was written"),
        Err(error) => assert!(!error.to_string().is_empty(), "refused without a reason"),
    }
    read.is_ok()
}

/// An original with places of it flipped, and its end torn off.
pub(crate) fn altered(original: &[u8], how: u8, edits: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for edit in edits.chunks_exact(3) {
        let [high, low, flip] = edit else { continue };
        let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
        }
    }
    bytes.truncate(bytes.len() - usize::from(how / 2).min(bytes.len()));
    bytes
}

pub(crate) fn root_slots(data: &[u8]) {
    try_file("keys/root.slots", data);
}

pub(crate) fn org_keys(data: &[u8]) {
    try_file("keys/orgs", data);
}

pub(crate) fn vault_index(data: &[u8]) {
    try_file("vaults/index", data);
}

pub(crate) fn keyring(data: &[u8]) {
    try_file("keyring", data);
}

pub(crate) fn head(data: &[u8]) {
    try_file("head", data);
}

/// What these two say is no more than a help: without it, the store is read all the same.
pub(crate) fn heads(data: &[u8]) {
    canopy_store::fuzz::heads(SCRATCH.path(), data);
    assert!(try_file("heads", data), "a damaged file of heads keeps the store from being read");
}

pub(crate) fn settled(data: &[u8]) {
    canopy_store::fuzz::settled(SCRATCH.path(), data);
    assert!(try_file("settled", data), "a damaged file keeps the store from being read");
}

/// For targets that need a few files and no store.
static SCRATCH: LazyLock<TempDir> = LazyLock::new(scratch);
