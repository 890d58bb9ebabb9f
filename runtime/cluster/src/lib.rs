//! Where an actor lives. One node owns everything it has; the trait is what a
//! cluster fills in.

mod embedded;

use canopy_domain::Address;

pub use embedded::{Embedded, PARTS, Slot};

/// Who owns an address now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// This node.
    Here,
    /// Another node: its name.
    Elsewhere(String),
}

/// A number that grows with every change of owner. What an older owner writes
/// is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerEpoch(pub u64);

/// Tells which node owns an address.
pub trait Placement: Send + Sync {
    /// The owner now.
    fn locate(&self, address: &Address) -> Location;
    /// The owner's epoch.
    fn owner_epoch(&self, address: &Address) -> OwnerEpoch;
}
