//! What both kinds of supervisor share: a handle that outlives its actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorId, ActorRef, ActorStatus};
use tokio::sync::oneshot;

use crate::clock;
use crate::error::StartError;
use crate::exit::SHUTDOWN;
use crate::spec::ChildKind;
use crate::stop::{ended, is_ending};
use crate::tree::{Status, TreeNode};

/// The place of a supervisor's actor, taken by one incarnation after another.
pub(crate) struct Seat<M> {
    id: Arc<str>,
    actor: Mutex<Option<ActorRef<M>>>,
    started_ms: AtomicU64,
    handled: AtomicU64,
    heartbeat_ms: AtomicU64,
}

impl<M: ractor::Message> Seat<M> {
    pub(crate) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            actor: Mutex::new(None),
            started_ms: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            heartbeat_ms: AtomicU64::new(0),
        }
    }

    /// Starts the next incarnation, linked to `parent` if there is one.
    pub(crate) async fn start<P>(&self, process: P, parent: Option<ActorCell>) -> Result<ActorCell, StartError>
    where
        P: Actor<Msg = M, Arguments = ()>,
    {
        // A supervisor hears of a failed one just before ractor calls it stopped.
        if let Some(cell) = self.cell().filter(is_ending) {
            ended(&cell).await;
        }
        let (actor, _task) = match parent {
            Some(parent) => Actor::spawn_linked(None, process, (), parent).await?,
            None => Actor::spawn(None, process, ()).await?,
        };
        Ok(actor.get_cell())
    }

    /// The first thing that an incarnation does.
    ///
    /// # Errors
    /// [`StartError::AlreadyStarted`]: another one is there.
    pub(crate) fn take(&self, actor: &ActorRef<M>) -> Result<(), StartError> {
        let mut taken_by = self.actor.lock();
        if let Some(other) = taken_by.as_ref().filter(|other| other.get_status() != ActorStatus::Stopped) {
            return Err(StartError::AlreadyStarted { key: Arc::clone(&self.id), cell: other.get_cell() });
        }
        *taken_by = Some(actor.clone());
        self.started_ms.store(clock::unix_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether this is the incarnation that came last, alive or not.
    pub(crate) fn is_taken_by(&self, actor: ActorId) -> bool {
        self.actor.lock().as_ref().is_some_and(|last| last.get_id() == actor)
    }

    pub(crate) fn actor(&self) -> Option<ActorRef<M>> {
        self.actor.lock().as_ref().filter(|actor| actor.get_status() != ActorStatus::Stopped).cloned()
    }

    pub(crate) fn cell(&self) -> Option<ActorCell> {
        self.actor().map(|actor| actor.get_cell())
    }

    /// Asks for an orderly stop, and returns when it is done.
    pub(crate) async fn stop(&self) {
        if let Some(cell) = self.cell() {
            cell.stop(Some(SHUTDOWN.to_owned()));
            ended(&cell).await;
        }
    }

    /// Returns when the actor has ended, for whatever reason.
    pub(crate) async fn ended(&self) {
        if let Some(cell) = self.cell() {
            ended(&cell).await;
        }
    }

    /// Sends a request and waits for the answer; `None` when nobody is there
    /// to give it.
    pub(crate) async fn request<R>(&self, message: impl FnOnce(oneshot::Sender<R>) -> M) -> Option<R> {
        let (reply, replied) = oneshot::channel();
        self.actor()?.send_message(message(reply)).ok()?;
        replied.await.ok()
    }

    pub(crate) fn not_running(&self) -> StartError {
        StartError::NotRunning { supervisor: Arc::clone(&self.id) }
    }

    /// An event or a request was taken up: the supervisor's heartbeat.
    pub(crate) fn beat(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.heartbeat_ms.store(clock::unix_ms(), Ordering::Relaxed);
    }

    /// The supervisor as it is seen from outside, without its children.
    pub(crate) fn node(&self) -> TreeNode {
        let status = match self.cell().map(|cell| cell.get_status()) {
            None => Status::Stopped,
            Some(ActorStatus::Unstarted | ActorStatus::Starting) => Status::Starting,
            Some(ActorStatus::Running | ActorStatus::Upgrading) => Status::Running,
            Some(_) => Status::Stopping,
        };
        let mut node = TreeNode::new(&self.id, ChildKind::Supervisor, status);
        node.started_ms = self.started_ms.load(Ordering::Relaxed);
        node.handled = self.handled.load(Ordering::Relaxed);
        node.heartbeat_ms = self.heartbeat_ms.load(Ordering::Relaxed);
        node
    }
}
