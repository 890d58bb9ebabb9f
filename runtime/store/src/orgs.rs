//! The keys of orgs, and the installation's own secrets, as `keys/orgs` has
//! them.

use std::collections::HashMap;

use prost::Message;
use zeroize::Zeroize;

use crate::StoreError;
use crate::catalog::Secrets;
use crate::key::Key;
use crate::keys::KeyInfo;
use crate::records::SealedRecords;

/// A version of an org's key; of the installation's, for an empty name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrgRecord {
    #[prost(string, tag = "1")]
    pub(crate) org: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) key: Vec<u8>,
    /// 0 in format 1 stands for 1.
    #[prost(uint32, tag = "3")]
    pub(crate) version: u32,
    #[prost(int64, tag = "4")]
    pub(crate) created_ms: i64,
    /// What the record is, beside an org's key: see the constants.
    #[prost(uint32, tag = "5")]
    pub(crate) kind: u32,
    /// Of the keys destroyed, where the org was shredded.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(crate) fingerprints: Vec<Vec<u8>>,
    /// Of the first record: how many the file was written whole with.
    #[prost(uint64, tag = "7")]
    pub(crate) whole: u64,
}

pub(crate) const KIND_KEY: u32 = 0;
/// What [`crate::Store::derive_key`] derives from.
pub(crate) const KIND_PURPOSES: u32 = 1;
/// Seals the names of vaults in their keyrings.
pub(crate) const KIND_NAMES: u32 = 2;
/// The org was shredded, and its vaults go.
pub(crate) const KIND_SHREDDED: u32 = 3;

/// One version of a key.
#[derive(Clone)]
pub(crate) struct KeyVersion {
    pub(crate) version: u32,
    pub(crate) key: Key,
    pub(crate) created_ms: i64,
}

impl KeyVersion {
    /// A fresh key with the next version.
    pub(crate) fn next(&self, created_ms: i64) -> Self {
        Self { version: self.version + 1, key: Key::random(), created_ms }
    }
}

/// The versions of an org's key: one, and two while it is rotated.
#[derive(Clone, Default)]
pub(crate) struct OrgKeys(pub(crate) Vec<KeyVersion>);

impl OrgKeys {
    /// The version that wraps what is written from now on.
    pub(crate) fn current(&self) -> Option<&KeyVersion> {
        self.0.last()
    }

    /// A version that wraps something there is.
    pub(crate) fn version(&self, version: u32) -> Option<&Key> {
        self.0.iter().find(|key| key.version == version).map(|key| &key.key)
    }

    /// Whether a rotation is under way.
    pub(crate) fn is_rotating(&self) -> bool {
        self.0.len() > 1
    }

    /// What may be known of all versions.
    pub(crate) fn infos(&self, of: &str) -> impl Iterator<Item = KeyInfo> {
        self.0.iter().map(move |key| KeyInfo {
            of: of.to_owned(),
            version: key.version,
            created_ms: key.created_ms,
            fingerprint: key.key.fingerprint(),
        })
    }

    /// Of all versions.
    pub(crate) fn fingerprints(&self) -> Vec<[u8; 32]> {
        self.0.iter().map(|key| key.key.fingerprint()).collect()
    }
}

pub(crate) struct Orgs {
    pub(crate) records: SealedRecords<OrgRecord>,
    pub(crate) keys: HashMap<String, OrgKeys>,
    /// Fingerprints of the keys of orgs that were shredded.
    pub(crate) shredded: HashMap<String, Vec<[u8; 32]>>,
}

impl Orgs {
    pub(crate) fn add_version(&mut self, org: &str, version: u32, created_ms: i64) -> Result<KeyVersion, StoreError> {
        if self.shredded.contains_key(org) {
            return Err(StoreError::Shredded(org.into()));
        }
        let key = KeyVersion { version, key: Key::random(), created_ms };
        let mut record = org_record(org, &key);
        let appended = self.records.append(&record);
        record.key.zeroize();
        appended?;
        self.keys.entry(org.into()).or_default().0.push(key.clone());
        Ok(key)
    }

    pub(crate) fn records_of(&self, secrets: &Secrets) -> Vec<OrgRecord> {
        let secret = |kind, key: &Key| OrgRecord { kind, key: key.expose().to_vec(), ..OrgRecord::default() };
        let mut records = vec![secret(KIND_PURPOSES, &secrets.purposes), secret(KIND_NAMES, &secrets.names)];
        for (org, keys) in &self.keys {
            records.extend(keys.0.iter().map(|key| org_record(org, key)));
        }
        for (org, fingerprints) in &self.shredded {
            let fingerprints = fingerprints.iter().map(|fingerprint| fingerprint.to_vec()).collect();
            records.push(OrgRecord { org: org.clone(), kind: KIND_SHREDDED, fingerprints, ..OrgRecord::default() });
        }
        records
    }

    pub(crate) fn rewrite(&mut self, secrets: &Secrets, key: Key) -> Result<(), StoreError> {
        let mut records = self.records_of(secrets);
        let count = records.len() as u64;
        if let Some(first) = records.first_mut() {
            first.whole = count;
        }
        let rewritten = self.records.rewrite(key, &records);
        for record in &mut records {
            record.key.zeroize();
        }
        rewritten
    }
}

fn org_record(org: &str, key: &KeyVersion) -> OrgRecord {
    OrgRecord {
        org: org.into(),
        key: key.key.expose().to_vec(),
        version: key.version,
        created_ms: key.created_ms,
        ..OrgRecord::default()
    }
}
