//! Load scenarios with honest baselines.
//!
//! A scenario compares a side under test with a baseline that does the least a server could do for
//! the same bytes: a bare tonic echo, a bare tonic fan-out, raw fjall with group commit. Both sides
//! run in one go, interleaved, under the same client. See `scenario` for what is measured, `baseline`
//! for what it is measured against, `ledger` for how lost and doubled messages are found.

pub mod baseline;
pub mod canopy;
pub mod client;
pub mod clock;
mod error;
pub mod faults;
pub mod ledger;
pub mod process;
pub mod report;
pub mod scenario;
pub mod selftest;
pub mod threshold;

pub use error::LoadError;
