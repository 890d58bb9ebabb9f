//! What a writer has submitted and may not be durable yet. A durable snapshot
//! with the overlay over it is the state that the next decision sees.

use std::collections::VecDeque;

use bytes::Bytes;
use canopy_proto::system::v1::Transaction;
use fjall::{UserKey, UserValue};

use crate::partition::Partition;
use crate::state::PendingRows;

/// A row set or removed by the submission at `position` in the vault's queue.
pub(crate) struct Pending {
    position: u64,
    pub(crate) value: Option<Bytes>,
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
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        for (key, value) in rows {
            self.rows.insert(key, Pending { position, value });
        }
        self.in_flight.push_back(InFlight { position, keys, entry, wake_at_ms });
    }

    /// Forgets what is durable up to `position`. Only where no snapshot taken
    /// before that position is read together with the overlay any more.
    pub(crate) fn prune(&mut self, position: u64) {
        while let Some(done) = self.in_flight.pop_front_if(|first| first.position <= position) {
            for key in done.keys {
                // A later submission may have set it again.
                if self.rows.get(&key).is_some_and(|pending| pending.position == done.position) {
                    self.rows.remove(&key);
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
