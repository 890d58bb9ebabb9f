//! The crate through its public boundary. Time is tokio's paused clock: nothing
//! here waits for a real one.
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

mod dynamic;
mod exits;
mod mailbox;
mod metrics;
mod nested;
mod observe;
mod quarantine;
mod requests;
mod shutdown;
mod significant;
mod stage;
mod strategies;
