//! What was denied, on its way into audits and to the accounts that it
//! concerns. It comes as fast as callers try: so many are told apart, and
//! beyond that counted.
//!
//! An audit's window begins with a first denial, and lasts a minute. The first
//! ones of each caller and method in it are entries of their own; the others
//! are one entry when it ends. What is not written yet is lost with the
//! process, and written when it stops: what was counted, and for a moment those
//! first ones whose callers must not learn from the time of an answer that
//! there was something to write. The others stand there before their callers
//! are answered.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canopy_domain::{Address, Code, Id, Kind, Refusal, Wire};
use canopy_proto::identity::v1::{SecurityEvent, SecurityEventKind};
use canopy_proto::methods::{audit_effects, security_effects};
use canopy_proto::org::v1::AuditEntry;
use canopy_proto::system::v1::{RecordEntryRequest, RecordSecurityEventRequest};
use canopy_supervision::ChildSpec;
use parking_lot::Mutex;
use prost::Message;

use crate::call::Call;
use crate::delivery::is_passing;
use crate::periodic::periodic;
use crate::{Node, audit, clock};

/// How long a window lasts, in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Denials of one caller and method in a window that are told apart.
const SINGLY_MAX: u64 = 10;
/// Denials for one audit in a window that are told apart. With the callers that
/// are counted, an audit grows by less than a hundred entries a minute, however
/// many try.
const SINGLY_OF_AUDIT_MAX: u64 = 30;
/// Callers and methods that are counted apart for one audit; beyond it, they
/// are counted together.
const CALLERS_MAX: usize = 64;
/// The same for all audits.
const COUNTS_MAX: usize = 20_000;
/// Audits with a window; beyond it, the installation's counts for them.
const WINDOWS_MAX: usize = 10_000;
/// Entries that wait to be written; beyond it none is told apart.
const WAITING_MAX: usize = 10_000;
/// Beyond it, none is kept: the store has failed for long.
const KEPT_MAX: usize = 4 * WAITING_MAX;
/// How long an answer waits until its denial stands in an audit.
const WRITE_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at what there is to write.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// A call that was refused for want of a role, or of a password.
#[derive(Debug)]
pub struct Denial<'a> {
    /// The audit that it stands in, or the account that it concerns.
    pub to: Address,
    /// Who called, from where, what.
    pub call: &'a Call,
    /// What it was to be done to.
    pub target: &'a Address,
    /// How it was refused.
    pub code: Code,
}

/// A caller's calls of one method that were refused in one way.
#[derive(Debug, Default)]
struct Count {
    singly: u64,
    /// What is counted and not told apart.
    more: Option<AuditEntry>,
}

/// What was denied in one audit's window.
#[derive(Debug)]
struct Window {
    began_ms: i64,
    singly: u64,
    /// By who called what, and how it was refused.
    callers: HashMap<(String, &'static str, String), Count>,
    /// Of more callers than are counted apart.
    others: Option<AuditEntry>,
}

impl Window {
    fn new(began_ms: i64) -> Self {
        Self { began_ms, singly: 0, callers: HashMap::new(), others: None }
    }

    /// A clock that was set back ends it, too.
    fn is_over(&self, now_ms: i64) -> bool {
        !(0..WINDOW_MS).contains(&(now_ms - self.began_ms))
    }
}

/// An entry on its way, under an id that makes it one however often it is
/// sent.
#[derive(Debug, Clone)]
struct Waiting {
    to: Address,
    id: Id,
    entry: AuditEntry,
}

#[derive(Debug, Default)]
struct Table {
    windows: HashMap<Address, Window>,
    /// Callers and methods in all windows.
    counts: usize,
    waiting: VecDeque<Waiting>,
}

/// The denials of a node. A cheap handle.
#[derive(Clone, Default)]
pub struct Denials(Arc<Mutex<Table>>);

impl Denials {
    /// Takes note of a denial.
    pub fn note(&self, denial: &Denial<'_>) {
        self.take(denial);
    }

    /// The same; returns when it stands in its audit, where it is one of those
    /// that are told apart and the audit takes it in time.
    pub async fn note_and_write(&self, node: &Node, denial: &Denial<'_>) {
        let Some(waiting) = self.take(denial) else { return };
        // It stays in the queue meanwhile: who called may stop waiting.
        if let Ok(Ok(_)) = tokio::time::timeout(WRITE_WAIT, write(node, &waiting)).await {
            self.0.lock().written(waiting.id);
        }
    }

    /// What waits to be written of it, if it is told apart.
    fn take(&self, denial: &Denial<'_>) -> Option<Waiting> {
        let now_ms = clock::now_ms();
        let mut entry = audit::entry(denial.call, denial.target, now_ms);
        audit::deny(&mut entry, denial.code);
        metrics::counter!("canopy_edge_denials_total").increment(1);
        self.0.lock().note(&denial.to, denial.call.method, entry, now_ms)
    }

    /// The actor that writes them.
    pub fn writer(&self, node: Node) -> ChildSpec {
        let denials = self.clone();
        let flush = move |node| -> Pin<Box<dyn Future<Output = Duration> + Send>> {
            let denials = denials.clone();
            Box::pin(async move {
                denials.flush(&node).await;
                FLUSH_EVERY
            })
        };
        periodic("denials", node, Arc::new(flush), true)
    }

    /// Writes what there is to write; all that is counted, where the node stops.
    async fn flush(&self, node: &Node) {
        self.0.lock().end_windows(clock::now_ms(), node.is_stopping());
        loop {
            let Some(waiting) = self.0.lock().waiting.pop_front() else { return };
            match write(node, &waiting).await {
                Ok(_) => {}
                Err(refusal) if is_passing(refusal.code) => {
                    tracing::warn!(to = %waiting.to, %refusal, "denials cannot be written; trying again");
                    self.0.lock().waiting.push_front(waiting);
                    return;
                }
                // An account that has gone, say.
                Err(refusal) => tracing::debug!(to = %waiting.to, %refusal, "a denial concerns nobody"),
            }
        }
    }
}

async fn write(node: &Node, waiting: &Waiting) -> Result<Bytes, Refusal> {
    let Waiting { to, id, entry } = waiting;
    let (method, request) = if to.kind() == Some(Kind::Account) {
        let kind = match entry.code.as_str() {
            audit::HELD_BACK => SecurityEventKind::AttemptHeldBack,
            audit::ELSEWHERE => SecurityEventKind::UsedElsewhere,
            _ => SecurityEventKind::LogInRefused,
        };
        let event = SecurityEvent {
            kind: kind.into(),
            time_ms: entry.time_ms,
            session: entry.session.clone(),
            peer: entry.peer.clone(),
            client: entry.client.clone(),
            count: entry.count,
            last_time_ms: entry.last_time_ms,
        };
        let event = Some(Wire::new(&event));
        let request = RecordSecurityEventRequest { account: to.to_string(), event, request_id: String::new() };
        (security_effects::RECORD_SECURITY_EVENT.path, request.encode_to_vec())
    } else {
        let entry = Some(Wire::new(entry));
        let request = RecordEntryRequest { audit: to.to_string(), entry, request_id: String::new() };
        (audit_effects::RECORD_ENTRY.path, request.encode_to_vec())
    };
    node.ask(to, method, request.into(), &Address::system("denials"), &id.to_string()).await
}

impl Table {
    fn note(&mut self, to: &Address, method: &'static str, entry: AuditEntry, now_ms: i64) -> Option<Waiting> {
        if self.windows.get(to).is_some_and(|window| window.is_over(now_ms)) {
            self.end(to);
        }
        let is_room = self.windows.contains_key(to) || self.windows.len() < WINDOWS_MAX;
        let to = if is_room { to.clone() } else { Address::system("audit") };
        let window = self.windows.entry(to.clone()).or_insert_with(|| Window::new(now_ms));
        let caller = (entry.principal.clone(), method, entry.code.clone());
        let is_known = window.callers.contains_key(&caller);
        if !is_known && (!is_room || window.callers.len() >= CALLERS_MAX || self.counts >= COUNTS_MAX) {
            together(&mut window.others, of_several(entry, &to));
            return None;
        }
        self.counts += usize::from(!is_known);
        let count = window.callers.entry(caller).or_default();
        let is_single =
            count.singly < SINGLY_MAX && window.singly < SINGLY_OF_AUDIT_MAX && self.waiting.len() < WAITING_MAX;
        if !is_single {
            together(&mut count.more, entry);
            return None;
        }
        count.singly += 1;
        window.singly += 1;
        self.wait(to, entry)
    }

    fn wait(&mut self, to: Address, entry: AuditEntry) -> Option<Waiting> {
        if self.waiting.len() >= KEPT_MAX {
            metrics::counter!("canopy_edge_denials_lost_total").increment(entry.count);
            return None;
        }
        let id = Id::fresh(entry.time_ms, &clock::random_bytes());
        let waiting = Waiting { to, id, entry };
        self.waiting.push_back(waiting.clone());
        Some(waiting)
    }

    /// Forgets what was written.
    fn written(&mut self, id: Id) {
        if let Some(at) = self.waiting.iter().rposition(|waiting| waiting.id == id) {
            self.waiting.remove(at);
        }
    }

    /// Ends a window: what was counted in it waits to be written.
    fn end(&mut self, to: &Address) {
        let Some(window) = self.windows.remove(to) else { return };
        self.counts -= window.callers.len();
        let counted = window.callers.into_values().filter_map(|count| count.more).chain(window.others);
        for entry in counted {
            self.wait(to.clone(), entry);
        }
    }

    /// Ends the windows whose time is over, or all.
    fn end_windows(&mut self, now_ms: i64, all: bool) {
        let over = self.windows.iter().filter(|(_, window)| all || window.is_over(now_ms));
        for to in over.map(|(to, _)| to.clone()).collect::<Vec<_>>() {
            self.end(&to);
        }
    }
}

/// Counts an entry with those before it.
fn together(counted: &mut Option<AuditEntry>, entry: AuditEntry) {
    match counted {
        Some(counted) => {
            counted.count += entry.count;
            counted.last_time_ms = entry.last_time_ms;
        }
        None => *counted = Some(entry),
    }
}

/// An entry that stands for several callers: it says neither who nor what.
fn of_several(entry: AuditEntry, to: &Address) -> AuditEntry {
    AuditEntry {
        time_ms: entry.time_ms,
        last_time_ms: entry.last_time_ms,
        count: entry.count,
        outcome: entry.outcome,
        code: entry.code,
        target: to.to_string(),
        ..AuditEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit_of(n: u32) -> Address {
        Address::parse(&format!("org/{}/audit", Id::from_bytes(u128::from(n).to_be_bytes()))).unwrap()
    }

    fn entry(principal: u32, time_ms: i64) -> AuditEntry {
        AuditEntry { principal: principal.to_string(), time_ms, last_time_ms: time_ms, count: 1, ..Default::default() }
    }

    /// Who, when first, when last, how often.
    fn drain(table: &mut Table) -> Vec<(String, i64, i64, u64)> {
        let waiting = std::mem::take(&mut table.waiting).into_iter().map(|waiting| waiting.entry);
        waiting.map(|e| (e.principal, e.time_ms, e.last_time_ms, e.count)).collect()
    }

    fn total(entries: &[(String, i64, i64, u64)]) -> u64 {
        entries.iter().map(|(_, _, _, count)| count).sum()
    }

    #[test]
    fn the_first_are_told_apart_and_the_others_counted() {
        let mut table = Table::default();
        for n in 0..30 {
            table.note(&audit_of(1), "m", entry(7, 1_000 + n), 1_000 + n);
        }
        let singly = drain(&mut table);
        assert_eq!(singly.len(), 10);
        assert!(singly.iter().all(|(_, first, last, count)| first == last && *count == 1));
        table.end_windows(1_000 + WINDOW_MS - 1, false);
        assert_eq!(drain(&mut table), []);
        table.end_windows(1_000 + WINDOW_MS, false);
        assert_eq!(drain(&mut table), [("7".to_owned(), 1_010, 1_029, 20)]);
        assert_eq!((table.counts, table.windows.len()), (0, 0));
        // The next window tells apart again.
        table.note(&audit_of(1), "m", entry(7, 99_000), 99_000);
        assert_eq!(drain(&mut table).len(), 1);
    }

    #[test]
    fn a_window_that_nobody_ended_ends_with_the_next_denial() {
        let mut table = Table::default();
        for _ in 0..11 {
            table.note(&audit_of(1), "m", entry(7, 0), 0);
        }
        table.note(&audit_of(1), "m", entry(7, WINDOW_MS), WINDOW_MS);
        let written = drain(&mut table);
        assert_eq!((written.len(), total(&written)), (12, 12));
    }

    #[test]
    fn callers_without_end_are_counted_together() {
        let mut table = Table::default();
        for n in 0..1_000 {
            table.note(&audit_of(1), "m", entry(n, 5), 5);
        }
        assert_eq!(table.counts, CALLERS_MAX);
        let singly = drain(&mut table);
        assert_eq!(singly.len() as u64, SINGLY_OF_AUDIT_MAX);
        table.end_windows(5, true);
        let counted = drain(&mut table);
        assert_eq!(total(&singly) + total(&counted), 1_000, "none is lost");
        assert_eq!(
            counted.iter().filter(|(who, ..)| who.is_empty()).map(|(.., count)| *count).sum::<u64>(),
            1_000 - 64
        );
    }

    #[test]
    fn audits_without_end_are_counted_with_the_installation() {
        let mut table = Table::default();
        let audits = u32::try_from(WINDOWS_MAX).unwrap() + 500;
        for n in 0..audits {
            table.note(&audit_of(n), "m", entry(1, 5), 5);
        }
        assert_eq!(table.windows.len(), WINDOWS_MAX + 1);
        table.end_windows(5, true);
        let last = table.waiting.pop_back().unwrap();
        let of_installation = table.waiting.iter().chain([&last]).filter(|w| w.to == Address::system("audit"));
        assert_eq!(of_installation.map(|waiting| waiting.entry.count).sum::<u64>(), 500);
    }
}
