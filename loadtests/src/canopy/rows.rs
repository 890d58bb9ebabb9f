//! Rows through the store, in this process: sealing, feed, chain, overlay and group commit.

use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use canopy_actors::now_ms;
use canopy_domain::{Address, Change, Id, Order, Reader as _, Secret, Span};
use canopy_proto::system::v1::{Change as StoredChange, Origin, Transaction};
use canopy_store::{Commit, PartitionReader, Store, StoreOptions, Unlock, Writer};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;

use crate::LoadError;
use crate::baseline::plain_rows::PlainFjall;
use crate::baseline::raw_fjall::{Values, scramble};
use crate::scenario::seal::{CACHE_BYTES, MEMTABLE_BYTES, ROW_BYTES, Rows, Target, waves};

const TABLE: u16 = 1;
const METHOD: &str = "canopy.load.v1.Load/Put";
/// What sealing adds to a text, and the chain to an entry.
const SEALED_BYTES: usize = 9 + 24 + 16;
const CHAIN_BYTES: usize = 32;

/// The store as the side of `seal`.
#[derive(Clone, Debug)]
pub struct Sealed;

impl Sealed {
    /// Plain fjall with records as long as this side's.
    pub fn plain() -> PlainFjall {
        PlainFjall { row_surplus_bytes: SEALED_BYTES, entry_surplus_bytes: SEALED_BYTES + CHAIN_BYTES, entry_bytes }
    }
}

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

fn address() -> Address {
    Address::org(Id::from_bytes([7; 16]))
}

static PRINCIPAL: LazyLock<String> = LazyLock::new(|| Address::account(Id::from_bytes([9; 16])).to_string());

fn commit(rows: impl Iterator<Item = (u64, Bytes)>) -> Commit {
    let change = |(number, value)| Change {
        table: TABLE,
        key: key(number).to_vec(),
        before: None,
        after: Some(value),
        schema_version: 1,
        of_subject: false,
    };
    Commit {
        time_ms: now_ms(),
        principal: PRINCIPAL.clone(),
        origin: Origin::default(),
        request_id: String::new(),
        method: METHOD,
        changes: rows.map(change).collect(),
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    }
}

fn key(number: u64) -> [u8; 8] {
    scramble(number).to_be_bytes()
}

/// Bytes of the text of a feed entry, as the store writes it.
fn entry_bytes(rows: u64) -> usize {
    let values = (0..rows).map(|number| (number, vec![0; ROW_BYTES].into()));
    let Commit { time_ms, principal, origin, request_id, method, changes, .. } = commit(values);
    Transaction {
        seq: 10_000,
        time_ms,
        principal,
        origin: Some(origin),
        request_id,
        method: method.into(),
        changes: changes
            .into_iter()
            .map(|change| StoredChange {
                table: change.table.into(),
                key: change.key.into(),
                before: change.before,
                after: change.after,
                schema_version: change.schema_version,
                ..StoredChange::default()
            })
            .collect(),
        shreds: Vec::new(),
    }
    .encoded_len()
}

impl Target for Sealed {
    fn open<'a>(
        &'a self,
        directory: &'a Path,
        rows_per_commit: u64,
    ) -> BoxFuture<'a, Result<Box<dyn Rows>, LoadError>> {
        async move {
            let mut options = StoreOptions::new(directory.join("sealed"), Unlock::Key(Secret::new("ab".repeat(32))));
            options.block_cache_bytes = CACHE_BYTES;
            options.write_buffer_bytes = MEMTABLE_BYTES as u64;
            let store = Store::open(options).map_err(subject)?;
            let writer = store.writer(&address(), &[]).await.map_err(subject)?;
            let reader = writer.reader();
            let rows: Box<dyn Rows> =
                Box::new(SealedRows { store, writer, reader, rows_per_commit, pool: Values::new().pool() });
            Ok(rows)
        }
        .boxed()
    }

    fn entry_bytes(&self, rows_per_commit: u64) -> usize {
        entry_bytes(rows_per_commit)
    }
}

struct SealedRows {
    store: Store,
    writer: Writer,
    reader: PartitionReader,
    rows_per_commit: u64,
    /// Random bytes that values are cut from.
    pool: Bytes,
}

impl SealedRows {
    fn value(&self, number: u64) -> Bytes {
        let places = (self.pool.len() - ROW_BYTES) as u64;
        let start = usize::try_from(number.wrapping_mul(4_099) % places).unwrap_or_default();
        self.pool.slice(start..start + ROW_BYTES)
    }
}

impl Rows for SealedRows {
    fn put(&mut self, numbers: Range<u64>) -> BoxFuture<'_, Result<(), LoadError>> {
        async move {
            for wave in waves(numbers, self.rows_per_commit) {
                let mut tickets = Vec::with_capacity(wave.len());
                for rows in wave {
                    let commit = commit(rows.map(|number| (number, self.value(number))));
                    tickets.push(self.writer.submit(commit));
                }
                for ticket in tickets {
                    ticket.await.map_err(subject)?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn get<'a>(&'a self, numbers: &'a [u64]) -> BoxFuture<'a, Result<u64, LoadError>> {
        async move {
            let snapshot = self.reader.snapshot().await.map_err(subject)?;
            let mut bytes = 0;
            for number in numbers {
                let value = snapshot.get(TABLE, &key(*number)).map_err(subject)?;
                bytes += value.map_or(0, |value| value.len() as u64);
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn scan(&self, behind: u64, rows: usize) -> BoxFuture<'_, Result<u64, LoadError>> {
        async move {
            let snapshot = self.reader.snapshot().await.map_err(subject)?;
            let after = key(behind);
            let span = Span { prefix: &[], after: Some(&after), order: Order::Ascending, limit: rows };
            let found = snapshot.scan(TABLE, span).map_err(subject)?;
            Ok(found.iter().map(|(_, value)| value.len() as u64).sum())
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), LoadError>> {
        async move {
            let Self { store, writer, reader, .. } = *self;
            drop((writer, reader));
            store.close().await.map_err(subject)
        }
        .boxed()
    }
}
