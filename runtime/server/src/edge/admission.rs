//! Overload is refused here, before anything is queued.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use canopy_domain::{Code, Refusal};
use parking_lot::RwLock;

/// When a refused caller may try again, in milliseconds.
const RETRY_AFTER_MS: u64 = 100;

/// Calls at once.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    /// On this node.
    pub calls_max: usize,
    /// Of one org.
    pub org_calls_max: usize,
    /// Of one connection.
    pub connection_calls_max: usize,
    /// Subscriptions of one connection.
    pub connection_subscriptions_max: usize,
}

/// Counts what is under way.
pub struct Admission {
    limits: AdmissionLimits,
    calls: Arc<AtomicUsize>,
    connections: RwLock<HashMap<u64, Arc<Connection>>>,
}

/// What one connection has under way.
#[derive(Debug, Default)]
struct Connection {
    calls: Arc<AtomicUsize>,
    subscriptions: Arc<AtomicUsize>,
}

/// A place among what may be under way, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(counter: &Arc<AtomicUsize>, max: usize, whose: &str) -> Result<Self, Refusal> {
        if counter.fetch_add(1, Ordering::AcqRel) >= max {
            counter.fetch_sub(1, Ordering::AcqRel);
            metrics::counter!("canopy_edge_calls_shed_total", "limit" => whose.to_owned()).increment(1);
            return Err(Refusal::new(Code::ResourceExhausted, format!("{whose} has {max} calls under way, its limit"))
                .retry_after_ms(RETRY_AFTER_MS)
                .hint("wait as told, or send fewer calls at once"));
        }
        Ok(Self(Arc::clone(counter)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admission {
    /// Nothing under way yet.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, calls: Arc::default(), connections: RwLock::default() }
    }

    /// A place on the node and in the connection, for a call.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn call(&self, connection: u64) -> Result<[Permit; 2], Refusal> {
        let connection = self.connection(connection);
        Ok([
            Permit::take(&connection.calls, self.limits.connection_calls_max, "the connection")?,
            Permit::take(&self.calls, self.limits.calls_max, "the server")?,
        ])
    }

    /// A place in the connection, for a subscription.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn subscription(&self, connection: u64) -> Result<Permit, Refusal> {
        let connection = self.connection(connection);
        Permit::take(&connection.subscriptions, self.limits.connection_subscriptions_max, "the connection")
    }

    /// A place among an org's calls.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn org(&self, in_flight: &Arc<AtomicUsize>) -> Result<Permit, Refusal> {
        Permit::take(in_flight, self.limits.org_calls_max, "the org")
    }

    fn connection(&self, id: u64) -> Arc<Connection> {
        if let Some(connection) = self.connections.read().get(&id) {
            return Arc::clone(connection);
        }
        let mut connections = self.connections.write();
        // Connections do not say when they end: those without anything under
        // way are forgotten when the map has doubled.
        if connections.len().is_power_of_two() {
            connections
                .retain(|_, c| c.calls.load(Ordering::Acquire) > 0 || c.subscriptions.load(Ordering::Acquire) > 0);
        }
        Arc::clone(connections.entry(id).or_default())
    }
}
