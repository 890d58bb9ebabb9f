//! The port: connections, protocols, certificates.

mod edge;
mod listener_drain;
mod listener_limits;
mod listener_protocols;
mod tls_authority;
mod tls_reload;
