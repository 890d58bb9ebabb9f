//! One partition of a damaged vault, taken over into a new one. The feed is
//! taken as far as it is chained from its floor on, and rows as far as they
//! open. Where both are whole they agree, and nothing changes. Otherwise:
//!
//! - Rows that are missing or behind a whole feed are made from it again. One
//!   that it does not name, for it was set below the floor, cannot be: a
//!   transaction tells that it is gone.
//! - Where no floor can be read, and the feed does not begin with its first
//!   transaction, the one that it begins with is taken for what lies just below.
//! - Behind the point where a feed is damaged, the rows that open say what
//!   came of the rest: one transaction more, or a few, take the proven feed to
//!   them. What happened is lost in its details, and not in its outcome.
//! - Views are dropped, and replayed when the address is next used.

use std::collections::{BTreeMap, HashSet};
use std::io;

use bytes::Bytes;
use canopy_domain::View;
use canopy_proto::system::v1 as proto;
use fjall::{Readable, Snapshot};
use prost::Message;

use crate::disk::Disk;
use crate::floor::Floor;
use crate::key::Nonces;
use crate::partition::{
    EFFECTS, FLOOR, INTERNAL, META, Meta, Partition, REQUESTS, SCHEMA_VERSION, change_of, subject_of,
};
use crate::row_draft::RowDraft;
use crate::salvage::SalvageReport;
use crate::seal::{SUBJECT_VERSIONS, Space, key_version, schema_version};
use crate::staging::Ingest;
use crate::verify::{Rows, digest, place};

/// What a transaction made here is said to come from.
const METHOD: &str = "canopy.local.Salvage";
/// Bytes of rows in one transaction made here.
const TRANSACTION_BYTES: usize = 1 << 20;

/// What is left of a partition.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) source: &'a Disk,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) partition: &'a Partition,
}

/// Where a feed begins.
#[derive(Default)]
struct Start {
    floor: Floor,
    /// Its row cannot be read: the entry just below it is the first that is there.
    is_guess: bool,
}

/// The feed, as far as it is proven.
struct Feed {
    seq: u64,
    chain: Vec<u8>,
    /// The rows that it makes.
    rows: Rows,
    /// Nothing of it stands behind that.
    is_whole: bool,
}

impl Left<'_> {
    /// Reads the feed from its floor, as far as it is chained; `each` gets the
    /// entries, opened and as they are stored. Gives what is wrong behind it.
    fn feed(
        &self,
        start: &Start,
        mut each: impl FnMut(&[u8], &[u8], proto::Transaction) -> io::Result<()>,
    ) -> io::Result<(u64, Vec<u8>, Option<String>)> {
        let (mut seq, mut chain) = (start.floor.below(), start.floor.chain.clone());
        for row in self.snapshot.prefix(&self.source.feed, self.partition.name) {
            let Ok((key, stored)) = row.into_inner() else {
                return Ok((seq, chain, Some(format!("its feed cannot be read behind transaction {seq}"))));
            };
            let at = key.get(16..).and_then(|at| at.try_into().ok()).map_or(0, u64::from_be_bytes);
            // What the floor was guessed by, or was trimmed and stands again.
            if at <= start.floor.below() {
                continue;
            }
            if at != seq + 1 {
                return Ok((seq, chain, Some(format!("its feed goes from transaction {seq} to {at}"))));
            }
            match self.partition.check_link(&chain, at, &stored) {
                Ok((transaction, link)) => {
                    (seq, chain) = (at, link);
                    each(&key, &stored, transaction)?;
                }
                Err(reason) => return Ok((seq, chain, Some(format!("transaction {at}: {reason}")))),
            }
        }
        Ok((seq, chain, None))
    }

    fn start(&self, meta: Option<&Meta>) -> Start {
        let key = self.partition.row_key(FLOOR, &[]);
        let stored = self.snapshot.get(&self.source.data, &key);
        let is_absent = matches!(stored, Ok(None));
        let text = stored.ok().flatten().and_then(|stored| self.partition.open_row(&key, &stored).ok().flatten());
        if let Some(floor) = text.and_then(|text| Floor::decode(text.as_slice()).ok()) {
            return Start { floor, is_guess: false };
        }
        let first = self.snapshot.prefix(&self.source.feed, self.partition.name).next();
        let floor = match first.map(fjall::Guard::into_inner) {
            Some(Ok((key, stored))) => {
                let at = key.get(16..).and_then(|at| at.try_into().ok()).map_or(0, u64::from_be_bytes);
                let opened = self.partition.open_first(at, &stored).ok().filter(|_| at > 1);
                opened.map(|(_, chain)| Floor { seq: at + 1, chain, wake_ms: 0 })
            }
            None if !is_absent => meta.map(|meta| Floor { seq: meta.seq + 1, chain: meta.chain.clone(), wake_ms: 0 }),
            _ => None,
        };
        let is_guess = floor.is_some() || !is_absent;
        Start { floor: floor.unwrap_or_default(), is_guess }
    }

    fn meta(&self) -> Option<(Meta, Vec<u8>)> {
        let key = self.partition.row_key(META, &[]);
        let stored = self.snapshot.get(&self.source.data, &key).ok()??;
        let text = self.partition.open_row(&key, &stored).ok()??;
        Some((Meta::decode(text.as_slice()).ok()?, stored.to_vec()))
    }
}

/// Takes one partition over.
pub(crate) struct Rescue<'a, 'd> {
    from: Left<'a>,
    ingest: &'a mut Ingest<'d>,
    report: &'a mut SalvageReport,
    now_ms: i64,
    start: Start,
    /// The feed as it will be.
    seq: u64,
    chain: Vec<u8>,
    /// Changes that a transaction is still to be made of, and their bytes.
    pending: (Vec<proto::Change>, usize),
    /// Places of rows to be made from the feed.
    wanted: HashSet<[u8; 16]>,
    /// All rows so far are what they are to be.
    is_clean: bool,
    /// What has been read of the rows is all of them.
    is_read: bool,
}

impl<'a, 'd> Rescue<'a, 'd> {
    pub(crate) fn new(from: Left<'a>, ingest: &'a mut Ingest<'d>, report: &'a mut SalvageReport, now_ms: i64) -> Self {
        Self {
            from,
            ingest,
            report,
            now_ms,
            start: Start::default(),
            seq: 0,
            chain: Vec::new(),
            pending: (Vec::new(), 0),
            wanted: HashSet::new(),
            is_clean: true,
            is_read: true,
        }
    }

    fn fault(&mut self, what: impl std::fmt::Display) {
        self.is_clean = false;
        self.report.found.partition_fault(&self.from.partition.name, what);
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let meta = self.from.meta();
        self.start = self.from.start(meta.as_ref().map(|(meta, _)| meta));
        if self.start.is_guess {
            let first = self.start.floor.first();
            self.fault(format!("where its feed begins cannot be read: with transaction {first}, from here on"));
        }
        let mut feed = self.feed()?;
        match &meta {
            Some((meta, _)) if meta.seq != feed.seq || meta.chain != feed.chain => {
                feed.is_whole &= meta.seq < feed.seq;
                self.fault(format!("its rows stand at transaction {}, and its feed at {}", meta.seq, feed.seq));
            }
            None if feed.seq > 0 || !feed.is_whole => {
                self.fault("its state cannot be read: request records, effects and wake-ups may be lost");
            }
            _ => {}
        }
        let proven = feed.seq;
        (self.seq, self.chain) = (feed.seq, std::mem::take(&mut feed.chain));
        self.rows(&mut feed)?;
        self.missing(feed)?;
        self.condense(true)?;
        if self.seq > proven {
            let made = self.seq - proven;
            self.fault(format!("behind transaction {proven}, {made} made here stand for those that are lost"));
        }
        self.state(meta)
    }

    /// Takes the proven feed over.
    fn feed(&mut self) -> io::Result<Feed> {
        let Self { from, ingest, report, start, .. } = self;
        let mut rows = Rows::of(&start.floor);
        let (seq, chain, wrong) = from.feed(start, |key, stored, transaction| {
            report.found.transactions += 1;
            for change in transaction.changes {
                let shredded = change.shredded;
                let Some(change) = change_of(change) else { continue };
                let at = place(change.table, &change.key);
                match change.after {
                    _ if shredded => rows.forget(&at),
                    Some(after) => rows.set(at, digest(&[&after])),
                    None => rows.remove(at),
                }
            }
            ingest.set(Space::Feed, key, stored)
        })?;
        let is_whole = wrong.is_none();
        if let Some(wrong) = wrong {
            self.fault(wrong);
        }
        Ok(Feed { seq, chain, rows, is_whole })
    }

    /// Takes rows over as far as they open and may stay.
    fn rows(&mut self, feed: &mut Feed) -> io::Result<()> {
        let from = self.from;
        for row in from.snapshot.prefix(&from.source.data, from.partition.name) {
            let Ok((key, stored)) = row.into_inner() else {
                self.is_read = false;
                self.fault("its rows cannot be read to the end: request records and effects may be lost");
                return Ok(());
            };
            let Some((table, own)) = key.get(16..).and_then(|rest| rest.split_first_chunk::<2>()) else {
                self.fault("a row's key is too short");
                continue;
            };
            let table = u16::from_be_bytes(*table);
            if table == META || (table == FLOOR && self.start.is_guess) {
                continue;
            }
            match from.partition.open_row(&key, &stored) {
                Err(reason) => {
                    self.fault(format!("a row of table {table:#06x}: {reason}"));
                    // It may have been newer than the feed knows; that is all there is.
                    let at = place(table, own);
                    if feed.rows.there.remove(&at).is_some() {
                        self.wanted.insert(at);
                    } else if table < View::FIRST_ID && feed.rows.may_be_older(&at) {
                        self.append(table, own, None, SCHEMA_VERSION, false)?;
                    }
                }
                // Shredded: nobody can say more of it.
                Ok(None) => self.keep(&key, &stored)?,
                Ok(Some(text)) => self.row(table, own, &key, &stored, text, feed)?,
            }
        }
        Ok(())
    }

    fn keep(&mut self, key: &[u8], stored: &[u8]) -> io::Result<()> {
        self.report.found.rows += 1;
        self.ingest.set(Space::Data, key, stored)
    }

    fn row(
        &mut self,
        table: u16,
        own: &[u8],
        key: &[u8],
        stored: &[u8],
        text: Vec<u8>,
        feed: &mut Feed,
    ) -> io::Result<()> {
        match table {
            REQUESTS => match proto::RequestRecord::decode(text.as_slice()) {
                Ok(record) if record.seq <= feed.seq || !feed.is_whole => self.keep(key, stored),
                _ => Ok(()),
            },
            EFFECTS => {
                let seq = own.first_chunk().map_or(u64::MAX, |seq| u64::from_be_bytes(*seq));
                if seq <= feed.seq || !feed.is_whole { self.keep(key, stored) } else { Ok(()) }
            }
            // Behind all other rows of modules, so that these are known now.
            View::FIRST_ID..INTERNAL => {
                if self.is_clean && feed.rows.there.is_empty() {
                    self.keep(key, stored)
                } else {
                    Ok(())
                }
            }
            INTERNAL.. => self.keep(key, stored),
            _ => {
                let at = place(table, own);
                let expected = feed.rows.there.remove(&at);
                let is_older = expected.is_none() && feed.is_whole && feed.rows.may_be_older(&at);
                if is_older || expected == Some(digest(&[&text])) {
                    return self.keep(key, stored);
                }
                if feed.is_whole {
                    self.fault(format!("a row of table {table:#06x} is not what the feed says"));
                    if expected.is_some() {
                        self.wanted.insert(at);
                    }
                    return Ok(());
                }
                self.is_clean = false;
                self.keep(key, stored)?;
                let of_subject = key_version(stored).is_some_and(|version| version >= SUBJECT_VERSIONS);
                let schema_version = schema_version(stored).unwrap_or(SCHEMA_VERSION);
                self.append(table, own, Some(text.into()), schema_version, of_subject)
            }
        }
    }

    /// Settles what the feed makes and no row is there for.
    fn missing(&mut self, feed: Feed) -> io::Result<()> {
        let gone = feed.rows.there;
        if !gone.is_empty() {
            self.is_clean = false;
        }
        // Behind a damaged feed, what is not there was removed; unless it is
        // there and cannot be read.
        let was_removed = !feed.is_whole && self.is_read;
        if !was_removed {
            self.wanted.extend(gone.keys().copied());
        }
        if self.wanted.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let wanted = std::mem::take(&mut self.wanted);
        let mut removed = BTreeMap::new();
        let from = self.from;
        let Self { ingest, start, .. } = self;
        from.feed(start, |_, _, transaction| {
            for change in transaction.changes {
                let (shredded, subject) = (change.shredded, change.of_subject);
                let Some(change) = change_of(change) else { continue };
                let at = place(change.table, &change.key);
                if was_removed && gone.contains_key(&at) {
                    removed.insert((change.table, change.key), (change.schema_version, subject));
                } else if wanted.contains(&at) && !shredded {
                    let subject = subject.then(|| subject_of(&change.key)).flatten();
                    let sealer = subject.and_then(|id| from.partition.subjects().read().current(&id));
                    let mut draft = RowDraft::new(from.partition, 1);
                    draft.subjects = sealer.as_slice();
                    draft.set(change.table, &change.key, change.schema_version, change.after);
                    for row in draft.sealed {
                        match row.value {
                            Some(value) => ingest.set(row.space, &row.key, &value)?,
                            None => ingest.remove(row.space, &row.key)?,
                        }
                    }
                }
            }
            Ok(())
        })?;
        if !wanted.is_empty() {
            self.report.remade += wanted.len() as u64;
            self.fault(format!("{} rows were made from the feed again", wanted.len()));
        }
        for ((table, key), (schema_version, subject)) in removed {
            self.append(table, &key, None, schema_version, subject)?;
        }
        Ok(())
    }

    /// A change that no transaction tells of any more.
    fn append(
        &mut self,
        table: u16,
        key: &[u8],
        after: Option<Bytes>,
        schema_version: u32,
        of_subject: bool,
    ) -> io::Result<()> {
        let (changes, bytes) = &mut self.pending;
        *bytes += key.len() + after.as_ref().map_or(0, Bytes::len);
        let table = u32::from(table);
        let key = Bytes::copy_from_slice(key);
        changes.push(proto::Change { table, key, after, schema_version, of_subject, ..Default::default() });
        self.condense(false)
    }

    /// Makes a transaction of what is pending, where it is enough or all.
    fn condense(&mut self, is_all: bool) -> io::Result<()> {
        let (changes, bytes) = &mut self.pending;
        if changes.is_empty() || (*bytes < TRANSACTION_BYTES && !is_all) {
            return Ok(());
        }
        *bytes = 0;
        let changes = std::mem::take(changes);
        self.report.condensed += changes.len() as u64;
        let partition = self.from.partition;
        let sealer = |change: &proto::Change| {
            let subject = change.of_subject.then(|| subject_of(&change.key)).flatten()?;
            partition.subjects().read().current(&subject)
        };
        let subjects: Vec<_> = changes.iter().map(sealer).collect();
        let mut nonces = Nonces::new();
        self.seq += 1;
        let transaction = proto::Transaction {
            seq: self.seq,
            time_ms: self.now_ms,
            method: METHOD.into(),
            changes,
            ..Default::default()
        };
        let (entry, chain) = partition.seal_entry(&self.chain, transaction, &subjects, &mut nonces);
        self.chain = chain;
        self.ingest.set(Space::Feed, &partition.feed_key(self.seq), &entry)
    }

    /// Writes what the partition knows of itself.
    fn state(&mut self, before: Option<(Meta, Vec<u8>)>) -> io::Result<()> {
        let key = self.from.partition.row_key(META, &[]);
        let meta = match before {
            None if self.seq == 0 => return Ok(()),
            Some((_, stored)) if self.is_clean => return self.keep(&key, &stored),
            before => before.map(|(meta, _)| meta).unwrap_or_default(),
        };
        let meta = Meta {
            seq: self.seq,
            chain: std::mem::take(&mut self.chain),
            // Views are replayed.
            view_versions: BTreeMap::new(),
            ..meta
        };
        let mut draft = RowDraft::new(self.from.partition, 2);
        draft.set(META, &[], SCHEMA_VERSION, Some(meta.encode_to_vec().into()));
        if self.start.is_guess && self.start.floor.first() > 1 {
            draft.set(FLOOR, &[], SCHEMA_VERSION, Some(self.start.floor.encode_to_vec().into()));
        }
        for row in draft.sealed {
            if let Some(value) = row.value {
                self.keep(&row.key, &value)?;
            }
        }
        Ok(())
    }
}
