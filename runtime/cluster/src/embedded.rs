//! Placement on one node: every address is here, and its actor's handle in a
//! slot while it is active.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use canopy_domain::Address;
use parking_lot::{Mutex, RwLock};

use crate::{Location, OwnerEpoch, Placement};

/// Maps that share the addresses, so that callers rarely meet at a lock.
const SHARDS: usize = 64;

type Shard<H> = RwLock<HashMap<Address, Arc<Slot<H>>>>;

/// An address's place: its actor's handle while it is active.
pub struct Slot<H> {
    handle: Mutex<Option<H>>,
    activation: tokio::sync::Mutex<()>,
}

impl<H: Clone> Slot<H> {
    /// The active actor's handle.
    pub fn handle(&self) -> Option<H> {
        self.handle.lock().clone()
    }

    /// Sets or clears the handle.
    pub fn set(&self, handle: Option<H>) {
        *self.handle.lock() = handle;
    }

    /// Clears the handle if it is the one meant.
    pub fn clear_if(&self, meant: impl FnOnce(&H) -> bool) {
        let mut handle = self.handle.lock();
        if handle.as_ref().is_some_and(meant) {
            *handle = None;
        }
    }

    /// Whoever activates or passivates the address holds this meanwhile.
    pub async fn activation(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.activation.lock().await
    }

    /// The same, unless somebody is at it.
    pub fn try_activation(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.activation.try_lock().ok()
    }
}

/// The placement of one node.
pub struct Embedded<H> {
    shards: Vec<Shard<H>>,
    hasher: RandomState,
}

impl<H> Default for Embedded<H> {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::new(HashMap::new())).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl<H: Clone> Embedded<H> {
    fn shard(&self, address: &Address) -> &Shard<H> {
        let n = self.hasher.hash_one(address) % SHARDS as u64;
        self.shards
            .get(usize::try_from(n).unwrap_or_default())
            .expect("the remainder is smaller than the number of shards")
    }

    /// The handle at an address, if an actor is active there.
    pub fn active(&self, address: &Address) -> Option<H> {
        self.shard(address).read().get(address).and_then(|slot| slot.handle())
    }

    /// The slot of an address.
    pub fn slot(&self, address: &Address) -> Arc<Slot<H>> {
        if let Some(slot) = self.shard(address).read().get(address) {
            return Arc::clone(slot);
        }
        let fresh = || Arc::new(Slot { handle: Mutex::new(None), activation: tokio::sync::Mutex::new(()) });
        Arc::clone(self.shard(address).write().entry(address.clone()).or_insert_with(fresh))
    }

    /// Forgets slots that are empty and that nobody holds.
    pub fn prune(&self) {
        for shard in &self.shards {
            shard.write().retain(|_, slot| Arc::strong_count(slot) > 1 || slot.handle.lock().is_some());
        }
    }

    /// The active actors.
    pub fn actives(&self) -> Vec<(Address, H)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            found.extend(shard.iter().filter_map(|(a, slot)| slot.handle().map(|h| (a.clone(), h))));
        }
        found
    }
}

impl<H: Send + Sync> Placement for Embedded<H> {
    fn locate(&self, _: &Address) -> Location {
        Location::Here
    }

    fn owner_epoch(&self, _: &Address) -> OwnerEpoch {
        OwnerEpoch(1)
    }
}
