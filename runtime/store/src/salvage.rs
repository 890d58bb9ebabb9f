//! What can be proven of a damaged data directory, in a new one.
//!
//! Each vault is written anew from a copy of it, partition by partition. One of
//! which nothing can be opened is copied as it is: it stays quarantined, for it
//! must not pass for an empty one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog::{Catalog, VaultId};
use crate::disk::{Disk, OpenError, io_error};
use crate::head::Head;
use crate::keyring::Keyring;
use crate::layout::{self, Layout};
use crate::mirror;
use crate::node::Node;
use crate::remains;
use crate::rescue::{Left, Rescue};
use crate::root::Root;
use crate::route::{VaultName, org_of};
use crate::staging::{Ingest, Staging};
use crate::vault::Vault;
use crate::vault_keys::open_error;
use crate::verify::{VaultReport, strangers};
use crate::{StoreError, StoreOptions};

/// What became of one vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SalvageReport {
    /// What was taken over, and what is wrong.
    #[serde(flatten)]
    pub found: VaultReport,
    /// Rows that were made from the feed again.
    pub remade: u64,
    /// Changes in transactions that stand for ones that are lost.
    pub condensed: u64,
    /// Nothing of it opens: its files were copied, and it stays quarantined.
    pub quarantined: bool,
}

/// Writes what can be proven of a data directory that no process has open into
/// a new one, vault by vault in the order of names, and tells `each` what
/// became of it. The new directory belongs to the same installation: the same
/// root key opens it. To be called within a Tokio runtime. Takes memory for
/// the rows of one partition at a time, about 48 bytes each.
///
/// # Errors
/// Something is at the new place; there is no data directory, another process
/// has it, the key is wrong, or a file of the installation itself is damaged;
/// the disk is full. The new directory is not there then.
pub async fn salvage(options: StoreOptions, to: &Path, mut each: impl FnMut(SalvageReport)) -> Result<(), StoreError> {
    if !options.dir.join("VERSION").exists() {
        return Err(StoreError::NotOurs(options.dir));
    }
    let staging = Staging::beside(to)?;
    let node = Node::open(options)?;
    mirror::remove_left(&node.options.dir);
    let home = Arc::new(Home::new(&node, staging.path())?);
    let failed = |e: tokio::task::JoinError| StoreError::Io { what: "salvaging".into(), reason: e.to_string() };
    let mut vaults = node.catalog.all_vaults()?;
    vaults.sort();
    for (name, id) in vaults {
        let mut report = SalvageReport::default();
        report.found.vault = name.to_string();
        let mirror = mirror::directory(&node)?;
        let (at, path) = (Arc::clone(&node), mirror.path().to_owned());
        let vault_name = name.clone();
        let opened =
            tokio::task::spawn_blocking(move || remains::open(&at, &vault_name, id, &path)).await.map_err(failed)?;
        match opened {
            Ok((vault, losses)) => {
                losses.into_iter().for_each(|loss| report.found.fault(loss));
                let mut closed = vault.closed();
                let home = Arc::clone(&home);
                let work = tokio::task::spawn_blocking(move || home.rebuild(&vault, &mut report).map(|()| report));
                report = work.await.map_err(failed)??;
                // The mirror may go once nothing has it open.
                let _ = closed.wait_for(|closed| *closed).await;
            }
            Err(OpenError::Damaged(reason)) => {
                report.found.fault(reason);
                report.quarantined = true;
                home.copy(&node, &name, id)?;
            }
            // Nobody can read it, here or there.
            Err(OpenError::Transient(StoreError::Shredded(_))) => continue,
            Err(OpenError::Transient(error)) => return Err(error),
        }
        each(report);
    }
    drop(home);
    node.unlock();
    staging.put_in_place()
}

/// The new data directory.
struct Home {
    catalog: Catalog,
    /// Held until all is there.
    _layout: Layout,
    now_ms: i64,
}

impl Home {
    fn new(node: &Node, dir: &Path) -> Result<Self, StoreError> {
        let layout = Layout::open(dir)?;
        let (from, to) = (layout::root_slots(&node.options.dir), layout.root_slots());
        let slots = fs::read(&from).map_err(|e| StoreError::io("cannot read", &from, &e))?;
        layout::write_whole(&to, &slots).map_err(|e| StoreError::io("cannot write", &to, &e))?;
        let now_ms = (node.options.clock)();
        let root = Root::open(&layout, &node.options.unlock, now_ms)?;
        let records: Vec<Vec<u8>> = node.catalog.export()?.iter().map(|record| record.to_vec()).collect();
        Catalog::import(&layout, &root, &records)?;
        let catalog = Catalog::open(&layout, &root, node.options.clock)?;
        Ok(Self { catalog, _layout: layout, now_ms })
    }

    fn failed(&self, name: &str, id: &VaultId) -> impl Fn(io::Error) -> StoreError {
        let (name, dir) = (name.to_owned(), self.catalog.vault_dir(id));
        move |error| match StoreError::commit(&name, &error) {
            full @ StoreError::DiskFull { .. } => full,
            _ => StoreError::io("cannot write", &dir, &error),
        }
    }

    /// Copies a vault as it is.
    fn copy(&self, node: &Node, name: &VaultName, id: VaultId) -> Result<(), StoreError> {
        let failed = self.failed(name, &id);
        let (from, to) = (node.catalog.vault_dir(&id), self.catalog.vault_dir(&id));
        layout::make_dir(&to).and_then(|()| mirror::copy(&from, &to, false)).map_err(failed)?;
        self.catalog.record_vault(name, id)
    }

    /// Writes a vault anew from what is left of it.
    fn rebuild(&self, vault: &Vault, report: &mut SalvageReport) -> Result<(), StoreError> {
        let failed = self.failed(&vault.name, &vault.id);
        let Some(source) = vault.disk() else { return Ok(()) };
        let from = vault.node.catalog.vault_dir(&vault.id);
        let (stored, head) = (source.writer().group(), Head::open(&from.join("head"), vault.keys.head()));
        let noted = head.ok().and_then(|head| head.read().ok().flatten());
        let acknowledged = noted.unwrap_or(0).max(vault.node.heads.acknowledged(&vault.id));
        if noted.is_none() {
            report.found.fault("its head is missing or damaged: groups at its end may be lost");
        }
        if stored < acknowledged {
            report.found.fault(format!("it acknowledged group {acknowledged}, and only {stored} are left"));
        }

        let dir = self.catalog.vault_dir(&vault.id);
        let org_keys = self.catalog.org_keys(org_of(&vault.name))?;
        let org_keys = org_keys.ok_or_else(|| vault.corrupt("the key of its org is missing"))?;
        layout::make_dir(&dir).map_err(&failed)?;
        let keyring = fs::read(from.join("keyring")).map_err(&failed)?;
        layout::write_whole(&dir.join("keyring"), &keyring).map_err(&failed)?;
        let (keyring, _) =
            Keyring::open(&dir.join("keyring"), &vault.id, &org_keys).map_err(|e| match open_error(e) {
                OpenError::Transient(error) => error,
                OpenError::Damaged(reason) => vault.corrupt(&reason),
            })?;
        let disk = Disk::create(&dir, &vault.node.template, keyring, vault.keys.head());
        let disk = disk.map_err(|e| failed(io_error(e)))?;
        let mut ingest = Ingest::new(&disk);
        let group = stored + 1;
        let snapshot = source.snapshot();
        let names = vault.partition_names();
        for name in &names {
            report.found.partitions += 1;
            match vault.partition_named(name) {
                Ok(Some(partition)) => {
                    let left = Left { source, snapshot: &snapshot, partition: &partition };
                    Rescue::new(left, &mut ingest, report, self.now_ms).run().map_err(&failed)?;
                }
                Ok(None) => {}
                Err(error) => report.found.fault(error.to_string()),
            }
        }
        strangers(source, &snapshot, &names, &mut report.found);
        ingest.end(group, &vault.keys.sealer).map_err(&failed)?;
        drop(disk);
        layout::sync_dir(&dir).and_then(|()| self.catalog.sync()).map_err(&failed)?;
        self.catalog.record_vault(&vault.name, vault.id)
    }
}
