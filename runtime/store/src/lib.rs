//! Vaults, partitions, keys, feeds and views: the only crate that knows fjall.
//!
//! A [`Store`] is a data directory. Each address has a partition in it: an
//! encrypted, ordered key-value space with a feed of its transactions. One
//! [`Writer`] at a time commits to it; anybody reads it through a
//! [`PartitionReader`], durable states only.
//!
//! What is acknowledged is durable: commits are grouped, a group is one batch
//! and one fsync, and nothing of it is visible before. What was acknowledged
//! and is gone is noticed when the vault is opened, and the vault quarantined.

mod backup;
mod backup_check;
mod catalog;
mod commit;
mod commit_keys;
mod disk;
mod error;
mod floor;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod group;
mod handle;
mod head;
mod heads;
mod journal;
mod key;
mod keyring;
mod keys;
mod layout;
mod mirror;
mod node;
mod options;
mod orgs;
mod overlay;
mod partition;
mod recent;
mod records;
mod remains;
mod rescue;
mod restore;
mod resync;
mod root;
mod route;
mod row_draft;
mod salvage;
mod scratch;
mod seal;
mod settled;
mod slots;
mod snapshot;
mod staging;
mod state;
mod store;
mod subject;
mod usage;
mod vault;
mod vault_keys;
mod verify;
mod versions;
mod views;
mod writer;

pub use backup::BackupSummary;
pub use commit::{Commit, PendingEffect, RequestKey, Ticket};
pub use error::StoreError;
pub use keys::{Fingerprint, KeyInfo};
pub use options::{StoreOptions, Unlock};
pub use restore::{KeyBundleSummary, RestoreOptions, export_keys, restore};
pub use root::KeySlot;
pub use salvage::{SalvageReport, salvage};
pub use snapshot::Snapshot;
pub use store::{PartitionReader, QuarantinedVault, Store, StoreState};
pub use verify::{VaultReport, ViewsOf, verify};
pub use writer::{Live, Trimmed, Writer};
