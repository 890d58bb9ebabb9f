//! Scenarios performed by this crate and by OTP's own supervisor, with equal
//! traces; and by a model, over random trees.
//!
//! | variable | what |
//! |---|---|
//! | `CANOPY_SUPERVISION_SEED` | where random scenarios begin; a failure prints the one to give |
//! | `CANOPY_SUPERVISION_CASES` | how many of them, instead of the usual number |
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

mod cast;
mod census;
mod differences;
mod erlang;
mod model;
mod parity;
mod perform;
mod random;
mod scenario;
