//! What a writer has submitted and may not be durable yet. A durable snapshot
//! with the overlay over it is the state that the next decision sees.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use canopy_proto::system::v1::Transaction;
use fjall::{UserKey, UserValue};

use crate::keyring::PartitionName;
use crate::partition::Partition;

/// A row set or removed by the submission at `position` in the vault's queue.
pub(crate) struct Pending {
    position: u64,
    pub(crate) value: Option<Bytes>,
}

/// What is pending, by the keys that rows have within their partition: whole
/// ones begin alike and seldom fit into a `UserKey` itself, so that each
/// comparison would have to look them up.
#[derive(Default)]
pub(crate) struct PendingRows(BTreeMap<UserKey, Pending>);

impl PendingRows {
    /// What is pending of the row at a stored key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Pending> {
        self.0.get(within(key))
    }

    /// What is pending of the rows within bounds of stored keys, by table and
    /// key.
    pub(crate) fn range(
        &self,
        first: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&UserKey, &Pending)> {
        self.0.range::<[u8], _>((first.map(within), end.map(within)))
    }
}

/// A stored key without its partition's name.
pub(crate) fn within(key: &[u8]) -> &[u8] {
    key.get(size_of::<PartitionName>()..).unwrap_or_default()
}

struct InFlight {
    position: u64,
    keys: Vec<UserKey>,
    /// The sealed feed entry, for submissions that have one.
    entry: Option<(u64, UserValue)>,
    wake_at_ms: Option<i64>,
}

#[derive(Default)]
pub(crate) struct Overlay {
    rows: PendingRows,
    in_flight: VecDeque<InFlight>,
}

/// Rows of one submission, by stored key.
pub(crate) type NewRows = Vec<(UserKey, Option<Bytes>)>;

impl Overlay {
    pub(crate) fn rows(&self) -> &PendingRows {
        &self.rows
    }

    /// Adds what was submitted at `position`.
    pub(crate) fn add(
        &mut self,
        position: u64,
        rows: NewRows,
        entry: Option<(u64, UserValue)>,
        wake_at_ms: Option<i64>,
    ) {
        let mut keys = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let key = UserKey::from(within(&key));
            keys.push(key.clone());
            self.rows.0.insert(key, Pending { position, value });
        }
        self.in_flight.push_back(InFlight { position, keys, entry, wake_at_ms });
    }

    /// Forgets what is durable up to `position`. Only where no snapshot taken
    /// before that position is read together with the overlay any more.
    pub(crate) fn prune(&mut self, position: u64) {
        if self.in_flight.back().is_some_and(|last| last.position <= position) {
            self.in_flight.clear();
            self.rows.0.clear();
        }
        while let Some(done) = self.in_flight.pop_front_if(|first| first.position <= position) {
            for key in done.keys {
                // A later submission may have set it again.
                if let Entry::Occupied(row) = self.rows.0.entry(key)
                    && row.get().position == done.position
                {
                    row.remove();
                }
            }
        }
    }

    /// The last wish that is durable at `position`, where one is still here.
    pub(crate) fn wake_at_ms(&self, position: u64) -> Option<i64> {
        let durable = self.in_flight.iter().take_while(|entry| entry.position <= position);
        durable.filter_map(|entry| entry.wake_at_ms).last()
    }

    /// A feed entry that may not be durable yet.
    pub(crate) fn transaction(&self, partition: &Partition, seq: u64) -> Option<Result<Transaction, &'static str>> {
        let (_, stored) = self.in_flight.iter().filter_map(|entry| entry.entry.as_ref()).find(|(at, _)| *at == seq)?;
        Some(partition.open_entry(seq, stored))
    }
}
