//! An open vault: its keys, its partitions, and what waits to be committed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use canopy_domain::Address;
use fjall::Readable;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use crate::StoreError;
use crate::catalog::VaultId;
use crate::commit::Ticket;
use crate::disk::{Disk, OpenError, io_error, tells_of_damage};
use crate::group::{Committer, Pushed, Queue, Submission};
use crate::key::random;
use crate::keyring::{Keyring, NewKey, PartitionName, PartitionRecords};
use crate::layout;
use crate::node::Node;
use crate::partition::Partition;
use crate::remains;
use crate::resync;
use crate::route::{VaultName, org_of};
use crate::vault_keys::{self, VaultKeys, open_error};

/// A partition as it stands in the keyring.
pub(crate) enum Slot {
    Wrapped(PartitionRecords),
    Ready(Arc<Partition>),
    /// Fingerprints of the keys that were destroyed.
    Shredded(Vec<[u8; 32]>),
}

pub(crate) struct Vault {
    pub(crate) node: Arc<Node>,
    pub(crate) name: VaultName,
    pub(crate) keys: VaultKeys,
    pub(crate) queue: Mutex<Queue>,
    /// Tells a commit that its group is complete.
    pub(crate) gathered: Condvar,
    pub(crate) id: VaultId,
    /// Set by the first commit, where the vault is new.
    disk: OnceLock<Disk>,
    pub(crate) partitions: Mutex<HashMap<PartitionName, Slot>>,
    /// Position in the queue up to which everything is durable.
    durable: AtomicU64,
    failed: AtomicBool,
    retired: AtomicBool,
    /// Why it can be read, and nothing be added; see [`crate::resync`].
    unsettled: OnceLock<std::io::Error>,
    /// What a read found.
    damage: OnceLock<String>,
    last_use: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Vault {
    /// A vault that nothing was committed to. Nothing of it is on disk.
    pub(crate) fn unborn(node: Arc<Node>, name: VaultName) -> Arc<Self> {
        let id = random();
        let keys = VaultKeys::fresh(id, (node.options.clock)());
        Arc::new(Self::new(node, name, id, keys, HashMap::new()))
    }

    /// Opens a vault. Blocks.
    pub(crate) fn open(node: Arc<Node>, name: VaultName, id: VaultId) -> Result<Arc<Self>, OpenError> {
        let dir = node.catalog.vault_dir(&id);
        let acknowledged = node.heads.acknowledged(&id);
        if !resync::is_marked(&dir) && !node.unsynced.lock().contains(&id) {
            return Self::open_whole(&node, &name, id, &dir, acknowledged);
        }
        tracing::warn!(vault = %name, "a commit failed: what is there is written to new files first");
        let settled = resync::settle(&dir);
        let vault = Self::open_whole(&node, &name, id, &dir, acknowledged)?;
        match settled {
            Ok(()) => drop(vault.node.unsynced.lock().remove(&id)),
            Err(error) => drop(vault.unsettled.set(error)),
        }
        Ok(vault)
    }

    /// Opens a vault, or a mirror of it, in a directory. Blocks. A crash may
    /// have left it with a torn batch at its end, for which fjall refuses all
    /// of it.
    pub(crate) fn open_whole(
        node: &Arc<Node>,
        name: &VaultName,
        id: VaultId,
        dir: &std::path::Path,
        acknowledged: u64,
    ) -> Result<Arc<Self>, OpenError> {
        let open = || Self::open_at(Arc::clone(node), name.clone(), id, dir, Some(acknowledged));
        let opened = remains::quietly(open);
        if !matches!(opened, Err(OpenError::Damaged(_))) {
            return opened;
        }
        match remains::cut_torn(node, name, id, dir, acknowledged) {
            Ok(true) => open(),
            Ok(false) | Err(OpenError::Damaged(_)) => opened,
            Err(OpenError::Transient(error)) => Err(OpenError::Transient(error)),
        }
    }

    /// Opens a vault as it stands in a directory. Blocks. What it is known to
    /// have acknowledged must be there; see [`Disk::open`].
    pub(crate) fn open_at(
        node: Arc<Node>,
        name: VaultName,
        id: VaultId,
        dir: &std::path::Path,
        acknowledged: Option<u64>,
    ) -> Result<Arc<Self>, OpenError> {
        let span = tracing::info_span!("open vault", vault = %name);
        let _entered = span.enter();
        let org = org_of(&name);
        let org_keys = match node.catalog.org_keys(org).map_err(OpenError::Transient)? {
            Some(keys) => keys,
            None if node.catalog.is_shredded(org).map_err(OpenError::Transient)? => {
                return Err(OpenError::Transient(StoreError::Shredded(name.to_string())));
            }
            None => return Err(OpenError::Damaged("the key of its org is missing".into())),
        };
        let (keyring, content) = Keyring::open(&dir.join("keyring"), &id, &org_keys).map_err(open_error)?;
        let keys = VaultKeys::new(content.secrets.clone(), id);
        let (head, sealer, partitions) = (keys.head(), &keys.sealer, &content.partitions);
        let disk = Disk::open(dir, &node.template, keyring, head, sealer, acknowledged, partitions)?;
        let content = vault_keys::settle(&mut disk.writer(), content, &org_keys, (node.options.clock)())?;
        let slot = |records: PartitionRecords| records.shredded().map_or(Slot::Wrapped(records), Slot::Shredded);
        let partitions = content.partitions.into_iter().map(|(name, records)| (name, slot(records))).collect();
        let vault = Self::new(node, name, id, keys, partitions);
        vault.set_disk(disk);
        Ok(Arc::new(vault))
    }

    fn new(
        node: Arc<Node>,
        name: VaultName,
        id: VaultId,
        keys: VaultKeys,
        partitions: HashMap<PartitionName, Slot>,
    ) -> Self {
        Self {
            last_use: AtomicU64::new(node.next_use()),
            node,
            name,
            keys,
            queue: Mutex::new(Queue::default()),
            gathered: Condvar::new(),
            id,
            disk: OnceLock::new(),
            partitions: Mutex::new(partitions),
            durable: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            unsettled: OnceLock::new(),
            damage: OnceLock::new(),
            closed: watch::Sender::new(false),
        }
    }

    fn set_disk(&self, disk: Disk) {
        if self.disk.set(disk).is_ok() {
            self.node.open_databases.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The vault on disk; `None` before its first commit.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.get()
    }

    /// The vault on disk, made where this is its first commit. Blocks; called
    /// by one commit at a time.
    pub(crate) fn disk_or_new(&self) -> Result<&Disk, StoreError> {
        if self.disk.get().is_none() {
            let disk = self.make()?;
            self.set_disk(disk);
        }
        Ok(self.disk.get().expect("set above"))
    }

    /// The directory first, complete and durable, then its place in the
    /// index: a crash between leaves a directory that the next start removes.
    fn make(&self) -> Result<Disk, StoreError> {
        let failed = |error: std::io::Error| StoreError::commit(&self.name, &error);
        let catalog = &self.node.catalog;
        // A rotation of the org's key that ends knows of this vault.
        let _making = catalog.making.read();
        let org_key = catalog.org_key_or_new(org_of(&self.name))?;
        let dir = catalog.vault_dir(&self.id);
        let making = catalog.begin_making()?;
        layout::make_dir(&dir).map_err(failed)?;
        let sealed_name = catalog.seal_name(&self.name);
        let keyring = Keyring::create(&dir.join("keyring"), &self.id, sealed_name, &self.keys.secrets(), &org_key)
            .map_err(failed)?;
        let disk =
            Disk::create(&dir, &self.node.template, keyring, self.keys.head()).map_err(|e| failed(io_error(e)))?;
        layout::sync_dir(&dir).and_then(|()| catalog.sync()).map_err(failed)?;
        catalog.record_vault(&self.name, self.id)?;
        making.finish();
        Ok(disk)
    }

    /// The keys of an address's partition, where it has some.
    pub(crate) fn partition(&self, address: &Address) -> Result<Option<Arc<Partition>>, StoreError> {
        let name = Partition::name_of(&self.keys.names, address);
        if self.is_shredded(&name) {
            return Err(StoreError::Shredded(address.to_string()));
        }
        self.partition_named(&name)
    }

    /// Names of all partitions that have keys, in the order of their rows.
    pub(crate) fn partition_names(&self) -> BTreeSet<PartitionName> {
        self.partitions.lock().keys().copied().collect()
    }

    /// The keys of the partition with a name, where it has some.
    pub(crate) fn partition_named(&self, name: &PartitionName) -> Result<Option<Arc<Partition>>, StoreError> {
        let name = *name;
        let mut partitions = self.partitions.lock();
        match partitions.get(&name) {
            None => Ok(None),
            Some(Slot::Ready(partition)) => Ok(Some(partition.clone())),
            Some(Slot::Shredded(_)) => Ok(None),
            Some(Slot::Wrapped(records)) => {
                let keys = records
                    .open(&self.id, &self.keys.secrets().key.key)
                    .ok_or_else(|| self.corrupt("a partition's key does not unwrap"))?;
                let partition = Partition::new(name, &keys, self.id)
                    .ok_or_else(|| self.corrupt("a partition's key is missing from the keyring"))?;
                let partition = Arc::new(partition);
                partitions.insert(name, Slot::Ready(partition.clone()));
                Ok(Some(partition))
            }
        }
    }

    /// That an address without keys has no rows either: they would be beyond
    /// reading, and the address must not pass for empty.
    pub(crate) fn check_absent(&self, address: &Address) -> Result<(), StoreError> {
        let Some(disk) = self.disk() else {
            return Ok(());
        };
        let name = Partition::name_of(&self.keys.names, address);
        match disk.snapshot().prefix(&disk.data, name).next().map(fjall::Guard::key) {
            None => Ok(()),
            Some(Ok(_)) => Err(self.corrupt("a partition's key is missing from the keyring")),
            Some(Err(error)) => Err(self.read_error(error)),
        }
    }

    /// A new partition, whose key its first commit makes durable.
    pub(crate) fn new_partition(&self, address: &Address) -> Arc<Partition> {
        let name = Partition::name_of(&self.keys.names, address);
        let new = NewKey::of_partition(name, self.keys.version(), (self.node.options.clock)());
        Arc::new(Partition::fresh(&new, self.id))
    }

    /// Makes a partition known whose key is on its way to the keyring.
    pub(crate) fn adopt(&self, address: &Address, partition: &Arc<Partition>) -> Result<(), StoreError> {
        match self.partitions.lock().entry(partition.name) {
            Entry::Occupied(slot) if matches!(slot.get(), Slot::Shredded(_)) => {
                return Err(StoreError::Shredded(address.to_string()));
            }
            Entry::Occupied(mut slot) => drop(slot.insert(Slot::Ready(partition.clone()))),
            Entry::Vacant(slot) => drop(slot.insert(Slot::Ready(partition.clone()))),
        }
        Ok(())
    }

    /// Hands a submission to the group commit; gives its position.
    pub(crate) fn submit(self: &Arc<Self>, submission: Submission) -> Result<u64, StoreError> {
        if self.node.is_closing() {
            return Err(StoreError::Closed);
        }
        if self.is_failed() {
            return Err(self.failure());
        }
        if let Some(error) = self.unsettled.get() {
            // Opened anew by its next use, it may be better.
            self.failed.store(true, Ordering::Release);
            return Err(StoreError::commit(&self.name, error));
        }
        Ok(self.push(submission))
    }

    fn push(self: &Arc<Self>, submission: Submission) -> u64 {
        let (position, pushed) = self.queue.lock().push(submission);
        match pushed {
            Pushed::Schedule => Committer::schedule(&self.node, self.clone()),
            Pushed::Gathered => drop(self.gathered.notify_one()),
            Pushed::Nothing => {}
        }
        position
    }

    /// Resolves when everything submitted so far is durable.
    pub(crate) fn barrier(self: &Arc<Self>, seq: u64) -> Ticket {
        if self.is_failed() {
            return Ticket::ready(Err(self.failure()));
        }
        if self.durable_position() >= self.queue.lock().submitted() {
            return Ticket::ready(Ok(seq));
        }
        let (ticket, answer) = oneshot::channel();
        self.push(Submission {
            rows: Vec::new(),
            advance: None,
            is_commit: false,
            new_keys: Vec::new(),
            doomed: Vec::new(),
            seq,
            ticket: Some(ticket),
        });
        Ticket::waiting(answer)
    }

    pub(crate) fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn durable_up_to(&self, position: u64) {
        self.durable.store(position, Ordering::Release);
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether it shows what is durable, be it failed or not.
    pub(crate) fn is_readable(&self) -> bool {
        !self.retired.load(Ordering::Acquire)
    }

    /// That its directory takes new bytes. Blocks for a moment.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        let dir = self.node.catalog.vault_dir(&self.id);
        resync::mark(&dir).map_err(|e| StoreError::commit(&self.name, &e))
    }

    /// Gives the vault up: it is opened anew by its next writer.
    pub(crate) fn fail(&self, error: &StoreError) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.node.figures.failed_total.increment(1);
            tracing::error!(vault = %self.name, %error, "a group could not be committed");
            if resync::mark(&self.node.catalog.vault_dir(&self.id)).is_err() {
                self.node.unsynced.lock().insert(self.id);
            }
        }
    }

    /// Has its users stop: its keys are destroyed, or it is damaged.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.failed.store(true, Ordering::Release);
    }

    fn failure(&self) -> StoreError {
        StoreError::CommitFailed { vault: self.name.to_string(), reason: "an earlier commit failed".into() }
    }

    /// Between groups: memtables and head.
    pub(crate) fn maintain(&self) {
        let Some(disk) = self.disk() else { return };
        if let Err(error) = disk.maintain(self.node.memtable_bytes()) {
            self.fail(&StoreError::commit(&self.name, &error));
        }
    }

    /// Notes damage that was found: from here on the vault is in quarantine.
    pub(crate) fn corrupt(&self, reason: &str) -> StoreError {
        // One that is being removed is not damaged.
        if self.is_readable() && self.damage.set(reason.into()).is_ok() {
            tracing::error!(vault = %self.name, reason, "quarantined");
            self.node.figures.quarantined_vaults.increment(1.0);
            self.retire();
        }
        self.damaged(reason)
    }

    /// What to say of damage, where that may come of what happens beside: of
    /// keys that are destroyed, for instance.
    pub(crate) fn damaged(&self, reason: &str) -> StoreError {
        StoreError::Corrupt { vault: self.name.to_string(), reason: reason.into() }
    }

    /// Why it is in quarantine.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// An error of a read.
    pub(crate) fn read_error(&self, error: fjall::Error) -> StoreError {
        match error {
            fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) if !tells_of_damage(&e) => {
                StoreError::Io { what: format!("cannot read vault `{}`", self.name), reason: e.to_string() }
            }
            other => self.corrupt(&format!("{other:?}")),
        }
    }

    /// Notes that somebody uses it.
    pub(crate) fn touch(&self) {
        self.last_use.store(self.node.next_use(), Ordering::Relaxed);
    }

    pub(crate) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    /// Says when the directory may be opened again.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }
}

impl Drop for Vault {
    /// The last user is gone. Closing waits for fjall's threads and for the
    /// disk, which whoever dropped the vault may not.
    fn drop(&mut self) {
        let closed = self.closed.clone();
        let node = self.node.clone();
        match self.disk.take() {
            None => drop(closed.send_replace(true)),
            Some(disk) => {
                self.node.open_databases.fetch_sub(1, Ordering::Relaxed);
                self.node.runtime.spawn_blocking(move || {
                    drop(disk);
                    closed.send_replace(true);
                    drop(node);
                });
            }
        }
    }
}
