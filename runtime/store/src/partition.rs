//! One actor's part of a vault: its name, its keys, and how its keys and
//! values are laid out.
//!
//! ```text
//! data: name (16) | table (2) | key          feed: name (16) | seq (8)
//! ```
//!
//! Numbers are big-endian. Tables from [`INTERNAL`] on are the store's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use byteview::ByteView;
use canopy_domain::{Address, Change, View};
use canopy_proto::system::v1 as proto;
use canopy_proto::system::v1::Transaction;
use fjall::{UserKey, UserValue};
use hmac::Mac;
use parking_lot::{Mutex, RwLock};
use poly1305::universal_hash::{KeyInit, UniversalHash};
use poly1305::{Block, Poly1305};
use prost::Message;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::key::{Hmac256, Key, Nonces, digest16};
use crate::keyring::{NewKey, OpenedKey, PartitionKeys, PartitionName, SubjectId};
use crate::scratch;
use crate::seal::{SUBJECT_VERSIONS, Sealer, Space, Text, key_version, schema_version};
use crate::subject::Subjects;

/// First table that belongs to the store.
pub(crate) const INTERNAL: u16 = 0xFF00;
/// [`Meta`], at the empty key.
pub(crate) const META: u16 = 0xFF00;
/// First answers: `day (4) | keyed digest (16)`.
pub(crate) const REQUESTS: u16 = 0xFF01;
/// Effects not yet delivered: `seq (8) | n (4)`.
pub(crate) const EFFECTS: u16 = 0xFF02;
/// [`Floor`](crate::floor::Floor), at the empty key.
pub(crate) const FLOOR: u16 = 0xFF03;

/// Version of the formats in the store's own tables and in feed entries.
pub(crate) const SCHEMA_VERSION: u32 = 1;

const CHAIN_BYTES: usize = 32;

/// Version of what a feed entry holds, and of how it is chained. Before it, the
/// chain had SHA-256 digests.
const ENTRY_VERSION: u32 = 2;

/// First byte of a feed entry with parts that can be shredded: no suite.
const ENTRY_WITH_PARTS: u8 = 0x7E;

/// Subjects that one commit may be about: its first answer is sealed once for
/// each.
pub(crate) const SUBJECTS_PER_COMMIT_MAX: usize = 8;

/// The parts of a change that a subject's key seals.
#[derive(Clone, PartialEq, Message)]
struct Sides {
    #[prost(bytes = "bytes", optional, tag = "1")]
    before: Option<bytes::Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    after: Option<bytes::Bytes>,
}

/// What a partition knows of itself; written with each commit.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Meta {
    #[prost(uint64, tag = "1")]
    pub(crate) seq: u64,
    /// The last feed entry's chain MAC; empty before the first.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) chain: Vec<u8>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) wake_at_ms: Option<i64>,
    /// By number, the version each view's rows were made by.
    #[prost(btree_map = "uint32, uint32", tag = "4")]
    pub(crate) view_versions: BTreeMap<u32, u32>,
    /// The latest time of a commit, in milliseconds since 1970: the clock may
    /// be set back.
    #[prost(int64, tag = "5")]
    pub(crate) committed_ms: i64,
}

/// The keys of a partition, ready for use.
pub(crate) struct Partition {
    pub(crate) name: PartitionName,
    vault: [u8; 16],
    /// By version; the last seals what is written.
    sealers: ArcSwap<Vec<Arc<Sealer>>>,
    subjects: RwLock<Subjects>,
    /// Keys in use that no submission has taken to the keyring yet.
    unwritten: Mutex<Vec<NewKey>>,
    is_shredded: AtomicBool,
    /// Of the first version, for good: digests stand in keys, and the chain
    /// outlives re-sealing.
    lookup: Hmac256,
    chain: Hmac256,
    chain_digests: Key,
}

impl Partition {
    /// A partition with its keys; `None` without any.
    pub(crate) fn new(name: PartitionName, keys: &PartitionKeys, vault: [u8; 16]) -> Option<Self> {
        let identity = &keys.versions.first()?.key;
        let sealers = keys.versions.iter().map(|key| Arc::new(own_sealer(&key.key, vault, key.version)));
        Some(Self {
            name,
            vault,
            sealers: ArcSwap::from_pointee(sealers.collect()),
            subjects: RwLock::new(Subjects::new(keys, vault)),
            unwritten: Mutex::default(),
            is_shredded: AtomicBool::new(false),
            lookup: identity.derive("canopy look-ups").hmac(),
            chain: identity.derive("canopy chain").hmac(),
            chain_digests: identity.derive("canopy chain digests"),
        })
    }

    /// One that nothing was written to.
    pub(crate) fn fresh(new: &NewKey, vault: [u8; 16]) -> Self {
        let key = OpenedKey { version: new.version, outer_version: new.outer_version, key: new.key.clone() };
        let keys = PartitionKeys { versions: vec![key], subjects: Vec::new(), shredded: Vec::new() };
        let partition = Self::new(new.partition, &keys, vault).expect("it has a key");
        partition.unwritten.lock().push(new.clone());
        partition
    }

    /// What seals the partition's own values now.
    pub(crate) fn sealer(&self) -> Arc<Sealer> {
        let sealers = self.sealers.load();
        Arc::clone(sealers.last().expect("a partition is made with one and loses none"))
    }

    /// Takes a key of its own into use.
    pub(crate) fn adopt(&self, new: &NewKey) {
        let mut sealers = Vec::clone(&self.sealers.load());
        sealers.push(Arc::new(own_sealer(&new.key, self.vault, new.version)));
        self.unwritten.lock().push(new.clone());
        self.sealers.store(Arc::new(sealers));
    }

    /// Keys that what is submitted now may be sealed under, and that are not in
    /// the keyring yet. They are in use from when they are made, also where the
    /// commit that they were made for comes to nothing.
    pub(crate) fn take_unwritten(&self) -> Vec<NewKey> {
        std::mem::take(&mut self.unwritten.lock())
    }

    /// Takes a key of a subject into use.
    pub(crate) fn adopt_subject(&self, subject: SubjectId, new: &NewKey) -> Arc<Sealer> {
        self.unwritten.lock().push(new.clone());
        self.subjects.write().adopt(subject, new, self.vault)
    }

    /// What is known of its subjects' keys.
    pub(crate) fn subjects(&self) -> &RwLock<Subjects> {
        &self.subjects
    }

    /// Whether its keys were destroyed while it was in use.
    pub(crate) fn is_shredded(&self) -> bool {
        self.is_shredded.load(Ordering::Acquire)
    }

    /// Has its users stop.
    pub(crate) fn set_shredded(&self) {
        self.is_shredded.store(true, Ordering::Release);
    }

    /// Opens a stored value under whichever key it was sealed; nothing, where
    /// that was shredded.
    fn open(&self, space: Space, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        if self.is_shredded() {
            return Ok(None);
        }
        let mut inner: Option<Vec<u8>> = None;
        for _ in 0..=SUBJECTS_PER_COMMIT_MAX {
            let stored = inner.as_deref().unwrap_or(stored);
            let version = key_version(stored).ok_or("a stored value is too short")?;
            let text = if version >= SUBJECT_VERSIONS {
                match self.subjects.read().sealer(version)? {
                    Some(sealer) => sealer.decrypt(space, key, stored)?,
                    None => return Ok(None),
                }
            } else {
                let sealers = self.sealers.load();
                let sealer = sealers.iter().rfind(|sealer| sealer.key_version() == version);
                sealer
                    .ok_or("a stored value is under a key that the keyring does not have")?
                    .decrypt(space, key, stored)?
            };
            match text {
                Text::Plain(text) => return Ok(Some(text)),
                Text::Sealed(sealed) => inner = Some(sealed),
            }
        }
        Err("a stored value is sealed too often")
    }

    /// Seals a value so that it goes with each of `subjects`; without any, it
    /// is the partition's own.
    pub(crate) fn seal_for(
        &self,
        subjects: &[Arc<Sealer>],
        key: &[u8],
        schema_version: u32,
        text: &[u8],
        nonces: &mut Nonces,
    ) -> UserValue {
        let Some((first, others)) = subjects.split_first() else {
            return self.sealer().seal(Space::Data, key, schema_version, text, nonces.take());
        };
        let sealed = first.seal(Space::Data, key, schema_version, text, nonces.take());
        others
            .iter()
            .fold(sealed, |sealed, sealer| sealer.seal_again(Space::Data, key, schema_version, &sealed, nonces.take()))
    }

    /// The name of an address's partition, which tells nothing without the
    /// vault's key.
    pub(crate) fn name_of(names: &Hmac256, address: &Address) -> PartitionName {
        digest16(names, &[address.as_str().as_bytes()])
    }

    /// A key in `data`.
    pub(crate) fn row_key(&self, table: u16, key: &[u8]) -> UserKey {
        row_key(&self.name, table, key)
    }

    /// A key in `feed`.
    pub(crate) fn feed_key(&self, seq: u64) -> [u8; 24] {
        let mut key = [0u8; 24];
        for (to, from) in key.iter_mut().zip(self.name.into_iter().chain(seq.to_be_bytes())) {
            *to = from;
        }
        key
    }

    /// See [`canopy_domain::Reader::digest`].
    pub(crate) fn digest(&self, text: &[u8]) -> [u8; 16] {
        digest16(&self.lookup, &[b"text", text])
    }

    /// What a request's key is stored as.
    pub(crate) fn request_digest(&self, key: &[u8; 16]) -> [u8; 16] {
        digest16(&self.lookup, &[b"request", key])
    }

    /// The chain MAC of an entry: over the one before, its seq, and the digest
    /// of its plaintext, so that it survives re-sealing. Parts that can be
    /// shredded count as they are sealed, so that it survives that, too.
    fn link(&self, version: u32, before: &[u8], seq: u64, text: &[u8], parts: &[u8]) -> [u8; CHAIN_BYTES] {
        let seq = seq.to_be_bytes();
        let mut hmac = self.chain.clone();
        if version >= ENTRY_VERSION {
            // No text of an older entry is as long.
            hmac.update(&version.to_be_bytes());
        }
        hmac.update(before);
        hmac.update(&seq);
        self.digest_into(&mut hmac, version, text);
        if !parts.is_empty() {
            self.digest_into(&mut hmac, version, parts);
            hmac.update(b"parts");
        }
        hmac.finalize().into_bytes().into()
    }

    /// The digest of a long text for its chain MAC: Poly1305 (RFC 8439, 2.5),
    /// a universal hash, quicker than SHA-256. Its key may serve more than once
    /// here, for HMAC hides what it gives: to forge the MAC is
    /// to find two texts of one digest without the key (hash, then PRF: Wegman
    /// and Carter, 1981).
    fn digest_into(&self, hmac: &mut Hmac256, version: u32, text: &[u8]) {
        if version < ENTRY_VERSION {
            return hmac.update(&Sha256::digest(text));
        }
        let mut poly = <Poly1305 as KeyInit>::new(self.chain_digests.expose().into());
        // Whole blocks are hashed several at once.
        let (blocks, rest) = Block::slice_as_chunks(text);
        poly.update(blocks);
        hmac.update(&poly.compute_unpadded(rest));
    }

    /// Seals a feed entry behind the chain MAC `before`; gives its stored
    /// form and its own chain MAC. What came before and after the `n`-th
    /// change is sealed by the `n`-th of `subjects`, if it is there, and
    /// stands outside the rest:
    ///
    /// ```text
    /// sealed | MAC (32)          0x7E | length (4) | sealed | parts | MAC (32)
    /// ```
    pub(crate) fn seal_entry(
        &self,
        before: &[u8],
        mut transaction: Transaction,
        subjects: &[Option<Arc<Sealer>>],
        nonces: &mut Nonces,
    ) -> (UserValue, Vec<u8>) {
        let seq = transaction.seq;
        let key = self.feed_key(seq);
        let mut parts = Vec::new();
        for ((n, change), subject) in (0u32..).zip(&mut transaction.changes).zip(subjects) {
            let Some(sealer) = subject else { continue };
            let sides = Sides { before: change.before.take(), after: change.after.take() }.encode_to_vec();
            let part = sealer.seal(Space::Feed, &part_key(&key, n), SCHEMA_VERSION, &sides, nonces.take());
            change.sealed_bytes = u32::try_from(part.len()).expect("a commit is shorter than 4 GiB");
            parts.extend_from_slice(&part);
        }
        let (sealed, mac) = scratch::with(|text| {
            transaction.encode(text).expect("a vector grows");
            let mac = self.link(ENTRY_VERSION, before, seq, text, &parts);
            (self.sealer().seal_before(Space::Feed, &key, ENTRY_VERSION, text, nonces.take(), &mac), mac)
        });
        let chain = mac.to_vec();
        if parts.is_empty() {
            return (sealed, chain);
        }
        let (sealed, mac) = sealed.split_last_chunk::<CHAIN_BYTES>().expect("it ends with its MAC");
        let len = u32::try_from(sealed.len()).expect("a commit is shorter than 4 GiB");
        let stored = [&[ENTRY_WITH_PARTS], len.to_be_bytes().as_slice(), sealed, &parts, mac].concat();
        (stored.into(), chain)
    }

    /// Opens a feed entry. Its place is authenticated by the sealing; its
    /// neighbours only by [`Partition::check_link`].
    pub(crate) fn open_entry(&self, seq: u64, stored: &[u8]) -> Result<Transaction, &'static str> {
        let entry = self.entry(seq, stored)?;
        self.transaction(seq, &entry)
    }

    /// Opens a feed entry, and gives its chain MAC: what came before it is not
    /// known, and so not checked.
    pub(crate) fn open_first(&self, seq: u64, stored: &[u8]) -> Result<(Transaction, Vec<u8>), &'static str> {
        let entry = self.entry(seq, stored)?;
        Ok((self.transaction(seq, &entry)?, entry.mac.to_vec()))
    }

    /// Opens a feed entry behind the chain MAC `before`, and gives its own.
    pub(crate) fn check_link(
        &self,
        before: &[u8],
        seq: u64,
        stored: &[u8],
    ) -> Result<(Transaction, Vec<u8>), &'static str> {
        let entry = self.entry(seq, stored)?;
        if !bool::from(self.link(entry.version, before, seq, &entry.text, entry.parts).as_slice().ct_eq(entry.mac)) {
            return Err("the feed's chain is broken");
        }
        Ok((self.transaction(seq, &entry)?, entry.mac.to_vec()))
    }

    fn entry<'a>(&self, seq: u64, stored: &'a [u8]) -> Result<Entry<'a>, &'static str> {
        let (rest, mac) = stored.split_last_chunk::<CHAIN_BYTES>().ok_or("a feed entry is too short")?;
        let (sealed, parts) = match rest.split_first() {
            Some((&ENTRY_WITH_PARTS, rest)) => {
                let (len, rest) = rest.split_first_chunk::<4>().ok_or("a feed entry is too short")?;
                let len = u32::from_be_bytes(*len) as usize;
                rest.split_at_checked(len).ok_or("a feed entry is too short")?
            }
            _ => (rest, [].as_slice()),
        };
        let text =
            self.open(Space::Feed, &self.feed_key(seq), sealed)?.ok_or("a feed entry is under a subject's key")?;
        // Authenticated with the text.
        let version = schema_version(sealed).unwrap_or(ENTRY_VERSION);
        if version > ENTRY_VERSION {
            return Err("a feed entry is of a version that this release does not know");
        }
        Ok(Entry { version, text, parts, mac })
    }

    /// What an entry says; changes of subjects that were shredded say so.
    fn transaction(&self, seq: u64, entry: &Entry<'_>) -> Result<Transaction, &'static str> {
        let unreadable = "a feed entry cannot be read";
        let mut transaction = Transaction::decode(entry.text.as_slice()).map_err(|_| unreadable)?;
        let mut parts = entry.parts;
        let key = self.feed_key(seq);
        for (n, change) in (0u32..).zip(&mut transaction.changes) {
            let len = std::mem::take(&mut change.sealed_bytes) as usize;
            if len == 0 {
                continue;
            }
            let (part, rest) = parts.split_at_checked(len).ok_or(unreadable)?;
            parts = rest;
            match self.open(Space::Feed, &part_key(&key, n), part)? {
                Some(sides) => {
                    let sides = Sides::decode(sides.as_slice()).map_err(|_| unreadable)?;
                    (change.before, change.after) = (sides.before, sides.after);
                }
                None => change.shredded = true,
            }
        }
        if parts.is_empty() { Ok(transaction) } else { Err(unreadable) }
    }

    /// Opens a row of `data`; nothing, where what it is about was shredded.
    pub(crate) fn open_row(&self, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        if stored.is_empty() {
            // Rows of views may be empty: then the key says all, and is not
            // authenticated. Nothing else is ever stored unsealed.
            let table = key.get(16..18).and_then(|t| t.try_into().ok()).map(u16::from_be_bytes);
            return match table {
                Some(table) if (View::FIRST_ID..INTERNAL).contains(&table) => Ok(Some(Vec::new())),
                _ => Err("a stored value is empty"),
            };
        }
        self.open(Space::Data, key, stored)
    }
}

/// A change as modules see it; `None` where it names no table.
pub(crate) fn change_of(change: proto::Change) -> Option<Change> {
    Some(Change {
        table: u16::try_from(change.table).ok()?,
        key: change.key.into(),
        before: change.before,
        after: change.after,
        schema_version: change.schema_version,
        of_subject: change.of_subject,
    })
}

/// A row of `data` as the change that sets it; nothing, where it was shredded.
pub(crate) fn change_of_row(partition: &Partition, key: &[u8], stored: &[u8]) -> Result<Option<Change>, &'static str> {
    let Some(text) = partition.open_row(key, stored)? else { return Ok(None) };
    let (table, own) = key.get(16..).and_then(|rest| rest.split_first_chunk()).ok_or("a row's key is too short")?;
    Ok(Some(Change {
        table: u16::from_be_bytes(*table),
        key: own.to_vec(),
        before: None,
        after: Some(text.into()),
        schema_version: schema_version(stored).unwrap_or(SCHEMA_VERSION),
        of_subject: key_version(stored).is_some_and(|version| version >= SUBJECT_VERSIONS),
    }))
}

/// A feed entry, opened as far as its partition's key goes.
struct Entry<'a> {
    version: u32,
    text: Vec<u8>,
    parts: &'a [u8],
    mac: &'a [u8],
}

fn own_sealer(key: &Key, vault: [u8; 16], version: u32) -> Sealer {
    Sealer::new(&key.derive("canopy values"), vault, version)
}

/// What the part of the `n`-th change is bound to.
fn part_key(feed_key: &[u8; 24], n: u32) -> Vec<u8> {
    [feed_key.as_slice(), &n.to_be_bytes()].concat()
}

/// The subject that a row's key names.
pub(crate) fn subject_of(key: &[u8]) -> Option<SubjectId> {
    key.first_chunk().copied()
}

/// A key in `data`.
pub(crate) fn row_key(name: &PartitionName, table: u16, key: &[u8]) -> UserKey {
    let mut front = [0; size_of::<PartitionName>() + size_of::<u16>()];
    front.iter_mut().zip(name.iter().copied().chain(table.to_be_bytes())).for_each(|(to, from)| *to = from);
    ByteView::fused(&front, key).into()
}

/// A key in [`EFFECTS`].
pub(crate) fn effect_key(seq: u64, n: u32) -> [u8; 12] {
    let mut key = [0u8; 12];
    for (to, from) in key.iter_mut().zip(seq.to_be_bytes().into_iter().chain(n.to_be_bytes())) {
        *to = from;
    }
    key
}
