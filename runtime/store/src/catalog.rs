//! What is known before any vault is open: which vaults there are, in which
//! directories, and the keys of their orgs.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use parking_lot::{Mutex, RwLock};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::StoreError;
use crate::head;
use crate::key::Key;
use crate::keyring::Keyring;
use crate::keys::KeyInfo;
use crate::layout::{self, Layout};
use crate::records::SealedRecords;
use crate::root::Root;
use crate::route::{INSTALLATION, VaultName, org_of};

/// A vault's id: random; its directory's name in hex digits.
pub(crate) type VaultId = [u8; 16];

#[derive(Clone, PartialEq, Message)]
struct VaultRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
}

/// A version of an org's key; of the installation's, for an empty name.
#[derive(Clone, PartialEq, Message)]
struct OrgRecord {
    #[prost(string, tag = "1")]
    org: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    /// 0 in format 1 stands for 1.
    #[prost(uint32, tag = "3")]
    version: u32,
    #[prost(int64, tag = "4")]
    created_ms: i64,
    /// What the record is, beside an org's key: see the constants.
    #[prost(uint32, tag = "5")]
    kind: u32,
    /// Of the keys destroyed, where the org was shredded.
    #[prost(bytes = "vec", repeated, tag = "6")]
    fingerprints: Vec<Vec<u8>>,
}

const KIND_KEY: u32 = 0;
/// What [`crate::Store::derive_key`] derives from.
const KIND_PURPOSES: u32 = 1;
/// Seals the names of vaults in their keyrings.
const KIND_NAMES: u32 = 2;
/// The org was shredded, and its vaults go.
const KIND_SHREDDED: u32 = 3;

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
pub(crate) struct OrgKeys(Vec<KeyVersion>);

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

/// What must survive every rotation: tokens and the names of vaults.
struct Secrets {
    purposes: Key,
    names: Key,
}

struct Vaults {
    records: SealedRecords<VaultRecord>,
    ids: HashMap<VaultName, VaultId>,
}

struct Orgs {
    records: SealedRecords<OrgRecord>,
    keys: HashMap<String, OrgKeys>,
    /// Fingerprints of the keys of orgs that were shredded.
    shredded: HashMap<String, Vec<[u8; 32]>>,
}

pub(crate) struct Catalog {
    dir: PathBuf,
    secrets: Secrets,
    clock: fn() -> i64,
    vaults: Mutex<Vaults>,
    orgs: Mutex<Orgs>,
    /// Held for reading while a vault is made: a rotation that waits for it
    /// knows every vault that is wrapped by the version before.
    pub(crate) making: RwLock<()>,
}

const NAME_CONTEXT: &[u8] = b"canopy vault name";

fn org_file_key(root: &Key) -> Key {
    root.derive("canopy org keys")
}

fn index_key(root: &Key) -> Key {
    root.derive("canopy vaults")
}

impl Catalog {
    /// Opens both files, under the next root key where a rotation has come so
    /// far.
    pub(crate) fn open(layout: &Layout, root: &Root, clock: fn() -> i64) -> Result<Self, StoreError> {
        let roots: Vec<&Key> = root.next.iter().chain([&root.key]).collect();
        let file_keys = |of: fn(&Key) -> Key| roots.iter().map(|root| of(root)).rev().collect::<Vec<_>>();
        let (mut records, found) = SealedRecords::<OrgRecord>::open(&layout.org_keys(), &file_keys(org_file_key))?;
        let (mut keys, mut shredded) = (HashMap::<String, OrgKeys>::new(), HashMap::new());
        let (mut purposes, mut names) = (None, None);
        for mut record in found {
            let key = <[u8; 32]>::try_from(record.key.as_slice()).map(Key::from_bytes);
            record.key.zeroize();
            match (record.kind, key) {
                (KIND_KEY, Ok(key)) => {
                    let versions = &mut keys.entry(record.org).or_default().0;
                    versions.push(KeyVersion { version: record.version.max(1), key, created_ms: record.created_ms });
                    versions.sort_by_key(|key| key.version);
                }
                (KIND_PURPOSES, Ok(key)) => purposes = Some(key),
                (KIND_NAMES, Ok(key)) => names = Some(key),
                (KIND_SHREDDED, _) => {
                    let fingerprints = record.fingerprints.iter().filter_map(|f| f.as_slice().try_into().ok());
                    shredded.insert(record.org, fingerprints.collect::<Vec<[u8; 32]>>());
                }
                _ => {
                    let reason = "a record is of an unknown kind".into();
                    return Err(StoreError::CorruptFile { path: layout.org_keys(), reason });
                }
            }
        }
        keys.retain(|org, _| !shredded.contains_key(org));
        // In format 1 these followed from keys that rotate now.
        let installation = keys.get(INSTALLATION).and_then(OrgKeys::current).map(|first| first.key.clone());
        let mut secret = |found: Option<Key>, kind, before: Option<Key>| match found {
            Some(key) => Ok(key),
            None => {
                let key = before.unwrap_or_else(Key::random);
                let mut record = OrgRecord { kind, key: key.expose().to_vec(), ..OrgRecord::default() };
                let appended = records.append(&record);
                record.key.zeroize();
                appended.map(|()| key)
            }
        };
        let is_old = installation.is_some() || layout.vault_index().exists();
        let secrets = Secrets {
            purposes: secret(purposes, KIND_PURPOSES, installation)?,
            names: secret(names, KIND_NAMES, is_old.then(|| root.key.derive("canopy vault names")))?,
        };
        let orgs = Orgs { records, keys, shredded };
        let (records, found) = SealedRecords::<VaultRecord>::open(&layout.vault_index(), &file_keys(index_key))?;
        let ids = found
            .into_iter()
            .filter_map(|record| Some((record.name.into(), VaultId::try_from(record.id.as_slice()).ok()?)))
            .collect();
        let this = Self {
            dir: layout.vaults(),
            secrets,
            clock,
            vaults: Mutex::new(Vaults { records, ids }),
            orgs: Mutex::new(orgs),
            making: RwLock::new(()),
        };
        this.settle_orphans()?;
        Ok(this)
    }

    /// The records of orgs' keys and secrets, to be kept sealed elsewhere.
    pub(crate) fn export(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let mut records = self.orgs.lock().records_of(&self.secrets);
        let encoded = records.iter().map(|record| Zeroizing::new(record.encode_to_vec())).collect();
        records.iter_mut().for_each(|record| record.key.zeroize());
        encoded
    }

    /// Writes records that [`Catalog::export`] gave into a new directory.
    pub(crate) fn import(layout: &Layout, root: &Root, records: &[Vec<u8>]) -> Result<(), StoreError> {
        let path = layout.org_keys();
        let damaged = |e: prost::DecodeError| StoreError::CorruptFile { path: path.clone(), reason: e.to_string() };
        let decoded = records.iter().map(|record| OrgRecord::decode(record.as_slice()));
        let mut decoded = decoded.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let key = org_file_key(&root.key);
        let (mut file, _) = SealedRecords::<OrgRecord>::open(&path, std::slice::from_ref(&key))?;
        let written = file.rewrite(key, &decoded);
        decoded.iter_mut().for_each(|record| record.key.zeroize());
        written
    }

    /// Puts both files under another root key.
    pub(crate) fn rewrite(&self, root: &Key) -> Result<(), StoreError> {
        self.orgs.lock().rewrite(&self.secrets, org_file_key(root))?;
        self.vaults.lock().rewrite(index_key(root))
    }

    /// See [`crate::Store::derive_key`].
    pub(crate) fn derive(&self, purpose: &str) -> Key {
        self.secrets.purposes.derive(&format!("canopy purpose {purpose}"))
    }

    /// Seals how far vaults had come.
    pub(crate) fn heads(&self) -> Key {
        self.secrets.purposes.derive("canopy heads")
    }

    /// A key for what this process keeps of absent partitions.
    pub(crate) fn absent(&self) -> Key {
        self.secrets.purposes.derive("canopy absent")
    }

    /// Directories that the index does not know. A crash between making a
    /// vault and recording it leaves one that was never used: it is removed.
    /// One that was used lost its place in the index, and gets it back.
    fn settle_orphans(&self) -> Result<(), StoreError> {
        let failed = |e: std::io::Error| StoreError::io("cannot read", &self.dir, &e);
        let known: std::collections::HashSet<VaultId> = self.vaults.lock().ids.values().copied().collect();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let id = path.file_name().and_then(|name| parse_hex(name.to_str()?));
            let Some(id) = id.filter(|id| path.is_dir() && !known.contains(id)) else {
                continue;
            };
            if head::claimed(&path.join("head")).unwrap_or(0) == 0 {
                tracing::info!(path = %path.display(), "removing a vault that a crash left unfinished");
                fs::remove_dir_all(&path).map_err(|e| StoreError::io("cannot remove", &path, &e))?;
                continue;
            }
            let name = Keyring::sealed_name(&path.join("keyring"))
                .ok()
                .and_then(|sealed| self.secrets.names.open(NAME_CONTEXT, &sealed))
                .and_then(|text| String::from_utf8(text.to_vec()).ok())
                .ok_or_else(|| StoreError::CorruptFile {
                    path: path.clone(),
                    reason: "the index does not know it, and its name cannot be read".into(),
                })?;
            tracing::warn!(vault = name, "the index had lost a vault: recorded again");
            self.record_vault(&name.as_str().into(), id)?;
        }
        Ok(())
    }

    /// The id of a vault that was made.
    pub(crate) fn vault_id(&self, name: &str) -> Option<VaultId> {
        self.vaults.lock().ids.get(name).copied()
    }

    /// All vaults that were made.
    pub(crate) fn vaults(&self) -> Vec<(VaultName, VaultId)> {
        self.vaults.lock().ids.iter().map(|(name, id)| (name.clone(), *id)).collect()
    }

    /// How many vaults were made.
    pub(crate) fn vault_count(&self) -> usize {
        self.vaults.lock().ids.len()
    }

    /// Records a vault whose directory is complete and durable.
    pub(crate) fn record_vault(&self, name: &VaultName, id: VaultId) -> Result<(), StoreError> {
        let mut vaults = self.vaults.lock();
        vaults.records.append(&VaultRecord { name: name.to_string(), id: id.to_vec() })?;
        vaults.ids.insert(name.clone(), id);
        Ok(())
    }

    /// A vault's name for its own keyring.
    pub(crate) fn seal_name(&self, name: &str) -> Vec<u8> {
        self.secrets.names.seal(NAME_CONTEXT, name.as_bytes())
    }

    /// The directory of a vault.
    pub(crate) fn vault_dir(&self, id: &VaultId) -> PathBuf {
        self.dir.join(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Where the vaults' directories are.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        layout::sync_dir(&self.dir)
    }

    /// The vaults whose key an org's wraps, in order of their names.
    pub(crate) fn vaults_of(&self, org: &str) -> Vec<(VaultName, VaultId)> {
        let vaults = self.vaults.lock();
        let own = vaults.ids.iter().filter(|(name, _)| org_of(name) == org);
        let mut own: Vec<_> = own.map(|(name, id)| (name.clone(), *id)).collect();
        own.sort();
        own
    }

    /// Takes vaults whose directories are gone out of the index.
    pub(crate) fn forget_vaults(&self, names: &[VaultName]) -> Result<(), StoreError> {
        let mut vaults = self.vaults.lock();
        for name in names {
            vaults.ids.remove(name);
        }
        let key = vaults.records.key().clone();
        vaults.rewrite(key)
    }

    /// The keys of an org; an empty name stands for the installation.
    pub(crate) fn org_keys(&self, org: &str) -> Option<OrgKeys> {
        self.orgs.lock().keys.get(org).cloned()
    }

    /// Orgs with keys, with those whose rotation is not finished first.
    pub(crate) fn orgs(&self) -> Vec<(String, OrgKeys)> {
        let orgs = self.orgs.lock();
        let mut all: Vec<_> = orgs.keys.iter().map(|(org, keys)| (org.clone(), keys.clone())).collect();
        all.sort_by(|(a, a_keys), (b, b_keys)| (b_keys.0.len(), a).cmp(&(a_keys.0.len(), b)));
        all
    }

    /// The key of an org, durable; made where it has none.
    pub(crate) fn org_key_or_new(&self, org: &str) -> Result<KeyVersion, StoreError> {
        let mut orgs = self.orgs.lock();
        if let Some(key) = orgs.keys.get(org).and_then(OrgKeys::current) {
            return Ok(key.clone());
        }
        orgs.add_version(org, 1, (self.clock)())
    }

    /// Begins the rotation of an org's key, or goes on with the one under way:
    /// new vaults are wrapped by the version that it gives.
    pub(crate) fn begin_rotation(&self, org: &str) -> Result<KeyVersion, StoreError> {
        let mut orgs = self.orgs.lock();
        let (version, count) = match orgs.keys.get(org) {
            Some(keys) => (keys.current().map_or(0, |key| key.version), keys.0.len()),
            None if orgs.shredded.contains_key(org) => return Err(StoreError::Shredded(org.into())),
            None => return Err(StoreError::NoKeys(org.into())),
        };
        if count > 1
            && let Some(key) = orgs.keys.get(org).and_then(OrgKeys::current)
        {
            return Ok(key.clone());
        }
        orgs.add_version(org, version + 1, (self.clock)())
    }

    /// Destroys the versions before the current one.
    pub(crate) fn finish_rotation(&self, org: &str) -> Result<(), StoreError> {
        let mut orgs = self.orgs.lock();
        let Some(keys) = orgs.keys.get_mut(org) else { return Ok(()) };
        let old = keys.0.len().saturating_sub(1);
        keys.0.drain(..old);
        let key = orgs.records.key().clone();
        orgs.rewrite(&self.secrets, key)
    }

    /// Destroys the keys of an org for good; gives their fingerprints, also
    /// where it was done before.
    pub(crate) fn shred_org(&self, org: &str) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut orgs = self.orgs.lock();
        if let Some(fingerprints) = orgs.shredded.get(org) {
            return Ok(fingerprints.clone());
        }
        let keys = orgs.keys.remove(org).ok_or_else(|| StoreError::NoKeys(org.into()))?;
        let fingerprints = keys.fingerprints();
        orgs.shredded.insert(org.into(), fingerprints.clone());
        let key = orgs.records.key().clone();
        orgs.rewrite(&self.secrets, key)?;
        Ok(fingerprints)
    }

    /// Orgs that were shredded.
    pub(crate) fn shredded_orgs(&self) -> Vec<String> {
        self.orgs.lock().shredded.keys().cloned().collect()
    }

    /// Whether an org was shredded.
    pub(crate) fn is_shredded(&self, org: &str) -> bool {
        self.orgs.lock().shredded.contains_key(org)
    }
}

impl Orgs {
    fn add_version(&mut self, org: &str, version: u32, created_ms: i64) -> Result<KeyVersion, StoreError> {
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

    fn records_of(&self, secrets: &Secrets) -> Vec<OrgRecord> {
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

    fn rewrite(&mut self, secrets: &Secrets, key: Key) -> Result<(), StoreError> {
        let mut records = self.records_of(secrets);
        let rewritten = self.records.rewrite(key, &records);
        for record in &mut records {
            record.key.zeroize();
        }
        rewritten
    }
}

impl Vaults {
    fn rewrite(&mut self, key: Key) -> Result<(), StoreError> {
        let record = |(name, id): (&VaultName, &VaultId)| VaultRecord { name: name.to_string(), id: id.to_vec() };
        let records: Vec<VaultRecord> = self.ids.iter().map(record).collect();
        self.records.rewrite(key, &records)
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

fn parse_hex(text: &str) -> Option<VaultId> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
