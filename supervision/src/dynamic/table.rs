//! The children of a dynamic supervisor, and every change that they can make.
//!
//! No method waits. `entries` has each key once; `by_actor` has each live child
//! once, so that an exit finds its key.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{ActorCell, ActorId, ActorStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::DynamicSpec;
use super::entry::{Aftermath, Closed, Due, Entry, Phase, Reservation, Termination, Ticket};
use crate::clock;
use crate::error::StartError;
use crate::exit::Exit;
use crate::intensity::{Intensity, RestartWindow};
use crate::probe::cut;
use crate::quarantine::{Quarantine, QuarantinePolicy, Sentence};
use crate::roster::{ChildCounts, ChildInfo};
use crate::spec::{ChildKind, ChildSpec, Shutdown};
use crate::strategy::{AutoShutdown, restarts};
use crate::tree::{Status, TreeNode};

pub(super) struct Table {
    /// There from the supervisor's start to the beginning of its stop. Dropped,
    /// it tells those that start children to give up.
    open: Option<watch::Sender<()>>,
    /// Counts the supervisor's starts, so that a start that began under an
    /// earlier one does not touch the books of this one.
    epoch: u64,
    entries: HashMap<Arc<str>, Entry>,
    /// Entries that are supervisors.
    supervisors: usize,
    /// Entries that are significant.
    significant: usize,
    /// Live children of a supervisor that ended without stopping them.
    orphans: Vec<(ActorCell, Shutdown)>,
    by_actor: HashMap<ActorId, Arc<str>>,
    /// Starts under way.
    starting: usize,
    /// Exits that came before their start was entered. Emptied when no start
    /// is under way.
    early: HashMap<ActorId, Exit>,
    next_revision: u64,
    intensity: Intensity,
    auto_shutdown: AutoShutdown,
    /// Of all children, under `Meltdown`.
    window: RestartWindow,
    quarantine: Option<Quarantine>,
}

impl Table {
    pub(super) fn new(spec: &DynamicSpec, policy: Option<QuarantinePolicy>) -> Self {
        Self {
            open: None,
            epoch: 0,
            entries: HashMap::new(),
            supervisors: 0,
            significant: 0,
            orphans: Vec::new(),
            by_actor: HashMap::new(),
            starting: 0,
            early: HashMap::new(),
            next_revision: 0,
            intensity: spec.intensity,
            auto_shutdown: spec.auto_shutdown,
            window: RestartWindow::default(),
            quarantine: policy.map(|policy| Quarantine::new(policy, spec.intensity)),
        }
    }

    /// Begins a new incarnation of the supervisor, and hands over what lives
    /// of an earlier one's children.
    pub(super) fn open(&mut self) -> (u64, Vec<(ActorCell, Shutdown)>) {
        self.abandon();
        self.open = Some(watch::channel(()).0);
        self.epoch += 1;
        (self.epoch, std::mem::take(&mut self.orphans))
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes no more children, and hands over those that there are.
    pub(super) fn close(&mut self) -> Closed {
        self.open = None;
        self.starting = 0;
        self.supervisors = 0;
        self.significant = 0;
        self.early = HashMap::new();
        self.by_actor = HashMap::new();
        self.window.clear();
        let (mut live, mut starts) = (Vec::new(), Vec::new());
        for entry in std::mem::take(&mut self.entries).into_values() {
            match entry.phase {
                Phase::Running(cell) | Phase::Stopping(cell, _) => live.push((cell, entry.shutdown)),
                Phase::Starting(gate) => starts.push(gate),
                Phase::Restarting | Phase::Quarantined => {}
            }
        }
        live.sort_unstable_by_key(|(cell, _)| std::cmp::Reverse(cell.get_id()));
        Closed { live, starts }
    }

    /// Closes, when nobody is left to stop the children.
    pub(super) fn abandon(&mut self) {
        let live = self.close().live;
        self.orphans.extend(live.into_iter().map(|(cell, _)| (cell, Shutdown::BrutalKill)));
    }

    fn insert(&mut self, key: &Arc<str>, spec: &ChildSpec) {
        // A quarantined key may be there already.
        self.remove(key);
        self.supervisors += usize::from(spec.kind == ChildKind::Supervisor);
        self.significant += usize::from(spec.significant);
        self.entries.insert(Arc::clone(key), Entry::new(spec));
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.supervisors -= usize::from(entry.kind == ChildKind::Supervisor);
        self.significant -= usize::from(entry.significant);
        Some(entry)
    }

    pub(super) fn reserve(
        &mut self,
        key: &Arc<str>,
        spec: &ChildSpec,
        limits: &DynamicSpec,
        now: Instant,
    ) -> Result<Reservation<Ticket>, StartError> {
        if self.open.is_none() {
            return Err(StartError::NotRunning { supervisor: Arc::clone(&limits.id) });
        }
        if let Some(entry) = self.entries.get(key) {
            match &entry.phase {
                Phase::Starting(gate) | Phase::Stopping(_, gate) => {
                    return Ok(Reservation::Busy(gate.clone()));
                }
                Phase::Running(cell) if cell.get_status() >= ActorStatus::Stopping => {
                    return Ok(Reservation::Ending(cell.clone()));
                }
                Phase::Running(cell) => {
                    return Err(StartError::AlreadyStarted { key: Arc::clone(key), cell: cell.clone() });
                }
                Phase::Restarting => {
                    return Err(StartError::Restarting { key: Arc::clone(key) });
                }
                Phase::Quarantined => {}
            }
        } else if self.entries.len() >= limits.children_max {
            return Err(StartError::ChildLimit {
                supervisor: Arc::clone(&limits.id),
                children_max: limits.children_max,
            });
        }
        if let Some(quarantine) = &mut self.quarantine
            && let Err(refusal) = quarantine.admit(key, now)
        {
            return Err(StartError::Quarantined {
                key: Arc::clone(key),
                until: refusal.until,
                last_error: refusal.last_error,
            });
        }
        self.insert(key, spec);
        Ok(self.begin(key).map_or_else(|| unreachable!("the entry has just been inserted"), Reservation::Started))
    }

    fn begin(&mut self, key: &Arc<str>) -> Option<Ticket> {
        let given_up = self.open.as_ref()?.subscribe();
        let (gate, opened) = watch::channel(());
        let revision = self.revise(key, Phase::Starting(opened))?;
        self.starting += 1;
        Some(Ticket { key: Arc::clone(key), revision, epoch: self.epoch, given_up, _gate: gate })
    }

    fn revise(&mut self, key: &str, phase: Phase) -> Option<u64> {
        let entry = self.entries.get_mut(key)?;
        self.next_revision += 1;
        entry.revision = self.next_revision;
        entry.phase = phase;
        Some(entry.revision)
    }

    /// Turns a restart that is due into a start, if it still is.
    pub(super) fn begin_restart(&mut self, due: &Due, now: Instant) -> Option<(Ticket, ChildSpec)> {
        let entry = self.entries.get(&due.key)?;
        if entry.revision != due.revision || self.open.is_none() {
            return None;
        }
        let spec = entry.spec.as_deref().cloned()?;
        if let Some(quarantine) = &mut self.quarantine {
            // Puts the key on trial if it was held. A refusal cannot be: the
            // timer has waited for the end of the hold.
            let _ = quarantine.admit(&due.key, now);
        }
        let ticket = self.begin(&due.key)?;
        Some((ticket, spec))
    }

    /// The end of a start; false when nobody wants it any more.
    fn finish(&mut self, ticket: &Ticket) -> bool {
        if ticket.epoch == self.epoch {
            self.starting = self.starting.saturating_sub(1);
        }
        self.open.is_some() && self.entries.get(&ticket.key).is_some_and(|entry| entry.revision == ticket.revision)
    }

    /// Exits that no start will ask for any more.
    fn forget_early(&mut self) {
        if self.starting == 0 {
            self.early = HashMap::new();
        }
    }

    /// Enters a child that has started. `None` means that nobody wants it any
    /// more: the caller kills it.
    pub(super) fn started(&mut self, ticket: &Ticket, cell: &ActorCell) -> Option<Aftermath> {
        let wanted = self.finish(ticket);
        let early = self.early.remove(&cell.get_id());
        self.forget_early();
        if !wanted {
            return None;
        }
        let now = clock::now();
        if let Some(entry) = self.entries.get_mut(&ticket.key) {
            entry.restarts += u32::from(entry.started_at.is_some());
            entry.started_at = Some(now);
            entry.phase = Phase::Running(cell.clone());
        }
        self.by_actor.insert(cell.get_id(), Arc::clone(&ticket.key));
        Some(match early {
            Some(exit) => self.exited(cell.get_id(), exit, now),
            None => Aftermath::Nothing,
        })
    }

    /// A child chose not to run, and is forgotten.
    pub(super) fn ignored(&mut self, ticket: &Ticket) -> Option<Aftermath> {
        if !self.finish(ticket) {
            return None;
        }
        self.forget_early();
        self.remove(&ticket.key);
        Some(Aftermath::Nothing)
    }

    /// A start failed: the key's first, which is forgotten but for its crash
    /// history, or a restart, which is tried again.
    pub(super) fn failed(&mut self, ticket: &Ticket, error: &StartError, now: Instant) -> Option<Aftermath> {
        if !self.finish(ticket) {
            return None;
        }
        self.forget_early();
        let first =
            self.entries.get(&ticket.key).is_some_and(|entry| entry.started_at.is_none() && entry.last_error.is_none());
        Some(self.crashed(&ticket.key, &error.to_string(), !first, now))
    }

    /// A child's actor has ended.
    pub(super) fn exited(&mut self, actor: ActorId, exit: Exit, now: Instant) -> Aftermath {
        let Some(key) = self.by_actor.remove(&actor) else {
            if self.starting > 0 {
                self.early.insert(actor, exit);
            }
            return Aftermath::Nothing;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return Aftermath::Nothing;
        };
        let stopped_by_hand = matches!(entry.phase, Phase::Stopping(..));
        if !stopped_by_hand && restarts(entry.restart, &exit) {
            let ran = entry.started_at.map(|at| now.saturating_duration_since(at));
            if ran.is_some_and(|ran| ran > self.intensity.period) {
                entry.attempt = 0;
            }
            return self.crashed(&key, exit.error().unwrap_or("ended without an error"), true, now);
        }
        let significant = entry.significant && !stopped_by_hand;
        if stopped_by_hand || !exit.is_abnormal() {
            self.remove(&key);
            return self.auto_shutdown(significant).unwrap_or(Aftermath::Nothing);
        }
        let aftermath = self.crashed(&key, exit.error().unwrap_or_default(), false, now);
        self.auto_shutdown(significant).unwrap_or(aftermath)
    }

    /// `do_auto_shutdown/2` in `supervisor.erl`, for a child that has been
    /// removed.
    fn auto_shutdown(&self, significant: bool) -> Option<Aftermath> {
        let shutdown = significant
            && match self.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::AnySignificant => true,
                AutoShutdown::AllSignificant => self.significant == 0,
            };
        shutdown.then_some(Aftermath::Shutdown)
    }

    /// Counts a crash, or a permanent child's end, and decides on a restart.
    fn crashed(&mut self, key: &Arc<str>, error: &str, again: bool, now: Instant) -> Aftermath {
        let sentence = match &mut self.quarantine {
            Some(quarantine) => quarantine.crashed(key, error, now),
            None if again && !self.window.admit(self.intensity, now) => {
                return Aftermath::Meltdown { key: Arc::clone(key), last_error: cut(error.to_owned()) };
            }
            None => Sentence::Free,
        };
        let mut attempt = 0;
        if again {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.last_error = Some(cut(error.to_owned()).into());
                attempt = entry.attempt;
                entry.attempt = attempt.saturating_add(1);
            }
        } else {
            self.remove(key);
        }
        let phase = match sentence {
            Sentence::Free => Phase::Restarting,
            Sentence::HeldUntil(_) => Phase::Quarantined,
        };
        // Of an entry that was removed there is nothing to revise.
        let due = self.revise(key, phase).map(|revision| Due { key: Arc::clone(key), revision });
        match (sentence, due) {
            (Sentence::HeldUntil(until), due) => Aftermath::Held { key: Arc::clone(key), until, due },
            (Sentence::Free, Some(due)) => Aftermath::Restart { due, attempt },
            (Sentence::Free, None) => Aftermath::Nothing,
        }
    }

    pub(super) fn terminate(&mut self, key: &str) -> Termination {
        let Some(entry) = self.entries.get_mut(key) else {
            return Termination::NotFound;
        };
        match &entry.phase {
            Phase::Starting(gate) => Termination::Busy { gate: gate.clone(), stopping: false },
            Phase::Stopping(_, gate) => Termination::Busy { gate: gate.clone(), stopping: true },
            Phase::Restarting | Phase::Quarantined => {
                self.remove(key);
                Termination::Done
            }
            Phase::Running(cell) => {
                let (gate, opened) = watch::channel(());
                let cell = cell.clone();
                entry.phase = Phase::Stopping(cell.clone(), opened);
                Termination::Stop { cell, shutdown: entry.shutdown, gate }
            }
        }
    }

    /// A terminated child has ended, if the supervisor did not see it first.
    pub(super) fn stopped(&mut self, actor: ActorId) {
        if let Some(key) = self.by_actor.remove(&actor) {
            self.remove(&key);
        }
    }

    /// Whether anything was known, and the restart that can be made now.
    pub(super) fn release(&mut self, key: &str) -> (bool, Option<Due>) {
        let known = self.quarantine.as_mut().is_some_and(|quarantine| quarantine.release(key));
        let held = self.entries.get_key_value(key);
        let Some((key, _)) = held.filter(|(_, entry)| matches!(entry.phase, Phase::Quarantined)) else {
            return (known, None);
        };
        let key = Arc::clone(key);
        let revision = self.revise(&key, Phase::Restarting);
        (true, revision.map(|revision| Due { key, revision }))
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.sweep(now);
        }
    }

    pub(super) fn live(&self, key: &str) -> Option<ActorCell> {
        match &self.entries.get(key)?.phase {
            Phase::Running(cell) => Some(cell.clone()),
            _ => None,
        }
    }

    pub(super) fn counts(&self) -> ChildCounts {
        let specs = self.entries.len();
        ChildCounts {
            specs,
            active: self.by_actor.len(),
            supervisors: self.supervisors,
            workers: specs - self.supervisors,
        }
    }

    pub(super) fn childspec(&self, key: &str) -> Option<ChildSpec> {
        self.entries.get(key)?.spec.as_deref().cloned()
    }

    pub(super) fn held_count(&self) -> Option<usize> {
        self.quarantine.as_ref().map(Quarantine::held_count)
    }

    pub(super) fn infos(&self, limit: usize) -> Vec<ChildInfo> {
        let entries = self.entries.iter().take(limit);
        entries
            .map(|(key, entry)| ChildInfo {
                id: Arc::clone(key),
                kind: entry.kind,
                status: entry.status(),
                cell: entry.cell().cloned(),
            })
            .collect()
    }

    /// Held keys that have no entry: those of temporary children.
    fn held_keys(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let held = self.quarantine.iter().flat_map(Quarantine::held);
        held.filter(|(key, _)| !self.entries.contains_key(*key))
    }

    pub(super) fn observed_len(&self) -> usize {
        self.entries.len() + self.held_keys().count()
    }

    pub(super) fn nodes(&self, depth: usize, children_max: usize) -> Vec<TreeNode> {
        let held = self.held_keys().map(|(key, last_error)| {
            let mut node = TreeNode::new(key, ChildKind::Worker, Status::Quarantined);
            node.last_error = Some(last_error.to_string());
            node
        });
        let known = self.entries.iter().map(|(key, entry)| entry.node(key, depth, children_max));
        held.chain(known).take(children_max).collect()
    }
}
