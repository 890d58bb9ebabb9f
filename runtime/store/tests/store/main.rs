//! The store through its public boundary, one file per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod crash;
mod damage;
mod directory;
mod effects;
mod fixture;
mod model;
mod pipeline;
mod requests;
mod round_trip;
mod secrecy;
mod vaults;
mod views;
