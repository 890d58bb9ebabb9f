//! The store through its public boundary, one file per behaviour.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
#![allow(clippy::cast_possible_truncation, reason = "numbers of the tests' own, far below any bound")]

mod backup;
mod crash;
mod damage;
mod directory;
mod effects;
mod fixture;
mod floor;
mod formats;
mod formats_content;
mod keys;
mod model;
mod pipeline;
mod requests;
mod round_trip;
mod salvage;
mod secrecy;
mod shred;
mod story;
mod vaults;
mod verify;
mod views;
