//! The port: connections, protocols, certificates.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod edge;
mod listener_drain;
mod listener_limits;
mod listener_protocols;
mod tls_authority;
mod tls_reload;
