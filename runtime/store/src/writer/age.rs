//! What of a partition grows old, and goes: first answers and feed entries.

use bytes::Bytes;
use canopy_domain::{Change, Source, View, ViewWrite};
use canopy_proto::system::v1::Transaction;
use fjall::UserKey;
use prost::Message;

use super::{Writer, day_of};
use crate::floor::Floor;
use crate::group::SealedRow;
use crate::partition::{FLOOR, REQUESTS, SCHEMA_VERSION, change_of};
use crate::row_draft::{RowDraft, Sealed};
use crate::seal::Space;
use crate::state;
use crate::{StoreError, Ticket};

/// Request records that one [`Writer::purge_request_records`] removes at most.
const PURGED_AT_ONCE_MAX: usize = 1000;
/// Feed entries that one [`Writer::trim_feed`] looks at and removes at most:
/// a millisecond or so of its caller's time.
const TRIMMED_AT_ONCE_MAX: u64 = 256;
/// Bytes of stored entries after which it looks at no further one.
const TRIMMED_BYTES_MAX: usize = 4 << 20;

/// What one [`Writer::trim_feed`] did.
pub struct Trimmed {
    /// Entries that go.
    pub entries: u64,
    /// When the next is old enough, in milliseconds since 1970: now, where
    /// there are more than go at once. None where no entry is left, or all of
    /// them stay for good.
    pub next_ms: Option<i64>,
    /// Resolves when they are gone, durably.
    pub ticket: Ticket,
}

/// The oldest entries of a feed, as far as they were looked at.
#[derive(Default)]
struct Looked {
    /// The last one that is too old: those before it are, too.
    old: u64,
    /// Its chain MAC.
    chain: Vec<u8>,
    /// By seq, rows of views that go with an entry.
    pointers: Vec<(u64, View, Vec<u8>)>,
    next_ms: Option<i64>,
}

impl Writer {
    /// Removes request records past their retention, at most 1000; gives how
    /// many. Call again while it gives some.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn purge_request_records(&mut self, now_ms: i64) -> Result<usize, StoreError> {
        let keep = day_of(now_ms.saturating_sub(self.retention_ms()));
        let Some(durable) = self.durable() else {
            return Ok(0);
        };
        let old = |key: &[u8]| key.first_chunk().is_some_and(|day| u32::from_be_bytes(*day) < keep);
        let stored = state::keys(&durable, REQUESTS, PURGED_AT_ONCE_MAX, old)?;
        drop(durable);
        // Those whose removal is under way are still stored.
        let removed = |key: &[u8]| {
            self.pending_rows().and_then(|rows| rows.get(key)).is_some_and(|pending| pending.value.is_none())
        };
        let keys: Vec<Vec<u8>> =
            stored.iter().filter(|key| !removed(key)).map(|key| state::suffix(key).to_vec()).collect();
        // A lost removal is made again.
        drop(self.remove(REQUESTS, &keys));
        Ok(keys.len())
    }

    /// The first transaction that the feed keeps, or will keep; 1 where it
    /// keeps all.
    pub fn feed_floor(&self) -> u64 {
        self.floor.first()
    }

    /// Lets go of feed entries that are past their retention, at most 256, and
    /// of the rows of views that point to them. Takes no seq. Where nothing was
    /// committed for as long, no entry is left: the next one chains on all the
    /// same.
    ///
    /// # Errors
    /// The store cannot be read, or an entry is damaged.
    pub fn trim_feed(&mut self, now_ms: i64) -> Result<Trimmed, StoreError> {
        let first = self.floor.first();
        let Looked { old, chain, mut pointers, next_ms } = self.look_at_oldest(now_ms)?;
        if old < first {
            return Ok(Trimmed { entries: 0, next_ms, ticket: Ticket::ready(Ok(self.meta.seq)) });
        }
        pointers.retain(|(seq, ..)| *seq <= old);
        let remains = self.remains()?;
        let floor = Floor { seq: old + 1, chain, wake_ms: self.floor.wake_ms };
        let mut draft = RowDraft::new(&self.partition, pointers.len() + 1);
        for (_, view, key) in pointers {
            draft.write_view(&view, ViewWrite::Delete { key });
        }
        draft.set(FLOOR, &[], SCHEMA_VERSION, Some(floor.encode_to_vec().into()));
        let RowDraft { mut sealed, plain, .. } = draft;
        let entries = (first..=old).map(|seq| self.partition.feed_key(seq).into());
        let gone = |key| SealedRow { space: Space::Feed, key, value: None };
        sealed.extend(remains.into_iter().chain(entries).map(gone));
        let ticket = self.hand_over(Sealed::rows(sealed), plain, None, None, None, self.meta.seq)?;
        self.floor = floor;
        let entries = old + 1 - first;
        self.vault.node.figures.trimmed_total.increment(entries);
        Ok(Trimmed { entries, next_ms, ticket })
    }

    /// Keys of entries that an earlier trim let go of, and that stand in the
    /// files again since a bit was flipped in its removal: they go with this
    /// one. Looked for once, since a removal is lost where a vault is opened.
    fn remains(&mut self) -> Result<Vec<UserKey>, StoreError> {
        if self.is_swept || self.floor.below() == 0 {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(TRIMMED_AT_ONCE_MAX).unwrap_or(usize::MAX);
        let durable = self.durable();
        let remains = durable.map_or(Ok(Vec::new()), |durable| durable.entries_before(self.floor.first(), limit))?;
        self.is_swept = remains.len() < limit;
        Ok(remains)
    }

    fn look_at_oldest(&self, now_ms: i64) -> Result<Looked, StoreError> {
        let mut looked = Looked::default();
        let retention_ms = self.vault.node.options.feed_retention_ms;
        let Some(durable) = self.durable().filter(|_| retention_ms > 0) else {
            return Ok(looked);
        };
        // What is not durable yet stays: its group may fail.
        let last = durable.meta()?.seq;
        let (first, mut bytes) = (self.floor.first(), 0);
        for seq in first..=last {
            if seq - first >= TRIMMED_AT_ONCE_MAX || bytes >= TRIMMED_BYTES_MAX {
                // Those of a clock that was far ahead are looked at again later.
                let is_any_old = looked.old >= first;
                looked.next_ms = Some(if is_any_old { now_ms } else { now_ms.saturating_add(retention_ms) });
                return Ok(looked);
            }
            let stored = durable.entry(seq)?.ok_or_else(|| self.vault.corrupt("the feed has a gap"))?;
            bytes += stored.len();
            let opened = self.partition.open_first(seq, &stored);
            let (transaction, chain) = opened.map_err(|e| durable.damaged(e))?;
            // One that a clock dated that was ahead goes with the next that is too old.
            let due_ms = transaction.time_ms.min(now_ms).saturating_add(retention_ms);
            if due_ms <= now_ms {
                (looked.old, looked.chain, looked.next_ms) = (seq, chain, None);
            } else {
                looked.next_ms = Some(looked.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
                if transaction.time_ms <= now_ms {
                    return Ok(looked);
                }
            }
            self.point(&transaction, &mut looked.pointers);
        }
        Ok(looked)
    }

    /// Adds the rows of views that point to a transaction.
    fn point(&self, transaction: &Transaction, to: &mut Vec<(u64, View, Vec<u8>)>) {
        let seq = transaction.seq;
        for view in self.views.iter().filter(|view| view.source == Source::Changes) {
            let mut add =
                |n, change: &Change| to.extend(view.keys_of(seq, n, change).into_iter().map(|key| (seq, *view, key)));
            for (n, change) in (0u32..).zip(&transaction.changes) {
                let is_shredded = change.shredded;
                let Some(mut change) = change_of(change.clone()) else { continue };
                add(n, &change);
                if is_shredded {
                    // Whether it set a row or removed one is not known any more.
                    change.after = Some(Bytes::new());
                    add(n, &change);
                }
            }
        }
    }

    /// When the system was last asked to wake the address for
    /// [`Writer::trim_feed`], in milliseconds since 1970; zero for never.
    pub fn trim_wake_ms(&self) -> i64 {
        self.floor.wake_ms
    }

    /// Notes that the system was asked to. Takes no seq; lost, it is asked again.
    ///
    /// # Errors
    /// The vault takes no more.
    pub fn note_trim_wake(&mut self, at_ms: i64) -> Result<(), StoreError> {
        let floor = Floor { wake_ms: at_ms, ..self.floor.clone() };
        let mut draft = RowDraft::new(&self.partition, 1);
        draft.set(FLOOR, &[], SCHEMA_VERSION, Some(floor.encode_to_vec().into()));
        let RowDraft { sealed, plain, .. } = draft;
        drop(self.hand_over(Sealed::rows(sealed), plain, None, None, None, self.meta.seq)?);
        self.floor = floor;
        Ok(())
    }
}
