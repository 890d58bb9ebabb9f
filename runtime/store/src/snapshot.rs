//! Durable reads, which go around the mailbox.

use bytes::Bytes;
use canopy_domain::{Address, Reader, Refusal, Span};
use canopy_proto::system::v1::Transaction;

use crate::StoreError;
use crate::key::{Hmac256, digest16};
use crate::partition::INTERNAL;
use crate::state::{self, Durable};

/// A partition's durable state at one point. While it lives, its vault stays
/// open: keep it for the length of a call.
pub struct Snapshot(State);

enum State {
    /// Nothing was ever committed.
    Absent {
        digests: Hmac256,
        address: Address,
    },
    There(Durable),
}

impl Snapshot {
    pub(crate) fn absent(digests: Hmac256, address: Address) -> Self {
        Self(State::Absent { digests, address })
    }

    pub(crate) fn of(durable: Durable) -> Self {
        Self(State::There(durable))
    }

    /// The last transaction that it includes. Read when asked for: most reads
    /// need no cursor.
    pub(crate) fn last_seq(&self) -> Result<u64, StoreError> {
        self.durable().map_or(Ok(0), |durable| Ok(durable.meta()?.seq))
    }

    /// Checks that the feed is chained from its floor to its last entry, and
    /// says how many there are.
    ///
    /// # Errors
    /// It is not; the store cannot be read.
    pub fn check_feed(&self) -> Result<u64, StoreError> {
        let Some(durable) = self.durable() else { return Ok(0) };
        let (meta, floor) = (durable.meta()?, durable.floor()?);
        let (first, mut chain) = (floor.first(), floor.chain);
        for seq in first..=meta.seq {
            let broken = |reason: &str| durable.damaged(&format!("transaction {seq}: {reason}"));
            let stored = durable.entry(seq)?.ok_or_else(|| broken("is not there"))?;
            (_, chain) = durable.partition.check_link(&chain, seq, &stored).map_err(broken)?;
        }
        if chain == meta.chain {
            Ok(meta.seq + 1 - first)
        } else {
            Err(durable.damaged("the feed ends elsewhere than its rows say"))
        }
    }

    fn durable(&self) -> Option<&Durable> {
        match &self.0 {
            State::There(durable) => Some(durable),
            State::Absent { .. } => None,
        }
    }
}

impl Reader for Snapshot {
    fn get(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        let Some(durable) = self.durable().filter(|_| table < INTERNAL) else {
            return Ok(None);
        };
        let key = durable.partition.row_key(table, key);
        Ok(durable.row(&key)?.map(Bytes::from))
    }

    fn scan(&self, table: u16, span: Span<'_>) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        let Some(durable) = self.durable().filter(|_| table < INTERNAL) else {
            return Ok(Vec::new());
        };
        Ok(state::scan(&durable.partition, Some(durable), None, table, span)?)
    }

    fn seq(&self) -> Result<u64, Refusal> {
        Ok(self.last_seq()?)
    }

    fn floor(&self) -> Result<u64, Refusal> {
        Ok(self.durable().map_or(Ok(1), |durable| durable.floor().map(|floor| floor.first()))?)
    }

    fn transaction(&self, seq: u64) -> Result<Option<Transaction>, Refusal> {
        let Some(durable) = self.durable() else {
            return Ok(None);
        };
        Ok(durable.transaction(seq)?)
    }

    fn subject_fingerprints(&self, subject: &[u8; 16]) -> Result<Vec<[u8; 32]>, Refusal> {
        Ok(self.durable().map_or_else(Vec::new, |d| d.partition.subjects().read().fingerprints(subject)))
    }

    fn digest(&self, text: &[u8]) -> [u8; 16] {
        match &self.0 {
            State::There(durable) => durable.partition.digest(text),
            State::Absent { digests, address } => digest16(digests, &[address.as_str().as_bytes(), b"\0", text]),
        }
    }
}
