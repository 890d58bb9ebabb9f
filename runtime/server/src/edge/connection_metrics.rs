//! What a listener tells about its connections.

use std::collections::HashMap;

use metrics::{Counter, Gauge, Histogram};

use super::connection;

/// Counts connections that were ended for what the client did.
const ENDED: &str = "canopy_edge_connections_ended_total";

/// Handles into the recorder that is installed when the listener is bound.
pub(super) struct Metrics {
    pub(super) connections: Gauge,
    pub(super) refused: Counter,
    pub(super) refused_address: Counter,
    pub(super) accept_errors: Counter,
    pub(super) handshakes_failed: Counter,
    pub(super) handshakes_late: Counter,
    pub(super) handshake_seconds: Histogram,
    /// HTTP/1 requests whose end can be told in two ways.
    pub(super) ambiguous: Counter,
    ended: HashMap<&'static str, Counter>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        use metrics::{describe_counter, describe_gauge, describe_histogram};
        const HANDSHAKE_ERRORS: &str = "canopy_edge_tls_handshake_errors_total";
        describe_gauge!("canopy_edge_connections", "Open connections, in handshakes too");
        describe_counter!("canopy_edge_connections_refused_total", "Connections over a limit, by whose");
        describe_counter!("canopy_edge_requests_refused_total", "Requests refused before anybody looked at them");
        describe_counter!(ENDED, "Connections ended for what the client did, by what it was");
        describe_counter!("canopy_edge_accept_errors_total", "Times that the system could not accept a connection");
        describe_counter!(HANDSHAKE_ERRORS, "TLS handshakes that failed or took too long");
        describe_histogram!(
            "canopy_edge_tls_handshake_seconds",
            metrics::Unit::Seconds,
            "Duration of the TLS handshakes that succeeded"
        );
        Self {
            connections: metrics::gauge!("canopy_edge_connections"),
            refused: metrics::counter!("canopy_edge_connections_refused_total", "limit" => "server"),
            refused_address: metrics::counter!("canopy_edge_connections_refused_total", "limit" => "address"),
            accept_errors: metrics::counter!("canopy_edge_accept_errors_total"),
            handshakes_failed: metrics::counter!(HANDSHAKE_ERRORS, "reason" => "failed"),
            handshakes_late: metrics::counter!(HANDSHAKE_ERRORS, "reason" => "timeout"),
            handshake_seconds: metrics::histogram!("canopy_edge_tls_handshake_seconds"),
            ambiguous: metrics::counter!("canopy_edge_requests_refused_total", "reason" => "transfer_encoding"),
            ended: connection::end_reasons().map(|name| (name, metrics::counter!(ENDED, "reason" => name))).collect(),
        }
    }

    /// Counts a connection that was ended for `reason`.
    pub(super) fn ended(&self, reason: &'static str) {
        if let Some(counter) = self.ended.get(reason) {
            counter.increment(1);
        }
    }
}
