//! The port: connections, protocols, certificates, and who is let in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod attack;
mod calls_admission;
mod calls_read;
mod edge;
#[path = "../server/harness/mod.rs"]
mod harness;
mod listener_drain;
mod listener_floods;
mod listener_http1;
mod listener_limits;
mod listener_memory;
mod listener_protocols;
mod listener_stalls;
#[path = "../life/process/mod.rs"]
mod process;
mod raw;
mod tls_authority;
mod tls_reload;
