//! Views: rows derived from a feed.

use bytes::Bytes;

use crate::Change;

/// A write to a view's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewWrite {
    /// Sets a row.
    Put {
        /// Key within the view.
        key: Vec<u8>,
        /// May be empty: then the key says all there is to say.
        value: Bytes,
    },
    /// Removes a row.
    Delete {
        /// Key within the view.
        key: Vec<u8>,
    },
}

/// What a view's rows follow from, and so what becomes of them where a feed is
/// no longer kept from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Rows of tables, as they stand: each row of the view from one of them,
    /// whatever that was before. Its rows stay. Dropped, it is told of every row
    /// as of a new one, with zero for seq and n.
    Rows,
    /// The changes that the feed keeps: a row's key ends with the seq and n of
    /// its change, big-endian, and it goes when that change goes. Dropped, it is
    /// made again by replaying the feed. Of a change whose subject was shredded
    /// it may be told without what the rows were.
    Changes,
}

/// Rows that follow from changes, one change at a time. They commit with the
/// change; dropped, they are made again from what [`Source`] says.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Number in stored keys; at least [`View::FIRST_ID`], never reused.
    pub id: u16,
    /// For people.
    pub name: &'static str,
    /// A partition whose view was made by another version rebuilds it.
    pub version: u32,
    /// What it is made of again.
    pub source: Source,
    /// What change `(seq, n)` does to the view. Pure: it sees the change alone.
    pub apply: fn(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>),
}

impl View {
    /// Tables have smaller numbers.
    pub const FIRST_ID: u16 = 0x8000;

    /// The keys of the rows that it has of change `(seq, n)` and of no other:
    /// what goes with the change, of a view of [`Source::Changes`].
    pub fn keys_of(&self, seq: u64, n: u32, change: &Change) -> Vec<Vec<u8>> {
        let mut writes = Vec::new();
        (self.apply)(seq, n, change, &mut writes);
        let pointer = [seq.to_be_bytes().as_slice(), &n.to_be_bytes()].concat();
        let key = |write| match write {
            ViewWrite::Put { key, .. } if key.ends_with(&pointer) => Some(key),
            ViewWrite::Put { .. } | ViewWrite::Delete { .. } => None,
        };
        writes.into_iter().filter_map(key).collect()
    }
}
