//! Tables: what a partition's rows are.

use std::marker::PhantomData;

use bytes::Bytes;
use canopy_proto::Wire;
use prost::{Message, Name};

/// A table of rows of type `T`, ordered by key. Keys hold no text of users:
/// ids, seqs and keyed digests.
#[derive(Debug)]
pub struct Table<T> {
    /// Number in stored keys; below [`crate::View::FIRST_ID`], never reused.
    pub id: u16,
    /// For people.
    pub name: &'static str,
    /// Version of the rows' format.
    pub schema_version: u32,
    /// See [`Table::of_subjects`].
    pub of_subjects: bool,
    rows: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// Declares a table.
    pub const fn new(id: u16, name: &'static str, schema_version: u32) -> Self {
        Self { id, name, schema_version, of_subjects: false, rows: PhantomData }
    }

    /// The first 16 bytes of each key name what the row is about: a channel,
    /// say, which can be shredded alone. Rows, their changes, and what else a
    /// commit keeps of the command that changed them are sealed under keys of
    /// that subject's own; see [`crate::Draft::shred`].
    #[must_use]
    pub const fn of_subjects(mut self) -> Self {
        self.of_subjects = true;
        self
    }
}

/// What a table can hold: rows are stored as they travel.
pub trait Row: Message + Name + Default {}

impl<T: Message + Name + Default> Row for T {}

impl<T: Row> Table<T> {
    /// Takes stored bytes as a row.
    pub fn row(&self, bytes: Bytes) -> Wire<T> {
        Wire::from_bytes(bytes)
    }
}
