//! What outlives vaults and writers: how far a partition is durable, and
//! whether somebody writes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use canopy_domain::Address;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::StoreError;
use crate::partition::Partition;
use crate::route::{VaultName, vault_of};
use crate::vault::Vault;

/// One per address in use.
pub(crate) struct Handle {
    pub(crate) address: Address,
    pub(crate) vault: VaultName,
    durable: watch::Sender<u64>,
    /// Whether `durable` was read from disk since the start.
    known: AtomicBool,
    written: AtomicBool,
    /// Where it was found last, for the fast path.
    found: Mutex<Option<(Weak<Vault>, Arc<Partition>)>>,
}

impl Handle {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            vault: vault_of(&address),
            address,
            durable: watch::Sender::new(0),
            known: AtomicBool::new(false),
            written: AtomicBool::new(false),
            found: Mutex::new(None),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    pub(crate) fn durable(&self) -> u64 {
        *self.durable.borrow()
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        self.durable.receiver_count() > 0
    }

    /// Says that everything up to `seq` is durable.
    pub(crate) fn publish(&self, seq: u64) {
        self.known.store(true, Ordering::Release);
        if self.durable() < seq {
            self.durable.send_if_modified(|durable| {
                let grows = *durable < seq;
                *durable = seq.max(*durable);
                grows
            });
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(crate) fn found(&self) -> Option<(Arc<Vault>, Arc<Partition>)> {
        let found = self.found.lock();
        let (vault, partition) = found.as_ref()?;
        let vault = vault.upgrade().filter(|vault| !vault.is_failed() && !partition.is_shredded())?;
        Some((vault, partition.clone()))
    }

    pub(crate) fn set_found(&self, vault: &Arc<Vault>, partition: &Arc<Partition>) {
        *self.found.lock() = Some((Arc::downgrade(vault), partition.clone()));
    }

    /// Takes the right to write.
    pub(crate) fn claim(self: &Arc<Self>) -> Result<Claim, StoreError> {
        if self.written.swap(true, Ordering::AcqRel) {
            return Err(StoreError::Busy(self.address.clone()));
        }
        Ok(Claim(self.clone()))
    }
}

/// The right to write a partition; given back when dropped.
pub(crate) struct Claim(Arc<Handle>);

impl std::ops::Deref for Claim {
    type Target = Arc<Handle>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.written.store(false, Ordering::Release);
    }
}
