//! What is known before any vault is open: which vaults there are, in which
//! directories, and the keys of their orgs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::StoreError;
use crate::head;
use crate::key::Key;
use crate::keyring::Keyring;
use crate::layout::{self, Layout};
use crate::orgs::{Found, KIND_NAMES, KIND_PURPOSES, KeyVersion, OrgFile, OrgKeys, OrgRecord, Orgs, first_secrets};
use crate::records::{self, SealedRecords, Unread};
use crate::root::Root;
use crate::route::{INSTALLATION, VaultName, org_of};
use crate::settled::{Files, Making, Print, Settled};

/// A vault's id: random; its directory's name in hex digits.
pub(crate) type VaultId = [u8; 16];

#[derive(Clone, PartialEq, Message)]
struct VaultRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
}

/// What must survive every rotation: tokens and the names of vaults.
pub(crate) struct Secrets {
    pub(crate) purposes: Key,
    pub(crate) names: Key,
}

/// Where the index of vaults is, and the keys that may open it.
struct IndexFile {
    path: PathBuf,
    keys: Vec<Key>,
}

struct Vaults {
    records: SealedRecords<VaultRecord>,
    ids: HashMap<VaultName, VaultId>,
}

pub(crate) struct Catalog {
    dir: PathBuf,
    secrets: Secrets,
    clock: fn() -> i64,
    index: IndexFile,
    /// Read when it is first asked for, where the last stop was clean.
    vaults: Mutex<Option<Vaults>>,
    settled: Settled,
    orgs: OrgFile,
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
        let this = Self::open_settled(layout, root, clock)?;
        this.unsettle()?;
        this.read_all()?;
        Ok(this)
    }

    /// As [`Catalog::open`], but that after a clean stop the index of vaults and
    /// the keys of orgs are left to be read by whoever asks for one first.
    pub(crate) fn open_settled(layout: &Layout, root: &Root, clock: fn() -> i64) -> Result<Self, StoreError> {
        let roots: Vec<&Key> = root.next.iter().chain([&root.key]).collect();
        let file_keys = |of: fn(&Key) -> Key| roots.iter().map(|root| of(root)).rev().collect::<Vec<_>>();
        let (org_path, org_keys) = (layout.org_keys(), file_keys(org_file_key));
        let index = IndexFile { path: layout.vault_index(), keys: file_keys(index_key) };
        let files = Files {
            settled: layout.settled(),
            index: index.path.clone(),
            heads: layout.heads(),
            orgs: org_path.clone(),
        };
        let unread = Unread::read(&org_path)?;
        let first = unread.as_ref().zip(org_keys.first()).and_then(|(unread, key)| first_secrets(unread, key));
        let read = unread.as_ref().map_or(&[][..], Unread::bytes);
        let settled = Settled::open(files, first.as_ref().map(|secrets| &secrets.purposes), read);
        let may_wait = root.next.is_none() && settled.is_noted() && records::has_header(&index.path);
        let this = |secrets, index, settled, orgs| Self {
            dir: layout.vaults(),
            secrets,
            clock,
            index,
            vaults: Mutex::new(None),
            settled,
            orgs,
            making: RwLock::new(()),
        };
        let unread = match (first, unread) {
            (Some(secrets), Some(unread)) if may_wait => {
                return Ok(this(secrets, index, settled, OrgFile::unread(org_path, org_keys, unread)));
            }
            (_, unread) => unread,
        };
        let Found { orgs, purposes, names, has_all } = Found::open(&org_path, &org_keys, unread)?;
        let Orgs { mut records, keys, shredded } = orgs;
        let (vaults, print) = index.read()?;
        // In format 1 these followed from keys that rotate now.
        let installation = keys.get(INSTALLATION).and_then(OrgKeys::current).map(|first| first.key.clone());
        let old_names = root.key.derive("canopy vault names");
        let is_needed = records.has_tail() && {
            let named = names.as_ref().unwrap_or(&old_names);
            !has_all || !Self::has_all_keys(&layout.vaults(), &vaults.ids, &keys, named)?
        };
        let has_secrets = (purposes.is_some() || installation.is_some()) && (names.is_some() || purposes.is_none());
        match (is_needed, has_secrets) {
            (true, false) => {
                let reason = "a record in it cannot be read, and there are vaults that need it".into();
                return Err(StoreError::CorruptFile { path: org_path, reason });
            }
            (true, true) => tracing::error!("a record of `keys/orgs` cannot be read: orgs that need it are refused"),
            (false, _) => records.cut_tail()?,
        }
        let mut secret = |found: Option<Key>, kind, before: Option<Key>| match found {
            Some(key) => Ok(key),
            // What cannot be written now follows again from the same next time.
            None if is_needed => Ok(before.unwrap_or_else(Key::random)),
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
            names: secret(names, KIND_NAMES, is_old.then_some(old_names))?,
        };
        let this = this(secrets, index, settled, OrgFile::open(org_path, Orgs { records, keys, shredded }));
        *this.vaults.lock() = Some(this.settle(vaults, print)?);
        Ok(this)
    }

    /// The index of vaults. Blocks where it has not been read: once, for some
    /// microseconds a vault.
    fn vaults(&self) -> Result<MappedMutexGuard<'_, Vaults>, StoreError> {
        let mut vaults = self.vaults.lock();
        if vaults.is_none() {
            let (read, print) = self.index.read()?;
            *vaults = Some(self.settle(read, print)?);
        }
        Ok(MutexGuard::map(vaults, |vaults| vaults.as_mut().expect("it was read above")))
    }

    fn orgs(&self) -> Result<MappedMutexGuard<'_, Orgs>, StoreError> {
        self.orgs.orgs()
    }

    /// Reads what the start has left, if nobody has: all of it is looked at.
    pub(crate) fn read_all(&self) -> Result<(), StoreError> {
        drop(self.orgs()?);
        drop(self.vaults()?);
        Ok(())
    }

    /// Whether a crash may have left work to do for orgs.
    pub(crate) fn may_have_work(&self) -> bool {
        !self.settled.is_noted()
    }

    /// Notes that nothing is to be settled: of a store that was closed.
    pub(crate) fn note_settled(&self) -> Result<(), StoreError> {
        // Not read: then nothing was made, and what is noted holds.
        let Some((count, is_settled)) =
            self.vaults.lock().as_ref().map(|vaults| (vaults.records.count(), self.orgs.is_settled(vaults.ids.keys())))
        else {
            return Ok(());
        };
        if is_settled { self.settled.note(&self.secrets.purposes, count) } else { self.settled.forget() }
    }

    /// Says that directories may be there from now on that have no place in
    /// the index; see [`Settled`].
    fn unsettle(&self) -> Result<(), StoreError> {
        self.settled.forget()
    }

    /// To be held while a vault's directory is made; see [`Settled`].
    pub(crate) fn begin_making(&self) -> Result<Making<'_>, StoreError> {
        self.settled.begin()
    }

    /// The records of orgs' keys and secrets, to be kept sealed elsewhere.
    pub(crate) fn export(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, StoreError> {
        let mut records = self.orgs()?.records_of(&self.secrets);
        let encoded = records.iter().map(|record| Zeroizing::new(record.encode_to_vec())).collect();
        records.iter_mut().for_each(|record| record.key.zeroize());
        Ok(encoded)
    }

    /// Writes records that [`Catalog::export`] gave into a new directory.
    pub(crate) fn import(layout: &Layout, root: &Root, records: &[Vec<u8>]) -> Result<(), StoreError> {
        let path = layout.org_keys();
        let damaged = |e: prost::DecodeError| StoreError::CorruptFile { path: path.clone(), reason: e.to_string() };
        let decoded = records.iter().map(|record| OrgRecord::decode(record.as_slice()));
        let mut decoded = decoded.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let count = decoded.len() as u64;
        if let Some(first) = decoded.first_mut() {
            first.whole = count;
        }
        let key = org_file_key(&root.key);
        let (mut file, _) = SealedRecords::<OrgRecord>::open(&path, std::slice::from_ref(&key))?;
        let written = file.rewrite(key, &decoded);
        decoded.iter_mut().for_each(|record| record.key.zeroize());
        written
    }

    /// Puts both files under another root key.
    pub(crate) fn rewrite(&self, root: &Key) -> Result<(), StoreError> {
        let mut vaults = self.vaults()?;
        self.orgs()?.rewrite(&self.secrets, org_file_key(root))?;
        vaults.rewrite(index_key(root))
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

    /// Whether every vault is wrapped by a version of its org's key that is
    /// there. Reads each keyring's first record.
    fn has_all_keys(
        dir: &Path,
        ids: &HashMap<VaultName, VaultId>,
        keys: &HashMap<String, OrgKeys>,
        names: &Key,
    ) -> Result<bool, StoreError> {
        let has_key = |name: &str, version: u32| keys.get(org_of(name)).is_some_and(|k| k.version(version).is_some());
        for (name, id) in ids {
            // Of a keyring that cannot be read, the vault's own opening tells.
            let version = Keyring::sealed_name(&vault_dir(dir, id).join("keyring")).map_or(1, |(_, version)| version);
            if !has_key(name, version) {
                return Ok(false);
            }
        }
        for (_, path) in orphans(dir, ids)? {
            let is_used = head::claimed(&path.join("head")).unwrap_or(0) > 0;
            if is_used && !orphans_name(&path, names).is_some_and(|(name, version)| has_key(&name, version)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Directories that the index does not know. A crash between making a
    /// vault and recording it leaves one that was never used: it is removed.
    /// One that was used lost its place in the index, and gets it back: all of
    /// them must, before a record that cannot be read goes. After a clean stop
    /// there are none, as long as the index is what it was.
    fn settle(&self, mut vaults: Vaults, print: Print) -> Result<Vaults, StoreError> {
        if self.settled.holds(vaults.records.count(), print) && !vaults.records.has_tail() {
            return Ok(vaults);
        }
        let mut lost = Vec::new();
        for (id, path) in orphans(&self.dir, &vaults.ids)? {
            if head::claimed(&path.join("head")).unwrap_or(0) == 0 {
                tracing::info!(path = %path.display(), "removing a vault that a crash left unfinished");
                fs::remove_dir_all(&path).map_err(|e| StoreError::io("cannot remove", &path, &e))?;
                continue;
            }
            let (name, _) = orphans_name(&path, &self.secrets.names).ok_or_else(|| StoreError::CorruptFile {
                path: path.clone(),
                reason: "the index does not know it, and its name cannot be read".into(),
            })?;
            lost.push((name, id));
        }
        vaults.records.cut_tail()?;
        for (name, id) in lost {
            tracing::warn!(vault = name, "the index had lost a vault: recorded again");
            vaults.record(&name.as_str().into(), id)?;
        }
        Ok(vaults)
    }

    /// Whether a record of the orgs' keys cannot be read, and is needed.
    pub(crate) fn is_damaged(&self) -> bool {
        self.orgs.is_damaged()
    }

    /// The id of a vault that was made.
    pub(crate) fn vault_id(&self, name: &str) -> Result<Option<VaultId>, StoreError> {
        Ok(self.vaults()?.ids.get(name).copied())
    }

    /// All vaults that were made.
    pub(crate) fn all_vaults(&self) -> Result<Vec<(VaultName, VaultId)>, StoreError> {
        Ok(self.vaults()?.ids.iter().map(|(name, id)| (name.clone(), *id)).collect())
    }

    /// How many vaults were made.
    pub(crate) fn vault_count(&self) -> Result<usize, StoreError> {
        Ok(self.vaults()?.ids.len())
    }

    /// Records a vault whose directory is complete and durable.
    pub(crate) fn record_vault(&self, name: &VaultName, id: VaultId) -> Result<(), StoreError> {
        self.vaults()?.record(name, id)
    }

    /// A vault's name for its own keyring.
    pub(crate) fn seal_name(&self, name: &str) -> Vec<u8> {
        self.secrets.names.seal(NAME_CONTEXT, name.as_bytes())
    }

    /// The directory of a vault.
    pub(crate) fn vault_dir(&self, id: &VaultId) -> PathBuf {
        vault_dir(&self.dir, id)
    }

    /// Where the vaults' directories are.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        layout::sync_dir(&self.dir)
    }

    /// The vaults whose key an org's wraps, in order of their names.
    pub(crate) fn vaults_of(&self, org: &str) -> Result<Vec<(VaultName, VaultId)>, StoreError> {
        let vaults = self.vaults()?;
        let own = vaults.ids.iter().filter(|(name, _)| org_of(name) == org);
        let mut own: Vec<_> = own.map(|(name, id)| (name.clone(), *id)).collect();
        own.sort();
        Ok(own)
    }

    /// Takes vaults whose directories are gone out of the index.
    pub(crate) fn forget_vaults(&self, names: &[VaultName]) -> Result<(), StoreError> {
        let mut vaults = self.vaults()?;
        for name in names {
            vaults.ids.remove(name);
        }
        let key = vaults.records.key().clone();
        vaults.rewrite(key)
    }

    /// The keys of an org; an empty name stands for the installation.
    pub(crate) fn org_keys(&self, org: &str) -> Result<Option<OrgKeys>, StoreError> {
        Ok(self.orgs()?.keys.get(org).cloned())
    }

    /// Orgs with keys, with those whose rotation is not finished first.
    pub(crate) fn all_orgs(&self) -> Result<Vec<(String, OrgKeys)>, StoreError> {
        let orgs = self.orgs()?;
        let mut all: Vec<_> = orgs.keys.iter().map(|(org, keys)| (org.clone(), keys.clone())).collect();
        all.sort_by(|(a, a_keys), (b, b_keys)| (b_keys.0.len(), a).cmp(&(a_keys.0.len(), b)));
        Ok(all)
    }

    /// The key of an org, durable; made where it has none.
    pub(crate) fn org_key_or_new(&self, org: &str) -> Result<KeyVersion, StoreError> {
        let mut orgs = self.orgs()?;
        if let Some(key) = orgs.keys.get(org).and_then(OrgKeys::current) {
            return Ok(key.clone());
        }
        orgs.add_version(org, 1, (self.clock)())
    }

    /// Begins the rotation of an org's key, or goes on with the one under way:
    /// new vaults are wrapped by the version that it gives.
    pub(crate) fn begin_rotation(&self, org: &str) -> Result<KeyVersion, StoreError> {
        let mut orgs = self.orgs()?;
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
        let mut orgs = self.orgs()?;
        let orgs = &mut *orgs;
        let Some(keys) = orgs.keys.get_mut(org) else { return Ok(()) };
        let old = keys.0.len().saturating_sub(1);
        keys.0.drain(..old);
        let key = orgs.records.key().clone();
        orgs.rewrite(&self.secrets, key)
    }

    /// Destroys the keys of an org for good; gives their fingerprints, also
    /// where it was done before.
    pub(crate) fn shred_org(&self, org: &str) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut orgs = self.orgs()?;
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
    pub(crate) fn shredded_orgs(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.orgs()?.shredded.keys().cloned().collect())
    }

    /// Whether an org was shredded.
    pub(crate) fn is_shredded(&self, org: &str) -> Result<bool, StoreError> {
        Ok(self.orgs()?.shredded.contains_key(org))
    }
}

impl IndexFile {
    fn read(&self) -> Result<(Vaults, Print), StoreError> {
        let unread = Unread::read(&self.path)?;
        let print = Print::of(unread.as_ref().map_or(&[][..], Unread::bytes));
        let (records, found) = SealedRecords::<VaultRecord>::parse(&self.path, &self.keys, unread)?;
        let id = |record: VaultRecord| Some((record.name.into(), VaultId::try_from(record.id.as_slice()).ok()?));
        Ok((Vaults { records, ids: found.into_iter().filter_map(id).collect() }, print))
    }
}

impl Vaults {
    fn record(&mut self, name: &VaultName, id: VaultId) -> Result<(), StoreError> {
        self.records.append(&VaultRecord { name: name.to_string(), id: id.to_vec() })?;
        self.ids.insert(name.clone(), id);
        Ok(())
    }

    fn rewrite(&mut self, key: Key) -> Result<(), StoreError> {
        let record = |(name, id): (&VaultName, &VaultId)| VaultRecord { name: name.to_string(), id: id.to_vec() };
        let records: Vec<VaultRecord> = self.ids.iter().map(record).collect();
        self.records.rewrite(key, &records)
    }
}

fn vault_dir(dir: &Path, id: &VaultId) -> PathBuf {
    dir.join(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Vaults' directories that the index does not know.
fn orphans(dir: &Path, ids: &HashMap<VaultName, VaultId>) -> Result<Vec<(VaultId, PathBuf)>, StoreError> {
    let failed = |e: std::io::Error| StoreError::io("cannot read", dir, &e);
    let known: HashSet<&VaultId> = ids.values().collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let unknown = entry.file_name().to_str().and_then(parse_hex).filter(|id| !known.contains(id));
        found.extend(unknown.map(|id| (id, entry.path())).filter(|(_, path)| path.is_dir()));
    }
    Ok(found)
}

/// A vault's name out of its keyring, and the version of its org's key.
fn orphans_name(path: &Path, names: &Key) -> Option<(String, u32)> {
    let (sealed, version) = Keyring::sealed_name(&path.join("keyring")).ok()?;
    let text = names.open(NAME_CONTEXT, &sealed)?;
    Some((String::from_utf8(text.to_vec()).ok()?, version))
}

fn parse_hex(text: &str) -> Option<VaultId> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
