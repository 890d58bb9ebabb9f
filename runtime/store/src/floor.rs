//! The retention floor: from where on a partition's feed is kept.
//!
//! What lies below it was removed in the batch that raised it, so that a feed
//! that begins elsewhere than at its floor is damaged. The floor has a row of
//! its own and is no part of the partition's state: a commit writes none, and
//! one that cannot be read does not take the state with it.

use prost::Message;

/// Where a feed begins. The default is that of a feed that is whole.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Floor {
    /// The first seq that is kept: one beyond the last where none is. Zero, in
    /// a row that only says when to wake, stands for one.
    #[prost(uint64, tag = "1")]
    pub(crate) seq: u64,
    /// The chain MAC of the entry that was just below it; empty before the
    /// first: what the rest of the chain is proven from.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) chain: Vec<u8>,
    /// When the system was asked to wake the address, so that an idle feed is
    /// trimmed, too; milliseconds since 1970.
    #[prost(int64, tag = "3")]
    pub(crate) wake_ms: i64,
}

impl Floor {
    /// The first seq that is kept, or will be.
    pub(crate) fn first(&self) -> u64 {
        self.seq.max(1)
    }

    /// The last seq that is not kept; zero where all are.
    pub(crate) fn below(&self) -> u64 {
        self.first() - 1
    }
}
