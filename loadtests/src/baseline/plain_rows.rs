//! Plain fjall as a side of `seal`: the same records of the same sizes, as they are. The caller makes
//! them; a thread writes what waits as one batch with one fsync, and answers each commit.

use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, UserKey, UserValue};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::raw_fjall::{Values, scramble};
use crate::LoadError;
use crate::scenario::seal::{CACHE_BYTES, MEMTABLE_BYTES, ROW_BYTES, ROWS_IN_FLIGHT, Rows, Target, waves};

/// Commits in one batch, and bytes after which it takes no more: the store's own.
const BATCH_COMMITS_MAX: usize = canopy_store::StoreOptions::GROUP_COMMITS_MAX;
const BATCH_BYTES_MAX: usize = canopy_store::StoreOptions::GROUP_BYTES_MAX;
/// What the store counts for a record beside key and value when it decides to write memtables out.
const RECORD_OVERHEAD_BYTES: usize = 96;
/// fjall stalls writers at four memtables that wait to be written out; neither side goes there.
const SEALED_MEMTABLES_MAX: usize = 2;

/// Plain fjall with records as long as the other side's.
#[derive(Clone, Copy, Debug)]
pub struct PlainFjall {
    /// What the other side adds to a row, and to an entry.
    pub row_surplus_bytes: usize,
    pub entry_surplus_bytes: usize,
    /// Bytes of the text of an entry, by the rows of its commit.
    pub entry_bytes: fn(u64) -> usize,
}

/// Start of all keys, as long as a partition's name with a table's number.
const PREFIX: [u8; 18] = [0x42; 18];

fn row_key(number: u64) -> [u8; 26] {
    let mut key = [0; 26];
    for (to, from) in key.iter_mut().zip(PREFIX.into_iter().chain(scramble(number).to_be_bytes())) {
        *to = from;
    }
    key
}

fn entry_key(number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    for (to, from) in key.iter_mut().zip(PREFIX.into_iter().take(16).chain(number.to_be_bytes())) {
        *to = from;
    }
    key
}

impl Target for PlainFjall {
    fn open<'a>(
        &'a self,
        directory: &'a Path,
        rows_per_commit: u64,
    ) -> BoxFuture<'a, Result<Box<dyn Rows>, LoadError>> {
        async move {
            let rows: Box<dyn Rows> = Box::new(PlainRows::open(directory, *self, rows_per_commit)?);
            Ok(rows)
        }
        .boxed()
    }

    fn entry_bytes(&self, rows_per_commit: u64) -> usize {
        (self.entry_bytes)(rows_per_commit)
    }
}

#[derive(Clone)]
struct Tables {
    database: Database,
    data: Keyspace,
    feed: Keyspace,
}

/// Rows and an entry, to be written together.
struct Commit {
    rows: Vec<(UserKey, UserValue)>,
    entry: (UserKey, UserValue),
    reply: oneshot::Sender<Result<(), LoadError>>,
}

impl Commit {
    fn bytes(&self) -> usize {
        let records = self.rows.iter().chain([&self.entry]);
        records.map(|(key, value)| key.len() + value.len() + RECORD_OVERHEAD_BYTES).sum()
    }
}

struct PlainRows {
    tables: Tables,
    queue: SyncSender<Commit>,
    writer: JoinHandle<()>,
    row_bytes: usize,
    entry_bytes: usize,
    rows_per_commit: u64,
    values: Values,
}

impl PlainRows {
    fn open(directory: &Path, sizes: PlainFjall, rows_per_commit: u64) -> Result<Self, LoadError> {
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .manual_journal_persist(true)
                .data_block_compression_policy(CompressionPolicy::disabled())
                .index_block_compression_policy(CompressionPolicy::disabled())
        };
        let database = Database::builder(directory.join("plain"))
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .manual_journal_persist(true)
            .max_journaling_size(u64::MAX)
            .journal_compression(CompressionType::None)
            .open()?;
        let (data, feed) = (database.keyspace("data", options)?, database.keyspace("feed", options)?);
        let tables = Tables { database, data, feed };
        let (queue, commits) = sync_channel(usize::try_from(ROWS_IN_FLIGHT).unwrap_or_default());
        let written = tables.clone();
        Ok(Self {
            tables,
            queue,
            writer: std::thread::spawn(move || write(&written, &commits)),
            row_bytes: ROW_BYTES + sizes.row_surplus_bytes,
            entry_bytes: (sizes.entry_bytes)(rows_per_commit) + sizes.entry_surplus_bytes,
            rows_per_commit,
            values: Values::new(),
        })
    }

    fn submit(&mut self, numbers: Range<u64>) -> Result<oneshot::Receiver<Result<(), LoadError>>, LoadError> {
        let (reply, answer) = oneshot::channel();
        let entry = (entry_key(numbers.start).into(), self.values.next(self.entry_bytes).into());
        let rows = numbers.map(|number| (row_key(number).into(), self.values.next(self.row_bytes).into())).collect();
        let gone = |_| LoadError::Subject("plain fjall's writer is gone".to_owned());
        self.queue.send(Commit { rows, entry, reply }).map_err(gone)?;
        Ok(answer)
    }

    /// What this side's rows have beyond the other's.
    fn surplus_bytes(&self) -> u64 {
        (self.row_bytes - ROW_BYTES) as u64
    }
}

/// The writer: ends when the queue's sender is gone.
fn write(tables: &Tables, commits: &Receiver<Commit>) {
    let mut memtable_bytes = 0;
    while let Ok(first) = commits.recv() {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while group.len() < BATCH_COMMITS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = commits.try_recv() else { break };
            bytes += next.bytes();
            group.push(next);
        }
        let capacity = group.iter().map(|commit| commit.rows.len() + 1).sum();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(tables.database.clone(), capacity)
            .durability(Some(PersistMode::SyncData));
        let mut replies = Vec::with_capacity(group.len());
        for Commit { rows, entry, reply } in group {
            for (key, value) in rows {
                batch.insert(&tables.data, key, value);
            }
            batch.insert(&tables.feed, entry.0, entry.1);
            replies.push(reply);
        }
        let mut result = batch.commit();
        memtable_bytes += bytes;
        let waiting = tables.data.sealed_memtable_count().max(tables.feed.sealed_memtable_count());
        if result.is_ok() && memtable_bytes >= MEMTABLE_BYTES && waiting < SEALED_MEMTABLES_MAX {
            memtable_bytes = 0;
            result = tables.data.rotate_memtable().and_then(|_| tables.feed.rotate_memtable()).map(drop);
        }
        let failure = result.err().map(|error| error.to_string());
        for reply in replies {
            // Fails only for a caller that has stopped waiting.
            let _ = reply.send(failure.clone().map_or(Ok(()), |reason| Err(LoadError::Subject(reason))));
        }
    }
}

impl Rows for PlainRows {
    fn put(&mut self, numbers: Range<u64>) -> BoxFuture<'_, Result<(), LoadError>> {
        async move {
            for wave in waves(numbers, self.rows_per_commit) {
                let answers: Result<Vec<_>, _> = wave.into_iter().map(|rows| self.submit(rows)).collect();
                for answer in answers? {
                    answer.await.map_err(|error| LoadError::Subject(error.to_string()))??;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn get<'a>(&'a self, numbers: &'a [u64]) -> BoxFuture<'a, Result<u64, LoadError>> {
        async move {
            let snapshot = self.tables.database.snapshot();
            let mut bytes = 0;
            for number in numbers {
                let value = snapshot.get(&self.tables.data, row_key(*number))?;
                bytes += value.map_or(0, |value| value.len() as u64 - self.surplus_bytes());
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn scan(&self, behind: u64, rows: usize) -> BoxFuture<'_, Result<u64, LoadError>> {
        async move {
            let snapshot = self.tables.database.snapshot();
            let mut found = Vec::new();
            let bounds = (Bound::Excluded(row_key(behind)), Bound::Unbounded);
            for guard in snapshot.range(&self.tables.data, bounds).take(rows) {
                found.push(guard.into_inner()?);
            }
            Ok(found.iter().map(|(_, value)| value.len() as u64 - self.surplus_bytes()).sum())
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), LoadError>> {
        async move {
            let close = move || {
                let Self { tables, queue, writer, .. } = *self;
                drop(queue);
                let ended = writer.join().map_err(|_| LoadError::Subject("plain fjall's writer panicked".to_owned()));
                drop(tables);
                ended
            };
            tokio::task::spawn_blocking(close).await.map_err(|error| LoadError::Subject(error.to_string()))?
        }
        .boxed()
    }
}
