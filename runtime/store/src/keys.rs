//! The store's keys: rotation, slots and shredding, while it serves. One such
//! work at a time; what a crash interrupts, the next start finishes.

use std::collections::BTreeMap;
use std::sync::Arc;

use canopy_domain::Address;

use crate::catalog::VaultId;
use crate::keyring::{Keyring, KeyringContent};
use crate::layout;
use crate::node::Node;
use crate::orgs::OrgKeys;
use crate::partition::Partition;
use crate::records::RecordError;
use crate::root::KeySlot;
use crate::route::{INSTALLATION, VaultName, org_of, vault_of};
use crate::store::Store;
use crate::vault_keys::VaultKeys;
use crate::{StoreError, Unlock};

/// A commitment to a key: it names the key and does not tell it.
pub type Fingerprint = [u8; 32];

/// A key that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// What it is the key of: `root`, `installation`, an org or a vault.
    pub of: String,
    /// Counts from 1 with each rotation.
    pub version: u32,
    /// When it was made, in milliseconds since 1970; 0 where unknown.
    pub created_ms: i64,
    /// What names it in certificates.
    pub fingerprint: Fingerprint,
}

/// The name that the catalog has for an org's keys.
fn org_name(org: Option<&Address>) -> &str {
    org.map_or(INSTALLATION, Address::as_str)
}

impl Store {
    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let node = self.node().clone();
        if node.is_closing() {
            return Err(StoreError::Closed);
        }
        tokio::task::spawn_blocking(move || work(&node)).await.unwrap_or(Err(StoreError::Closed))
    }

    /// The ways to the root key.
    pub fn key_slots(&self) -> Vec<KeySlot> {
        self.node().root.lock().slots()
    }

    /// Adds a way to the root key; gives its id. A key file is made where it
    /// is missing.
    ///
    /// # Errors
    /// There are too many, the secret is malformed, or the disk refuses.
    pub async fn add_key_slot(&self, unlock: Unlock) -> Result<u32, StoreError> {
        let _turn = self.node().key_work.lock().await;
        self.blocking(move |node| node.root.lock().add_slot(&unlock, (node.options.clock)())).await
    }

    /// Removes a way to the root key. Who has an older copy of the directory
    /// and the slot's secret can still open that copy: rotate the root key and
    /// the orgs' to shut them out of what is written later.
    ///
    /// # Errors
    /// It is the only one, or there is none of this id.
    pub async fn remove_key_slot(&self, id: u32) -> Result<(), StoreError> {
        let _turn = self.node().key_work.lock().await;
        self.blocking(move |node| node.root.lock().remove_slot(id)).await
    }

    /// Gives the installation another root key, which every slot opens; gives
    /// its version. No data is touched.
    ///
    /// # Errors
    /// The disk refuses; the next start finishes it.
    pub async fn rotate_root_key(&self) -> Result<u32, StoreError> {
        let _turn = self.node().key_work.lock().await;
        self.blocking(|node| {
            let mut root = node.root.lock();
            let next = root.begin_rotation((node.options.clock)())?;
            node.catalog.rewrite(&next)?;
            root.finish_rotation()?;
            tracing::info!(version = root.version(), "root key rotated");
            Ok(root.version())
        })
        .await
    }

    /// Gives an org, or the installation, another key; gives its version. The
    /// keys of its vaults are wrapped anew, and no data is touched.
    ///
    /// # Errors
    /// It has no keys; a vault's keyring cannot be read, in which case the
    /// version before stays beside the new one and the next call goes on.
    pub async fn rotate_org_key(&self, org: Option<&Address>) -> Result<u32, StoreError> {
        let _turn = self.node().key_work.lock().await;
        let org = org_name(org).to_owned();
        let begun = org.clone();
        let (keys, vaults) = self.blocking(move |node| begin_org(node, &begun)).await?;
        let keys = Arc::new(keys);
        let version = keys.current().map_or(0, |key| key.version);
        let mut failed = None;
        for (name, id) in vaults {
            let (node, keys) = (self.node().clone(), Arc::clone(&keys));
            let rewrapped = self.slots().alone(&name, move |name, vault| match (vault, keys.current()) {
                (Some(vault), Some(key)) => vault.rewrap(key),
                (None, _) => rewrap_closed(&node, name, &id, &keys),
                (Some(_), None) => Ok(()),
            });
            if let Err(error) = rewrapped.await {
                tracing::error!(vault = %name, %error, "its key stays under the version before of its org's");
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.blocking(move |node| node.catalog.finish_rotation(&org)).await?;
        Ok(version)
    }

    /// Gives the vault of an address another key, and with it the partitions
    /// in it for what they write from now on; gives its version.
    ///
    /// # Errors
    /// There is no such vault, or its keyring cannot be read or written.
    pub async fn rotate_vault_key(&self, address: &Address) -> Result<u32, StoreError> {
        let _turn = self.node().key_work.lock().await;
        let name = vault_of(address);
        // One whose commits fail is opened anew first: its keyring may have a torn end.
        let vault = self.slots().open(&name, true).await?.ok_or_else(|| StoreError::NoKeys(address.to_string()))?;
        self.blocking(move |node| {
            let keys = node.catalog.org_keys(org_of(&name))?.ok_or_else(|| StoreError::NoKeys(name.to_string()))?;
            vault.rotate_key(&keys)
        })
        .await
    }

    /// Destroys the keys of an org and with it all its vaults; gives the
    /// fingerprints of the org's, also where that was done before.
    ///
    /// # Errors
    /// It has no keys, or the disk refuses; the next start finishes it.
    pub async fn shred_org(&self, org: &Address) -> Result<Vec<Fingerprint>, StoreError> {
        let _turn = self.node().key_work.lock().await;
        let org = org.to_string();
        let shredded = org.clone();
        let fingerprints = self.blocking(move |node| {
            // Nobody makes a vault meanwhile.
            let _making = node.catalog.making.write();
            node.catalog.shred_org(&shredded)
        });
        let fingerprints = fingerprints.await?;
        for (name, id) in self.node().catalog.vaults_of(&org)? {
            let node = self.node().clone();
            let removed = self.slots().alone(&name, move |name, vault| {
                if let Some(vault) = vault {
                    vault.retire();
                }
                remove_vault(&node, name, &id)
            });
            removed.await?;
        }
        self.blocking(move |node| forget_vaults(node, &org)).await?;
        Ok(fingerprints)
    }

    /// Destroys the keys of partitions, of an account and its sessions for
    /// instance; gives their fingerprints, also where that was done before.
    ///
    /// # Errors
    /// A keyring cannot be read or written.
    pub async fn shred_partitions(&self, addresses: &[Address]) -> Result<Vec<Fingerprint>, StoreError> {
        let _turn = self.node().key_work.lock().await;
        let mut by_vault: BTreeMap<VaultName, Vec<Address>> = BTreeMap::new();
        for address in addresses {
            by_vault.entry(vault_of(address)).or_default().push(address.clone());
        }
        let mut fingerprints = Vec::new();
        for (name, addresses) in by_vault {
            let Some(id) = self.node().catalog.vault_id(&name)? else { continue };
            let node = self.node().clone();
            let shredded = self.slots().alone(&name, move |name, vault| match vault {
                Some(vault) => {
                    let each = addresses.iter().map(|address| vault.shred_partition(address));
                    each.collect::<Result<Vec<_>, _>>().map(|all| all.concat())
                }
                None => shred_closed(&node, name, &id, &addresses),
            });
            fingerprints.extend(shredded.await?);
        }
        Ok(fingerprints)
    }

    /// The keys of the installation and of its orgs, without those of vaults.
    ///
    /// # Errors
    /// The file that they are in cannot be read.
    pub fn org_keys(&self) -> Result<Vec<KeyInfo>, StoreError> {
        let node = self.node();
        let mut keys = Vec::new();
        {
            let root = node.root.lock();
            keys.push(KeyInfo {
                of: "root".into(),
                version: root.version(),
                created_ms: root.created_ms(),
                fingerprint: root.key.fingerprint(),
            });
        }
        for (org, versions) in node.catalog.all_orgs()? {
            let of = if org.is_empty() { "installation".to_owned() } else { org };
            keys.extend(versions.infos(&of));
        }
        Ok(keys)
    }

    /// The keys of the vaults of an org, or of the installation.
    ///
    /// # Errors
    /// A keyring cannot be read.
    pub async fn vault_keys(&self, org: Option<&Address>) -> Result<Vec<KeyInfo>, StoreError> {
        let org = org_name(org).to_owned();
        self.blocking(move |node| {
            let Some(org_keys) = node.catalog.org_keys(&org)? else { return Ok(Vec::new()) };
            let vaults = node.catalog.vaults_of(&org)?;
            let info = |(name, id): (VaultName, VaultId)| {
                let (_, content) = open_keyring(node, &name, &id, &org_keys)?;
                let key = content.secrets.key;
                let (version, created_ms, fingerprint) = (key.version, key.created_ms, key.key.fingerprint());
                Ok(KeyInfo { of: name.to_string(), version, created_ms, fingerprint })
            };
            vaults.into_iter().map(info).collect()
        })
        .await
    }
}

/// What a crash left undone of rotating and shredding orgs. Nothing is open.
pub(crate) fn finish(node: &Node) -> Result<(), StoreError> {
    // Where the keys are damaged, nothing can be written that would end it.
    if !node.catalog.may_have_work() || node.catalog.is_damaged() {
        return Ok(());
    }
    for (org, keys) in node.catalog.all_orgs()? {
        if !keys.is_rotating() {
            // Those under way come first.
            break;
        }
        let rewrapped: Result<Vec<()>, StoreError> =
            node.catalog.vaults_of(&org)?.iter().map(|(name, id)| rewrap_closed(node, name, id, &keys)).collect();
        match rewrapped {
            Ok(_) => node.catalog.finish_rotation(&org)?,
            Err(error) => tracing::error!(org, %error, "the rotation of its key is not finished"),
        }
    }
    for org in node.catalog.shredded_orgs()? {
        for (name, id) in node.catalog.vaults_of(&org)? {
            remove_vault(node, &name, &id)?;
        }
        forget_vaults(node, &org)?;
    }
    Ok(())
}

/// The org's keys with the new version, and the vaults to be wrapped by it.
fn begin_org(node: &Node, org: &str) -> Result<(OrgKeys, Vec<(VaultName, VaultId)>), StoreError> {
    node.catalog.begin_rotation(org)?;
    // Whoever makes a vault under the version before is through after this.
    drop(node.catalog.making.write());
    let keys = node.catalog.org_keys(org)?.ok_or_else(|| StoreError::NoKeys(org.into()))?;
    Ok((keys, node.catalog.vaults_of(org)?))
}

fn open_keyring(
    node: &Node,
    name: &VaultName,
    id: &VaultId,
    keys: &OrgKeys,
) -> Result<(Keyring, KeyringContent), StoreError> {
    let path = node.catalog.vault_dir(id).join("keyring");
    Keyring::open(&path, id, keys).map_err(|e| keyring_error(name, e))
}

fn keyring_error(name: &VaultName, error: RecordError) -> StoreError {
    let vault = name.to_string();
    match error {
        RecordError::Io(e) => StoreError::Io { what: format!("the keyring of `{vault}`"), reason: e.to_string() },
        RecordError::Damaged(reason) => StoreError::Corrupt { vault, reason: format!("its keyring: {reason}") },
    }
}

fn rewrap_closed(node: &Node, name: &VaultName, id: &VaultId, keys: &OrgKeys) -> Result<(), StoreError> {
    let (mut keyring, content) = open_keyring(node, name, id, keys)?;
    match keys.current() {
        Some(key) if key.version != content.org_version => {
            keyring.rewrap(&content.secrets, key).map_err(|e| keyring_error(name, e))
        }
        _ => Ok(()),
    }
}

fn shred_closed(
    node: &Node,
    name: &VaultName,
    id: &VaultId,
    addresses: &[Address],
) -> Result<Vec<Fingerprint>, StoreError> {
    let org_keys = node.catalog.org_keys(org_of(name))?.ok_or_else(|| StoreError::NoKeys(name.to_string()))?;
    let (mut keyring, content) = open_keyring(node, name, id, &org_keys)?;
    let now_ms = (node.options.clock)();
    let keys = VaultKeys::new(content.secrets, *id);
    let mut fingerprints = Vec::new();
    for address in addresses {
        let partition = Partition::name_of(&keys.names, address);
        let Some(records) = content.partitions.get(&partition) else { continue };
        fingerprints.extend(match records.shredded() {
            Some(before) => before,
            None => {
                let secrets = keys.secrets();
                let shredded = keyring.shred_partition(&partition, &secrets.key.key, now_ms);
                shredded.map_err(|e| keyring_error(name, e))?
            }
        });
    }
    Ok(fingerprints)
}

/// The keyring first: what is left after a crash cannot be read.
fn remove_vault(node: &Node, name: &VaultName, id: &VaultId) -> Result<(), StoreError> {
    let dir = node.catalog.vault_dir(id);
    tracing::info!(vault = %name, "removing a vault of a shredded org");
    layout::remove_keys(&dir.join("keyring"))
        .and_then(|()| match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
        .map_err(|e| StoreError::io("cannot remove", &dir, &e))
}

fn forget_vaults(node: &Node, org: &str) -> Result<(), StoreError> {
    let names: Vec<VaultName> = node.catalog.vaults_of(org)?.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() { Ok(()) } else { node.catalog.forget_vaults(&names) }
}
