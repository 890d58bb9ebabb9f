//! What goes out of a store and may come back from anywhere: backups and key bundles. What was altered is
//! refused and leaves nothing behind; what was not, restores what was written.

use std::fs;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use canopy_store::{BackupSummary, RestoreOptions, Store, StoreError, StoreOptions};
use tempfile::TempDir;

use crate::files::{RUNTIME, VALUE, address, altered, open, read, scratch, unlock, write};

/// Files in the scratch directory.
const BACKUP: &str = "org.backup";
const BUNDLE: &str = "keys.bundle";
const RESTORED: &str = "restored";

/// A backup of a store with one row, its keys, and the store itself.
struct Genuine {
    directory: TempDir,
    store: Store,
    summary: BackupSummary,
    backup: Vec<u8>,
    bundle: Vec<u8>,
}

static GENUINE: LazyLock<Mutex<Genuine>> = LazyLock::new(|| Mutex::new(RUNTIME.block_on(Genuine::new())));

impl Genuine {
    async fn new() -> Self {
        let directory = scratch();
        let path = |name: &str| directory.path().join(name);
        let data = path("data");
        write(&data).await;
        let bundle = path(BUNDLE);
        canopy_store::export_keys(&StoreOptions::new(&data, unlock()), &bundle).expect("keys are exported");
        let store = open(&data).expect("the store opens");
        let backup = path(BACKUP);
        let summary = store.back_up(&address(), &backup, 1, |_| true).await.expect("a backup is made");
        let [backup, bundle] = [backup, bundle].map(|path| fs::read(path).expect("the file can be read"));
        Self { directory, store, summary, backup, bundle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Restores what the files hold, in the way that passes most over.
    async fn restore(&self) -> Result<Vec<BackupSummary>, StoreError> {
        let to = self.path(RESTORED);
        let restored = canopy_store::restore(&RestoreOptions {
            backups: vec![self.path(BACKUP)],
            bundle: self.path(BUNDLE),
            unlock: unlock(),
            to: to.clone(),
            without_shredded: true,
        });
        if restored.is_ok() {
            let value = read(&to).await.expect("what was restored can be read");
            assert_eq!(value.as_deref(), Some(VALUE), "something else was restored than was written");
            fs::remove_dir_all(&to).expect("the directory can be removed");
        }
        let left = fs::read_dir(self.directory.path()).expect("the directory can be read");
        let left = left.map(|entry| entry.expect("the directory can be read").file_name());
        let left: Vec<_> = left.filter(|name| !["data", BACKUP, BUNDLE].iter().any(|known| name == known)).collect();
        assert!(left.is_empty(), "a restore leaves {left:?}");
        restored
    }
}

/// Where the first byte is odd, the original up to a place (2) and what is to follow it; else as with the
/// store's files.
fn input(original: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let (how, rest) = data.split_first()?;
    if how % 2 == 0 {
        return Some(altered(original, *how, rest));
    }
    let (place, rest) = rest.split_first_chunk()?;
    let kept = original.get(..usize::from(u16::from_be_bytes(*place))).unwrap_or(original);
    Some([kept, rest].concat())
}

pub(crate) fn backup(data: &[u8]) {
    let genuine = GENUINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(bytes) = input(&genuine.backup, data) else { return };
    let path = genuine.path(BACKUP);
    fs::write(&path, &bytes).expect("a file can be written");
    let (verified, restored) = RUNTIME.block_on(async {
        let verified = genuine.store.verify_backup(&address(), &path, |_| true).await;
        (verified, genuine.restore().await)
    });
    fs::write(&path, &genuine.backup).expect("a file can be written");
    if bytes == genuine.backup {
        assert_eq!(verified.expect("what was written is verified"), genuine.summary);
        assert_eq!(restored.expect("what was written is restored"), std::slice::from_ref(&genuine.summary));
        return;
    }
    let error = verified.expect_err("an altered backup is verified");
    assert!(matches!(error, StoreError::BackupDamaged { .. }) && !error.to_string().is_empty(), "{error}");
    let error = restored.expect_err("an altered backup is restored");
    assert!(!error.to_string().is_empty(), "refused without a reason");
}

pub(crate) fn key_bundle(data: &[u8]) {
    let genuine = GENUINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(bytes) = input(&genuine.bundle, data) else { return };
    let path = genuine.path(BUNDLE);
    fs::write(&path, &bytes).expect("a file can be written");
    let restored = RUNTIME.block_on(genuine.restore());
    fs::write(&path, &genuine.bundle).expect("a file can be written");
    if bytes == genuine.bundle {
        assert_eq!(restored.expect("the keys restore"), std::slice::from_ref(&genuine.summary));
    } else {
        let error = restored.expect_err("altered keys restore");
        assert!(!error.to_string().is_empty(), "refused without a reason");
    }
}
