//! The way in: a data directory, its writers and its readers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use canopy_domain::{Address, Id, View};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::floor::Floor;
use crate::handle::{Claim, Handle};
use crate::node::Node;
use crate::partition::{Meta, Partition};
use crate::route::org_of;
use crate::slots::Slots;
use crate::state::Durable;
use crate::vault::Vault;
use crate::views;
use crate::{Snapshot, StoreError, StoreOptions, Writer};

/// An open data directory. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    slots: Slots,
    handles: Mutex<Handles>,
    node: Arc<Node>,
}

struct Handles {
    by_address: HashMap<Address, Arc<Handle>>,
    /// Size at which those that nobody uses are forgotten.
    sweep_at: usize,
}

/// Handles are not looked through below this many.
const SWEEP_MIN: usize = 1024;

/// What a store is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreState {
    /// See [`Store::installation_id`].
    pub installation_id: String,
    /// Vaults that were ever made.
    pub vaults: usize,
    /// Names of the vaults that are open.
    pub open_vaults: Vec<String>,
    /// Commits since the start.
    pub commits: u64,
    /// Writes that made them durable.
    pub groups: u64,
    /// Sealed bytes committed, keys included.
    pub bytes: u64,
    /// Vaults found damaged since the start.
    pub quarantined: Vec<QuarantinedVault>,
}

/// A vault that is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinedVault {
    /// Its name.
    pub vault: String,
    /// What was found.
    pub reason: String,
}

impl Store {
    /// Opens a data directory, or makes it on first run. Blocks, on a slow
    /// passphrase for most of a second; to be called within a Tokio runtime.
    ///
    /// # Errors
    /// Another process has the directory, a newer release wrote it, the key
    /// is wrong, or its own files are damaged. A damaged vault is no error
    /// here: it is quarantined when it is used.
    pub fn open(options: StoreOptions) -> Result<Store, StoreError> {
        let node = Node::open(options)?;
        let handles = Handles { by_address: HashMap::new(), sweep_at: SWEEP_MIN };
        Ok(Self(Arc::new(Inner { slots: Slots::new(node.clone()), handles: Mutex::new(handles), node })))
    }

    /// Random; made on first run.
    pub fn installation_id(&self) -> Id {
        self.0.node.installation
    }

    /// A key of the installation's own for a purpose outside the store, the
    /// same at every start and after every rotation: HKDF-SHA256 (RFC 5869).
    pub fn derive_key(&self, purpose: &str) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(*self.0.node.catalog.derive(purpose).expose())
    }

    /// See [`StoreOptions::feed_retention_ms`].
    pub fn feed_retention_ms(&self) -> i64 {
        self.0.node.options.feed_retention_ms
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.0.slots
    }

    fn handle(&self, address: &Address) -> Arc<Handle> {
        let mut handles = self.0.handles.lock();
        if let Some(handle) = handles.by_address.get(address) {
            return handle.clone();
        }
        if handles.by_address.len() >= handles.sweep_at {
            let in_use = |handle: &Arc<Handle>| Arc::strong_count(handle) > 1 || handle.has_subscribers();
            handles.by_address.retain(|_, handle| in_use(handle));
            handles.sweep_at = SWEEP_MIN.max(2 * handles.by_address.len());
        }
        let handle = Arc::new(Handle::new(address.clone()));
        handles.by_address.insert(address.clone(), handle.clone());
        handle
    }

    /// The right to commit to a partition, and its state. Views that another
    /// version made are rebuilt first.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while the address has a writer; the vault cannot
    /// be opened or read.
    pub async fn writer(&self, address: &Address, views: &[View]) -> Result<Writer, StoreError> {
        let claim = self.handle(address).claim()?;
        let vault = self.0.slots.open(&claim.vault, true).await?.ok_or(StoreError::Closed)?;
        // A former writer of this address may have left commits under way.
        vault.barrier(0).await?;
        let loading = Loading::of(claim, vault)?;
        if !views::are_stale(views, &loading.meta) {
            return loading.writer(self, views);
        }
        let (store, views) = (self.clone(), views.to_vec());
        let rebuild = move || {
            let rebuilt = loading.rebuild(&views)?;
            rebuilt.writer(&store, &views)
        };
        tokio::task::spawn_blocking(rebuild).await.unwrap_or_else(|error| {
            Err(StoreError::Io { what: format!("cannot open `{address}`"), reason: error.to_string() })
        })
    }

    /// Durable reads of a partition. One that never committed is empty.
    ///
    /// # Errors
    /// The vault cannot be opened or read.
    pub async fn reader(&self, address: &Address) -> Result<PartitionReader, StoreError> {
        let reader = self.reader_of(self.handle(address));
        if !reader.handle.is_known() {
            reader.snapshot().await?;
        }
        Ok(reader)
    }

    /// Whether the keys of an address were destroyed, alone or with its org's.
    pub async fn is_shredded(&self, address: &Address) -> bool {
        let handle = self.handle(address);
        // Where that cannot be read, nothing is known to be gone.
        self.0.node.catalog.is_shredded(org_of(&handle.vault)).unwrap_or(false)
            || matches!(self.snapshot(&handle).await, Err(StoreError::Shredded(_)))
    }

    /// The vault of an address, for what concerns all of it.
    pub(crate) async fn existing_vault(&self, address: &Address) -> Result<Arc<Vault>, StoreError> {
        let handle = self.handle(address);
        let vault = self.0.slots.open(&handle.vault, false).await?;
        vault.ok_or_else(|| StoreError::NothingThere(handle.vault.to_string()))
    }

    pub(crate) fn reader_of(&self, handle: Arc<Handle>) -> PartitionReader {
        PartitionReader { store: self.clone(), handle }
    }

    /// A durable snapshot, where that needs no waiting: the vault is open.
    pub fn try_reader_snapshot(&self, address: &Address) -> Option<Snapshot> {
        self.snapshot_now(&self.handle(address))
    }

    fn snapshot_now(&self, handle: &Arc<Handle>) -> Option<Snapshot> {
        let (vault, partition) = match handle.found() {
            Some(found) => {
                found.0.touch();
                found
            }
            None => {
                let vault = self.0.slots.get_open(&handle.vault)?;
                let Ok(Some(partition)) = vault.partition(&handle.address) else {
                    return None;
                };
                handle.set_found(&vault, &partition);
                (vault, partition)
            }
        };
        Durable::of(vault, partition).map(Snapshot::of)
    }

    async fn snapshot(&self, handle: &Arc<Handle>) -> Result<Snapshot, StoreError> {
        if self.0.node.is_closing() {
            return Err(StoreError::Closed);
        }
        if let Some(snapshot) = self.snapshot_now(handle) {
            return Ok(snapshot);
        }
        let absent = || Snapshot::absent(self.0.node.absent.clone(), handle.address.clone());
        let Some(vault) = self.0.slots.open(&handle.vault, false).await? else {
            return Ok(absent());
        };
        let Some(partition) = vault.partition(&handle.address)? else {
            vault.check_absent(&handle.address)?;
            return Ok(absent());
        };
        handle.set_found(&vault, &partition);
        Ok(Durable::of(vault, partition).map_or_else(absent, Snapshot::of))
    }

    /// Waits for commits under way, and closes everything. Later calls are
    /// refused with [`StoreError::Closed`].
    ///
    /// # Errors
    /// [`StoreError::InUse`]: a writer or snapshot still holds a vault.
    pub async fn close(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        for vault in inner.slots.vaults() {
            // A failed commit was answered to whoever submitted it.
            let _ = vault.barrier(0).await;
        }
        inner.node.closing.store(true, Ordering::Release);
        for vault in inner.slots.vaults() {
            let _ = vault.barrier(0).await;
        }
        inner.slots.close().await?;
        let node = inner.node.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || node.write_heads()).await {
            // Each vault has its own head: nothing acknowledged depends on it.
            tracing::warn!(%error, "vaults that are set back from here on may go unnoticed");
        }
        let node = inner.node.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || node.catalog.note_settled()).await {
            tracing::warn!(%error, "the next start compares all directories with the index");
        }
        inner.node.unlock();
        Ok(())
    }

    /// What the store is doing.
    pub fn observe(&self) -> StoreState {
        let inner = &self.0;
        let figures = &inner.node.figures;
        let mut open_vaults: Vec<_> = inner.slots.vaults().iter().map(|vault| vault.name.to_string()).collect();
        open_vaults.sort();
        let quarantined = inner.slots.quarantined();
        StoreState {
            installation_id: inner.node.installation.to_string(),
            // Whoever asks for a vault is told why its index cannot be read.
            vaults: inner.node.catalog.vault_count().unwrap_or(0),
            open_vaults,
            commits: figures.commits.load(Ordering::Relaxed),
            groups: figures.groups.load(Ordering::Relaxed),
            bytes: figures.bytes.load(Ordering::Relaxed),
            quarantined: quarantined
                .into_iter()
                .map(|(vault, reason)| QuarantinedVault { vault: vault.to_string(), reason })
                .collect(),
        }
    }
}

/// What a writer starts from. A few rows are read for it, as for a decision:
/// that is done where it is asked for, and no thread is woken for it.
pub(crate) struct Loading {
    pub(crate) claim: Claim,
    pub(crate) vault: Arc<Vault>,
    pub(crate) partition: Arc<Partition>,
    pub(crate) is_new: bool,
    pub(crate) meta: Meta,
    pub(crate) floor: Floor,
}

impl Loading {
    fn of(claim: Claim, vault: Arc<Vault>) -> Result<Self, StoreError> {
        let known = vault.partition(&claim.address)?;
        let is_new = known.is_none();
        let partition = known.unwrap_or_else(|| vault.new_partition(&claim.address));
        let (mut meta, mut floor) = (Meta::default(), Floor::default());
        if let Some(durable) = Durable::of(vault.clone(), partition.clone()) {
            if is_new {
                vault.check_absent(&claim.address)?;
            }
            (meta, floor) = (durable.meta()?, durable.floor()?);
            check_last_link(&durable, &meta, &floor)?;
        }
        Ok(Self { claim, vault, partition, is_new, meta, floor })
    }

    /// Brings views up to date. Blocks for as long as that takes.
    fn rebuild(mut self, views: &[View]) -> Result<Self, StoreError> {
        self.meta = views::rebuild(&self.vault, &self.partition, &self.claim, views, self.meta)?;
        Ok(self)
    }

    fn writer(self, store: &Store, views: &[View]) -> Result<Writer, StoreError> {
        if !self.is_new {
            self.claim.set_found(&self.vault, &self.partition);
        }
        self.claim.publish(self.meta.seq);
        Writer::new(self, store.clone(), views.to_vec())
    }
}

/// That rows and feed end at the same transaction.
fn check_last_link(durable: &Durable, meta: &Meta, floor: &Floor) -> Result<(), StoreError> {
    if meta.seq == 0 {
        return Ok(());
    }
    let ends_here = match durable.entry(meta.seq)? {
        Some(entry) => floor.first() <= meta.seq && entry.ends_with(&meta.chain),
        // All of it has grown too old, and this is where it goes on.
        None => floor.below() == meta.seq && floor.chain == meta.chain,
    };
    match ends_here && durable.entry(meta.seq + 1)?.is_none() {
        true => Ok(()),
        false => Err(durable.vault.corrupt("its feed does not end where its rows do")),
    }
}

/// Durable reads of one partition. Cheap to clone; keeps no vault open.
#[derive(Clone)]
pub struct PartitionReader {
    store: Store,
    handle: Arc<Handle>,
}

impl PartitionReader {
    /// Whose partition this is.
    pub fn address(&self) -> &Address {
        &self.handle.address
    }

    /// The durable state, now.
    ///
    /// # Errors
    /// The vault cannot be opened or read.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let snapshot = self.store.snapshot(&self.handle).await?;
        if !self.handle.is_known() {
            self.handle.publish(snapshot.last_seq()?);
        }
        Ok(snapshot)
    }

    /// The last durable seq, as it grows: there is something up to it. Stays
    /// valid while vaults and writers come and go.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.handle.subscribe()
    }
}
