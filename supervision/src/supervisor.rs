//! The static supervisor: a handle, and the specification it starts from.

mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorRef, ActorStatus};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::{ChildError, StartError};
use crate::exit::SHUTDOWN;
use crate::intensity::Intensity;
use crate::probe::Probe;
use crate::spec::{ChildKind, ChildSpec, Restart, Shutdown};
use crate::stop::{ended, is_ending};
use crate::strategy::{AutoShutdown, Presence, Slot, Strategy};
use crate::tree::{Observe, Status, TreeNode};

use process::{Msg, Process};

/// What a static supervisor is started from: OTP's `sup_flags()` and its
/// ordered list of children.
#[derive(Clone)]
pub struct SupervisorSpec {
    pub id: Arc<str>,
    pub strategy: Strategy,
    pub intensity: Intensity,
    /// Between an exit and the restart; `None` restarts at once, as OTP does.
    pub backoff: Option<Backoff>,
    pub auto_shutdown: AutoShutdown,
    /// In start order.
    pub children: Vec<ChildSpec>,
}

impl SupervisorSpec {
    /// No children, OTP's default intensity, no back-off.
    pub fn new(id: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        Self {
            id: id.into(),
            strategy,
            intensity: Intensity::default(),
            backoff: None,
            auto_shutdown: AutoShutdown::Never,
            children: Vec::new(),
        }
    }

    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.auto_shutdown = auto_shutdown;
        self
    }

    /// Adds the next child in start order.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// `check_startspec/2` in `supervisor.erl`.
    fn check(&self) -> Result<(), StartError> {
        for (index, child) in self.children.iter().enumerate() {
            let earlier = self.children.iter().take(index);
            if earlier.into_iter().any(|other| other.id == child.id) {
                return Err(invalid(child, "its id is taken by a sibling"));
            }
            self.check_child(child)?;
        }
        Ok(())
    }

    fn check_child(&self, child: &ChildSpec) -> Result<(), StartError> {
        if child.significant && child.restart == Restart::Permanent {
            return Err(invalid(child, "a permanent child cannot be significant"));
        }
        if child.significant && self.auto_shutdown == AutoShutdown::Never {
            return Err(invalid(child, "significant needs a supervisor with auto_shutdown"));
        }
        Ok(())
    }
}

fn invalid(child: &ChildSpec, reason: &'static str) -> StartError {
    StartError::InvalidSpec { child: Arc::clone(&child.id), reason }
}

/// A handle to a static supervisor.
///
/// It stays valid when the supervisor's own supervisor restarts it, and it can
/// be observed before the start and after the end.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

/// What the supervisor's actor writes and observers read. Only the actor
/// changes it, and no lock is held over an `await`.
struct Shared {
    spec: SupervisorSpec,
    actor: Mutex<Option<ActorRef<Msg>>>,
    children: Mutex<Vec<Child>>,
    started_ms: AtomicU64,
}

struct Child {
    /// Names the child where its place in the list may change.
    token: u64,
    /// Grows with every change, so that a timer can tell that it is late.
    revision: u64,
    spec: ChildSpec,
    cell: Option<ActorCell>,
    status: Status,
    started_at: Option<Instant>,
    started_ms: u64,
    restarts: u64,
    /// Restarts in a row without a quiet period; the exponent of the back-off.
    attempt: u32,
    last_error: Option<String>,
}

impl Child {
    fn new(token: u64, spec: ChildSpec) -> Self {
        Self {
            token,
            revision: 0,
            spec,
            cell: None,
            status: Status::Stopped,
            started_at: None,
            started_ms: 0,
            restarts: 0,
            attempt: 0,
            last_error: None,
        }
    }

    fn slot(&self) -> Slot {
        Slot {
            restart: self.spec.restart,
            significant: self.spec.significant,
            presence: match (&self.cell, self.status) {
                (Some(_), _) => Presence::Alive,
                (None, Status::Restarting) => Presence::Due,
                (None, _) => Presence::Absent,
            },
        }
    }

    fn node(&self, depth: usize, children_max: usize) -> TreeNode {
        let mut node = TreeNode::new(&self.spec.id, self.spec.kind, self.status);
        node.restarts = self.restarts;
        node.started_ms = self.started_ms;
        if let Some(probe) = &self.spec.probe {
            probe.describe(&mut node, depth, children_max);
        }
        if self.last_error.is_some() {
            node.last_error.clone_from(&self.last_error);
        }
        node
    }
}

/// One line of [`Supervisor::which_children`].
#[derive(Debug, Clone)]
pub struct ChildInfo {
    /// Its id, or its key under a dynamic supervisor.
    pub id: Arc<str>,
    pub kind: ChildKind,
    pub status: Status,
    pub cell: Option<ActorCell>,
}

impl Supervisor {
    /// A supervisor that is not started yet.
    pub fn new(spec: SupervisorSpec) -> Self {
        Self {
            shared: Arc::new(Shared {
                spec,
                actor: Mutex::new(None),
                children: Mutex::new(Vec::new()),
                started_ms: AtomicU64::new(0),
            }),
        }
    }

    /// Starts the supervisor, linked to `parent` if there is one, and its
    /// children in order. Returns when all are started.
    ///
    /// # Errors
    /// [`StartError::InvalidSpec`], or [`StartError::Child`] for the first
    /// child that does not start; those before it have then been stopped in
    /// reverse order.
    pub async fn start(&self, parent: Option<ActorCell>) -> Result<ActorCell, StartError> {
        self.shared.spec.check()?;
        // A supervisor hears of a failed one just before ractor calls it stopped.
        if let Some(cell) = self.cell().filter(is_ending) {
            ended(&cell).await;
        }
        let process = Process::new(Arc::clone(&self.shared));
        let (actor, _task) = match parent {
            Some(parent) => Actor::spawn_linked(None, process, (), parent).await?,
            None => Actor::spawn(None, process, ()).await?,
        };
        Ok(actor.get_cell())
    }

    /// This supervisor as a child of another: permanent, with
    /// `Shutdown::Infinity` as OTP demands of supervisors, and visible to the
    /// parent's `observe`.
    pub fn child_spec(&self) -> ChildSpec {
        let supervisor = self.clone();
        let mut spec = ChildSpec::worker(Arc::clone(&self.shared.spec.id), move |parent| {
            let supervisor = supervisor.clone();
            async move { supervisor.start(Some(parent)).await }
        });
        spec.kind = ChildKind::Supervisor;
        spec.shutdown = Shutdown::Infinity;
        spec.probe = Some(Probe::of_subtree(Arc::new(self.clone())));
        spec
    }

    /// The running supervisor's cell.
    pub fn cell(&self) -> Option<ActorCell> {
        let actor = self.shared.actor.lock();
        actor.as_ref().filter(|actor| actor.get_status() != ActorStatus::Stopped).map(|actor| actor.get_cell())
    }

    /// Stops the children in reverse order, then the supervisor; returns when
    /// all have ended.
    pub async fn stop(&self) {
        if let Some(cell) = self.cell() {
            cell.stop(Some(SHUTDOWN.to_owned()));
            ended(&cell).await;
        }
    }

    /// Returns when the supervisor has ended, for whatever reason.
    pub async fn ended(&self) {
        if let Some(cell) = self.cell() {
            ended(&cell).await;
        }
    }

    /// The live actor of a child.
    pub fn child(&self, id: &str) -> Option<ActorCell> {
        let children = self.shared.children.lock();
        let child = children.iter().find(|child| &*child.spec.id == id)?;
        child.cell.clone()
    }

    /// In start order.
    pub fn which_children(&self) -> Vec<ChildInfo> {
        let children = self.shared.children.lock();
        children
            .iter()
            .map(|child| ChildInfo {
                id: Arc::clone(&child.spec.id),
                kind: child.spec.kind,
                status: child.status,
                cell: child.cell.clone(),
            })
            .collect()
    }

    /// `supervisor:start_child/2`: adds a child after the others. It does not
    /// survive a restart of this supervisor.
    pub async fn start_child(&self, child: ChildSpec) -> Result<ActorCell, ChildError> {
        self.shared.spec.check_child(&child)?;
        self.request(|reply| Msg::StartChild(Box::new(child), reply)).await?
    }

    /// `supervisor:terminate_child/2`: stops a child, which then stays away
    /// until it, or its group, is restarted. A temporary one is forgotten.
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        self.request(|reply| Msg::TerminateChild(id.into(), reply)).await?
    }

    /// `supervisor:restart_child/2`: starts a child that has no actor.
    pub async fn restart_child(&self, id: &str) -> Result<ActorCell, ChildError> {
        self.request(|reply| Msg::RestartChild(id.into(), reply)).await?
    }

    /// `supervisor:delete_child/2`: forgets a child that has no actor.
    pub async fn delete_child(&self, id: &str) -> Result<(), ChildError> {
        self.request(|reply| Msg::DeleteChild(id.into(), reply)).await?
    }

    async fn request<R>(&self, message: impl FnOnce(oneshot::Sender<R>) -> Msg) -> Result<R, ChildError> {
        let not_running = || ChildError::NotRunning { supervisor: Arc::clone(&self.shared.spec.id) };
        let actor = self.shared.actor.lock().clone().ok_or_else(not_running)?;
        let (reply, replied) = oneshot::channel();
        actor.send_message(message(reply)).map_err(|_| not_running())?;
        replied.await.map_err(|_| not_running())
    }
}

impl Observe for Supervisor {
    fn observe(&self, depth: usize, children_max: usize) -> TreeNode {
        let status = match self.cell().map(|cell| cell.get_status()) {
            None => Status::Stopped,
            Some(ActorStatus::Unstarted | ActorStatus::Starting) => Status::Starting,
            Some(ActorStatus::Running | ActorStatus::Upgrading) => Status::Running,
            Some(_) => Status::Stopping,
        };
        let mut node = TreeNode::new(&self.shared.spec.id, ChildKind::Supervisor, status);
        node.started_ms = self.shared.started_ms.load(Ordering::Relaxed);
        let children = self.shared.children.lock();
        node.children_total = children.len() as u64;
        if let Some(depth) = depth.checked_sub(1) {
            let shown = children.iter().take(children_max);
            node.children = shown.map(|child| child.node(depth, children_max)).collect();
        }
        node
    }
}
