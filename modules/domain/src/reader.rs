//! What a decision or query sees of its partition.

use bytes::Bytes;
use canopy_proto::Wire;
use canopy_proto::system::v1::Transaction;

use crate::table::Row;
use crate::{Refusal, Table};

/// In which direction keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A range of keys of one table or view.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Only keys that start with this.
    pub prefix: &'a [u8],
    /// Only keys beyond this one, in reading direction; whole keys, prefix
    /// included.
    pub after: Option<&'a [u8]>,
    /// Reading direction.
    pub order: Order,
    /// At most so many rows.
    pub limit: usize,
}

/// A consistent state of one partition.
pub trait Reader {
    /// The row at a key of a table or view.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn get(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, Refusal>;

    /// Rows of a table or view in order: key within the table, and row.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn scan(&self, table: u16, span: Span<'_>) -> Result<Vec<(Bytes, Bytes)>, Refusal>;

    /// The last transaction that this state includes; 0 before the first.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn seq(&self) -> Result<u64, Refusal>;

    /// The retention floor: the first transaction that the feed keeps, or that
    /// it will keep; 1 where it keeps all.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn floor(&self) -> Result<u64, Refusal>;

    /// The transaction at `seq`, where it is at or above the retention floor.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn transaction(&self, seq: u64) -> Result<Option<Transaction>, Refusal>;

    /// A keyed digest, to look text up by equality without storing it in a
    /// key. Differs from partition to partition.
    fn digest(&self, text: &[u8]) -> [u8; 16];

    /// Fingerprints of the keys of a subject, as they stand in the certificate
    /// when it is shredded; none where it has no keys, or no longer.
    ///
    /// # Errors
    /// `INTERNAL` or `UNAVAILABLE`: the store failed.
    fn subject_fingerprints(&self, subject: &[u8; 16]) -> Result<Vec<[u8; 32]>, Refusal>;
}

/// Typed reading of a partition.
#[derive(Clone, Copy)]
pub struct State<'a>(pub &'a dyn Reader);

impl<'a> State<'a> {
    /// The row at `key`.
    ///
    /// # Errors
    /// The store failed.
    pub fn get<T: Row>(&self, table: &Table<T>, key: &[u8]) -> Result<Option<Wire<T>>, Refusal> {
        Ok(self.0.get(table.id, key)?.map(|bytes| table.row(bytes)))
    }

    /// The row at `key`, decoded.
    ///
    /// # Errors
    /// The store failed, or the row cannot be read.
    pub fn read<T: Row>(&self, table: &Table<T>, key: &[u8]) -> Result<Option<T>, Refusal> {
        self.get(table, key)?.map(|row| decode(&row)).transpose()
    }

    /// Rows in order, with their keys.
    ///
    /// # Errors
    /// The store failed.
    pub fn scan<T: Row>(&self, table: &Table<T>, span: Span<'_>) -> Result<Vec<(Bytes, Wire<T>)>, Refusal> {
        let rows = self.0.scan(table.id, span)?;
        Ok(rows.into_iter().map(|(key, row)| (key, table.row(row))).collect())
    }

    /// The last transaction that this state includes.
    ///
    /// # Errors
    /// The store failed.
    pub fn seq(&self) -> Result<u64, Refusal> {
        self.0.seq()
    }

    /// See [`Reader::digest`].
    pub fn digest(&self, text: &str) -> [u8; 16] {
        self.0.digest(text.as_bytes())
    }
}

/// Decodes a row.
///
/// # Errors
/// `INTERNAL`: stored bytes are not what the table says.
pub fn decode<T: Row>(row: &Wire<T>) -> Result<T, Refusal> {
    row.decode().map_err(|e| Refusal::new(crate::Code::Internal, format!("a stored {} cannot be read: {e}", T::NAME)))
}
