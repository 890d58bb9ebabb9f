//! Overload is refused here, before anything is queued, and by whom it comes from: what one org,
//! account or address asks for is no reason to refuse another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use canopy_domain::{Code, Refusal};
use metrics::Counter;

use super::load::ConnectionLoad;
use super::pool::{Part, Pool, Scarce, Share};
use super::rate::{Exceeded, RateLimits, Rates};

/// When a refused caller may try again, in milliseconds, where no rate says so.
const RETRY_AFTER_MS: u64 = 100;
/// The first bytes of each request that are let in without asking, so that whoever fills the
/// memory for large requests keeps nobody from small ones.
pub const SMALL_REQUEST_BYTES: usize = 16 << 10;

/// What may be under way.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    /// Calls on this node.
    pub calls_max: usize,
    /// Calls of one org.
    pub org_calls_max: usize,
    /// Calls of one connection.
    pub connection_calls_max: usize,
    /// Subscriptions of one connection.
    pub connection_subscriptions_max: usize,
    /// Bytes of large requests that are being read, on this node.
    pub request_bytes_max: usize,
    /// Bytes of answers that one connection has not taken.
    pub connection_answer_bytes_max: usize,
    /// Each second, of one org.
    pub org_rates: RateLimits,
}

/// Whom a call is counted for.
#[derive(Debug, Default)]
pub struct Party {
    /// Its calls under way.
    calls: Arc<Share>,
    rates: OnceLock<Rates>,
}

impl Party {
    /// Takes note of an answer's bytes.
    pub fn sent(&self, bytes: usize) {
        if let Some(rates) = self.rates.get() {
            rates.sent(bytes);
        }
    }

    /// Lets an event be sent.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn send(&self, bytes: usize) -> Result<(), Duration> {
        self.rates.get().map_or(Ok(()), |rates| rates.send(bytes))
    }
}

/// A limit that a call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Limit {
    Connection,
    Subscriptions,
    AnswerBytes,
    RequestBytes,
    Server,
    Share,
    Org,
    OrgRequests,
    OrgBytes,
    Deadline,
}

/// As metrics name them, in the order of [`Limit`].
const LIMITS: [&str; 10] = [
    "connection",
    "connection_subscriptions",
    "connection_answer_bytes",
    "request_bytes",
    "server",
    "fair_share",
    "org",
    "org_requests_per_s",
    "org_bytes_per_s",
    "deadline",
];

/// Counts what is under way.
pub struct Admission {
    limits: AdmissionLimits,
    arriving: Arc<AtomicUsize>,
    calls: Pool,
    request_bytes: Pool,
    shed: [Counter; LIMITS.len()],
}

/// A place among what may be under way, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(counter: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let place = counter.fetch_add(1, Ordering::AcqRel);
        // Gives it back on the way out of a refusal.
        let permit = Self(Arc::clone(counter));
        (place < max).then_some(permit)
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
        metrics::describe_counter!("canopy_edge_calls_shed_total", "Calls refused for want of room, by the limit");
        Self {
            arriving: Arc::default(),
            calls: Pool::new(limits.calls_max),
            request_bytes: Pool::new(limits.request_bytes_max),
            shed: LIMITS.map(|limit| metrics::counter!("canopy_edge_calls_shed_total", "limit" => limit)),
            limits,
        }
    }

    fn refuse(&self, limit: Limit, message: String, retry_after: Option<Duration>) -> Refusal {
        if let Some(counter) = self.shed.get(limit as usize) {
            counter.increment(1);
        }
        let ms = retry_after.map_or(RETRY_AFTER_MS, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) + 1);
        Refusal::new(Code::ResourceExhausted, message).retry_after_ms(ms)
    }

    /// A place in a connection, for a call that has arrived.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn connection(&self, load: &ConnectionLoad) -> Result<Permit, Refusal> {
        let max = self.limits.connection_answer_bytes_max;
        if load.answer_bytes.load(Ordering::Acquire) >= max {
            let message = format!("the connection has {max} bytes of answers to take, its limit");
            let refusal = self.refuse(Limit::AnswerBytes, message, None);
            return Err(refusal.hint("read the answers that are there, and open the streams' windows for them"));
        }
        let max = self.limits.connection_calls_max;
        Permit::take(&load.calls, max).ok_or_else(|| self.too_many(Limit::Connection, "the connection", max))
    }

    /// A place in a connection, for a subscription.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn subscription(&self, load: &ConnectionLoad) -> Result<Permit, Refusal> {
        let max = self.limits.connection_subscriptions_max;
        Permit::take(&load.subscriptions, max).ok_or_else(|| {
            let message = format!("the connection has {max} subscriptions, its limit");
            let hint = "follow several topics in one subscription, or end those that nobody reads";
            self.refuse(Limit::Subscriptions, message, None).hint(hint)
        })
    }

    /// Room for a large request's bytes while it is read.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn request_bytes(&self, load: &ConnectionLoad, bytes: usize) -> Result<Part, Refusal> {
        self.request_bytes.take(&load.address.request_bytes, bytes).map_err(|_| {
            let message = format!("the server reads {} bytes of large requests already", self.request_bytes.held());
            self.refuse(Limit::RequestBytes, message, None).hint("wait as told, or send less at once")
        })
    }

    /// A place on the node, until it is known whom a call is for.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn arrival(&self) -> Result<Permit, Refusal> {
        let max = self.limits.calls_max;
        Permit::take(&self.arriving, max).ok_or_else(|| self.too_many(Limit::Server, "the server", max))
    }

    /// A place on the node among the calls of one party, named `whose`.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn call(&self, calls: &Arc<Share>, whose: &str) -> Result<Part, Refusal> {
        self.calls.take(calls, 1).map_err(|scarce| match scarce {
            Scarce::Empty => self.too_many(Limit::Server, "the server", self.calls.max()),
            Scarce::FairShare => {
                let message = format!("{whose} has {} calls under way, its share of a busy server", calls.held());
                self.refuse(Limit::Share, message, None).hint("wait as told, or send fewer calls at once")
            }
        })
    }

    /// A place for a call of an org with so many bytes, by all of the org's limits.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn org(&self, party: &Party, bytes: usize) -> Result<Part, Refusal> {
        let max = self.limits.org_calls_max;
        if party.calls.held() >= max {
            return Err(self.too_many(Limit::Org, "the org", max));
        }
        let rates = self.limits.org_rates;
        party.rates.get_or_init(|| Rates::new(&rates)).request(bytes).map_err(|exceeded| {
            let (limit, wait, per_s, what) = match exceeded {
                Exceeded::Requests(wait) => (Limit::OrgRequests, wait, rates.requests_per_s, "calls"),
                Exceeded::Bytes(wait) => (Limit::OrgBytes, wait, rates.bytes_per_s, "bytes"),
            };
            let per_s = per_s.map_or(0, std::num::NonZero::get);
            let message = format!("the org has had its {per_s} {what} of this second");
            self.refuse(limit, message, Some(wait)).hint("wait as told; the server's operator sets the limit")
        })?;
        self.call(&party.calls, "the org")
    }

    /// Counts a call that was refused because it could not be answered in time.
    pub fn shed_late(&self) {
        if let Some(counter) = self.shed.get(Limit::Deadline as usize) {
            counter.increment(1);
        }
    }

    fn too_many(&self, limit: Limit, whose: &str, max: usize) -> Refusal {
        let message = format!("{whose} has {max} calls under way, its limit");
        self.refuse(limit, message, None).hint("wait as told, or send fewer calls at once")
    }
}
