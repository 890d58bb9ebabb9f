//! Which vaults are open. A bounded number is; the one least recently used
//! and used by nobody makes room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::StoreError;
use crate::disk::OpenError;
use crate::node::Node;
use crate::route::{VaultName, org_of};
use crate::vault::Vault;

/// How long an opening waits for the last users of a vault that is closing.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Slots of closed vaults beyond which they are forgotten.
const SLOTS_MAX: usize = 4096;

#[derive(Default)]
struct Slot {
    /// One opening at a time.
    gate: Arc<tokio::sync::Mutex<()>>,
    vault: Option<Arc<Vault>>,
    /// Of the last vault that was open here.
    closed: Option<watch::Receiver<bool>>,
    quarantine: Option<String>,
}

impl Slot {
    /// Takes the vault out, and keeps in mind what was found of it.
    fn release(&mut self) -> Option<Arc<Vault>> {
        let vault = self.vault.take()?;
        if let Some(damage) = vault.damage() {
            self.quarantine.get_or_insert_with(|| damage.into());
        }
        Some(vault)
    }

    /// Why the vault is in quarantine.
    fn quarantine(&self) -> Option<&str> {
        self.quarantine.as_deref().or_else(|| self.vault.as_ref()?.damage())
    }
}

#[derive(Default)]
struct Table {
    slots: HashMap<VaultName, Slot>,
    /// Vaults open, or being opened.
    open: usize,
}

pub(crate) struct Slots {
    node: Arc<Node>,
    table: Mutex<Table>,
}

impl Slots {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, table: Mutex::new(Table::default()) }
    }

    /// The vault, if it is open and well.
    pub(crate) fn get_open(&self, name: &VaultName) -> Option<Arc<Vault>> {
        let table = self.table.lock();
        let vault = table.slots.get(name)?.vault.as_ref().filter(|vault| !vault.is_failed())?;
        vault.touch();
        Some(vault.clone())
    }

    /// The vault for somebody who reads: one whose commits fail still shows
    /// what is durable, and on a full disk it might not open again.
    fn get_readable(&self, name: &VaultName) -> Option<Arc<Vault>> {
        let table = self.table.lock();
        let vault = table.slots.get(name)?.vault.as_ref().filter(|vault| vault.is_readable())?;
        vault.touch();
        Some(vault.clone())
    }

    /// The vault, opened where needed. One that was never made is `None`, or
    /// where a writer wants it, one without a disk.
    pub(crate) async fn open(&self, name: &VaultName, to_write: bool) -> Result<Option<Arc<Vault>>, StoreError> {
        if self.node.is_closing() {
            return Err(StoreError::Closed);
        }
        let get = |to_write: bool| if to_write { self.get_open(name) } else { self.get_readable(name) };
        if let Some(vault) = get(to_write) {
            return Ok(Some(vault));
        }
        if !to_write && self.node.catalog.vault_id(name)?.is_none() {
            return Ok(None);
        }
        let gate = self.table.lock().slots.entry(name.clone()).or_default().gate.clone();
        let _opening = gate.lock().await;
        if let Some(vault) = get(to_write) {
            return Ok(Some(vault));
        }
        if let Some(failed) = self.get_readable(name) {
            failed.check_writable()?;
        }
        self.give_up_failed(name)?;
        // Whoever was idle meanwhile may have it open for a while.
        if self.node.catalog.is_shredded(org_of(name))? {
            return Err(StoreError::Shredded(name.to_string()));
        }
        self.wait_until_closed(name).await?;
        self.make_room(name)?;
        let opened = self.open_here(name).await;
        let mut table = self.table.lock();
        let table = &mut *table;
        let slot = table.slots.entry(name.clone()).or_default();
        match opened {
            Ok(vault) => {
                slot.closed = Some(vault.closed());
                slot.vault = Some(vault.clone());
                self.node.figures.open_vaults.set(table.open as f64);
                Ok(Some(vault))
            }
            Err(error) => {
                table.open -= 1;
                let OpenError::Damaged(reason) = error else {
                    let OpenError::Transient(error) = error else {
                        return Err(StoreError::Closed);
                    };
                    return Err(error);
                };
                tracing::error!(vault = %name, reason, "quarantined");
                slot.quarantine = Some(reason.clone());
                self.node.figures.quarantined_vaults.increment(1.0);
                Err(StoreError::Quarantined { vault: name.to_string(), reason })
            }
        }
    }

    /// Does `work` while nobody opens or closes the vault: with the vault, if
    /// it is open, and otherwise on its closed files.
    pub(crate) async fn alone<T: Send + 'static>(
        &self,
        name: &VaultName,
        work: impl FnOnce(&VaultName, Option<Arc<Vault>>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let gate = self.table.lock().slots.entry(name.clone()).or_default().gate.clone();
        let _opening = gate.lock().await;
        let vault = self.get_open(name);
        if vault.is_none() {
            // A damaged vault has keys, too.
            let _ = self.give_up_failed(name);
            self.wait_until_closed(name).await?;
        }
        let name = name.clone();
        tokio::task::spawn_blocking(move || work(&name, vault)).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Lets go of a failed vault; one that is damaged stays closed.
    fn give_up_failed(&self, name: &VaultName) -> Result<(), StoreError> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let slot = table.slots.entry(name.clone()).or_default();
        let failed = slot.release();
        table.open -= usize::from(failed.is_some());
        match &slot.quarantine {
            Some(reason) => Err(StoreError::Quarantined { vault: name.to_string(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Waits for the last vault of a name to be closed.
    async fn wait_until_closed(&self, name: &VaultName) -> Result<(), StoreError> {
        let closed = self.table.lock().slots.entry(name.clone()).or_default().closed.clone();
        if let Some(mut closed) = closed {
            // An error means that its sender is gone, and so is the vault.
            let closed = tokio::time::timeout(CLOSE_WAIT, closed.wait_for(|closed| *closed)).await;
            if closed.is_err() {
                return Err(StoreError::InUse(name.to_string()));
            }
        }
        Ok(())
    }

    /// Takes a place among the open vaults.
    fn make_room(&self, name: &VaultName) -> Result<(), StoreError> {
        let max = self.node.options.open_vaults_max.max(1);
        let mut table = self.table.lock();
        let table = &mut *table;
        let mut evicted = Vec::new();
        while table.open >= max {
            let idle = table
                .slots
                .values_mut()
                // The table's own reference is the only one: no writer, no
                // snapshot, no commit under way.
                .filter(|slot| slot.vault.as_ref().is_some_and(|vault| Arc::strong_count(vault) == 1))
                .min_by_key(|slot| slot.vault.as_ref().map(|vault| vault.last_use()));
            let Some(slot) = idle else { break };
            evicted.extend(slot.release());
            table.open -= 1;
        }
        if table.open >= 2 * max {
            return Err(StoreError::TooManyVaults { vault: name.to_string(), open: table.open });
        }
        table.open += 1;
        if table.slots.len() > SLOTS_MAX {
            table.slots.retain(|_, slot| {
                let closed = slot.closed.as_ref().is_none_or(|closed| *closed.borrow());
                !(slot.vault.is_none() && slot.quarantine.is_none() && closed) || Arc::strong_count(&slot.gate) > 1
            });
        }
        Ok(())
    }

    async fn open_here(&self, name: &VaultName) -> Result<Arc<Vault>, OpenError> {
        let (node, name) = (self.node.clone(), name.clone());
        let Some(id) = node.catalog.vault_id(&name).map_err(OpenError::Transient)? else {
            if node.catalog.is_shredded(org_of(&name)).map_err(OpenError::Transient)? {
                return Err(OpenError::Transient(StoreError::Shredded(name.to_string())));
            }
            return Ok(Vault::unborn(node, name));
        };
        let opened = tokio::task::spawn_blocking(move || Vault::open(node, name, id)).await;
        opened.unwrap_or(Err(OpenError::Transient(StoreError::Closed)))
    }

    /// Open vaults.
    pub(crate) fn vaults(&self) -> Vec<Arc<Vault>> {
        self.table.lock().slots.values().filter_map(|slot| slot.vault.clone()).collect()
    }

    /// Quarantined vaults, and why.
    pub(crate) fn quarantined(&self) -> Vec<(VaultName, String)> {
        let table = self.table.lock();
        let slots = table.slots.iter();
        slots.filter_map(|(name, slot)| Some((name.clone(), slot.quarantine()?.to_owned()))).collect()
    }

    /// Lets go of every vault, and waits until they are closed.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let mut closing = Vec::new();
        {
            let mut table = self.table.lock();
            table.open = 0;
            for (name, slot) in &mut table.slots {
                slot.release();
                closing.extend(slot.closed.clone().map(|closed| (name.clone(), closed)));
            }
        }
        let deadline = tokio::time::Instant::now() + CLOSE_WAIT;
        for (name, mut closed) in closing {
            if tokio::time::timeout_at(deadline, closed.wait_for(|closed| *closed)).await.is_err() {
                return Err(StoreError::InUse(name.to_string()));
            }
        }
        self.node.figures.open_vaults.set(0.0);
        Ok(())
    }
}
