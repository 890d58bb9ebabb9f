//! The keys of an open vault: what wraps them, how they come into the keyring,
//! and how they leave it.

use std::sync::atomic::{AtomicU32, Ordering};

use canopy_domain::Address;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::StoreError;
use crate::catalog::VaultId;
use crate::disk::{DiskWriter, OpenError};
use crate::group::Submission;
use crate::key::{Hmac256, Key};
use crate::keyring::{KeyringContent, NewKey, PartitionName, SubjectId, VaultSecrets};
use crate::orgs::{KeyVersion, OrgKeys};
use crate::partition::Partition;
use crate::records::RecordError;
use crate::seal::Sealer;
use crate::vault::{Slot, Vault};

/// Version of what is sealed under a vault's identity, which does not rotate.
const IDENTITY_VERSION: u32 = 1;

pub(crate) struct VaultKeys {
    /// Rotates; changed under the disk's writer lock alone.
    secrets: RwLock<VaultSecrets>,
    version: AtomicU32,
    /// Names of partitions.
    pub(crate) names: Hmac256,
    /// What belongs to the vault itself.
    pub(crate) sealer: Sealer,
}

impl VaultKeys {
    pub(crate) fn new(secrets: VaultSecrets, id: VaultId) -> Self {
        let identity = &secrets.identity;
        Self {
            names: identity.derive("canopy partition names").hmac(),
            sealer: Sealer::new(&identity.derive("canopy vault values"), id, IDENTITY_VERSION),
            version: AtomicU32::new(secrets.key.version),
            secrets: RwLock::new(secrets),
        }
    }

    /// Fresh ones, of a vault that is being made.
    pub(crate) fn fresh(id: VaultId, created_ms: i64) -> Self {
        let key = KeyVersion { version: 1, key: Key::random(), created_ms };
        Self::new(VaultSecrets { key, identity: Key::random() }, id)
    }

    pub(crate) fn head(&self) -> Hmac256 {
        self.secrets.read().identity.derive("canopy vault head").hmac()
    }

    /// Authenticates whole backups.
    pub(crate) fn backup(&self) -> Hmac256 {
        self.secrets.read().identity.derive("canopy vault backup").hmac()
    }

    /// What wraps the others now.
    pub(crate) fn secrets(&self) -> RwLockReadGuard<'_, VaultSecrets> {
        self.secrets.read()
    }

    /// Of the vault's key: partitions whose own is older get a new one with
    /// their next commit.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }
}

impl Vault {
    /// Makes durable what a group's rows are sealed under, and what it shreds.
    pub(crate) fn write_keys(&self, writer: &mut DiskWriter, group: &[Submission]) -> std::io::Result<()> {
        let is_wanted = |new: &&NewKey| !self.is_shredded(&new.partition);
        let new_keys: Vec<&NewKey> = group.iter().flat_map(|s| &s.new_keys).filter(is_wanted).collect();
        if !new_keys.is_empty() {
            writer.keyring.append(new_keys, &self.keys.secrets().key.key)?;
        }
        let doomed: Vec<(PartitionName, SubjectId)> = doomed(group).map(|(p, subject)| (p.name, *subject)).collect();
        if doomed.is_empty() { Ok(()) } else { writer.keyring.intend(&doomed, writer.group() + 1) }
    }

    /// Destroys what the group that is durable now shreds.
    pub(crate) fn shred_doomed(&self, writer: &mut DiskWriter, group: &[Submission]) -> Result<(), StoreError> {
        if doomed(group).next().is_none() {
            return Ok(());
        }
        let (number, now_ms) = (writer.group(), (self.node.options.clock)());
        let settled = writer.keyring.settle(number, &self.keys.secrets().key.key, now_ms);
        settled.map_err(|e| self.keyring_error(e))?;
        for (partition, subject) in doomed(group) {
            partition.subjects().write().forget(*subject);
        }
        Ok(())
    }

    /// Wraps the vault's key by the current version of its org's. Nothing to
    /// do before the first commit: the keyring is made with that version then.
    pub(crate) fn rewrap(&self, org_key: &KeyVersion) -> Result<(), StoreError> {
        let Some(disk) = self.disk() else { return Ok(()) };
        let mut writer = disk.writer();
        let rewrapped = writer.keyring.rewrap(&self.keys.secrets(), org_key);
        rewrapped.map_err(|e| self.give_up(e))
    }

    /// Gives the vault another key, and with it partitions and subjects from
    /// their next commit on; gives its version.
    pub(crate) fn rotate_key(&self, org_keys: &OrgKeys) -> Result<u32, StoreError> {
        let disk = self.disk().ok_or_else(|| StoreError::NoKeys(self.name.to_string()))?;
        let org_key = org_keys.current().ok_or_else(|| StoreError::NoKeys(self.name.to_string()))?;
        let mut writer = disk.writer();
        let before = self.keys.secrets().clone();
        let after = before.key.next((self.node.options.clock)());
        let rotated = writer.keyring.rotate(&before, &after, org_key);
        let secrets = rotated.map_err(|e| self.give_up(e))?;
        let content = writer.keyring.content(org_keys).map_err(|e| self.give_up(e))?;
        // Together: what is wrapped, and what unwraps it.
        let mut slots = self.partitions.lock();
        for (name, records) in content.partitions {
            if let Some(slot @ Slot::Wrapped(_)) = slots.get_mut(&name) {
                *slot = Slot::Wrapped(records);
            }
        }
        *self.keys.secrets.write() = secrets;
        self.keys.version.store(after.version, Ordering::Release);
        Ok(after.version)
    }

    /// Destroys the keys of a partition with all its subjects; gives their
    /// fingerprints, also where that was done before.
    pub(crate) fn shred_partition(&self, address: &Address) -> Result<Vec<[u8; 32]>, StoreError> {
        let name = Partition::name_of(&self.keys.names, address);
        let Some(disk) = self.disk() else { return Ok(Vec::new()) };
        let mut writer = disk.writer();
        if let Some(Slot::Shredded(fingerprints)) = self.partitions.lock().get(&name) {
            return Ok(fingerprints.clone());
        }
        let now_ms = (self.node.options.clock)();
        let shredded = writer.keyring.shred_partition(&name, &self.keys.secrets().key.key, now_ms);
        let fingerprints = shredded.map_err(|e| self.give_up(e))?;
        let before = self.partitions.lock().insert(name, Slot::Shredded(fingerprints.clone()));
        if let Some(Slot::Ready(partition)) = before {
            partition.set_shredded();
        }
        Ok(fingerprints)
    }

    pub(crate) fn is_shredded(&self, name: &PartitionName) -> bool {
        matches!(self.partitions.lock().get(name), Some(Slot::Shredded(_)))
    }

    fn keyring_error(&self, error: RecordError) -> StoreError {
        match error {
            RecordError::Io(e) => StoreError::commit(&self.name, &e),
            RecordError::Damaged(reason) => self.corrupt(&format!("its keyring: {reason}")),
        }
    }

    /// A keyring that could not be written may be the new one or the old: the
    /// vault is opened anew.
    fn give_up(&self, error: RecordError) -> StoreError {
        let error = self.keyring_error(error);
        self.fail(&error);
        error
    }
}

/// Finishes what a crash interrupted: a shred whose group is durable, or one
/// whose group never was.
pub(crate) fn settle(
    writer: &mut DiskWriter,
    content: KeyringContent,
    org_keys: &OrgKeys,
    now_ms: i64,
) -> Result<KeyringContent, OpenError> {
    if !content.has_intents {
        return Ok(content);
    }
    let number = writer.group();
    let settled = writer.keyring.settle(number, &content.secrets.key.key, now_ms);
    settled.and_then(|()| writer.keyring.content(org_keys)).map_err(open_error)
}

pub(crate) fn open_error(error: RecordError) -> OpenError {
    match error {
        RecordError::Io(e) => OpenError::io("its keyring", &e),
        RecordError::Damaged(reason) => OpenError::Damaged(format!("its keyring: {reason}")),
    }
}

fn doomed(group: &[Submission]) -> impl Iterator<Item = (&Partition, &SubjectId)> {
    group.iter().filter_map(|s| Some((s.advance.as_ref()?, &s.doomed))).flat_map(|(advance, doomed)| {
        let partition = &*advance.partition;
        doomed.iter().map(move |subject| (partition, subject))
    })
}
