//! Overload is refused here, before anything is queued, and by whom it comes from: what one org,
//! account or address asks for is no reason to refuse another.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use canopy_domain::{Address, Code, QuotaLimit, Refusal};
use http::HeaderMap;
use metrics::Counter;
use parking_lot::{Mutex, RwLock};

use super::exchange;
use super::load::ConnectionLoad;
use super::pool::{Part, Pool, Scarce, Share};
use super::rate::{Exceeded, RateLimits, Rates};
use super::status::status;

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

/// The org that a call is counted for.
#[derive(Debug)]
pub struct Party {
    org: Address,
    /// Its calls under way.
    calls: Arc<Share>,
    rates: RwLock<PartyRates>,
    /// The last refusal for want of calls a second: the calls, the time to wait in milliseconds, and
    /// the head of the answer.
    refused: Mutex<Option<(u32, u64, Arc<HeaderMap>)>>,
}

#[derive(Debug, Default)]
struct PartyRates {
    /// What the org's own quota says; zero is no limit, none is the installation's.
    requests_per_s_max: Option<u32>,
    /// Made with the first call.
    rates: Option<Rates>,
}

impl PartyRates {
    fn requests_per_s(&self, limits: &RateLimits) -> Option<NonZeroU32> {
        self.requests_per_s_max.map_or(limits.requests_per_s, NonZeroU32::new)
    }
}

impl Party {
    /// An org of which nothing is under way.
    pub fn new(org: Address) -> Self {
        Self { org, calls: Arc::default(), rates: RwLock::default(), refused: Mutex::default() }
    }

    /// Takes over the org's own calls a second: zero is no limit, none is the installation's.
    pub fn set_requests_per_s_max(&self, max: Option<u32>) {
        let mut rates = self.rates.write();
        if rates.requests_per_s_max != max {
            // Made anew by the next call. What is owed for answers goes with it, once.
            *rates = PartyRates { requests_per_s_max: max, rates: None };
        }
    }

    /// Lets a request of so many bytes through; gives the calls a second, where they were had.
    fn request(&self, limits: &RateLimits, bytes: usize) -> Result<(), (Exceeded, u32)> {
        let of = |rates: &PartyRates| {
            let per_s = rates.requests_per_s(limits).map_or(0, NonZeroU32::get);
            rates.rates.as_ref().map(|rates| rates.request(bytes).map_err(|exceeded| (exceeded, per_s)))
        };
        if let Some(answer) = of(&self.rates.read()) {
            return answer;
        }
        let mut rates = self.rates.write();
        let limits = RateLimits { requests_per_s: rates.requests_per_s(limits), ..*limits };
        rates.rates.get_or_insert_with(|| Rates::new(&limits));
        of(&rates).unwrap_or(Ok(()))
    }

    /// Takes note of an answer's bytes.
    pub fn sent(&self, bytes: usize) {
        if let Some(rates) = &self.rates.read().rates {
            rates.sent(bytes);
        }
    }

    /// Lets an event be sent.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn send(&self, bytes: usize) -> Result<(), Duration> {
        self.rates.read().rates.as_ref().map_or(Ok(()), |rates| rates.send(bytes))
    }
}

/// A limit that a call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Limit {
    Connection,
    Subscriptions,
    AnswerBytes,
    RequestBytes,
    Server,
    AccountShare,
    AddressShare,
    OrgShare,
    Org,
    OrgRequests,
    OrgBytes,
    Deadline,
}

impl Limit {
    const ALL: [Self; 12] = [
        Self::Connection,
        Self::Subscriptions,
        Self::AnswerBytes,
        Self::RequestBytes,
        Self::Server,
        Self::AccountShare,
        Self::AddressShare,
        Self::OrgShare,
        Self::Org,
        Self::OrgRequests,
        Self::OrgBytes,
        Self::Deadline,
    ];

    /// As metrics name it.
    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Subscriptions => "connection_subscriptions",
            Self::AnswerBytes => "connection_answer_bytes",
            Self::RequestBytes => "request_bytes",
            Self::Server => "server",
            Self::AccountShare => "account_share",
            Self::AddressShare => "address_share",
            Self::OrgShare => "org_share",
            Self::Org => "org",
            Self::OrgRequests => "org_requests_per_s",
            Self::OrgBytes => "org_bytes_per_s",
            Self::Deadline => "deadline",
        }
    }
}

/// Why a call is not served.
#[derive(Debug)]
pub enum Denied {
    /// What the refusal says.
    Refused(Refusal),
    /// For want of room: the head of the answer, which is made once and sent many times, for
    /// refusing must cost less than serving.
    Shed(Arc<HeaderMap>),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Times to wait that callers are told, in milliseconds: the next longer one. So refusals are
/// few different ones, and a connection's header compression sends each in a few bytes.
const WAITS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 60_000, 600_000];

/// Counts a refusal because of an org's quota.
pub fn count_quota_refusal(limit: QuotaLimit) {
    metrics::counter!("canopy_edge_quota_refusals_total", "limit" => limit.name()).increment(1);
}

/// The time to wait that a caller is told.
fn told_wait_ms(wait: Duration) -> u64 {
    let longest = WAITS_MS.len() - 1;
    let at_least = WAITS_MS.iter().position(|ms| Duration::from_millis(*ms) >= wait).unwrap_or(longest);
    WAITS_MS.get(at_least).copied().unwrap_or(RETRY_AFTER_MS)
}

/// Counts what is under way.
pub struct Admission {
    limits: AdmissionLimits,
    arriving: Arc<AtomicUsize>,
    calls: Pool,
    request_bytes: Pool,
    shed: [(Limit, Counter); Limit::ALL.len()],
    /// At most one for each limit and time to wait.
    heads: RwLock<HashMap<(Limit, u64), Arc<HeaderMap>>>,
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
        metrics::describe_counter!("canopy_edge_quota_refusals_total", "Calls refused by an org's quota, by its limit");
        let counter = |limit: Limit| metrics::counter!("canopy_edge_calls_shed_total", "limit" => limit.name());
        Self {
            arriving: Arc::default(),
            calls: Pool::new(limits.calls_max),
            request_bytes: Pool::new(limits.request_bytes_max),
            shed: Limit::ALL.map(|limit| (limit, counter(limit))),
            heads: RwLock::default(),
            limits,
        }
    }

    fn count(&self, limit: Limit) {
        if let Some((_, counter)) = self.shed.iter().find(|(counted, _)| *counted == limit) {
            counter.increment(1);
        }
    }

    fn shed(&self, limit: Limit, wait: Duration) -> Denied {
        self.count(limit);
        let wait_ms = told_wait_ms(wait);
        if let Some(head) = self.heads.read().get(&(limit, wait_ms)) {
            return Denied::Shed(Arc::clone(head));
        }
        let head = Arc::new(exchange::refusal_head(&status(&self.refusal(limit).retry_after_ms(wait_ms))));
        self.heads.write().insert((limit, wait_ms), Arc::clone(&head));
        Denied::Shed(head)
    }

    /// As [`Admission::shed`], for an org that has had its calls of this second: names it.
    fn shed_requests(&self, party: &Party, per_s: u32, wait: Duration) -> Denied {
        self.count(Limit::OrgRequests);
        count_quota_refusal(QuotaLimit::RequestsPerSMax);
        let wait_ms = told_wait_ms(wait);
        let mut refused = party.refused.lock();
        if let Some((.., head)) = refused.as_ref().filter(|(of, ms, _)| (*of, *ms) == (per_s, wait_ms)) {
            return Denied::Shed(Arc::clone(head));
        }
        let refusal = Refusal::new(
            Code::ResourceExhausted,
            format!("the org has had its {per_s} calls of this second"),
        )
        .hint("wait as told, or ask whoever runs the server to raise `requests_per_s_max` with `canopy org set-quota`")
        .quota(QuotaLimit::RequestsPerSMax, &party.org, i64::from(per_s))
        .retry_after_ms(wait_ms);
        let head = Arc::new(exchange::refusal_head(&status(&refusal)));
        *refused = Some((per_s, wait_ms, Arc::clone(&head)));
        Denied::Shed(head)
    }

    /// What the refusal for a limit says.
    fn refusal(&self, limit: Limit) -> Refusal {
        const FEWER: &str = "wait as told, or send fewer calls at once";
        const OPERATOR: &str = "wait as told; the server's operator sets the limit";
        let limits = &self.limits;
        let per_s = |per_s: Option<NonZeroU32>| per_s.map_or(0, NonZeroU32::get);
        let (message, hint) = match limit {
            Limit::Connection => {
                (format!("the connection has {} calls under way, its limit", limits.connection_calls_max), FEWER)
            }
            Limit::Subscriptions => (
                format!("the connection has {} subscriptions, its limit", limits.connection_subscriptions_max),
                "follow several topics in one subscription, or end those that nobody reads",
            ),
            Limit::AnswerBytes => (
                format!("the connection has {} bytes of answers to take", limits.connection_answer_bytes_max),
                "read the answers that are there, and open the streams' windows for them",
            ),
            Limit::RequestBytes => (
                format!("the server reads large requests already, of {} bytes in all", limits.request_bytes_max),
                "wait as told, or send less at once",
            ),
            Limit::Server => (format!("the server has {} calls under way, its limit", limits.calls_max), FEWER),
            Limit::AccountShare => ("the account has its share of a busy server under way".to_owned(), FEWER),
            Limit::AddressShare => ("the address has its share of a busy server under way".to_owned(), FEWER),
            Limit::OrgShare => ("the org has its share of a busy server under way".to_owned(), FEWER),
            Limit::Org => (format!("the org has {} calls under way, its limit", limits.org_calls_max), FEWER),
            Limit::OrgRequests => ("the org has had its calls of this second".to_owned(), OPERATOR),
            Limit::OrgBytes => {
                let bytes = per_s(limits.org_rates.bytes_per_s);
                (format!("the org has had its {bytes} bytes of this second"), OPERATOR)
            }
            Limit::Deadline => ("the call has less time than such calls take at present".to_owned(), FEWER),
        };
        Refusal::new(Code::ResourceExhausted, message).hint(hint)
    }

    fn shed_for_now(&self, limit: Limit) -> Denied {
        self.shed(limit, Duration::from_millis(RETRY_AFTER_MS))
    }

    /// A place in a connection, for a call that has arrived.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn connection(&self, load: &ConnectionLoad) -> Result<Permit, Denied> {
        if load.answer_bytes.load(Ordering::Acquire) >= self.limits.connection_answer_bytes_max {
            return Err(self.shed_for_now(Limit::AnswerBytes));
        }
        Permit::take(&load.calls, self.limits.connection_calls_max).ok_or_else(|| self.shed_for_now(Limit::Connection))
    }

    /// A place in a connection, for a subscription.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn subscription(&self, load: &ConnectionLoad) -> Result<Permit, Denied> {
        Permit::take(&load.subscriptions, self.limits.connection_subscriptions_max)
            .ok_or_else(|| self.shed_for_now(Limit::Subscriptions))
    }

    /// Room for a large request's bytes while it is read.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn request_bytes(&self, load: &ConnectionLoad, bytes: usize) -> Result<Part, Denied> {
        let room = self.request_bytes.take(&load.address.request_bytes, bytes);
        room.map_err(|_| self.shed_for_now(Limit::RequestBytes))
    }

    /// A place on the node, until it is known whom a call is for.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn arrival(&self) -> Result<Permit, Denied> {
        Permit::take(&self.arriving, self.limits.calls_max).ok_or_else(|| self.shed_for_now(Limit::Server))
    }

    /// A place for a call of an account that is for no org.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn account(&self, calls: &Arc<Share>) -> Result<Part, Denied> {
        self.call(calls, Limit::AccountShare)
    }

    /// A place for a call of nobody in particular.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn address(&self, load: &ConnectionLoad) -> Result<Part, Denied> {
        self.call(&load.address.calls, Limit::AddressShare)
    }

    /// A place for a call of an org with so many bytes, by all of the org's limits.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn org(&self, party: &Party, bytes: usize) -> Result<Part, Denied> {
        if party.calls.held() >= self.limits.org_calls_max {
            return Err(self.shed_for_now(Limit::Org));
        }
        party.request(&self.limits.org_rates, bytes).map_err(|(exceeded, per_s)| match exceeded {
            Exceeded::Requests(wait) => self.shed_requests(party, per_s, wait),
            Exceeded::Bytes(wait) => self.shed(Limit::OrgBytes, wait),
        })?;
        self.call(&party.calls, Limit::OrgShare)
    }

    /// A place on the node among the calls of one party.
    fn call(&self, calls: &Arc<Share>, share: Limit) -> Result<Part, Denied> {
        self.calls.take(calls, 1).map_err(|scarce| match scarce {
            Scarce::Empty => self.shed_for_now(Limit::Server),
            Scarce::FairShare => self.shed_for_now(share),
        })
    }

    /// Counts a call that was refused because it could not be answered in time.
    pub fn shed_late(&self) {
        self.count(Limit::Deadline);
    }
}
