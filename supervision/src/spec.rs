//! Child specifications.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorCell, ActorStatus};
use serde::Serialize;

use crate::error::StartError;
use crate::probe::Probe;
use crate::strategy::AutoShutdown;

/// OTP's default for workers.
pub const WORKER_SHUTDOWN: Shutdown = Shutdown::Timeout(Duration::from_secs(5));

/// When a child that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Always.
    Permanent,
    /// After an abnormal exit.
    Transient,
    /// Never, not even when a sibling's restart has stopped it.
    Temporary,
}

/// How a child is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once; its `post_stop` does not run.
    BrutalKill,
    /// Asked to stop, and killed if it has not after this long.
    Timeout(Duration),
    /// Asked to stop, and waited for. For supervisors, whose subtree has
    /// time-outs of its own.
    Infinity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildKind {
    Worker,
    Supervisor,
}

pub type StartFuture = Pin<Box<dyn Future<Output = Result<ActorCell, StartError>> + Send>>;

/// Makes a new actor at each call, linked to the supervisor that it is given.
pub type StartFn = Arc<dyn Fn(ActorCell) -> StartFuture + Send + Sync>;

/// What a supervisor needs to know of a child: OTP's `child_spec()`.
#[derive(Clone)]
pub struct ChildSpec {
    /// Unique among its siblings. A dynamic supervisor goes by its keys
    /// instead.
    pub id: Arc<str>,
    pub start: StartFn,
    pub restart: Restart,
    pub shutdown: Shutdown,
    /// Takes part in [`AutoShutdown`](crate::AutoShutdown). Not for permanent
    /// children.
    pub significant: bool,
    pub kind: ChildKind,
    /// What `observe` reads of the child.
    pub probe: Option<Arc<Probe>>,
}

impl ChildSpec {
    /// A [`worker`](Self::worker) that is the actor which `make` gives, with its
    /// arguments, at each start. `observe` reads `probe`.
    pub fn actor<A, F>(id: impl Into<Arc<str>>, probe: Arc<Probe>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let start = move |supervisor| {
            let (actor, arguments) = make();
            async move {
                let spawned = Actor::spawn_linked(None, actor, arguments, supervisor).await;
                let (actor, _) = spawned.map_err(|e| StartError::Failed { error: e.to_string() })?;
                Ok(actor.get_cell())
            }
        };
        Self::worker(id, start).probe(probe)
    }

    /// A permanent worker with five seconds to stop, OTP's defaults.
    ///
    /// `start` must spawn the actor with `spawn_linked` under the cell that it
    /// is given and return the actor's cell.
    pub fn worker<F, Fut>(id: impl Into<Arc<str>>, start: F) -> Self
    where
        F: Fn(ActorCell) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ActorCell, StartError>> + Send + 'static,
    {
        Self {
            id: id.into(),
            start: Arc::new(move |supervisor| Box::pin(start(supervisor))),
            restart: Restart::Permanent,
            shutdown: WORKER_SHUTDOWN,
            significant: false,
            kind: ChildKind::Worker,
            probe: None,
        }
    }

    /// A permanent supervisor with `Shutdown::Infinity`, as OTP demands of
    /// supervisors. [`Supervisor::child_spec`](crate::Supervisor::child_spec)
    /// makes one of a handle.
    pub fn supervisor<F, Fut>(id: impl Into<Arc<str>>, start: F) -> Self
    where
        F: Fn(ActorCell) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ActorCell, StartError>> + Send + 'static,
    {
        Self { shutdown: Shutdown::Infinity, kind: ChildKind::Supervisor, ..Self::worker(id, start) }
    }

    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    #[must_use]
    pub fn significant(mut self) -> Self {
        self.significant = true;
        self
    }

    #[must_use]
    pub fn probe(mut self, probe: Arc<Probe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// `do_check_childspec/2` in `supervisor.erl`, as far as Rust's types leave
    /// something to check. `id` is what the child goes by.
    pub(crate) fn check(&self, id: &Arc<str>, auto_shutdown: AutoShutdown) -> Result<(), StartError> {
        let reason = if self.significant && self.restart == Restart::Permanent {
            "a permanent child cannot be significant"
        } else if self.significant && auto_shutdown == AutoShutdown::Never {
            "significant needs a supervisor with auto_shutdown"
        } else if self.shutdown == Shutdown::Timeout(Duration::ZERO) {
            "a shutdown time-out of nothing: use BrutalKill"
        } else {
            return Ok(());
        };
        Err(StartError::InvalidSpec { child: Arc::clone(id), reason })
    }

    /// Runs the factory. A panic in it is a failed start, as `do_start_child_i`
    /// in `supervisor.erl` catches one.
    pub(crate) async fn start_under(&self, supervisor: &ActorCell) -> Result<ActorCell, StartError> {
        let start = Arc::clone(&self.start);
        let linked_to = supervisor.clone();
        let cell = AssertUnwindSafe(async move { start(linked_to).await })
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(StartError::Failed { error: panic_text(panic.as_ref()) }))?;
        // One that is ending already has been unlinked by ractor, and its exit
        // waits in the supervisor's queue.
        let linked = cell.try_get_supervisor().as_ref() == Some(supervisor);
        if !linked && cell.get_status() < ActorStatus::Stopping {
            cell.kill();
            return Err(StartError::NotLinked);
        }
        Ok(cell)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "panicked with a value that is not text".to_owned())
}
