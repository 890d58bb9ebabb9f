//! What a writer has submitted and may not be durable yet. A durable snapshot
//! with the overlay over it is the state that the next decision sees.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::OnceLock;

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

/// What is pending, by the keys that rows have within their partition.
#[derive(Default)]
pub(crate) struct PendingRows {
    rows: HashMap<UserKey, Pending>,
    /// Their keys in order, from when a scan first asks until nothing is
    /// pending: many owners never scan.
    order: OnceLock<BTreeSet<UserKey>>,
}

impl PendingRows {
    /// What is pending of the row at a stored key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Pending> {
        self.rows.get(within(key))
    }

    /// What is pending of the rows within bounds of stored keys, by table and
    /// key.
    pub(crate) fn range(
        &self,
        first: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&UserKey, &Pending)> {
        let order = self.order.get_or_init(|| self.rows.keys().cloned().collect());
        order.range::<[u8], _>((first.map(within), end.map(within))).filter_map(|key| self.rows.get_key_value(key))
    }

    fn insert(&mut self, key: UserKey, pending: Pending) {
        if let Some(order) = self.order.get_mut() {
            order.insert(key.clone());
        }
        self.rows.insert(key, pending);
    }

    /// Removes what the submission at `position` set, unless a later one has
    /// set it again.
    fn remove(&mut self, key: UserKey, position: u64) {
        if let Entry::Occupied(row) = self.rows.entry(key)
            && row.get().position == position
        {
            let (key, _) = row.remove_entry();
            if let Some(order) = self.order.get_mut() {
                order.remove(&key);
            }
        }
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.order.take();
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
            self.rows.insert(key, Pending { position, value });
        }
        self.in_flight.push_back(InFlight { position, keys, entry, wake_at_ms });
    }

    /// Forgets what is durable up to `position`. Only where no snapshot taken
    /// before that position is read together with the overlay any more.
    pub(crate) fn prune(&mut self, position: u64) {
        if self.in_flight.back().is_some_and(|last| last.position <= position) {
            self.in_flight.clear();
            self.rows.clear();
        }
        while let Some(done) = self.in_flight.pop_front_if(|first| first.position <= position) {
            for key in done.keys {
                self.rows.remove(key, done.position);
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
