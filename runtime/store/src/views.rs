//! Views are disposable: one made by another version is dropped and made
//! again from the rows of tables or by replaying the feed, before anybody
//! writes.

use std::sync::Arc;

use canopy_domain::{Change, Source, View, ViewWrite};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::commit::Ticket;
use crate::group::{Advance, SealedRow, Submission};
use crate::handle::Handle;
use crate::key::random;
use crate::partition::{self, Meta, Partition, change_of};
use crate::seal::{Sealer, Space};
use crate::state::{self, Durable};
use crate::vault::Vault;

/// Rows dropped, or transactions replayed, in one batch.
const CHUNK: usize = 256;

fn stale<'a>(views: &'a [View], meta: &Meta) -> impl Iterator<Item = &'a View> {
    let is_empty = meta.seq == 0;
    let is_stale = move |view: &&View| meta.view_versions.get(&u32::from(view.id)) != Some(&view.version);
    views.iter().filter(move |_| !is_empty).filter(is_stale)
}

/// Whether there is anything to [`rebuild`].
pub(crate) fn are_stale(views: &[View], meta: &Meta) -> bool {
    stale(views, meta).next().is_some()
}

/// Brings a partition's views up to date, and gives its state after that.
/// Blocks. A crash in between leaves the version unset: it starts again.
pub(crate) fn rebuild(
    vault: &Arc<Vault>,
    partition: &Arc<Partition>,
    handle: &Arc<Handle>,
    views: &[View],
    mut meta: Meta,
) -> Result<Meta, StoreError> {
    let stale: Vec<&View> = stale(views, &meta).collect();
    if stale.is_empty() {
        return Ok(meta);
    }
    tracing::info!(address = %handle.address, views = stale.len(), last_seq = meta.seq, "rebuilding views");
    let rebuild = Rebuild { vault, partition, handle };
    for view in &stale {
        meta.view_versions.remove(&u32::from(view.id));
    }
    rebuild.write(Vec::new(), &meta)?;
    for view in &stale {
        rebuild.drop_rows(view, &meta)?;
    }
    let (of_rows, of_changes): (Vec<&View>, Vec<&View>) =
        stale.iter().copied().partition(|view| view.source == Source::Rows);
    if !of_rows.is_empty() {
        rebuild.read(&of_rows, &meta)?;
    }
    if !of_changes.is_empty() {
        rebuild.replay(&of_changes, &meta)?;
    }
    meta.view_versions = views.iter().map(|view| (u32::from(view.id), view.version)).collect();
    rebuild.write(Vec::new(), &meta)?;
    Ok(meta)
}

struct Rebuild<'a> {
    vault: &'a Arc<Vault>,
    partition: &'a Arc<Partition>,
    handle: &'a Arc<Handle>,
}

impl Rebuild<'_> {
    fn durable(&self) -> Result<Durable, StoreError> {
        Durable::of(self.vault.clone(), self.partition.clone())
            .ok_or_else(|| self.vault.corrupt("a partition with a feed has no disk"))
    }

    fn write(&self, rows: Vec<SealedRow>, meta: &Meta) -> Result<(), StoreError> {
        let (ticket, answer) = oneshot::channel();
        self.vault.submit(Submission {
            rows,
            advance: Some(Advance::new(self.partition, self.handle, Arc::new(meta.clone()))),
            is_commit: false,
            new_keys: self.partition.take_unwritten(),
            doomed: Vec::new(),
            seq: meta.seq,
            ticket: Some(ticket),
        })?;
        Ticket::waiting(answer).wait().map(|_| ())
    }

    fn drop_rows(&self, view: &View, meta: &Meta) -> Result<(), StoreError> {
        loop {
            let durable = self.durable()?;
            let keys = state::keys(&durable, view.id, CHUNK, |_| true)?;
            drop(durable);
            if keys.is_empty() {
                return Ok(());
            }
            let removed = keys.into_iter().map(|key| SealedRow { space: Space::Data, key, value: None }).collect();
            self.write(removed, meta)?;
        }
    }

    /// Makes views of the rows of tables.
    fn read(&self, views: &[&View], meta: &Meta) -> Result<(), StoreError> {
        let durable = self.durable()?;
        let mut rows = Vec::new();
        for change in durable.table_rows() {
            self.apply(views, 0, 0, &change?, &mut rows);
            if rows.len() >= CHUNK {
                self.write(std::mem::take(&mut rows), meta)?;
            }
        }
        self.write(rows, meta)
    }

    /// Makes views of the changes that the feed keeps.
    fn replay(&self, views: &[&View], meta: &Meta) -> Result<(), StoreError> {
        let durable = self.durable()?;
        let floor = durable.floor()?;
        let (first, mut chain) = (floor.first(), floor.chain);
        let mut rows = Vec::new();
        for seq in first..=meta.seq {
            let stored = durable.entry(seq)?.ok_or_else(|| self.vault.corrupt("the feed has a gap"))?;
            let (transaction, link) =
                self.partition.check_link(&chain, seq, &stored).map_err(|e| durable.damaged(e))?;
            chain = link;
            for (n, change) in (0u32..).zip(transaction.changes).filter(|(_, change)| !change.shredded) {
                let change = change_of(change).ok_or_else(|| self.vault.corrupt("a feed entry names no table"))?;
                self.apply(views, seq, n, &change, &mut rows);
            }
            if rows.len() >= CHUNK || seq == meta.seq {
                self.write(std::mem::take(&mut rows), meta)?;
            }
        }
        Ok(())
    }

    fn apply(&self, views: &[&View], seq: u64, n: u32, change: &Change, rows: &mut Vec<SealedRow>) {
        let subject = partition::subject_of(&change.key).filter(|_| change.of_subject);
        let subject = subject.and_then(|subject| self.partition.subjects().read().current(&subject));
        let sealer = subject.unwrap_or_else(|| self.partition.sealer());
        let mut writes = Vec::new();
        for view in views {
            (view.apply)(seq, n, change, &mut writes);
            rows.extend(writes.drain(..).map(|write| self.row(view, write, &sealer)));
        }
    }

    fn row(&self, view: &View, write: ViewWrite, sealer: &Sealer) -> SealedRow {
        let (key, value) = match write {
            ViewWrite::Put { key, value } => (key, Some(value)),
            ViewWrite::Delete { key } => (key, None),
        };
        let key = self.partition.row_key(view.id, &key);
        let value = value.map(|value| {
            if value.is_empty() {
                return fjall::UserValue::empty();
            }
            sealer.seal(Space::Data, &key, view.version, &value, random())
        });
        SealedRow { space: Space::Data, key, value }
    }
}
