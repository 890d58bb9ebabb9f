//! The static supervisor: a handle, and the specification it starts from.

mod process;
mod requests;

use std::sync::Arc;

use parking_lot::Mutex;
use ractor::ActorCell;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::{ChildError, StartError};
use crate::intensity::Intensity;
use crate::probe::Probe;
use crate::roster::{ChildCounts, ChildInfo};
use crate::seat::Seat;
use crate::spec::{ChildKind, ChildSpec};
use crate::stop::killed;
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

    /// Whether this can be started: OTP's `check_childspecs/2`, and the flags.
    ///
    /// # Errors
    /// [`StartError::InvalidSpec`] for the first contradiction.
    pub fn check(&self) -> Result<(), StartError> {
        self.intensity.check(&self.id)?;
        for (index, child) in self.children.iter().enumerate() {
            if self.children.iter().take(index).any(|earlier| earlier.id == child.id) {
                return Err(StartError::InvalidSpec {
                    child: Arc::clone(&child.id),
                    reason: "its id is taken by a sibling",
                });
            }
            child.check(&child.id, self.auto_shutdown)?;
        }
        Ok(())
    }
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
    seat: Seat<Msg>,
    children: Mutex<Vec<Child>>,
    /// Children of an incarnation that was killed. ractor kills them with it,
    /// and the next one waits for their ends.
    orphans: Mutex<Vec<(Arc<str>, ActorCell)>>,
}

impl Shared {
    /// Takes the actors of children whose supervisor has gone without stopping
    /// them.
    fn adopt(&self, children: &mut [Child]) {
        let mut orphans = self.orphans.lock();
        for child in children {
            if let Some(cell) = child.cell.take() {
                orphans.push((Arc::clone(&child.spec.id), cell));
            }
            child.status = Status::Stopped;
            child.started_at = None;
        }
    }

    /// Returns when all orphans have ended: two incarnations of a child never
    /// live at once. OTP leaves that to chance.
    async fn bury(&self) {
        let orphans = self.orphans.lock().clone();
        for (id, cell) in &orphans {
            cell.kill();
            killed(id, cell).await;
        }
        self.orphans.lock().clear();
    }
}

struct Child {
    /// Names the child where its place in the list may change.
    token: u64,
    /// Grows with every change, so that a timer can tell that it is late.
    revision: u64,
    spec: ChildSpec,
    cell: Option<ActorCell>,
    status: Status,
    /// Since when its actor runs.
    started_at: Option<Instant>,
    /// When it was last started; 0 for never.
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

impl Supervisor {
    /// A supervisor that is not started yet.
    pub fn new(spec: SupervisorSpec) -> Self {
        Self {
            shared: Arc::new(Shared {
                seat: Seat::new(Arc::clone(&spec.id)),
                spec,
                children: Mutex::new(Vec::new()),
                orphans: Mutex::new(Vec::new()),
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
        self.shared.seat.start(Process::new(Arc::clone(&self.shared)), parent).await
    }

    /// This supervisor as a child of another: permanent, with
    /// `Shutdown::Infinity`, and visible to the parent's `observe`.
    pub fn child_spec(&self) -> ChildSpec {
        let supervisor = self.clone();
        let start = move |parent| {
            let supervisor = supervisor.clone();
            async move { supervisor.start(Some(parent)).await }
        };
        ChildSpec::supervisor(Arc::clone(&self.shared.spec.id), start).probe(Probe::of_subtree(Arc::new(self.clone())))
    }

    /// The running supervisor's cell.
    pub fn cell(&self) -> Option<ActorCell> {
        self.shared.seat.cell()
    }

    /// Stops the children in reverse order, then the supervisor; returns when
    /// all have ended.
    pub async fn stop(&self) {
        self.shared.seat.stop().await;
    }

    /// Returns when the supervisor has ended, for whatever reason.
    pub async fn ended(&self) {
        self.shared.seat.ended().await;
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

    /// `supervisor:count_children/1`.
    pub fn count_children(&self) -> ChildCounts {
        let mut counts = ChildCounts::default();
        for child in self.shared.children.lock().iter() {
            counts.specs += 1;
            counts.active += usize::from(child.cell.is_some());
            match child.spec.kind {
                ChildKind::Worker => counts.workers += 1,
                ChildKind::Supervisor => counts.supervisors += 1,
            }
        }
        counts
    }

    /// `supervisor:get_childspec/2`: what a child was, and will be, started
    /// from.
    pub fn get_childspec(&self, id: &str) -> Option<ChildSpec> {
        let children = self.shared.children.lock();
        children.iter().find(|child| &*child.spec.id == id).map(|child| child.spec.clone())
    }

    /// `supervisor:start_child/2`: adds a child after the others. It does not
    /// survive a restart of this supervisor.
    ///
    /// # Errors
    /// [`StartError::AlreadyStarted`] or [`ChildError::AlreadyPresent`] when
    /// the id is taken; [`StartError::InvalidSpec`];
    /// [`ChildError::NotRunning`]; what the start failed with, and then the
    /// child is not kept. [`StartError::Ignored`] keeps all but a temporary
    /// one.
    pub async fn start_child(&self, child: ChildSpec) -> Result<ActorCell, ChildError> {
        child.check(&child.id, self.shared.spec.auto_shutdown)?;
        self.request(|reply| Msg::StartChild(Box::new(child), reply)).await?
    }

    /// `supervisor:terminate_child/2`: stops a child, which then stays away
    /// until it, or its group, is restarted. A temporary one is forgotten.
    /// That is no [`AutoShutdown`], even if the child is significant.
    ///
    /// # Errors
    /// [`ChildError::NotFound`], [`ChildError::NotRunning`].
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        self.request(|reply| Msg::TerminateChild(id.into(), reply)).await?
    }

    /// `supervisor:restart_child/2`: starts a child that has no actor. It does
    /// not count against the [`Intensity`].
    ///
    /// # Errors
    /// [`ChildError::NotFound`], [`ChildError::Running`],
    /// [`ChildError::Restarting`], [`ChildError::NotRunning`], or what the
    /// start failed with; the child is kept.
    pub async fn restart_child(&self, id: &str) -> Result<ActorCell, ChildError> {
        self.request(|reply| Msg::RestartChild(id.into(), reply)).await?
    }

    /// `supervisor:delete_child/2`: forgets a child that has no actor.
    ///
    /// # Errors
    /// [`ChildError::NotFound`], [`ChildError::Running`],
    /// [`ChildError::Restarting`], [`ChildError::NotRunning`].
    pub async fn delete_child(&self, id: &str) -> Result<(), ChildError> {
        self.request(|reply| Msg::DeleteChild(id.into(), reply)).await?
    }

    async fn request<R>(&self, message: impl FnOnce(oneshot::Sender<R>) -> Msg) -> Result<R, ChildError> {
        let answer = self.shared.seat.request(message).await;
        answer.ok_or_else(|| ChildError::NotRunning { supervisor: Arc::clone(&self.shared.spec.id) })
    }
}

impl Observe for Supervisor {
    fn observe(&self, depth: usize, children_max: usize) -> TreeNode {
        let mut node = self.shared.seat.node();
        let children = self.shared.children.lock();
        node.children_total = children.len() as u64;
        if let Some(depth) = depth.checked_sub(1) {
            let shown = children.iter().take(children_max);
            node.children = shown.map(|child| child.node(depth, children_max)).collect();
        }
        node
    }
}
