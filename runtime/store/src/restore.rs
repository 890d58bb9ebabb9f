//! Vaults from backups, in a new data directory. It is built beside its place
//! and moved there whole, when all of it has been read and checked: nothing
//! that exists is written to.
//!
//! The keys come from a bundle: `magic | slots length (4) | slots | sealed
//! content`. The slots are those of the installation, so that its passphrase
//! or key opens the bundle; the content is sealed under the root key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::Database;
use prost::Message;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::backup::{self, BackupSummary, StoredRow};
use crate::backup_check::Check;
use crate::catalog::{Catalog, VaultId};
use crate::disk::{Disk, io_error};
use crate::key::Key;
use crate::keyring::{Keyring, KeyringContent, PartitionName};
use crate::layout::{self, Layout};
use crate::partition::Partition;
use crate::records::RecordError;
use crate::root::Root;
use crate::route::org_of;
use crate::staging::{Ingest, Staging, refuse_existing};
use crate::vault_keys::VaultKeys;
use crate::{StoreError, StoreOptions, Unlock};

const MAGIC: &[u8] = b"canopy key bundle 1\n";

#[derive(Clone, PartialEq, Message)]
struct Bundle {
    /// Orgs' keys and what else stands beside them, as the catalog has them.
    #[prost(bytes = "vec", repeated, tag = "1")]
    orgs: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    vaults: Vec<VaultKeyring>,
}

#[derive(Clone, PartialEq, Message)]
struct VaultKeyring {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    /// The file as it is: its keys are wrapped.
    #[prost(bytes = "vec", tag = "3")]
    keyring: Vec<u8>,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.orgs.iter_mut().for_each(Zeroize::zeroize);
    }
}

/// What a key bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyBundleSummary {
    /// Orgs, and the installation itself.
    pub orgs: usize,
    /// Vaults.
    pub vaults: usize,
}

/// Writes the keys of a data directory into a new file, sealed under its root
/// key. Opens no vault; the directory must be in use by nobody. To be called
/// within a Tokio runtime.
///
/// # Errors
/// The directory cannot be opened, a keyring cannot be read, or the file
/// exists.
pub fn export_keys(options: &StoreOptions, to: &Path) -> Result<KeyBundleSummary, StoreError> {
    refuse_existing(to)?;
    if !options.dir.join("VERSION").exists() {
        return Err(StoreError::NotOurs(options.dir.clone()));
    }
    let layout = Layout::open(&options.dir)?;
    let root = Root::open(&layout, &options.unlock, (options.clock)())?;
    let catalog = Catalog::open(&layout, &root, options.clock)?;
    if catalog.is_damaged() {
        let reason = "a record in it cannot be read, and would be missing from the bundle".into();
        return Err(StoreError::CorruptFile { path: layout.org_keys(), reason });
    }
    let slots_path = layout.root_slots();
    let slots = fs::read(&slots_path).map_err(|e| StoreError::io("cannot read", &slots_path, &e))?;
    let mut bundle = Bundle::default();
    bundle.orgs.extend(catalog.export()?.iter().map(|record| record.to_vec()));
    for (name, id) in catalog.all_vaults()? {
        let path = catalog.vault_dir(&id).join("keyring");
        let keyring = fs::read(&path).map_err(|e| StoreError::io("cannot read", &path, &e))?;
        bundle.vaults.push(VaultKeyring { name: name.to_string(), id: id.to_vec(), keyring });
    }
    let text = zeroize::Zeroizing::new(bundle.encode_to_vec());
    let sealed = bundle_key(&root).seal(&Sha256::digest(&slots), &text);
    let slots_bytes = u32::try_from(slots.len()).map_err(|_| backup::damaged(&slots_path, "it is too long"))?;
    let bytes = [MAGIC, &slots_bytes.to_be_bytes(), &slots, &sealed].concat();
    layout::write_whole(to, &bytes).map_err(|e| StoreError::io("cannot write", to, &e))?;
    // The installation's own secrets are always among them.
    let orgs = 1 + catalog.all_orgs()?.iter().filter(|(org, _)| !org.is_empty()).count();
    Ok(KeyBundleSummary { orgs, vaults: bundle.vaults.len() })
}

fn bundle_key(root: &Root) -> Key {
    root.key.derive("canopy key bundle")
}

/// What to restore, and where to.
pub struct RestoreOptions {
    /// One file a vault.
    pub backups: Vec<PathBuf>,
    /// The key bundle.
    pub bundle: PathBuf,
    /// How the root key is reached.
    pub unlock: Unlock,
    /// The data directory to be; nothing may be there.
    pub to: PathBuf,
    /// Leave partitions out whose keys the bundle has no more: they were
    /// shredded after the backup was made.
    pub without_shredded: bool,
}

/// Restores backups into a new data directory, which then belongs to the same
/// installation: the same root key opens it.
///
/// # Errors
/// Something is there already; the bundle does not open or lacks a vault's
/// keys; a backup is damaged. The new directory is not there then.
pub fn restore(options: &RestoreOptions) -> Result<Vec<BackupSummary>, StoreError> {
    let staging = Staging::beside(&options.to)?;
    let summaries = build(options, staging.path())?;
    staging.put_in_place()?;
    Ok(summaries)
}

fn build(options: &RestoreOptions, staging: &Path) -> Result<Vec<BackupSummary>, StoreError> {
    let damaged = |reason: &str| StoreError::CorruptFile { path: options.bundle.clone(), reason: reason.into() };
    let bytes = fs::read(&options.bundle).map_err(|e| StoreError::io("cannot read", &options.bundle, &e))?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it is no key bundle, or of a newer format"))?;
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    let slots = rest.split_at_checked(u32::from_be_bytes(*len) as usize);
    let (slots, sealed) = slots.ok_or_else(|| damaged("it is cut short"))?;
    let layout = Layout::open(staging)?;
    let slots_path = layout.root_slots();
    layout::write_whole(&slots_path, slots).map_err(|e| StoreError::io("cannot write", &slots_path, &e))?;
    let root = Root::open(&layout, &options.unlock, 0)?;
    let text = bundle_key(&root).open(&Sha256::digest(slots), sealed);
    let text = text.ok_or_else(|| damaged("it fails its authentication tag"))?;
    let bundle = Bundle::decode(text.as_slice()).map_err(|e| damaged(&e.to_string()))?;

    Catalog::import(&layout, &root, &bundle.orgs)?;
    let catalog = Catalog::open(&layout, &root, || 0)?;
    let mut summaries = Vec::new();
    for path in &options.backups {
        let id = backup::vault_of_backup(path)?;
        let found = bundle.vaults.iter().find(|vault| vault.id == id);
        let keys = found.ok_or_else(|| damaged(&format!("it has no keys for the vault of `{}`", path.display())))?;
        if catalog.vault_id(&keys.name)?.is_some() {
            return Err(backup::damaged(path, format!("`{}` is restored from another file already", keys.name)));
        }
        summaries.push(vault(options, &catalog, path, id, keys)?);
    }
    Ok(summaries)
}

/// Restores one vault into its directory.
fn vault(
    options: &RestoreOptions,
    catalog: &Catalog,
    path: &Path,
    id: VaultId,
    keys: &VaultKeyring,
) -> Result<BackupSummary, StoreError> {
    let corrupt = |reason: &str| StoreError::Corrupt { vault: keys.name.clone(), reason: reason.into() };
    let dir = catalog.vault_dir(&id);
    let failed = |e: io::Error| match StoreError::commit(&keys.name, &e) {
        full @ StoreError::DiskFull { .. } => full,
        _ => StoreError::io("cannot write", &dir, &e),
    };
    let org_keys = catalog.org_keys(org_of(&keys.name))?.ok_or_else(|| corrupt("the key of its org is missing"))?;
    layout::make_dir(&dir).map_err(failed)?;
    let keyring_path = dir.join("keyring");
    layout::write_whole(&keyring_path, &keys.keyring).map_err(failed)?;
    let opened = Keyring::open(&keyring_path, &id, &org_keys).map_err(|e| match e {
        RecordError::Io(e) => failed(e),
        RecordError::Damaged(reason) => corrupt(&format!("its keyring: {reason}")),
    })?;
    let (keyring, KeyringContent { secrets, partitions, .. }) = opened;
    let vault_keys = VaultKeys::new(secrets, id);
    let unwrap = |name: &PartitionName| match partitions.get(name).filter(|records| records.shredded().is_none()) {
        None => Ok(None),
        Some(records) => {
            let opened = records.open(&id, &vault_keys.secrets().key.key);
            let keys = opened.ok_or("a partition's key does not unwrap")?;
            let partition = Partition::new(*name, &keys, id).ok_or("a partition's key is missing")?;
            Ok(Some(std::sync::Arc::new(partition)))
        }
    };
    let template = Database::builder(&dir).into_config();
    let disk = Disk::create(&dir, &template, keyring, vault_keys.head()).map_err(|e| failed(io_error(e)))?;
    let own = canopy_domain::Address::parse(&keys.name).ok();
    let own = own.map_or([0; 16], |address| Partition::name_of(&vault_keys.names, &address));
    let mut ingest = Ingest::new(&disk);
    let check = Check::new(&vault_keys, &unwrap, options.without_shredded);
    let summary = backup::read(path, vault_keys.backup(), &id, check, &keys.name, &own, |row: &StoredRow<'_>| {
        ingest.set(row.space, row.key, row.value).map_err(failed)
    })?;
    ingest.end(summary.group, &vault_keys.sealer).map_err(failed)?;
    drop(disk);
    layout::sync_dir(&dir).and_then(|()| catalog.sync()).map_err(failed)?;
    catalog.record_vault(&keys.name.as_str().into(), id)?;
    Ok(summary)
}
