//! The store under attack, with the numbers of continuous integration; `canopy-load run faults` takes
//! any. `CANOPY_FAULTS_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

mod failing;
mod fixture;
mod flips;
mod kill;
mod plaintext;
mod power;
