//! The keys of orgs, and the installation's own secrets, as `keys/orgs` has
//! them.
//!
//! After a clean stop a start opens the secrets alone, which stand first; the
//! file's checksum in `settled` says that the rest is as it was written, and
//! whoever asks for an org's key first opens it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::StoreError;
use crate::catalog::Secrets;
use crate::key::Key;
use crate::keys::KeyInfo;
use crate::records::{SealedRecords, Unread};
use crate::route::{VaultName, org_of};

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

/// What the records of the file say, before anything is made of it.
pub(crate) struct Found {
    pub(crate) orgs: Orgs,
    pub(crate) purposes: Option<Key>,
    pub(crate) names: Option<Key>,
    /// Whether none is missing of those that the file was written whole with.
    pub(crate) has_all: bool,
}

impl Found {
    /// Opens all records.
    pub(crate) fn open(path: &Path, keys: &[Key], unread: Option<Unread>) -> Result<Self, StoreError> {
        let (records, found) = SealedRecords::<OrgRecord>::parse(path, keys, unread)?;
        let whole = found.first().map_or(0, |first| first.whole);
        let has_all = found.len() as u64 >= whole;
        let (mut keys, mut shredded) = (HashMap::<String, OrgKeys>::new(), HashMap::new());
        let (mut purposes, mut names) = (None, None);
        for mut record in found {
            let key = record.take_key();
            match (record.kind, key) {
                (KIND_KEY, Some(key)) => {
                    let versions = &mut keys.entry(record.org).or_default().0;
                    versions.push(KeyVersion { version: record.version.max(1), key, created_ms: record.created_ms });
                    versions.sort_by_key(|key| key.version);
                }
                (KIND_PURPOSES, Some(key)) => purposes = Some(key),
                (KIND_NAMES, Some(key)) => names = Some(key),
                (KIND_SHREDDED, _) => {
                    let fingerprints = record.fingerprints.iter().filter_map(|f| f.as_slice().try_into().ok());
                    shredded.insert(record.org, fingerprints.collect::<Vec<[u8; 32]>>());
                }
                _ => {
                    let reason = "a record is of an unknown kind".into();
                    return Err(StoreError::CorruptFile { path: path.into(), reason });
                }
            }
        }
        keys.retain(|org, _| !shredded.contains_key(org));
        Ok(Self { orgs: Orgs { records, keys, shredded }, purposes, names, has_all })
    }
}

/// The installation's secrets, where they are the file's first records: as
/// every release since format 1 has written them.
pub(crate) fn first_secrets(unread: &Unread, key: &Key) -> Option<Secrets> {
    let [mut purposes, mut names] = unread.first::<OrgRecord>(2, key)?.try_into().ok()?;
    let is_known = purposes.kind == KIND_PURPOSES && names.kind == KIND_NAMES;
    let secrets = Secrets { purposes: purposes.take_key()?, names: names.take_key()? };
    is_known.then_some(secrets)
}

/// The file, opened by whoever asks first.
pub(crate) struct OrgFile {
    path: PathBuf,
    keys: Vec<Key>,
    state: Mutex<State>,
}

enum State {
    /// Nothing, where what was read could not be opened.
    Unread(Option<Unread>),
    Open(Orgs),
}

impl OrgFile {
    pub(crate) fn open(path: PathBuf, orgs: Orgs) -> Self {
        Self { path, keys: Vec::new(), state: Mutex::new(State::Open(orgs)) }
    }

    /// One that was left as it is by a clean stop.
    pub(crate) fn unread(path: PathBuf, keys: Vec<Key>, unread: Unread) -> Self {
        Self { path, keys, state: Mutex::new(State::Unread(Some(unread))) }
    }

    /// The orgs. Blocks where the file has not been opened: once, for some
    /// microseconds an org.
    pub(crate) fn orgs(&self) -> Result<MappedMutexGuard<'_, Orgs>, StoreError> {
        let mut state = self.state.lock();
        if let State::Unread(unread) = &mut *state {
            let unread = match unread.take() {
                None => Unread::read(&self.path)?,
                unread => unread,
            };
            let Found { orgs, has_all, .. } = Found::open(&self.path, &self.keys, unread)?;
            if !has_all || orgs.records.has_tail() || orgs.records.count() == 0 {
                let reason = "a record in it cannot be read".into();
                return Err(StoreError::CorruptFile { path: self.path.clone(), reason });
            }
            *state = State::Open(orgs);
        }
        MutexGuard::try_map(state, |state| match state {
            State::Open(orgs) => Some(orgs),
            State::Unread(_) => None,
        })
        .map_err(|_| StoreError::Closed)
    }

    /// Whether a record cannot be read, and is needed.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(&*self.state.lock(), State::Open(orgs) if orgs.records.has_tail())
    }

    /// Whether the next start has nothing to do for any org, with these vaults.
    pub(crate) fn is_settled<'a>(&self, vaults: impl IntoIterator<Item = &'a VaultName>) -> bool {
        match &*self.state.lock() {
            // It was when the store was closed before, and nobody has asked since.
            State::Unread(_) => true,
            State::Open(orgs) => orgs.is_settled(vaults),
        }
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

    fn is_settled<'a>(&self, vaults: impl IntoIterator<Item = &'a VaultName>) -> bool {
        let is_whole = self.records.is_whole() && !self.keys.values().any(OrgKeys::is_rotating);
        let is_gone = |org: &str| !self.shredded.contains_key(org);
        is_whole && (self.shredded.is_empty() || vaults.into_iter().all(|name| is_gone(org_of(name))))
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

impl OrgRecord {
    /// The key, wiped from the record.
    fn take_key(&mut self) -> Option<Key> {
        let key = Zeroizing::new(std::mem::take(&mut self.key));
        key.as_slice().try_into().ok().map(Key::from_bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir {
        dir: tempfile::TempDir,
        key: Key,
    }

    impl Dir {
        fn path(&self) -> PathBuf {
            self.dir.path().join("orgs")
        }

        /// With secrets and the keys of three orgs.
        fn new() -> (Self, Secrets) {
            let this = Self { dir: tempfile::tempdir().unwrap(), key: Key::random() };
            let secrets = Secrets { purposes: Key::random(), names: Key::random() };
            let mut orgs = this.read().unwrap().orgs;
            for org in ["a", "b", "c"] {
                orgs.add_version(org, 1, 7).unwrap();
            }
            orgs.rewrite(&secrets, this.key.clone()).unwrap();
            (this, secrets)
        }

        fn read(&self) -> Result<Found, StoreError> {
            Found::open(&self.path(), &self.keys(), Unread::read(&self.path())?)
        }

        fn keys(&self) -> [Key; 1] {
            [self.key.clone()]
        }

        fn unread(&self) -> OrgFile {
            OrgFile::unread(self.path(), self.keys().into(), Unread::read(&self.path()).unwrap().unwrap())
        }
    }

    #[test]
    fn what_was_left_unread_is_opened_by_who_asks() {
        let (dir, secrets) = Dir::new();
        let unread = Unread::read(&dir.path()).unwrap().unwrap();
        let first = first_secrets(&unread, &dir.key).unwrap();
        assert_eq!(
            [first.purposes.expose(), first.names.expose()],
            [secrets.purposes.expose(), secrets.names.expose()]
        );
        assert!(first_secrets(&unread, &Key::random()).is_none(), "under another root key");
        let file = dir.unread();
        assert!(file.is_settled([]) && !file.is_damaged());
        let versions = |org| file.orgs().unwrap().keys.get(org).map(|keys| keys.infos(org).next().unwrap());
        let all = dir.read().unwrap().orgs.keys;
        for (org, keys) in &all {
            assert_eq!(versions(org), keys.infos(org).next());
        }
        assert_eq!(all.len(), 3);
        assert_eq!(versions("d"), None);
        file.orgs().unwrap().add_version("a", 2, 8).unwrap();
        assert!(!file.is_settled([]), "a rotation is under way");
    }

    #[test]
    fn secrets_that_do_not_stand_first_are_not_found() {
        let dir = Dir { dir: tempfile::tempdir().unwrap(), key: Key::random() };
        let mut orgs = dir.read().unwrap().orgs;
        // As format 1 began the file.
        orgs.add_version("", 1, 7).unwrap();
        orgs.add_version("a", 1, 7).unwrap();
        assert!(first_secrets(&Unread::read(&dir.path()).unwrap().unwrap(), &dir.key).is_none());
    }

    #[test]
    fn damage_that_the_start_has_not_seen_is_named_as_often_as_somebody_asks() {
        let (dir, secrets) = Dir::new();
        let whole = std::fs::read(dir.path()).unwrap();
        for at in 17..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(dir.path(), &flipped).unwrap();
            let file = dir.unread();
            for _ in 0..2 {
                let error = file.orgs().err();
                assert!(
                    matches!(&error, Some(StoreError::CorruptFile { path, .. }) if *path == dir.path()),
                    "byte {at}"
                );
            }
            std::fs::write(dir.path(), &whole).unwrap();
            assert_eq!(file.orgs().unwrap().records_of(&secrets).len(), 5, "and served once it is mended");
        }
    }

    #[test]
    fn an_org_whose_vaults_are_still_there_is_work() {
        let (dir, secrets) = Dir::new();
        let mut orgs = dir.read().unwrap().orgs;
        let org = "org/00000000000000000000000000000001";
        orgs.shredded.insert(org.into(), vec![[1; 32]]);
        orgs.rewrite(&secrets, dir.key.clone()).unwrap();
        let file = OrgFile::open(dir.path(), orgs);
        assert!(file.is_settled([&"org/00000000000000000000000000000002".into()]));
        assert!(!file.is_settled([&org.into()]));
    }
}
