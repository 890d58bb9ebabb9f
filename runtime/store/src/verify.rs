//! Whether every vault holds what it acknowledged: all rows and feed entries
//! open, feeds are chained without gaps from their floors on, rows and views are
//! what the feeds make of them. Of a row that was set below the floor and not
//! changed since, no feed tells: it opens, in its place, and that is all.
//!
//! Works on a mirror of each vault: what is damaged stays as it was found.

use std::collections::{BTreeSet, HashMap, HashSet};

use canopy_domain::{Address, Change, Source, View, ViewWrite};
use canopy_proto::system::v1 as proto;
use fjall::{Guard, Readable, Snapshot};
use prost::Message;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::disk::{Disk, OpenError};
use crate::floor::Floor;
use crate::keyring::PartitionName;
use crate::mirror;
use crate::node::Node;
use crate::partition::{EFFECTS, FLOOR, INTERNAL, META, Meta, Partition, REQUESTS, change_of, change_of_row};
use crate::vault::Vault;
use crate::{StoreError, StoreOptions};

/// Faults of one vault that are told apart; the others are counted.
const FAULTS_TOLD_MAX: usize = 20;

/// The views of an address, for comparing them with a replay.
pub type ViewsOf<'a> = &'a (dyn Fn(&Address) -> Vec<View> + Sync);

/// What was found in one vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VaultReport {
    /// The address it was made for, or a shard's name.
    pub vault: String,
    /// Partitions with a key.
    pub partitions: u64,
    /// Feed entries that open and are chained.
    pub transactions: u64,
    /// Rows that open, those of views and the store's own included.
    pub rows: u64,
    /// Changes of what was shredded: they are chained, and nobody can say more
    /// of them.
    pub shredded: u64,
    /// What is wrong; at most 20 of them.
    pub faults: Vec<String>,
    /// Faults beyond these.
    pub more_faults: u64,
}

impl VaultReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        if self.faults.len() < FAULTS_TOLD_MAX {
            self.faults.push(what.into());
        } else {
            self.more_faults += 1;
        }
    }

    /// A fault of one partition.
    pub(crate) fn partition_fault(&mut self, name: &PartitionName, what: impl std::fmt::Display) {
        let name: String = name.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        self.fault(format!("partition {name}…: {what}"));
    }
}

/// Looks at every vault of a data directory that no process has open, in the
/// order of names, and tells `each` what it found. To be called within a Tokio
/// runtime. Takes memory for the rows of one partition at a time, about 48
/// bytes each.
///
/// # Errors
/// There is no data directory, another process has it, the key is wrong, or a
/// file of the installation itself is damaged.
pub async fn verify(
    options: StoreOptions,
    views_of: ViewsOf<'_>,
    mut each: impl FnMut(VaultReport),
) -> Result<(), StoreError> {
    if !options.dir.join("VERSION").exists() {
        return Err(StoreError::Io {
            what: format!("`{}` holds no data of Canopy", options.dir.display()),
            reason: "name the data directory of a server".into(),
        });
    }
    let dir = options.dir.clone();
    let node = Node::open(options)?;
    mirror::remove_left(&dir);
    node.catalog.read_all()?;
    let mut vaults = node.catalog.all_vaults()?;
    vaults.sort();
    for (name, id) in vaults {
        let mut report = VaultReport { vault: name.to_string(), ..VaultReport::default() };
        match mirror::open(&node, name, id).await {
            Ok((_mirror, vault)) => {
                let views = Address::parse(&vault.name).map(|address| (views_of)(&address)).unwrap_or_default();
                let mut closed = vault.closed();
                let looked = tokio::task::spawn_blocking(move || {
                    look(&vault, &views, &mut report);
                    report
                });
                report =
                    looked.await.map_err(|e| StoreError::Io { what: "verifying".into(), reason: e.to_string() })?;
                // The mirror may go once nothing has it open.
                let _ = closed.wait_for(|closed| *closed).await;
            }
            Err(OpenError::Damaged(reason)) => report.fault(reason),
            Err(OpenError::Transient(error)) => return Err(error),
        }
        each(report);
    }
    node.unlock();
    Ok(())
}

fn look(vault: &Vault, views: &[View], report: &mut VaultReport) {
    let Some(disk) = vault.disk() else { return };
    let snapshot = disk.snapshot();
    let names = vault.partition_names();
    let own = Address::parse(&vault.name).ok().map(|address| Partition::name_of(&vault.keys.names, &address));
    for name in &names {
        report.partitions += 1;
        let partition = match vault.partition_named(name) {
            Ok(Some(partition)) => partition,
            Ok(None) => continue,
            Err(error) => {
                report.fault(error.to_string());
                continue;
            }
        };
        let views = if Some(*name) == own { views } else { &[] };
        let mut look = Look { disk, snapshot: &snapshot, partition: &partition, views, has_shredded: false, report };
        look.partition();
    }
    strangers(disk, &snapshot, &names, report);
}

/// Counts what belongs to no partition whose key is there.
pub(crate) fn strangers(disk: &Disk, snapshot: &Snapshot, names: &BTreeSet<PartitionName>, report: &mut VaultReport) {
    for (keyspace, what) in [(&disk.data, "rows"), (&disk.feed, "feed entries")] {
        let mut strangers = 0u64;
        for key in snapshot.iter(keyspace).map(Guard::key) {
            let Ok(key) = key else {
                report.fault(format!("its {what} cannot be read"));
                break;
            };
            let name = key.first_chunk::<16>();
            // Below all partitions are the vault's own rows, authenticated when it was opened.
            let is_known = name.is_some_and(|name| *name == [0; 16] || names.contains(name));
            strangers += u64::from(!is_known);
        }
        if strangers > 0 {
            report.fault(format!("{strangers} {what} belong to no partition that has a key"));
        }
    }
}

/// What a feed says of rows, as far as it is kept: by table and key, what a
/// row's value digests to.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) there: HashMap<[u8; 16], [u8; 16]>,
    /// Rows that it removes, where those that it does not name may be there.
    gone: HashSet<[u8; 16]>,
    has_floor: bool,
}

impl Rows {
    pub(crate) fn of(floor: &Floor) -> Self {
        Self { has_floor: floor.first() > 1, ..Self::default() }
    }

    pub(crate) fn set(&mut self, at: [u8; 16], digest: [u8; 16]) {
        self.there.insert(at, digest);
        if self.has_floor {
            self.gone.remove(&at);
        }
    }

    pub(crate) fn remove(&mut self, at: [u8; 16]) {
        self.there.remove(&at);
        if self.has_floor {
            self.gone.insert(at);
        }
    }

    /// Of what was shredded nobody can say more.
    pub(crate) fn forget(&mut self, at: &[u8; 16]) {
        self.there.remove(at);
        self.gone.remove(at);
    }

    /// Whether a row of a table that is there may be what it is; it is asked of
    /// each once.
    pub(crate) fn settle(&mut self, at: &[u8; 16], digest: [u8; 16]) -> bool {
        match self.there.remove(at) {
            Some(expected) => expected == digest,
            None => self.may_be_older(at),
        }
    }

    /// Whether a row that the feed does not name may have been set below it.
    pub(crate) fn may_be_older(&self, at: &[u8; 16]) -> bool {
        self.has_floor && !self.gone.contains(at)
    }
}

pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    *whole.first_chunk().expect("32 bytes have 16")
}

pub(crate) fn place(table: u16, key: &[u8]) -> [u8; 16] {
    digest(&[&table.to_be_bytes(), key])
}

struct Look<'a> {
    disk: &'a Disk,
    snapshot: &'a Snapshot,
    partition: &'a Partition,
    views: &'a [View],
    has_shredded: bool,
    report: &'a mut VaultReport,
}

impl Look<'_> {
    fn partition(&mut self) {
        let floor = self.floor();
        let (seq, chain, expected) = self.feed(floor);
        let meta = self.rows(expected);
        let meta = meta.unwrap_or_default();
        if meta.seq != seq || meta.chain != chain {
            self.fault(format!("its rows stand at transaction {}, and its feed at {seq}", meta.seq));
        }
    }

    fn fault(&mut self, what: impl std::fmt::Display) {
        self.report.partition_fault(&self.partition.name, what);
    }

    /// Where the feed begins. What is wrong with the row is found with the others.
    fn floor(&self) -> Floor {
        let key = self.partition.row_key(FLOOR, &[]);
        let stored = self.snapshot.get(&self.disk.data, &key).ok().flatten();
        let text = stored.and_then(|stored| self.partition.open_row(&key, &stored).ok().flatten());
        text.and_then(|text| Floor::decode(text.as_slice()).ok()).unwrap_or_default()
    }

    /// Where the feed ends, and the rows that it makes.
    fn feed(&mut self, floor: Floor) -> (u64, Vec<u8>, Rows) {
        let (mut seq, mut rows) = (floor.below(), Rows::of(&floor));
        let (below, mut chain) = (floor.below(), floor.chain);
        for row in self.snapshot.prefix(&self.disk.feed, self.partition.name) {
            let Ok((key, stored)) = row.into_inner() else {
                self.fault(format!("its feed cannot be read behind transaction {seq}"));
                break;
            };
            let at = key.get(16..).and_then(|at| at.try_into().ok()).map_or(0, u64::from_be_bytes);
            // It was trimmed, and stands again since a bit was flipped: it goes with the next trim.
            if at <= below {
                continue;
            }
            if at != seq + 1 {
                self.fault(format!("its feed goes from transaction {seq} to {at}"));
                break;
            }
            match self.partition.check_link(&chain, at, &stored) {
                Ok((transaction, link)) => {
                    (seq, chain) = (at, link);
                    self.report.transactions += 1;
                    self.replay(transaction, &mut rows);
                }
                Err(reason) => {
                    self.fault(format!("transaction {at}: {reason}"));
                    break;
                }
            }
        }
        (seq, chain, rows)
    }

    fn replay(&mut self, transaction: proto::Transaction, rows: &mut Rows) {
        let seq = transaction.seq;
        for (n, change) in (0u32..).zip(transaction.changes) {
            let shredded = change.shredded;
            let Some(change) = change_of(change) else {
                self.fault(format!("transaction {seq} names no table"));
                continue;
            };
            if shredded {
                // What it made cannot be known, nor opened where it is there.
                rows.forget(&place(change.table, &change.key));
                self.has_shredded = true;
                self.report.shredded += 1;
                continue;
            }
            self.apply(Source::Changes, seq, n, &change, rows);
            let Change { table, key, after, .. } = change;
            match after {
                Some(after) => rows.set(place(table, &key), digest(&[&after])),
                None => rows.remove(place(table, &key)),
            }
        }
    }

    /// Adds what views make of a change.
    fn apply(&self, source: Source, seq: u64, n: u32, change: &Change, rows: &mut Rows) {
        let mut writes = Vec::new();
        for view in self.views.iter().filter(|view| view.source == source) {
            (view.apply)(seq, n, change, &mut writes);
            for write in writes.drain(..) {
                match write {
                    ViewWrite::Put { key, value } => rows.there.insert(place(view.id, &key), digest(&[&value])),
                    ViewWrite::Delete { key } => rows.there.remove(&place(view.id, &key)),
                };
            }
        }
    }

    /// Opens every row and compares it with what the feed makes.
    fn rows(&mut self, mut expected: Rows) -> Option<Meta> {
        let mut meta = None;
        let mut stale = 0u64;
        let has_views = !self.views.is_empty();
        for row in self.snapshot.prefix(&self.disk.data, self.partition.name) {
            let Ok((key, stored)) = row.into_inner() else {
                self.fault("its rows cannot be read to the end");
                return meta;
            };
            let text = match self.partition.open_row(&key, &stored) {
                Ok(Some(text)) => text,
                // Shredded: nobody can say more of it.
                Ok(None) => {
                    self.has_shredded = true;
                    continue;
                }
                Err(reason) => {
                    self.fault(reason);
                    continue;
                }
            };
            self.report.rows += 1;
            let Some((table, own)) = key.get(16..).and_then(|rest| rest.split_first_chunk::<2>()) else {
                self.fault("a row's key is too short");
                continue;
            };
            let table = u16::from_be_bytes(*table);
            let readable = match table {
                META => Meta::decode(text.as_slice()).map(|found| meta = Some(found)),
                REQUESTS => proto::RequestRecord::decode(text.as_slice()).map(drop),
                EFFECTS => proto::Effect::decode(text.as_slice()).map(drop),
                FLOOR => Floor::decode(text.as_slice()).map(drop),
                // Where the views are not known, their rows are not compared.
                View::FIRST_ID..INTERNAL if !has_views => Ok(()),
                table if table >= INTERNAL => Ok(()),
                // A view's pointer to what was shredded: its key is all there is.
                View::FIRST_ID..INTERNAL
                    if self.has_shredded && text.is_empty() && !expected.there.contains_key(&place(table, own)) =>
                {
                    Ok(())
                }
                View::FIRST_ID.. => {
                    stale += u64::from(expected.there.remove(&place(table, own)) != Some(digest(&[&text])));
                    Ok(())
                }
                _ => {
                    stale += u64::from(!expected.settle(&place(table, own), digest(&[&text])));
                    // Tables stand before views.
                    if let Ok(Some(change)) = change_of_row(self.partition, &key, &stored) {
                        self.apply(Source::Rows, 0, 0, &change, &mut expected);
                    }
                    Ok(())
                }
            };
            if let Err(error) = readable {
                self.fault(format!("a row of table {table:#06x}: {error}"));
            }
        }
        if stale > 0 || !expected.there.is_empty() {
            let missing = expected.there.len();
            self.fault(format!("{stale} rows are not what the feed says, and {missing} that it says are not there"));
        }
        meta
    }
}
