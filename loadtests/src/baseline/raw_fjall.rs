//! Raw fjall with group commit: plain records, no encryption, no feed rules, nothing to decide.
//!
//! One writer thread per vault drains its queue into one batch and syncs once for all of it. fjall's
//! own rotation of memtables can deadlock, so it is switched off and the writer rotates by its own
//! budget. Compression is off, for the values are as random as sealed ones.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::oneshot;

use crate::LoadError;

/// Commands in one batch.
pub const BATCH_COMMANDS_MAX: usize = 1024;
/// Commands queued per vault; more are refused.
const QUEUE_COMMANDS_MAX: usize = 1 << 16;
/// Bytes written between rotations: large enough that flushes are rare, small enough for 32 vaults.
const MEMTABLE_BYTES_MAX: usize = 16 << 20;
const CACHE_BYTES: u64 = 4 << 20;
const RANDOM_BYTES: usize = 1 << 20;

/// The keyspace that a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Keys in no order, like opaque ids.
    Data,
    /// Keys that ascend, like seqs.
    Feed,
}

/// One record that a command writes.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub table: Table,
    /// At least [`KEY_BYTES_MIN`], so that keys are unique.
    pub key_bytes: usize,
    pub value_bytes: usize,
}

pub const KEY_BYTES_MIN: usize = 16;

/// The records of one command, by number and size.
#[derive(Clone, Debug)]
pub struct Shape {
    pub records: Vec<Record>,
}

impl Shape {
    /// One small record: what a commit costs at least.
    pub fn single() -> Self {
        Self { records: vec![Record { table: Table::Data, key_bytes: KEY_BYTES_MIN, value_bytes: 100 }] }
    }
}

impl Default for Shape {
    /// A small command: its row, one index entry, its request id, and the feed entry.
    fn default() -> Self {
        let record = |table, key_bytes, value_bytes| Record { table, key_bytes, value_bytes };
        Self {
            records: vec![
                record(Table::Data, 40, 200),
                record(Table::Data, 40, 50),
                record(Table::Data, 32, 100),
                record(Table::Feed, 32, 350),
            ],
        }
    }
}

type Reply = oneshot::Sender<Result<(), LoadError>>;

struct Vault {
    directory: PathBuf,
    queue: SyncSender<Reply>,
    writer: JoinHandle<()>,
}

/// Open vaults, each with its writer.
pub struct RawVaults {
    vaults: Vec<Vault>,
    shape: Shape,
}

impl RawVaults {
    /// Creates `vaults` databases under `directory`.
    ///
    /// # Errors
    /// [`LoadError::Store`] when fjall cannot create them.
    pub fn open(directory: &Path, vaults: usize, shape: &Shape) -> Result<Self, LoadError> {
        let mut open = Vec::with_capacity(vaults);
        for index in 0..vaults {
            let directory = directory.join(format!("raw-{index}"));
            let tables = Tables::open(&directory)?;
            let (queue, commands) = sync_channel(QUEUE_COMMANDS_MAX);
            let shape = shape.clone();
            let writer = std::thread::spawn(move || write(&tables, &shape, &commands));
            open.push(Vault { directory, queue, writer });
        }
        Ok(Self { vaults: open, shape: shape.clone() })
    }

    /// Commits one command; returns after its fsync.
    ///
    /// # Errors
    /// When the vault's queue is full or its writer failed.
    pub async fn commit(&self, vault: usize) -> Result<(), LoadError> {
        let refused = |reason: &str| LoadError::Subject(format!("raw vault {vault}: {reason}"));
        let (reply, committed) = oneshot::channel();
        let vault = self.vaults.get(vault).ok_or_else(|| refused("there is no such vault"))?;
        vault.queue.try_send(reply).map_err(|_| refused("its queue is full or its writer is gone"))?;
        committed.await.map_err(|_| refused("its writer is gone"))?
    }

    /// Ends the writers, opens the vaults again and counts the commands found on disk.
    ///
    /// # Errors
    /// [`LoadError::Store`] when a vault cannot be opened again.
    pub fn close_and_count(self) -> Result<u64, LoadError> {
        let mut records = 0;
        for Vault { directory, queue, writer } in self.vaults {
            drop(queue);
            writer.join().map_err(|_| LoadError::Subject("a raw writer panicked".to_owned()))?;
            let tables = Tables::open(&directory)?;
            records += tables.data.len()? + tables.feed.len()?;
        }
        let per_command = self.shape.records.len().max(1);
        Ok(u64::try_from(records / per_command).unwrap_or(u64::MAX))
    }
}

struct Tables {
    database: Database,
    data: Keyspace,
    feed: Keyspace,
}

impl Tables {
    fn open(directory: &Path) -> Result<Self, LoadError> {
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        let database = Database::builder(directory)
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .journal_compression(CompressionType::None)
            .open()?;
        let data = database.keyspace("data", options)?;
        let feed = database.keyspace("feed", options)?;
        Ok(Self { database, data, feed })
    }
}

/// A vault's writer: ends when every sender of its queue is gone.
fn write(tables: &Tables, shape: &Shape, commands: &Receiver<Reply>) {
    let mut values = Values::new();
    let mut command_number = 0_u64;
    let mut memtable_bytes = 0;
    let mut replies = Vec::with_capacity(BATCH_COMMANDS_MAX);
    while let Ok(first) = commands.recv() {
        replies.push(first);
        replies.extend(commands.try_iter().take(BATCH_COMMANDS_MAX - 1));
        let capacity = replies.len() * shape.records.len();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(tables.database.clone(), capacity)
            .durability(Some(PersistMode::SyncData));
        for _ in &replies {
            for (index, record) in shape.records.iter().enumerate() {
                let key = key(record, command_number, index);
                let value = values.next(record.value_bytes);
                let keyspace = match record.table {
                    Table::Data => &tables.data,
                    Table::Feed => &tables.feed,
                };
                batch.insert(keyspace, key, value);
                memtable_bytes += record.key_bytes + record.value_bytes;
            }
            command_number += 1;
        }
        let mut result = batch.commit();
        if result.is_ok() && memtable_bytes > MEMTABLE_BYTES_MAX {
            memtable_bytes = 0;
            result = tables.data.rotate_memtable().and_then(|_| tables.feed.rotate_memtable()).map(drop);
        }
        let failure = result.err().map(|error| error.to_string());
        for reply in replies.drain(..) {
            // Fails only for a caller that has stopped waiting.
            let _ = reply.send(failure.clone().map_or(Ok(()), |reason| Err(LoadError::Subject(reason))));
        }
    }
}

/// A unique key: for the feed the number leads, for data a scrambled number does.
fn key(record: &Record, command_number: u64, index: usize) -> Vec<u8> {
    let index = u64::try_from(index).unwrap_or_default();
    let mut key = Vec::with_capacity(record.key_bytes.max(KEY_BYTES_MIN));
    match record.table {
        Table::Data => {
            key.extend_from_slice(&scramble(command_number.wrapping_mul(16).wrapping_add(index)).to_be_bytes());
            key.extend_from_slice(&(command_number << 4 | index).to_be_bytes());
        }
        Table::Feed => {
            key.extend_from_slice(&command_number.to_be_bytes());
            key.extend_from_slice(&index.to_be_bytes());
        }
    }
    key.resize(record.key_bytes.max(KEY_BYTES_MIN), 0);
    key
}

/// SplitMix64's output function: cheap, and consecutive numbers land far apart.
pub(crate) fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values cut from a pool of random bytes, each from another place.
pub(crate) struct Values {
    pool: Vec<u8>,
    offset: usize,
}

impl Values {
    pub(crate) fn new() -> Self {
        let words = 0..u64::try_from(RANDOM_BYTES / 8).unwrap_or_default();
        Self { pool: words.flat_map(|word| scramble(word).to_le_bytes()).collect(), offset: 0 }
    }

    pub(crate) fn next(&mut self, bytes: usize) -> &[u8] {
        // An odd stride, so that values differ for a long time.
        self.offset = (self.offset + 4_099) % self.pool.len().saturating_sub(bytes).max(1);
        self.pool.get(self.offset..self.offset + bytes).unwrap_or_default()
    }

    /// All of the random bytes.
    pub(crate) fn pool(self) -> bytes::Bytes {
        self.pool.into()
    }
}
