//! The single owner of a partition's changes.

mod age;

pub use age::Trimmed;

use std::sync::Arc;

use bytes::Bytes;
use canopy_domain::{Address, Order, Reader, Refusal, Span, View};
use canopy_proto::system::v1 as proto;
use canopy_proto::system::v1::{RequestRecord, Transaction};
use fjall::UserValue;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

use crate::commit_keys::CommitKeys;
use crate::floor::Floor;
use crate::group::{Advance, SealedRow, Submission};
use crate::handle::Claim;
use crate::keyring::SubjectId;
use crate::overlay::{NewRows, Overlay, PendingRows};
use crate::partition::{EFFECTS, INTERNAL, Meta, Partition, REQUESTS, SCHEMA_VERSION, effect_key};
use crate::recent::RecentRows;
use crate::row_draft::{RowDraft, Sealed};
use crate::seal::Space;
use crate::state::{self, Durable};
use crate::store::{Loading, PartitionReader, Store};
use crate::vault::Vault;
use crate::{Commit, PendingEffect, RequestKey, StoreError, Ticket};

/// Request records are kept in tables by day, so that old ones go together.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The first day with a request record where there is none.
const NO_REQUESTS: u32 = u32::MAX;

/// The first day that has request records, in days since 1970.
fn first_request_day(durable: &Durable) -> Result<u32, StoreError> {
    let first = state::keys(durable, REQUESTS, 1, |_| true)?;
    let day = first.first().and_then(|key| state::suffix(key).first_chunk());
    Ok(day.map_or(NO_REQUESTS, |day| u32::from_be_bytes(*day)))
}

/// Commits to one partition. There is one per address; it keeps the vault
/// open. Commits are pipelined: the next decision may be made on
/// [`Writer::live`] before the last one is durable.
pub struct Writer {
    claim: Claim,
    store: Store,
    vault: Arc<Vault>,
    partition: Arc<Partition>,
    /// The vault knows it from its first commit on.
    is_new: bool,
    views: Vec<View>,
    /// As of the last submission.
    meta: Arc<Meta>,
    /// As of the last submission.
    floor: Floor,
    /// Nothing is stored that the feed has let go of.
    is_swept: bool,
    recent: Mutex<RecentRows>,
    /// No request record is older, in days since 1970: days before it need no
    /// look-up.
    requests_since: u32,
    /// The last durable wish that the overlay has forgotten.
    wake_at_ms: Option<i64>,
    overlay: Overlay,
    /// In the vault's queue, of the last submission.
    position: u64,
}

impl Writer {
    pub(crate) fn new(from: Loading, store: Store, views: Vec<View>) -> Result<Self, StoreError> {
        let Loading { claim, vault, partition, is_new, mut meta, floor } = from;
        let durable = Durable::of(vault.clone(), partition.clone());
        let requests_since = durable.as_ref().map_or(Ok(NO_REQUESTS), first_request_day)?;
        drop(durable);
        // Views that are new, or whose partition is empty, start as they are.
        meta.view_versions = views.iter().map(|view| (u32::from(view.id), view.version)).collect();
        Ok(Self {
            claim,
            store,
            vault,
            partition,
            is_new,
            views,
            wake_at_ms: meta.wake_at_ms,
            meta: Arc::new(meta),
            floor,
            is_swept: false,
            recent: Mutex::default(),
            requests_since,
            overlay: Overlay::default(),
            position: 0,
        })
    }

    /// Whose partition this is.
    pub fn address(&self) -> &Address {
        &self.claim.address
    }

    /// The state that the next commit builds on: durable rows, and over them
    /// what was submitted.
    pub fn live(&self) -> Live<'_> {
        Live { writer: self, durable: self.durable() }
    }

    fn durable(&self) -> Option<Durable> {
        Durable::of(self.vault.clone(), self.partition.clone())
    }

    /// The seq that the next commit gets.
    pub fn next_seq(&self) -> u64 {
        self.meta.seq + 1
    }

    /// Submits a commit. It is visible to [`Writer::live`] at once, and to
    /// everybody else when the ticket resolves.
    pub fn submit(&mut self, commit: Commit) -> Ticket {
        match self.try_submit(commit) {
            Ok(ticket) => ticket,
            Err(error) => Ticket::ready(Err(error)),
        }
    }

    fn try_submit(&mut self, commit: Commit) -> Result<Ticket, StoreError> {
        if let Some(change) = commit.changes.iter().find(|change| change.table >= INTERNAL) {
            return Err(StoreError::ReservedTable(change.table));
        }
        let now_ms = commit.time_ms;
        let keys = CommitKeys::new(&self.partition, &commit, self.vault.keys.version(), now_ms)?;
        let seq = self.next_seq();
        let mut draft = RowDraft::new(&self.partition, commit.changes.len() + commit.effects.len() + 2);
        let mut writes = Vec::new();
        for (n, change) in (0u32..).zip(&commit.changes) {
            draft.subjects = keys.of_change(n as usize);
            draft.set(change.table, &change.key, change.schema_version, change.after.clone());
            for view in &self.views {
                (view.apply)(seq, n, change, &mut writes);
                for write in writes.drain(..) {
                    draft.write_view(view, write);
                }
            }
        }
        for (n, effect) in (0u32..).zip(commit.effects) {
            draft.subjects = if effect.outlives_subjects { &[] } else { &keys.subjects };
            let effect = proto::Effect {
                target: effect.target.to_string(),
                method: effect.method.into(),
                request: effect.request,
            };
            draft.set(EFFECTS, &effect_key(seq, n), SCHEMA_VERSION, Some(effect.encode_to_vec().into()));
        }
        draft.subjects = &keys.subjects;
        if let Some((key, mut record)) = commit.record {
            if record.seq == 0 {
                record.seq = seq;
            }
            let day = day_of(commit.time_ms);
            self.requests_since = day.min(self.requests_since);
            let key = self.request_key(&key, day);
            draft.set(REQUESTS, &key, SCHEMA_VERSION, Some(record.encode_to_vec().into()));
        }
        let transaction = Transaction {
            seq,
            shreds: self.shreds(&commit.shreds),
            time_ms: commit.time_ms,
            principal: commit.principal,
            origin: Some(commit.origin),
            request_id: commit.request_id,
            method: commit.method.into(),
            changes: commit
                .changes
                .into_iter()
                .map(|change| proto::Change {
                    table: change.table.into(),
                    key: change.key.into(),
                    before: change.before,
                    after: change.after,
                    schema_version: change.schema_version,
                    of_subject: change.of_subject,
                    sealed_bytes: 0,
                    shredded: false,
                })
                .collect(),
        };
        let (entry, chain) =
            self.partition.seal_entry(&self.meta.chain, transaction, &keys.of_changes, &mut draft.nonces);
        let RowDraft { mut sealed, plain, .. } = draft;
        sealed.push(SealedRow {
            space: Space::Feed,
            key: self.partition.feed_key(seq).into(),
            value: Some(entry.clone()),
        });
        let meta = Arc::new(Meta {
            seq,
            chain,
            wake_at_ms: commit.wake_at_ms.or(self.meta.wake_at_ms),
            view_versions: self.meta.view_versions.clone(),
            committed_ms: self.meta.committed_ms.max(commit.time_ms),
        });
        let advance = Advance::new(&self.partition, &self.claim, Arc::clone(&meta));
        let sealed = Sealed { rows: sealed, doomed: commit.shreds };
        let ticket = self.hand_over(sealed, plain, Some(advance), Some((seq, entry)), commit.wake_at_ms, seq)?;
        self.meta = meta;
        Ok(ticket)
    }

    fn shreds(&self, subjects: &[SubjectId]) -> Vec<proto::Shred> {
        let known = self.partition.subjects().read();
        let shred = |subject: &SubjectId| {
            let fingerprints = known.fingerprints(subject);
            let fingerprints = fingerprints.iter().map(|fingerprint| fingerprint.to_vec().into()).collect();
            proto::Shred { subject: subject.to_vec().into(), fingerprints }
        };
        subjects.iter().map(shred).collect()
    }

    fn hand_over(
        &mut self,
        sealed: Sealed,
        plain: NewRows,
        advance: Option<Advance>,
        entry: Option<(u64, UserValue)>,
        wake_at_ms: Option<i64>,
        seq: u64,
    ) -> Result<Ticket, StoreError> {
        self.prune();
        if self.partition.is_shredded() {
            return Err(StoreError::Shredded(self.claim.address.to_string()));
        }
        let Sealed { rows, doomed } = sealed;
        if self.is_new {
            self.vault.adopt(&self.claim.address, &self.partition)?;
            self.claim.set_found(&self.vault, &self.partition);
        }
        if !doomed.is_empty() {
            self.recent.get_mut().forget();
            let mut subjects = self.partition.subjects().write();
            doomed.iter().for_each(|subject| subjects.doom(*subject));
        }
        let (sender, answer) = oneshot::channel();
        self.position = self.vault.submit(Submission {
            rows,
            is_commit: advance.is_some(),
            advance,
            new_keys: self.partition.take_unwritten(),
            doomed,
            seq,
            ticket: Some(sender),
        })?;
        self.is_new = false;
        self.recent.get_mut().set(plain.iter().map(|(key, row)| (key, row)));
        self.overlay.add(self.position, plain, entry, wake_at_ms);
        Ok(Ticket::waiting(answer))
    }

    /// Forgets what is durable. Whoever reads with the overlay takes a new
    /// snapshot after this, so that no row is in neither.
    fn prune(&mut self) {
        let position = self.vault.durable_position();
        self.wake_at_ms = self.overlay.wake_at_ms(position).or(self.wake_at_ms);
        self.overlay.prune(position);
    }

    /// Resolves when everything submitted so far is durable: for a repeat of
    /// a request whose first try is under way.
    pub fn barrier(&self) -> Ticket {
        self.vault.barrier(self.meta.seq)
    }

    fn request_key(&self, key: &RequestKey, day: u32) -> [u8; 20] {
        let digest = self.partition.request_digest(key.as_bytes());
        let mut whole = [0u8; 20];
        for (to, from) in whole.iter_mut().zip(day.to_be_bytes().into_iter().chain(digest)) {
            *to = from;
        }
        whole
    }

    /// The first answer to a request, submitted or durable.
    ///
    /// # Errors
    /// See [`Live::request_record`].
    pub fn request_record(&self, key: &RequestKey, now_ms: i64) -> Result<Option<RequestRecord>, StoreError> {
        self.live().request_record(key, now_ms)
    }

    fn retention_ms(&self) -> i64 {
        self.vault.node.options.request_retention_ms.max(0)
    }

    /// Durable effects that are not completed, oldest first.
    ///
    /// # Errors
    /// The store cannot be read, or an effect is damaged.
    pub fn pending_effects(&self, limit: usize) -> Result<Vec<PendingEffect>, StoreError> {
        let Some(durable) = self.durable() else {
            return Ok(Vec::new());
        };
        let last = durable.meta()?.seq;
        let span = Span { prefix: &[], after: None, order: Order::Ascending, limit };
        // Over them, so that one completed a moment ago is not given again.
        let rows = state::scan(&self.partition, Some(&durable), self.pending_rows(), EFFECTS, span)?;
        let mut effects = Vec::with_capacity(rows.len());
        for (key, bytes) in rows {
            let damaged = || self.vault.corrupt("an effect cannot be read");
            let (seq, n) = key.split_first_chunk::<8>().ok_or_else(damaged)?;
            let seq = u64::from_be_bytes(*seq);
            if seq > last {
                break;
            }
            let n = u32::from_be_bytes(n.try_into().map_err(|_| damaged())?);
            let effect = proto::Effect::decode(bytes).map_err(|_| damaged())?;
            effects.push(PendingEffect { seq, n, effect });
        }
        Ok(effects)
    }

    /// Forgets effects that were delivered. Takes no seq and no feed entry.
    pub fn complete_effects(&mut self, done: &[(u64, u32)]) -> Ticket {
        let keys: Vec<_> = done.iter().map(|(seq, n)| effect_key(*seq, *n)).collect();
        self.remove(EFFECTS, &keys)
    }

    fn remove<K: AsRef<[u8]>>(&mut self, table: u16, keys: &[K]) -> Ticket {
        if keys.is_empty() {
            return Ticket::ready(Ok(self.meta.seq));
        }
        let mut draft = RowDraft::new(&self.partition, 0);
        for key in keys {
            draft.set(table, key.as_ref(), SCHEMA_VERSION, None);
        }
        let RowDraft { sealed, plain, .. } = draft;
        match self.hand_over(Sealed::rows(sealed), plain, None, None, None, self.meta.seq) {
            Ok(ticket) => ticket,
            Err(error) => Ticket::ready(Err(error)),
        }
    }

    /// When the actor last asked to be activated, in milliseconds since 1970;
    /// of durable commits.
    pub fn wake_at_ms(&self) -> Option<i64> {
        self.overlay.wake_at_ms(self.vault.durable_position()).or(self.wake_at_ms)
    }

    /// Whether a commit of this vault failed. What was submitted and not
    /// confirmed is void: drop this writer and obtain a new one.
    pub fn is_failed(&self) -> bool {
        self.vault.is_failed()
    }

    /// Reads the partition durably, also after this writer is gone.
    pub fn reader(&self) -> PartitionReader {
        self.store.reader_of(self.claim.clone())
    }

    /// Pending rows, while they may become durable.
    fn pending_rows(&self) -> Option<&PendingRows> {
        (!self.is_failed()).then(|| self.overlay.rows())
    }
}

fn day_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / DAY_MS).unwrap_or(u32::MAX)
}

/// What the owner sees: durable rows, and over them what it has submitted.
pub struct Live<'a> {
    writer: &'a Writer,
    durable: Option<Durable>,
}

impl Live<'_> {
    /// The first answer to a request, submitted or durable. Each day of
    /// retention costs a look-up.
    ///
    /// # Errors
    /// The store cannot be read, or the record is damaged.
    pub fn request_record(&self, key: &RequestKey, now_ms: i64) -> Result<Option<RequestRecord>, StoreError> {
        let writer = self.writer;
        let oldest = day_of(now_ms.saturating_sub(writer.retention_ms())).max(writer.requests_since);
        // The clock may have been set back since the last commit.
        let newest = day_of(now_ms.max(writer.meta.committed_ms));
        for day in (oldest..=newest).rev() {
            let stored = writer.partition.row_key(REQUESTS, &writer.request_key(key, day));
            let row = self.row(&stored)?;
            if row.is_none() && self.durable.as_ref().map_or(Ok(false), |durable| durable.is_shredded(&stored))? {
                return Err(StoreError::AnswerShredded);
            }
            if let Some(bytes) = row {
                return RequestRecord::decode(bytes)
                    .map(Some)
                    .map_err(|e| writer.vault.corrupt(&format!("a request record: {e}")));
            }
        }
        Ok(None)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(pending) = self.writer.pending_rows().and_then(|rows| rows.get(key)) {
            return Ok(pending.value.clone());
        }
        match &self.durable {
            Some(durable) => Ok(durable.row(key)?.map(Bytes::from)),
            None => Ok(None),
        }
    }

    /// As [`Live::row`], for rows that may be asked for again.
    fn recent_row(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        // After a failed commit, what was set last may not stand.
        if self.writer.is_failed() {
            return self.row(key);
        }
        if let Some(known) = self.writer.recent.lock().get(key) {
            return Ok(known);
        }
        let row = self.row(key)?;
        self.writer.recent.lock().keep(key, row.as_ref());
        Ok(row)
    }
}

impl Reader for Live<'_> {
    fn get(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        if table >= INTERNAL {
            return Ok(None);
        }
        Ok(self.recent_row(&self.writer.partition.row_key(table, key))?)
    }

    fn scan(&self, table: u16, span: Span<'_>) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        if table >= INTERNAL {
            return Ok(Vec::new());
        }
        let writer = self.writer;
        Ok(state::scan(&writer.partition, self.durable.as_ref(), writer.pending_rows(), table, span)?)
    }

    fn seq(&self) -> Result<u64, Refusal> {
        Ok(self.writer.meta.seq)
    }

    fn floor(&self) -> Result<u64, Refusal> {
        Ok(self.writer.feed_floor())
    }

    fn transaction(&self, seq: u64) -> Result<Option<Transaction>, Refusal> {
        let writer = self.writer;
        if seq < writer.feed_floor() {
            return Ok(None);
        }
        if let Some(found) = writer.overlay.transaction(&writer.partition, seq).filter(|_| !writer.is_failed()) {
            return Ok(Some(found.map_err(|e| writer.vault.corrupt(e))?));
        }
        match &self.durable {
            Some(durable) => Ok(durable.transaction(seq)?),
            None => Ok(None),
        }
    }

    fn subject_fingerprints(&self, subject: &[u8; 16]) -> Result<Vec<[u8; 32]>, Refusal> {
        Ok(self.writer.partition.subjects().read().fingerprints(subject))
    }

    fn digest(&self, text: &[u8]) -> [u8; 16] {
        self.writer.partition.digest(text)
    }
}
