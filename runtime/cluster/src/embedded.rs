//! Placement on one node: every address is here, and its actor's handle in a
//! slot while it is active.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use canopy_domain::Address;
use parking_lot::{Mutex, RwLock};

use crate::{Location, OwnerEpoch, Placement};

/// Maps that share the addresses, so that callers rarely meet at a lock.
pub const PARTS: usize = 64;

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
        let shards = (0..PARTS).map(|_| RwLock::new(HashMap::new())).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl<H: Clone> Embedded<H> {
    fn shard(&self, address: &Address) -> &Shard<H> {
        let n = self.hasher.hash_one(address) % PARTS as u64;
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

    /// Looks through one of the [`PARTS`] of the addresses: gives the active
    /// actors that are wanted, and forgets slots that are empty and that nobody
    /// holds.
    pub fn look_through(&self, part: usize, wanted: impl Fn(&H) -> bool) -> Vec<(Address, H)> {
        let mut found = Vec::new();
        let Some(shard) = self.shards.get(part % PARTS) else { return found };
        shard.write().retain(|address, slot| {
            let handle = slot.handle.lock();
            found.extend(handle.as_ref().filter(|handle| wanted(handle)).map(|h| (address.clone(), h.clone())));
            handle.is_some() || Arc::strong_count(slot) > 1
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_active_actor_once_and_no_empty_slot_that_nobody_holds() {
        let placement = Embedded::<u8>::default();
        let address = |n: u8| Address::session(canopy_domain::Id::from_bytes([n; 16]));
        for n in 0..200 {
            placement.slot(&address(n)).set((n < 150).then_some(n));
        }
        let held = placement.slot(&address(199));
        let mut found: Vec<_> =
            (0..PARTS).flat_map(|part| placement.look_through(part, |n| n.is_multiple_of(2))).collect();
        found.sort_by_key(|(_, n)| *n);
        let even = (0..150).step_by(2).map(|n| (address(n), n)).collect::<Vec<_>>();
        assert_eq!(found, even);
        let slots: usize = placement.shards.iter().map(|shard| shard.read().len()).sum();
        assert_eq!(slots, 151, "the active ones, and the one that is held");
        assert!(Arc::ptr_eq(&held, &placement.slot(&address(199))));
    }
}
