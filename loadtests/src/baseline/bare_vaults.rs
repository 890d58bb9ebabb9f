//! Bare fjall databases with the options of Canopy's vaults, many of them and a bounded number open.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Config, Database, Keyspace, KeyspaceCreateOptions, Readable};

use crate::LoadError;
use crate::clock::now_ns;

/// Blocks kept in memory, over all databases: as many as the store's default.
const CACHE_BYTES: u64 = 64 << 20;
/// File descriptors that a database keeps for its tables.
const CACHED_FILES_MAX: usize = 64;
/// The store's row that each vault has.
const KEY: [u8; 18] = [0; 18];
/// Databases that wait to be closed.
const CLOSING_MAX: usize = 64;

type Open = (Database, [Keyspace; 2]);

/// Databases by number; the last ones used stay open, and the others are closed by a thread.
pub struct BareVaults {
    directories: Vec<PathBuf>,
    open: VecDeque<Open>,
    open_max: usize,
    /// Its block cache is every database's.
    template: Config,
    closing: SyncSender<Open>,
    closer: JoinHandle<()>,
}

impl BareVaults {
    /// The databases of a store's directory, which must be closed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn new(store: &Path, open_max: usize) -> Result<Self, LoadError> {
        let vaults = store.join("vaults");
        let mut directories = Vec::new();
        for entry in std::fs::read_dir(&vaults).map_err(LoadError::io(format!("read {}", vaults.display())))? {
            let path = entry.map_err(LoadError::io("read a vault's directory"))?.path().join("db");
            directories.extend(path.is_dir().then_some(path));
        }
        let (closing, closed) = sync_channel::<Open>(CLOSING_MAX);
        let closer = std::thread::spawn(move || closed.iter().for_each(drop));
        let template = Database::builder(store).cache_size(CACHE_BYTES).into_config();
        Ok(Self { directories, open: VecDeque::new(), open_max, template, closing, closer })
    }

    pub fn len(&self) -> usize {
        self.directories.len()
    }

    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Opens a database that is closed, and reads a row of it; gives the nanoseconds, and whether the
    /// row was there.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn access(&mut self, number: usize) -> Result<(u64, bool), LoadError> {
        let absent = || LoadError::Subject(format!("there is no database {number}"));
        let directory = self.directories.get(number % self.directories.len().max(1)).ok_or_else(absent)?;
        // Not counted: the least that an opening takes needs no room made.
        while self.open.len() >= self.open_max {
            let Some(oldest) = self.open.pop_front() else { break };
            self.closing.send(oldest).map_err(|_| LoadError::Subject("the closing thread is gone".into()))?;
        }
        let begun_ns = now_ns();
        let mut config = Database::builder(directory)
            .worker_threads(1)
            .manual_journal_persist(true)
            .max_cached_files(Some(CACHED_FILES_MAX))
            .journal_compression(CompressionType::None)
            .max_journaling_size(u64::MAX)
            .into_config();
        config.cache = self.template.cache.clone();
        let database = Database::open(config)?;
        let keyspaces @ [data, _] = &[database.keyspace("data", options)?, database.keyspace("feed", options)?];
        let is_there = database.snapshot().get(data, KEY)?.is_some();
        let spent_ns = now_ns() - begun_ns;
        self.open.push_back((database, keyspaces.clone()));
        Ok((spent_ns, is_there))
    }

    /// Closes all of them.
    ///
    /// # Errors
    /// The closing thread panicked.
    pub fn close(self) -> Result<(), LoadError> {
        let Self { open, closing, closer, .. } = self;
        drop((open, closing));
        closer.join().map_err(|_| LoadError::Subject("the closing thread panicked".into()))
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(u64::MAX)
        .manual_journal_persist(true)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
        .with_kv_separation(None)
}
