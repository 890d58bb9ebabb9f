//! Reading a partition: its durable rows at one point, and over them, for its
//! writer, what is submitted and not durable yet.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use canopy_domain::{Change, Order, Span, View};
use canopy_proto::system::v1::Transaction;
use fjall::{Readable, UserKey, UserValue};
use prost::Message;

use crate::StoreError;
use crate::disk::Disk;
use crate::floor::Floor;
use crate::overlay::{Pending, PendingRows, within};
use crate::partition::{FLOOR, META, Meta, Partition, change_of_row};
use crate::vault::Vault;

/// Bytes of a stored key before the row's own: partition and table.
const KEY_PREFIX_BYTES: usize = 18;

/// A partition at one point of its vault's life. Hazard 3: all reads go
/// through one fjall snapshot, which never shows half a batch. While it
/// lives, its vault stays open.
pub(crate) struct Durable {
    snapshot: fjall::Snapshot,
    pub(crate) partition: Arc<Partition>,
    pub(crate) vault: Arc<Vault>,
}

impl Durable {
    /// `None` where nothing was committed to the vault.
    pub(crate) fn of(vault: Arc<Vault>, partition: Arc<Partition>) -> Option<Self> {
        let snapshot = vault.disk()?.snapshot();
        Some(Self { snapshot, partition, vault })
    }

    fn disk(&self) -> &Disk {
        self.vault.disk().expect("there was one when the snapshot was taken, and it stays")
    }

    /// The partition's state; the default before its first commit.
    pub(crate) fn meta(&self) -> Result<Meta, StoreError> {
        match self.row(&self.partition.row_key(META, &[]))? {
            Some(text) => Meta::decode(text.as_slice()).map_err(|e| self.vault.corrupt(&e.to_string())),
            None => Ok(Meta::default()),
        }
    }

    /// The row at a stored key; none, where it was shredded.
    pub(crate) fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let stored = self.snapshot.get(&self.disk().data, key).map_err(|e| self.vault.read_error(e))?;
        stored.map_or(Ok(None), |stored| self.open_row(key, &stored))
    }

    /// Whether there is something at a stored key that was shredded.
    pub(crate) fn is_shredded(&self, key: &[u8]) -> Result<bool, StoreError> {
        let stored = self.snapshot.get(&self.disk().data, key).map_err(|e| self.vault.read_error(e))?;
        stored.map_or(Ok(false), |stored| Ok(self.open_row(key, &stored)?.is_none()))
    }

    fn open_row(&self, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.partition.open_row(key, stored).map_err(|e| self.damaged(e))
    }

    /// Of what cannot be read: it is shredded, or the vault is damaged.
    pub(crate) fn damaged(&self, reason: &str) -> StoreError {
        if self.partition.is_shredded() {
            StoreError::Shredded(self.vault.name.to_string())
        } else {
            self.vault.corrupt(reason)
        }
    }

    /// A feed entry as stored.
    pub(crate) fn entry(&self, seq: u64) -> Result<Option<UserValue>, StoreError> {
        let key = self.partition.feed_key(seq);
        self.snapshot.get(&self.disk().feed, key).map_err(|e| self.vault.read_error(e))
    }

    /// The transaction at `seq`.
    pub(crate) fn transaction(&self, seq: u64) -> Result<Option<Transaction>, StoreError> {
        let stored = self.entry(seq)?;
        stored.map(|stored| self.partition.open_entry(seq, &stored).map_err(|e| self.damaged(e))).transpose()
    }

    /// From where on the feed is kept.
    pub(crate) fn floor(&self) -> Result<Floor, StoreError> {
        match self.row(&self.partition.row_key(FLOOR, &[]))? {
            Some(text) => Floor::decode(text.as_slice()).map_err(|e| self.vault.corrupt(&e.to_string())),
            None => Ok(Floor::default()),
        }
    }

    /// Keys of feed entries that are stored before `seq`, at most `limit`.
    pub(crate) fn entries_before(&self, seq: u64, limit: usize) -> Result<Vec<UserKey>, StoreError> {
        let entries = self.snapshot.range(&self.disk().feed, self.partition.feed_key(0)..self.partition.feed_key(seq));
        let keys = entries.take(limit).map(|guard| guard.key().map_err(|e| self.vault.read_error(e)));
        keys.collect()
    }

    /// Every row of a table of a module, as the change that sets it.
    pub(crate) fn table_rows(&self) -> impl Iterator<Item = Result<Change, StoreError>> {
        let at = |table| self.partition.row_key(table, &[]).to_vec();
        let rows = self.range((Bound::Included(at(0)), Bound::Excluded(at(View::FIRST_ID))), Order::Ascending);
        rows.filter_map(move |row| {
            let change = row
                .and_then(|(key, stored)| change_of_row(&self.partition, &key, &stored).map_err(|e| self.damaged(e)));
            change.transpose()
        })
    }

    /// Stored rows within bounds, in order.
    fn range(&self, bounds: Bounds, order: Order) -> StoredIter<'_> {
        let rows = self.snapshot.range(&self.disk().data, bounds);
        let row = |guard: fjall::Guard| guard.into_inner().map_err(|e| self.vault.read_error(e));
        match order {
            Order::Ascending => Box::new(rows.map(row)),
            Order::Descending => Box::new(rows.rev().map(row)),
        }
    }
}

type StoredRow = Result<(UserKey, UserValue), StoreError>;
type StoredIter<'a> = Box<dyn Iterator<Item = StoredRow> + 'a>;
type PendingIter<'a> = Box<dyn Iterator<Item = (&'a UserKey, &'a Pending)> + 'a>;

/// First and last stored key of a span.
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Rows of a table: durable ones, and over them pending ones.
pub(crate) fn scan(
    partition: &Partition,
    durable: Option<&Durable>,
    pending: Option<&PendingRows>,
    table: u16,
    span: Span<'_>,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let Some(bounds) = bounds(partition, table, &span) else {
        return Ok(Vec::new());
    };
    let borrowed = (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice));
    let over: PendingIter<'_> = match (pending, span.order) {
        (None, _) => Box::new(std::iter::empty()),
        (Some(rows), Order::Ascending) => Box::new(rows.range(borrowed.0, borrowed.1)),
        (Some(rows), Order::Descending) => Box::new(rows.range(borrowed.0, borrowed.1).rev()),
    };
    let under: StoredIter<'_> = match durable {
        None => Box::new(std::iter::empty()),
        Some(durable) => durable.range(bounds.clone(), span.order),
    };
    let mut merged = Merged { over: over.peekable(), under: under.peekable(), order: span.order };
    let mut rows = Vec::new();
    while rows.len() < span.limit {
        let (key, value) = match merged.next() {
            None => break,
            Some(Found::Pending(_, None)) => continue,
            Some(Found::Pending(key, Some(value))) => (Bytes::copy_from_slice(own(key)), value.clone()),
            Some(Found::Stored(row)) => {
                let (key, stored) = row?;
                let opened = durable.map_or(Ok(None), |durable| durable.open_row(&key, &stored))?;
                // What was shredded is not there.
                let Some(opened) = opened else { continue };
                (Bytes::copy_from_slice(suffix(&key)), opened.into())
            }
        };
        rows.push((key, value));
    }
    Ok(rows)
}

/// A row's own key.
pub(crate) fn suffix(key: &[u8]) -> &[u8] {
    key.get(KEY_PREFIX_BYTES..).unwrap_or_default()
}

/// As [`suffix`], of a key within the partition.
fn own(key: &[u8]) -> &[u8] {
    key.get(size_of::<u16>()..).unwrap_or_default()
}

enum Found<'a> {
    /// By its key within the partition.
    Pending(&'a [u8], Option<&'a Bytes>),
    Stored(StoredRow),
}

struct Merged<'a> {
    over: Peekable<PendingIter<'a>>,
    under: Peekable<StoredIter<'a>>,
    order: Order,
}

impl<'a> Merged<'a> {
    /// The next key in order; a pending row hides the stored one.
    fn next(&mut self) -> Option<Found<'a>> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (self.over.peek(), self.under.peek()) {
            (None, None) => return None,
            (Some(_), None) => Less,
            (None, Some(_)) | (_, Some(Err(_))) => Greater,
            (Some((over, _)), Some(Ok((under, _)))) => {
                let order = over.as_ref().cmp(within(under));
                if self.order == Order::Ascending { order } else { order.reverse() }
            }
        };
        if order == Greater {
            return self.under.next().map(Found::Stored);
        }
        if order == Equal {
            self.under.next();
        }
        self.over.next().map(|(key, pending)| Found::Pending(key, pending.value.as_ref()))
    }
}

/// Stored keys that a span covers; `None` where it can cover none.
fn bounds(partition: &Partition, table: u16, span: &Span<'_>) -> Option<Bounds> {
    let first = partition.row_key(table, span.prefix).to_vec();
    let end = match successor(&first) {
        Some(end) => Bound::Excluded(end),
        None => Bound::Unbounded,
    };
    let mut bounds = (Bound::Included(first.clone()), end);
    if let Some(after) = span.after {
        let after = partition.row_key(table, after).to_vec();
        let within = after.starts_with(&first);
        match span.order {
            Order::Ascending if within => bounds.0 = Bound::Excluded(after),
            Order::Ascending if after > first => return None,
            Order::Descending if within => {
                if after == first {
                    return None;
                }
                bounds.1 = Bound::Excluded(after);
            }
            Order::Descending if after < first => return None,
            // Beyond the whole prefix, seen from where reading starts.
            Order::Ascending | Order::Descending => {}
        }
    }
    Some(bounds)
}

/// The first key after all that start with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

/// Stored keys of a table from its start, without opening their rows, as long
/// as `wanted` says so of a row's own key.
pub(crate) fn keys(
    durable: &Durable,
    table: u16,
    limit: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<UserKey>, StoreError> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit };
    let Some(bounds) = bounds(&durable.partition, table, &span) else {
        return Ok(Vec::new());
    };
    let rows = durable.range(bounds, span.order).take(limit);
    let kept = rows.take_while(|row| row.as_ref().map_or(true, |(key, _)| wanted(suffix(key))));
    kept.map(|row| row.map(|(key, _)| key)).collect()
}
