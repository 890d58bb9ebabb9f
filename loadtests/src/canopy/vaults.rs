//! Many vaults through the store, in this process: one project each, with a few rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use canopy_actors::now_ms;
use canopy_domain::{Address, Change, Id, Reader as _, Secret};
use canopy_proto::system::v1::Origin;
use canopy_store::{Commit, Store, StoreOptions, Unlock};
use futures::stream::{StreamExt as _, TryStreamExt as _};

use crate::LoadError;
use crate::clock::now_ns;
use crate::faults::dice::Dice;
use crate::scenario::vaults::Size;

const TABLE: u16 = 1;
const METHOD: &str = "canopy.load.v1.Load/Make";
const ROWS: u64 = 4;
const ROW_BYTES: usize = 256;
/// Vaults made at a time.
const MAKERS: usize = 64;

/// A store, and which vaults are in it.
pub struct Vaults {
    store: Store,
    size: Size,
}

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

/// Where a store's directory is below a scenario's.
pub fn directory(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn id(of: &[u64]) -> Id {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(Dice::of(of).bytes(16)) {
        *to = from;
    }
    Id::from_bytes(bytes)
}

fn address(number: u64, projects_per_org: u64) -> Address {
    Address::org(id(&[1, number / projects_per_org.max(1)])).project(id(&[2, number]))
}

fn value(number: u64, row: u64) -> Vec<u8> {
    Dice::of(&[3, number, row]).bytes(ROW_BYTES)
}

fn commit(number: u64) -> Commit {
    let change = |row: u64| Change {
        table: TABLE,
        key: row.to_be_bytes().to_vec(),
        before: None,
        after: Some(value(number, row).into()),
        schema_version: 1,
        of_subject: false,
    };
    Commit {
        time_ms: now_ms(),
        principal: String::new(),
        origin: Origin::default(),
        request_id: String::new(),
        method: METHOD,
        changes: (0..ROWS).map(change).collect(),
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    }
}

impl Vaults {
    /// Opens the store below `dir`; gives how long that took, too.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open(dir: &Path, size: Size) -> Result<(Self, Duration), LoadError> {
        let mut options = StoreOptions::new(directory(dir), Unlock::Key(Secret::new("ab".repeat(32))));
        options.open_vaults_max = size.open_vaults;
        let opened = tokio::task::spawn_blocking(move || {
            let begun_ns = now_ns();
            let store = Store::open(options)?;
            Ok::<_, canopy_store::StoreError>((store, Duration::from_nanos(now_ns() - begun_ns)))
        });
        let (store, spent) = opened.await.map_err(subject)?.map_err(subject)?;
        Ok((Self { store, size }, spent))
    }

    fn address(&self, number: u64) -> Address {
        address(number, self.size.projects_per_org)
    }

    /// Makes vaults by their numbers, each with its rows.
    ///
    /// # Errors
    /// The first one that cannot be made.
    pub async fn make(&self, count: u64) -> Result<(), LoadError> {
        futures::stream::iter(0..count)
            .map(|number| async move {
                let mut writer = self.store.writer(&self.address(number), &[]).await.map_err(subject)?;
                writer.submit(commit(number)).await.map_err(subject)
            })
            .buffer_unordered(MAKERS.min(self.size.open_vaults).max(1))
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// Reads one row of a vault; gives the nanoseconds, and whether the row was there.
    ///
    /// # Errors
    /// It cannot be opened or read, or the row is another one.
    pub async fn access(&self, number: u64) -> Result<(u64, bool), LoadError> {
        let (address, row) = (self.address(number), number % ROWS);
        let begun_ns = now_ns();
        let reader = self.store.reader(&address).await.map_err(subject)?;
        let snapshot = reader.snapshot().await.map_err(subject)?;
        let found = snapshot.get(TABLE, &row.to_be_bytes()).map_err(subject)?;
        let spent_ns = now_ns() - begun_ns;
        match found {
            Some(found) if found.to_vec() != value(number, row) => {
                Err(LoadError::Subject(format!("vault {number} gives another row than was put")))
            }
            found => Ok((spent_ns, found.is_some())),
        }
    }

    /// Vaults that are open.
    pub fn open_count(&self) -> usize {
        self.store.observe().open_vaults.len()
    }

    /// Vaults that were ever made.
    pub fn count(&self) -> usize {
        self.store.observe().vaults
    }

    /// # Errors
    /// A vault does not close.
    pub async fn close(self) -> Result<(), LoadError> {
        self.store.close().await.map_err(subject)
    }
}
