//! What a node may commit for an org without asking: a lease of its bytes. Calls
//! reserve what they may need before they are queued, commits spend what they
//! take, and a lease that runs low is exchanged for another in the background.
//! Each exchange begins with a count of what the org takes on disk, so that a
//! lease that was lost with a process, or spent on what is gone again, is made up
//! for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use canopy_domain::{Address, Change, Code, Kind, Principal, QuotaLimit, Refusal};
use canopy_proto::methods::quota_leases;
use canopy_proto::system::v1::{LeaseBytesRequest, LeaseBytesResponse, ReadBytesMaxRequest, ReadBytesMaxResponse};
use canopy_proto::{Reach, Requirement, Rule};
use canopy_supervision::Probe;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use prost::Message;

use crate::call::{Call, CommitHook};
use crate::{Node, clock};

/// A lease: by as much, at most, do nodes overrun an org's quota that lose theirs.
pub const LEASE_BYTES: i64 = 4 << 20;
/// Of a lease, what is left when the next one is asked for.
const LOW_BYTES: i64 = LEASE_BYTES / 4;
/// What a commit takes beside what was sent: a request's record, the feed's own.
const COMMIT_BYTES: i64 = 1 << 10;
/// Where a quota is used up, the disk is not looked at again before this.
const COUNT_AGAIN_MS: i64 = 100;
/// Orgs kept; beyond it those that nobody uses now are forgotten, and counted
/// anew.
const ORGS_MAX: usize = 10_000;
/// Times that one call asks: once, but where the quota is changed meanwhile, or
/// others take what was given.
const ASKED_MAX: usize = 4;
/// Who leases, where there is one node.
const NODE: &str = "embedded";

fn number(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[derive(Debug, Default)]
enum State {
    /// To be asked for.
    #[default]
    Unknown,
    Unlimited,
    Leased(Lease),
}

#[derive(Debug)]
struct Lease {
    bytes_max: i64,
    /// Not spent. Commits take what they take, even beyond it.
    left_bytes: i64,
    /// Of that, for calls under way.
    reserved_bytes: i64,
    /// When the org gave it, in milliseconds since 1970.
    lease_time_ms: i64,
    /// It is less than was asked for: all that there is.
    is_last: bool,
}

#[derive(Debug, Default)]
struct Books {
    state: State,
    /// Grows with every change of the quota: what was asked for before it is void.
    version: u64,
    /// Spent since the count that is under way began.
    uncounted_bytes: i64,
    renewing: bool,
}

impl Books {
    fn reserved_bytes(&self) -> i64 {
        match &self.state {
            State::Leased(lease) => lease.reserved_bytes,
            State::Unknown | State::Unlimited => 0,
        }
    }
}

/// One org's bytes at this node.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    books: Mutex<Books>,
    /// Held while the org is asked.
    asking: tokio::sync::Mutex<()>,
    /// The org's own actor, where there is one now: `observe` shows the lease there.
    shown_at: Mutex<Weak<Probe>>,
}

/// Bytes kept for a call under way.
pub(crate) struct Reserved {
    budget: Arc<Budget>,
    bytes: i64,
    /// Of the quota that they are kept of.
    version: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut books = self.budget.books.lock();
        if books.version == self.version
            && let State::Leased(lease) = &mut books.state
        {
            lease.reserved_bytes -= self.bytes;
        }
    }
}

/// What became of wanting to reserve.
enum Tried {
    Reserved {
        low: bool,
        version: u64,
    },
    Unlimited,
    /// Ask first.
    Unknown,
    /// There is a lease, of too little; whether asking for more is of no use.
    Short {
        bytes_max: i64,
        is_final: bool,
    },
}

impl Budget {
    /// Keeps bytes of the lease, if it is there and holds as many. Where all was
    /// given, it is worth asking again only after a while.
    fn try_reserve(&self, bytes: i64, now_ms: i64) -> Tried {
        let mut books = self.books.lock();
        let lease = match &mut books.state {
            State::Unknown => return Tried::Unknown,
            State::Unlimited => return Tried::Unlimited,
            State::Leased(lease) => lease,
        };
        let free_bytes = lease.left_bytes - lease.reserved_bytes;
        let is_final = lease.is_last && now_ms - lease.lease_time_ms < COUNT_AGAIN_MS;
        if free_bytes < bytes {
            return Tried::Short { bytes_max: lease.bytes_max, is_final };
        }
        lease.reserved_bytes += bytes;
        let low = free_bytes - bytes < LOW_BYTES && !is_final;
        let low = low && !std::mem::replace(&mut books.renewing, true);
        Tried::Reserved { low, version: books.version }
    }

    /// Takes note of a commit.
    pub(crate) fn spend(&self, bytes: usize) {
        let bytes = number(bytes) + COMMIT_BYTES;
        let mut books = self.books.lock();
        books.uncounted_bytes = books.uncounted_bytes.saturating_add(bytes);
        if let State::Leased(lease) = &mut books.state {
            lease.left_bytes = lease.left_bytes.saturating_sub(bytes);
        }
    }

    /// Has `observe` show the lease at the org's own actor.
    pub(crate) fn show_at(&self, probe: &Arc<Probe>) {
        *self.shown_at.lock() = Arc::downgrade(probe);
    }

    fn forget(&self) {
        let mut books = self.books.lock();
        books.version += 1;
        books.state = State::Unknown;
    }

    /// Asks the org: for its limit and, where there is one, for a lease beside what
    /// calls under way need.
    async fn ask(&self, node: &Node, org: &Address, bytes: i64) -> Result<(), Refusal> {
        let version = self.books.lock().version;
        let bytes_max = node.read_bytes_max(org).await?;
        let state = match bytes_max {
            0 => State::Unlimited,
            _ => self.lease(node, org, bytes_max, bytes).await?,
        };
        let mut books = self.books.lock();
        // Where the quota has changed meanwhile, the next call asks again.
        if books.version == version {
            let reserved_bytes = books.reserved_bytes();
            books.state = match state {
                State::Leased(lease) => {
                    let left_bytes = lease.left_bytes.saturating_sub(books.uncounted_bytes);
                    State::Leased(Lease { left_bytes, reserved_bytes, ..lease })
                }
                other => other,
            };
        }
        Ok(())
    }

    /// Counts what the org takes here, and asks for more.
    async fn lease(&self, node: &Node, org: &Address, bytes_max: i64, bytes: i64) -> Result<State, Refusal> {
        let reserved_bytes = {
            let mut books = self.books.lock();
            books.uncounted_bytes = 0;
            books.reserved_bytes()
        };
        let used_bytes = i64::try_from(node.store().org_bytes(org).await?).unwrap_or(i64::MAX);
        let wanted_bytes = LEASE_BYTES.max(bytes).saturating_add(reserved_bytes);
        let leased_bytes = node.lease_bytes(org, used_bytes, wanted_bytes).await?;
        metrics::counter!("canopy_actors_quota_leases_total").increment(1);
        metrics::counter!("canopy_actors_quota_leased_bytes_total").increment(leased_bytes.unsigned_abs());
        if let Some(probe) = self.shown_at.lock().upgrade() {
            probe.set_state(format!("has leased {leased_bytes} of its {bytes_max} bytes"));
        }
        let is_last = leased_bytes < wanted_bytes;
        let lease_time_ms = clock::now_ms();
        Ok(State::Leased(Lease { bytes_max, left_bytes: leased_bytes, reserved_bytes, lease_time_ms, is_last }))
    }

    /// Exchanges a lease that runs low, while calls go on.
    async fn renew(self: Arc<Self>, node: Node, org: Address) {
        let asked = {
            let _asking = self.asking.lock().await;
            self.ask(&node, &org, 0).await
        };
        if let Err(refusal) = asked {
            tracing::debug!(%org, %refusal, "the lease stays; who needs more asks again");
        }
        self.books.lock().renewing = false;
    }
}

/// The leases of this node. Cheap to clone.
#[derive(Clone)]
pub struct Budgets(Arc<Inner>);

struct Inner {
    /// What the quota follows from.
    tables: [u16; 2],
    orgs: RwLock<HashMap<Address, Arc<Budget>>>,
}

impl Budgets {
    /// No lease yet. What an org may have follows from its rows in these tables.
    pub fn new(tables: [u16; 2]) -> Self {
        metrics::describe_counter!(
            "canopy_actors_quota_leases_total",
            "Leases of orgs' bytes that this node was given"
        );
        metrics::describe_counter!("canopy_actors_quota_leased_bytes_total", "Bytes of these leases");
        Self(Arc::new(Inner { tables, orgs: RwLock::default() }))
    }

    /// The budget of the org that an address belongs to, if it does.
    pub(crate) fn of(&self, address: &Address) -> Option<(Address, Arc<Budget>)> {
        let org = address.org_address()?;
        if let Some(budget) = self.0.orgs.read().get(&org) {
            return Some((org, Arc::clone(budget)));
        }
        let mut orgs = self.0.orgs.write();
        if orgs.len() >= ORGS_MAX {
            orgs.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = Arc::clone(orgs.entry(org.clone()).or_default());
        Some((org, budget))
    }

    /// What a command is to be let through by; `None` where nothing limits it.
    pub(crate) fn gate(&self, address: &Address, call: &Call) -> Option<Gate> {
        let rule = canopy_proto::rules().get(call.method)?;
        if is_free(rule) || matches!(call.principal, Principal::Actor(_)) {
            return None;
        }
        let (org, budget) = self.of(address)?;
        let is_unlimited = matches!(budget.books.lock().state, State::Unlimited);
        (!is_unlimited).then(|| Gate { org, budget, bytes: number(2 * call.request.len()) + COMMIT_BYTES })
    }
}

/// A command that may take bytes of an org.
pub(crate) struct Gate {
    org: Address,
    budget: Arc<Budget>,
    /// What it sends comes into a row and into the feed.
    bytes: i64,
}

impl Gate {
    /// Keeps the bytes for as long as the command is under way.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: the org's quota is used up. The org cannot be asked.
    pub(crate) fn reserve(self, node: &Node) -> BoxFuture<'_, Result<Option<Reserved>, Refusal>> {
        // Boxed with its type told: to ask is a command, too.
        Box::pin(self.reserved(node))
    }

    async fn reserved(self, node: &Node) -> Result<Option<Reserved>, Refusal> {
        if let Some(done) = self.at_once(node) {
            return done;
        }
        let _asking = self.budget.asking.lock().await;
        for _ in 0..ASKED_MAX {
            // Whoever had the turn before may have asked for all.
            if let Some(done) = self.at_once(node) {
                return done;
            }
            self.budget.ask(node, &self.org, self.bytes).await?;
        }
        self.at_once(node).unwrap_or_else(|| {
            Err(Refusal::new(Code::ResourceExhausted, "more is committed for the org at once than is counted in time")
                .hint("wait as told, or send less at once")
                .retry_after_ms(COUNT_AGAIN_MS.unsigned_abs()))
        })
    }

    /// What comes of it without asking the org; `None` where it is to be asked.
    fn at_once(&self, node: &Node) -> Option<Result<Option<Reserved>, Refusal>> {
        match self.budget.try_reserve(self.bytes, clock::now_ms()) {
            Tried::Unlimited => Some(Ok(None)),
            Tried::Reserved { low, version } => {
                if low {
                    tokio::spawn(Arc::clone(&self.budget).renew(node.clone(), self.org.clone()));
                }
                Some(Ok(Some(Reserved { budget: Arc::clone(&self.budget), bytes: self.bytes, version })))
            }
            Tried::Short { bytes_max, is_final: true } => Some(Err(used_up(&self.org, bytes_max))),
            Tried::Short { .. } | Tried::Unknown => None,
        }
    }
}

fn used_up(org: &Address, bytes_max: i64) -> Refusal {
    Refusal::new(Code::ResourceExhausted, format!("the org has taken the {bytes_max} bytes of its quota"))
        .hint(
            "delete and purge what is not needed, or ask whoever runs the server to raise `bytes_max` with \
             `canopy org set-quota`",
        )
        .retry_after_ms(COUNT_AGAIN_MS.unsigned_abs())
        .quota(QuotaLimit::BytesMax, org, bytes_max)
}

/// Whether a command is done though nothing is left: it makes room, gets an org
/// out of trouble, or is the server's own.
fn is_free(rule: &Rule) -> bool {
    rule.frees || rule.reach != Reach::Unspecified || rule.requires == Requirement::Internal
}

impl CommitHook for Budgets {
    fn wants(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::Org)
    }

    fn committed(&self, address: &Address, _: u64, changes: &[Change]) {
        if changes.iter().any(|change| self.0.tables.contains(&change.table))
            && let Some(budget) = self.0.orgs.read().get(address)
        {
            budget.forget();
        }
    }
}

impl Node {
    async fn read_bytes_max(&self, org: &Address) -> Result<i64, Refusal> {
        let request = ReadBytesMaxRequest { org: org.to_string() }.encode_to_vec().into();
        let answer = self.ask(org, quota_leases::READ_BYTES_MAX.path, request, org, "").await?;
        Ok(ReadBytesMaxResponse::decode(answer).unwrap_or_default().bytes_max)
    }

    async fn lease_bytes(&self, org: &Address, used_bytes: i64, wanted_bytes: i64) -> Result<i64, Refusal> {
        let node = NODE.to_owned();
        let request =
            LeaseBytesRequest { org: org.to_string(), node, used_bytes, wanted_bytes, request_id: String::new() };
        let answer = self.ask(org, quota_leases::LEASE_BYTES.path, request.encode_to_vec().into(), org, "").await?;
        Ok(LeaseBytesResponse::decode(answer).unwrap_or_default().leased_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn leased(left_bytes: i64) -> Arc<Budget> {
        let lease = Lease { bytes_max: 1 << 40, left_bytes, reserved_bytes: 0, lease_time_ms: NOW_MS, is_last: true };
        let budget = Budget::default();
        budget.books.lock().state = State::Leased(lease);
        Arc::new(budget)
    }

    #[test]
    fn what_is_reserved_is_nobody_elses_until_it_is_given_back() {
        let budget = leased(10);
        assert!(matches!(budget.try_reserve(6, NOW_MS), Tried::Reserved { .. }));
        let first = Reserved { budget: Arc::clone(&budget), bytes: 6, version: 0 };
        assert!(matches!(budget.try_reserve(6, NOW_MS), Tried::Short { is_final: true, .. }));
        assert!(matches!(budget.try_reserve(4, NOW_MS), Tried::Reserved { .. }));
        drop(first);
        assert!(matches!(budget.try_reserve(6, NOW_MS), Tried::Reserved { .. }));
        assert!(matches!(budget.try_reserve(1, NOW_MS + COUNT_AGAIN_MS), Tried::Short { is_final: false, .. }));
    }

    #[test]
    fn what_is_spent_is_gone_though_the_call_has_ended() {
        let budget = leased(2 * COMMIT_BYTES);
        budget.spend(0);
        assert!(matches!(budget.try_reserve(COMMIT_BYTES + 1, NOW_MS), Tried::Short { .. }));
        assert!(matches!(budget.try_reserve(COMMIT_BYTES, NOW_MS), Tried::Reserved { .. }));
        assert_eq!(budget.books.lock().uncounted_bytes, COMMIT_BYTES);
    }

    #[test]
    fn one_call_alone_sees_that_a_lease_runs_low() {
        let budget = leased(LEASE_BYTES);
        let later_ms = NOW_MS + COUNT_AGAIN_MS;
        let half = LEASE_BYTES / 2;
        assert!(matches!(budget.try_reserve(half, later_ms), Tried::Reserved { low: false, .. }));
        assert!(matches!(budget.try_reserve(half, later_ms), Tried::Reserved { low: true, .. }));
        assert!(matches!(budget.try_reserve(0, later_ms), Tried::Reserved { low: false, .. }), "it is being renewed");
    }

    #[test]
    fn a_changed_quota_is_asked_for_anew() {
        let budget = leased(LEASE_BYTES);
        let version = budget.books.lock().version;
        budget.forget();
        assert!(matches!(budget.try_reserve(0, NOW_MS), Tried::Unknown));
        assert!(budget.books.lock().version > version);
    }
}
