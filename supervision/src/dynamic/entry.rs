//! What a dynamic supervisor keeps of one child, and what its table answers to
//! those who change it.

use std::sync::Arc;

use ractor::ActorCell;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::probe::Probe;
use crate::spec::{ChildKind, ChildSpec, Restart, Shutdown};
use crate::tree::{Status, TreeNode};

pub(super) struct Entry {
    pub(super) phase: Phase,
    /// New with every phase that something waits for; tells a late timer or
    /// start from the one that is expected.
    pub(super) revision: u64,
    pub(super) shutdown: Shutdown,
    pub(super) restart: Restart,
    pub(super) kind: ChildKind,
    pub(super) significant: bool,
    pub(super) restarts: u32,
    /// Restarts in a row without a quiet period; the exponent of the back-off.
    pub(super) attempt: u32,
    /// When it was last started.
    pub(super) started_at: Option<Instant>,
    pub(super) probe: Option<Arc<Probe>>,
    /// For children that may be started again. As in OTP, a temporary child's
    /// start is not kept.
    pub(super) spec: Option<Box<ChildSpec>>,
    pub(super) last_error: Option<Box<str>>,
}

pub(super) enum Phase {
    Starting(watch::Receiver<()>),
    Running(ActorCell),
    Stopping(ActorCell, watch::Receiver<()>),
    Restarting,
    Quarantined,
}

impl Entry {
    pub(super) fn new(spec: &ChildSpec) -> Self {
        Self {
            phase: Phase::Restarting,
            revision: 0,
            shutdown: spec.shutdown,
            restart: spec.restart,
            kind: spec.kind,
            significant: spec.significant,
            restarts: 0,
            attempt: 0,
            started_at: None,
            probe: spec.probe.clone(),
            spec: (spec.restart != Restart::Temporary).then(|| Box::new(spec.clone())),
            last_error: None,
        }
    }

    pub(super) fn cell(&self) -> Option<&ActorCell> {
        match &self.phase {
            Phase::Running(cell) | Phase::Stopping(cell, _) => Some(cell),
            Phase::Starting(_) | Phase::Restarting | Phase::Quarantined => None,
        }
    }

    pub(super) fn node(&self, key: &str, depth: usize, children_max: usize) -> TreeNode {
        let mut node = TreeNode::new(key, self.kind, self.status());
        node.restarts = u64::from(self.restarts);
        node.started_ms = self.started_at.map_or(0, clock::unix_ms_of);
        if let Some(probe) = &self.probe {
            probe.describe(&mut node, depth, children_max);
        }
        if let Some(error) = &self.last_error {
            node.last_error = Some(error.to_string());
        }
        node
    }

    pub(super) fn status(&self) -> Status {
        match self.phase {
            Phase::Starting(_) => Status::Starting,
            Phase::Running(_) => Status::Running,
            Phase::Stopping(..) => Status::Stopping,
            Phase::Restarting => Status::Restarting,
            Phase::Quarantined => Status::Quarantined,
        }
    }
}

/// A start that has its place in the table.
pub(super) struct Ticket {
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
    pub(super) epoch: u64,
    pub(super) given_up: watch::Receiver<()>,
    /// Dropping it wakes those who wait for the start.
    pub(super) _gate: watch::Sender<()>,
}

impl Ticket {
    /// A gate that opens when the supervisor ends.
    pub(super) fn given_up(&self) -> watch::Receiver<()> {
        self.given_up.clone()
    }
}

/// What a supervisor that ends leaves behind.
pub(super) struct Closed {
    /// The last started first: ractor numbers actors in the order of their
    /// making.
    pub(super) live: Vec<(ActorCell, Shutdown)>,
    /// Starts under way.
    pub(super) starts: Vec<watch::Receiver<()>>,
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
    pub(super) revision: u64,
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
    /// The supervisor shuts down, with reason `shutdown`.
    Shutdown,
}
