//! One actor's part of a vault: its name, its keys, and how its keys and
//! values are laid out.
//!
//! ```text
//! data: name (16) | table (2) | key          feed: name (16) | seq (8)
//! ```
//!
//! Numbers are big-endian. Tables from [`INTERNAL`] on are the store's own.

use std::collections::BTreeMap;

use canopy_domain::{Address, Change, View};
use canopy_proto::system::v1 as proto;
use canopy_proto::system::v1::Transaction;
use fjall::UserValue;
use prost::Message;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::key::{Hmac256, Key, NONCE_BYTES, digest16, digest32};
use crate::keyring::{KEY_VERSION, PartitionName};
use crate::seal::{Sealer, Space};

/// First table that belongs to the store.
pub(crate) const INTERNAL: u16 = 0xFF00;
/// [`Meta`], at the empty key.
pub(crate) const META: u16 = 0xFF00;
/// First answers: `day (4) | keyed digest (16)`.
pub(crate) const REQUESTS: u16 = 0xFF01;
/// Effects not yet delivered: `seq (8) | n (4)`.
pub(crate) const EFFECTS: u16 = 0xFF02;

/// Version of the formats in the store's own tables and in feed entries.
pub(crate) const SCHEMA_VERSION: u32 = 1;

const CHAIN_BYTES: usize = 32;

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
    pub(crate) sealer: Sealer,
    lookup: Hmac256,
    chain: Hmac256,
}

impl Partition {
    pub(crate) fn new(name: PartitionName, key: &Key, vault: [u8; 16]) -> Self {
        Self {
            name,
            sealer: Sealer::new(&key.derive("canopy values"), vault, KEY_VERSION),
            lookup: key.derive("canopy look-ups").hmac(),
            chain: key.derive("canopy chain").hmac(),
        }
    }

    /// The name of an address's partition, which tells nothing without the
    /// vault's key.
    pub(crate) fn name_of(names: &Hmac256, address: &Address) -> PartitionName {
        digest16(names, &[address.as_str().as_bytes()])
    }

    /// A key in `data`.
    pub(crate) fn row_key(&self, table: u16, key: &[u8]) -> Vec<u8> {
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
    /// of its plaintext, so that it survives re-sealing.
    fn link(&self, before: &[u8], seq: u64, text: &[u8]) -> [u8; CHAIN_BYTES] {
        let digest: [u8; 32] = Sha256::digest(text).into();
        digest32(&self.chain, &[before, &seq.to_be_bytes(), &digest])
    }

    /// Seals a feed entry behind the chain MAC `before`; gives its stored
    /// form and its own chain MAC.
    pub(crate) fn seal_entry(
        &self,
        before: &[u8],
        transaction: &Transaction,
        nonce: [u8; NONCE_BYTES],
    ) -> (UserValue, Vec<u8>) {
        let key = self.feed_key(transaction.seq);
        let mut chain = Vec::new();
        let len = transaction.encoded_len();
        let stored = self.sealer.seal_written(Space::Feed, &key, SCHEMA_VERSION, len, nonce, |text| {
            transaction.encode(&mut &mut *text).expect("there is room for its length");
            let mac = self.link(before, transaction.seq, text);
            chain = mac.to_vec();
            mac
        });
        (stored, chain)
    }

    /// Opens a feed entry. Its place is authenticated by the sealing; its
    /// neighbours only by [`Partition::check_link`].
    pub(crate) fn open_entry(&self, seq: u64, stored: &[u8]) -> Result<Transaction, &'static str> {
        let (text, _) = self.entry_text(seq, stored)?;
        Transaction::decode(text.as_slice()).map_err(|_| "a feed entry cannot be read")
    }

    /// Opens a feed entry behind the chain MAC `before`, and gives its own.
    pub(crate) fn check_link(
        &self,
        before: &[u8],
        seq: u64,
        stored: &[u8],
    ) -> Result<(Transaction, Vec<u8>), &'static str> {
        let (text, mac) = self.entry_text(seq, stored)?;
        if !bool::from(self.link(before, seq, &text).as_slice().ct_eq(mac)) {
            return Err("the feed's chain is broken");
        }
        let transaction = Transaction::decode(text.as_slice()).map_err(|_| "a feed entry cannot be read")?;
        Ok((transaction, mac.to_vec()))
    }

    fn entry_text<'a>(&self, seq: u64, stored: &'a [u8]) -> Result<(Vec<u8>, &'a [u8]), &'static str> {
        let (sealed, mac) = stored.split_last_chunk::<CHAIN_BYTES>().ok_or("a feed entry is too short")?;
        let text = self.sealer.open(Space::Feed, &self.feed_key(seq), sealed)?;
        Ok((text, mac))
    }

    /// Opens a row of `data`.
    pub(crate) fn open_row(&self, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, &'static str> {
        if stored.is_empty() {
            // Rows of views may be empty: then the key says all, and is not
            // authenticated. Nothing else is ever stored unsealed.
            let table = key.get(16..18).and_then(|t| t.try_into().ok()).map(u16::from_be_bytes);
            return match table {
                Some(table) if (View::FIRST_ID..INTERNAL).contains(&table) => Ok(Vec::new()),
                _ => Err("a stored value is empty"),
            };
        }
        self.sealer.open(Space::Data, key, stored)
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
    })
}

/// A key in `data`.
pub(crate) fn row_key(name: &PartitionName, table: u16, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(name.len() + 2 + key.len());
    whole.extend_from_slice(name);
    whole.extend_from_slice(&table.to_be_bytes());
    whole.extend_from_slice(key);
    whole
}

/// A key in [`EFFECTS`].
pub(crate) fn effect_key(seq: u64, n: u32) -> [u8; 12] {
    let mut key = [0u8; 12];
    for (to, from) in key.iter_mut().zip(seq.to_be_bytes().into_iter().chain(n.to_be_bytes())) {
        *to = from;
    }
    key
}
