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
use crate::clock;
use crate::error::StartError;
use crate::exit::Exit;
use crate::intensity::{Intensity, RestartWindow};
use crate::probe::{Probe, cut};
use crate::quarantine::{Quarantine, QuarantinePolicy, Sentence};
use crate::spec::{ChildKind, ChildSpec, Restart, Shutdown};
use crate::strategy::restarts;
use crate::supervisor::ChildInfo;
use crate::tree::{Status, TreeNode};

pub(super) struct Table {
    /// From the supervisor's start to the beginning of its stop.
    open: bool,
    /// Counts the supervisor's starts, so that a start that began under an
    /// earlier one does not touch the books of this one.
    epoch: u64,
    entries: HashMap<Arc<str>, Entry>,
    by_actor: HashMap<ActorId, Arc<str>>,
    /// Starts under way.
    starting: usize,
    /// Exits that came before their start was entered. Emptied when no start
    /// is under way.
    early: HashMap<ActorId, Exit>,
    next_revision: u64,
    intensity: Intensity,
    /// Of all children, under `Meltdown`.
    window: RestartWindow,
    quarantine: Option<Quarantine>,
}

struct Entry {
    phase: Phase,
    /// New with every phase that something waits for; tells a late timer or
    /// start from the one that is expected.
    revision: u64,
    shutdown: Shutdown,
    restart: Restart,
    kind: ChildKind,
    restarts: u32,
    started_ms: u64,
    probe: Option<Arc<Probe>>,
    /// For children that may be started again. As in OTP, a temporary child's
    /// start is not kept.
    spec: Option<Box<ChildSpec>>,
    last_error: Option<Box<str>>,
}

enum Phase {
    Starting(watch::Receiver<()>),
    Running(ActorCell),
    Stopping(ActorCell, watch::Receiver<()>),
    Restarting,
    Quarantined,
}

impl Entry {
    fn new(spec: &ChildSpec) -> Self {
        Self {
            phase: Phase::Restarting,
            revision: 0,
            shutdown: spec.shutdown,
            restart: spec.restart,
            kind: spec.kind,
            restarts: 0,
            started_ms: 0,
            probe: spec.probe.clone(),
            spec: (spec.restart != Restart::Temporary).then(|| Box::new(spec.clone())),
            last_error: None,
        }
    }

    fn cell(&self) -> Option<&ActorCell> {
        match &self.phase {
            Phase::Running(cell) | Phase::Stopping(cell, _) => Some(cell),
            Phase::Starting(_) | Phase::Restarting | Phase::Quarantined => None,
        }
    }

    fn status(&self) -> Status {
        match self.phase {
            Phase::Starting(_) => Status::Starting,
            Phase::Running(_) => Status::Running,
            Phase::Stopping(..) => Status::Stopping,
            Phase::Restarting => Status::Restarting,
            Phase::Quarantined => Status::Quarantined,
        }
    }
}

/// A start that has its place in the table. Dropping the gate wakes those who
/// wait for it.
pub(super) struct Ticket {
    pub(super) key: Arc<str>,
    revision: u64,
    epoch: u64,
    _gate: watch::Sender<()>,
}

/// What `start_child` has to do.
pub(super) enum Reservation<S> {
    Started(S),
    /// The key is being started or stopped: wait, and ask again.
    Busy(watch::Receiver<()>),
    /// The key's actor is ending and its exit is yet to be seen.
    Ending(ActorCell),
}

impl<S> Reservation<S> {
    pub(super) fn map_started<T>(self, f: impl FnOnce(S) -> T) -> Reservation<T> {
        match self {
            Self::Started(started) => Reservation::Started(f(started)),
            Self::Busy(gate) => Reservation::Busy(gate),
            Self::Ending(cell) => Reservation::Ending(cell),
        }
    }
}

/// What `terminate_child` has to do.
pub(super) enum Termination {
    NotFound,
    Done,
    Busy { gate: watch::Receiver<()>, stopping: bool },
    Stop { cell: ActorCell, shutdown: Shutdown, gate: watch::Sender<()> },
}

/// A restart that is due, unless the entry has changed since.
pub(super) struct Due {
    pub(super) key: Arc<str>,
    revision: u64,
}

/// What an exit or a failed start asks for.
pub(super) enum Aftermath {
    Nothing,
    /// Counted, and to be started again after the back-off for this attempt.
    Restart {
        due: Due,
        attempt: u32,
    },
    /// The key is held until then; a restart is due afterwards for a child
    /// that is not temporary.
    Held {
        key: Arc<str>,
        until: Instant,
        due: Option<Due>,
    },
    Meltdown {
        key: Arc<str>,
        last_error: String,
    },
}

impl Table {
    pub(super) fn new(intensity: Intensity, policy: Option<QuarantinePolicy>) -> Self {
        Self {
            open: false,
            epoch: 0,
            entries: HashMap::new(),
            by_actor: HashMap::new(),
            starting: 0,
            early: HashMap::new(),
            next_revision: 0,
            intensity,
            window: RestartWindow::default(),
            quarantine: policy.map(|policy| Quarantine::new(policy, intensity)),
        }
    }

    pub(super) fn open(&mut self) -> u64 {
        self.close();
        self.open = true;
        self.epoch += 1;
        self.epoch
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes no more children, and hands over the live ones, the last started
    /// first: ractor numbers actors in the order of their making.
    pub(super) fn close(&mut self) -> Vec<(ActorCell, Shutdown)> {
        self.open = false;
        self.starting = 0;
        self.early = HashMap::new();
        self.by_actor = HashMap::new();
        self.window.clear();
        let entries = std::mem::take(&mut self.entries).into_values();
        let mut live: Vec<_> =
            entries.filter_map(|entry| entry.cell().map(|cell| (cell.clone(), entry.shutdown))).collect();
        live.sort_unstable_by_key(|(cell, _)| std::cmp::Reverse(cell.get_id()));
        live
    }

    pub(super) fn reserve(
        &mut self,
        key: &Arc<str>,
        spec: &ChildSpec,
        limits: &DynamicSpec,
        now: Instant,
    ) -> Result<Reservation<Ticket>, StartError> {
        if !self.open {
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
        self.entries.insert(Arc::clone(key), Entry::new(spec));
        Ok(self.begin(key).map_or_else(|| unreachable!("the entry has just been inserted"), Reservation::Started))
    }

    fn begin(&mut self, key: &Arc<str>) -> Option<Ticket> {
        let (gate, opened) = watch::channel(());
        let revision = self.revise(key, Phase::Starting(opened))?;
        self.starting += 1;
        Some(Ticket { key: Arc::clone(key), revision, epoch: self.epoch, _gate: gate })
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
        if entry.revision != due.revision || !self.open {
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

    fn finish(&mut self, ticket: &Ticket) -> bool {
        if ticket.epoch == self.epoch {
            self.starting = self.starting.saturating_sub(1);
        }
        self.open && self.entries.get(&ticket.key).is_some_and(|entry| entry.revision == ticket.revision)
    }

    /// Enters a child that has started. `None` means that nobody wants it any
    /// more: the caller kills it.
    pub(super) fn started(&mut self, ticket: &Ticket, cell: &ActorCell) -> Option<Aftermath> {
        let wanted = self.finish(ticket);
        let early = self.early.remove(&cell.get_id());
        if self.starting == 0 {
            self.early = HashMap::new();
        }
        if !wanted {
            return None;
        }
        if let Some(entry) = self.entries.get_mut(&ticket.key) {
            entry.restarts += u32::from(entry.started_ms != 0);
            entry.started_ms = clock::unix_ms();
            entry.phase = Phase::Running(cell.clone());
        }
        self.by_actor.insert(cell.get_id(), Arc::clone(&ticket.key));
        Some(match early {
            Some(exit) => self.exited(cell.get_id(), exit, clock::now()),
            None => Aftermath::Nothing,
        })
    }

    /// A start failed: the key's first, which is forgotten but for its crash
    /// history, or a restart, which is tried again.
    pub(super) fn failed(&mut self, ticket: &Ticket, error: &StartError, now: Instant) -> Aftermath {
        if !self.finish(ticket) {
            return Aftermath::Nothing;
        }
        if self.starting == 0 {
            self.early = HashMap::new();
        }
        let first =
            self.entries.get(&ticket.key).is_some_and(|entry| entry.started_ms == 0 && entry.last_error.is_none());
        self.crashed(&ticket.key, &error.to_string(), !first, now)
    }

    /// A child's actor has ended.
    pub(super) fn exited(&mut self, actor: ActorId, exit: Exit, now: Instant) -> Aftermath {
        let Some(key) = self.by_actor.remove(&actor) else {
            if self.starting > 0 {
                self.early.insert(actor, exit);
            }
            return Aftermath::Nothing;
        };
        let Some(entry) = self.entries.get(&key) else {
            return Aftermath::Nothing;
        };
        let again = restarts(entry.restart, &exit) && !matches!(entry.phase, Phase::Stopping(..));
        let ended_well = !exit.is_abnormal() || matches!(entry.phase, Phase::Stopping(..));
        if ended_well && !again {
            self.entries.remove(&key);
            return Aftermath::Nothing;
        }
        self.crashed(&key, exit.error().unwrap_or("ended without an error"), again, now)
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
                attempt = entry.restarts;
            }
        } else {
            self.entries.remove(key);
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
                self.entries.remove(key);
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
            self.entries.remove(&key);
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

    pub(super) fn len(&self) -> usize {
        self.entries.len()
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
        let known = self.entries.iter().map(|(key, entry)| {
            let mut node = TreeNode::new(key, entry.kind, entry.status());
            node.restarts = u64::from(entry.restarts);
            node.started_ms = entry.started_ms;
            if let Some(probe) = &entry.probe {
                probe.describe(&mut node, depth, children_max);
            }
            if let Some(error) = &entry.last_error {
                node.last_error = Some(error.to_string());
            }
            node
        });
        held.chain(known).take(children_max).collect()
    }
}
