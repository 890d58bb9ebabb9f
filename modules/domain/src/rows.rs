//! A partition in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use canopy_proto::system::v1::Transaction;

use crate::{Change, Order, Reader, Refusal, Span};

/// The rows of a partition, in memory: what tests of a module decide over. It
/// has no views, no feed and no keys of subjects, and all its digests are zero.
#[derive(Debug, Default)]
pub struct Rows {
    rows: BTreeMap<(u16, Vec<u8>), Bytes>,
    seq: u64,
}

impl Rows {
    /// Commits what a decision has drafted.
    pub fn apply(&mut self, changes: &[Change]) {
        self.seq += 1;
        for change in changes {
            let key = (change.table, change.key.clone());
            match &change.after {
                Some(row) => drop(self.rows.insert(key, row.clone())),
                None => drop(self.rows.remove(&key)),
            }
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The keys of a table, in order.
    pub fn keys(&self, table: u16) -> Vec<&[u8]> {
        self.of(table).map(|(key, _)| key).collect()
    }

    fn of(&self, table: u16) -> impl Iterator<Item = (&[u8], &Bytes)> {
        let from = (table, Vec::new());
        self.rows
            .range(from..)
            .take_while(move |((of, _), _)| *of == table)
            .map(|((_, key), row)| (key.as_slice(), row))
    }
}

impl Reader for Rows {
    fn get(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: u16, span: Span<'_>) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        let is_beyond = |key: &[u8]| match (span.after, span.order) {
            (None, _) => true,
            (Some(after), Order::Ascending) => key > after,
            (Some(after), Order::Descending) => key < after,
        };
        let mut found: Vec<_> =
            self.of(table).filter(|(key, _)| key.starts_with(span.prefix) && is_beyond(key)).collect();
        if span.order == Order::Descending {
            found.reverse();
        }
        let copied = found.into_iter().take(span.limit);
        Ok(copied.map(|(key, row)| (Bytes::copy_from_slice(key), row.clone())).collect())
    }

    fn seq(&self) -> Result<u64, Refusal> {
        Ok(self.seq)
    }

    fn floor(&self) -> Result<u64, Refusal> {
        Ok(1)
    }

    fn transaction(&self, _: u64) -> Result<Option<Transaction>, Refusal> {
        Ok(None)
    }

    fn digest(&self, _: &[u8]) -> [u8; 16] {
        [0; 16]
    }

    fn subject_fingerprints(&self, _: &[u8; 16]) -> Result<Vec<[u8; 32]>, Refusal> {
        Ok(Vec::new())
    }
}
