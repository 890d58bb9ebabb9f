//! What is known before any vault is open: which vaults there are, in which
//! directories, and the keys of their orgs.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use parking_lot::Mutex;
use prost::Message;
use zeroize::Zeroize;

use crate::StoreError;
use crate::head;
use crate::key::Key;
use crate::keyring::Keyring;
use crate::layout::{self, Layout};
use crate::records::SealedRecords;
use crate::route::VaultName;

/// A vault's id: random; its directory's name in hex digits.
pub(crate) type VaultId = [u8; 16];

#[derive(Clone, PartialEq, Message)]
struct VaultRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct OrgRecord {
    #[prost(string, tag = "1")]
    org: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

struct Vaults {
    records: SealedRecords<VaultRecord>,
    ids: HashMap<VaultName, VaultId>,
}

struct Orgs {
    records: SealedRecords<OrgRecord>,
    keys: HashMap<String, Key>,
}

pub(crate) struct Catalog {
    dir: PathBuf,
    names: Key,
    vaults: Mutex<Vaults>,
    orgs: Mutex<Orgs>,
}

const NAME_CONTEXT: &[u8] = b"canopy vault name";

impl Catalog {
    pub(crate) fn open(layout: &Layout, root: &Key) -> Result<Self, StoreError> {
        let (records, found) = SealedRecords::<OrgRecord>::open(&layout.org_keys(), root.derive("canopy org keys"))?;
        let mut keys = HashMap::new();
        for mut record in found {
            if let Ok(key) = <[u8; 32]>::try_from(record.key.as_slice()) {
                keys.insert(record.org, Key::from_bytes(key));
            }
            record.key.zeroize();
        }
        let orgs = Orgs { records, keys };
        let (records, found) = SealedRecords::<VaultRecord>::open(&layout.vault_index(), root.derive("canopy vaults"))?;
        let ids = found
            .into_iter()
            .filter_map(|record| Some((record.name.into(), VaultId::try_from(record.id.as_slice()).ok()?)))
            .collect();
        let this = Self {
            dir: layout.vaults(),
            names: root.derive("canopy vault names"),
            vaults: Mutex::new(Vaults { records, ids }),
            orgs: Mutex::new(orgs),
        };
        this.settle_orphans()?;
        Ok(this)
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
                .and_then(|sealed| self.names.open(NAME_CONTEXT, &sealed))
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
        self.names.seal(NAME_CONTEXT, name.as_bytes())
    }

    /// The directory of a vault.
    pub(crate) fn vault_dir(&self, id: &VaultId) -> PathBuf {
        self.dir.join(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Where the vaults' directories are.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        layout::sync_dir(&self.dir)
    }

    /// The key of an org; an empty name stands for the installation.
    pub(crate) fn org_key(&self, org: &str) -> Option<Key> {
        self.orgs.lock().keys.get(org).cloned()
    }

    /// The keys of all orgs.
    pub(crate) fn org_keys(&self) -> Vec<(String, Key)> {
        self.orgs.lock().keys.iter().map(|(org, key)| (org.clone(), key.clone())).collect()
    }

    /// Takes over the key of an org, durably.
    pub(crate) fn adopt_org_key(&self, org: &str, key: Key) -> Result<(), StoreError> {
        let mut orgs = self.orgs.lock();
        let mut record = OrgRecord { org: org.into(), key: key.expose().to_vec() };
        let appended = orgs.records.append(&record);
        record.key.zeroize();
        appended?;
        orgs.keys.insert(org.into(), key);
        Ok(())
    }

    /// The key of an org, durable; made where it has none.
    pub(crate) fn org_key_or_new(&self, org: &str) -> Result<Key, StoreError> {
        let mut orgs = self.orgs.lock();
        if let Some(key) = orgs.keys.get(org) {
            return Ok(key.clone());
        }
        let key = Key::random();
        let mut record = OrgRecord { org: org.into(), key: key.expose().to_vec() };
        let appended = orgs.records.append(&record);
        record.key.zeroize();
        appended?;
        orgs.keys.insert(org.into(), key.clone());
        Ok(key)
    }
}

fn parse_hex(text: &str) -> Option<VaultId> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
