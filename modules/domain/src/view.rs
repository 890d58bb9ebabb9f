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

/// Rows that follow from changes, one change at a time. They commit with the
/// change; dropped, they are made again by replaying the feed.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Number in stored keys; at least [`View::FIRST_ID`], never reused.
    pub id: u16,
    /// For people.
    pub name: &'static str,
    /// A partition whose view was made by another version rebuilds it.
    pub version: u32,
    /// What change `(seq, n)` does to the view. Pure: it sees the change alone.
    pub apply: fn(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>),
}

impl View {
    /// Tables have smaller numbers.
    pub const FIRST_ID: u16 = 0x8000;
}
