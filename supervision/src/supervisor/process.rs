//! The static supervisor's actor.
//!
//! Owns the list of children. Hears of exits through ractor's supervision
//! events, and requests through its mailbox. Exits after a meltdown (failed),
//! on automatic shutdown or when stopped (`shutdown`). Its requesters see a
//! closed reply channel then. Like OTP's, it is deaf while it stops or starts
//! children; observers read [`Shared`] and do not notice.

use std::sync::Arc;

use metrics::Counter;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::{Child, Shared};
use crate::clock;
use crate::error::{ChildError, Meltdown, StartError};
use crate::exit::{Exit, SHUTDOWN};
use crate::intensity::RestartWindow;
use crate::probe::cut;
use crate::spec::{ChildSpec, Restart};
use crate::stop::{ended, stop_child};
use crate::strategy::{Slot, Verdict, group, verdict};
use crate::tree::Status;

type Reply<R> = oneshot::Sender<Result<R, ChildError>>;

pub(super) enum Msg {
    /// A start failed; try again and count it. OTP's `try_again_restart`, which
    /// also goes through the mailbox so that other requests get their turn.
    Retry(Due),
    /// The back-off of a restart that has been counted is over.
    Start(Due),
    StartChild(Box<ChildSpec>, Reply<ActorCell>),
    TerminateChild(Arc<str>, Reply<()>),
    RestartChild(Arc<str>, Reply<ActorCell>),
    DeleteChild(Arc<str>, Reply<()>),
}

/// A restart that is due, unless the child has changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    token: u64,
    revision: u64,
}

pub(super) struct Process {
    pub(super) shared: Arc<Shared>,
    restarts_total: Counter,
}

pub(super) struct State {
    window: RestartWindow,
    pub(super) next_token: u64,
    /// Lets go of the children however the actor ends, a kill included.
    _clear: Clear,
}

struct Clear {
    shared: Arc<Shared>,
    actor: ActorId,
}

impl Drop for Clear {
    fn drop(&mut self) {
        // ractor hands the state of an ended actor to its supervisor, which may
        // drop it after it has started the next incarnation.
        if !self.shared.seat.is_taken_by(self.actor) {
            return;
        }
        let mut children = self.shared.children.lock();
        self.shared.adopt(&mut children);
    }
}

type Outcome = Result<(), ActorProcessingErr>;

impl Process {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let id = shared.spec.id.to_string();
        Self { restarts_total: metrics::counter!(crate::RESTARTS_TOTAL, "supervisor" => id), shared }
    }

    /// Looks at or changes one child, which may be gone.
    pub(super) fn with<R>(&self, token: u64, f: impl FnOnce(&mut Child) -> R) -> Option<R> {
        let mut children = self.shared.children.lock();
        children.iter_mut().find(|child| child.token == token).map(f)
    }

    /// The tokens and slots of all children, in start order.
    fn slots(&self) -> (Vec<u64>, Vec<Slot>) {
        let children = self.shared.children.lock();
        children.iter().map(|child| (child.token, child.slot())).unzip()
    }

    pub(super) fn forget(&self, tokens: &[u64]) {
        self.shared.children.lock().retain(|child| !tokens.contains(&child.token));
    }

    /// Starts a child; `None` when it chose not to run.
    pub(super) async fn start_one(&self, myself: &ActorCell, token: u64) -> Result<Option<ActorCell>, StartError> {
        let supervisor = &*self.shared.spec.id;
        let spec = self.with(token, |child| {
            child.status = Status::Starting;
            child.revision += 1;
            child.spec.clone()
        });
        let Some(spec) = spec else {
            return Err(self.shared.seat.not_running());
        };
        let started = match spec.start_under(myself).await {
            Ok(cell) => Ok(Some(cell)),
            Err(StartError::Ignored) => Ok(None),
            Err(error) => Err(error),
        };
        self.with(token, |child| match &started {
            Ok(Some(cell)) => {
                child.cell = Some(cell.clone());
                child.status = Status::Running;
                child.restarts += u64::from(child.started_ms != 0);
                child.started_at = Some(clock::now());
                child.started_ms = clock::unix_ms();
                tracing::info!(supervisor, child = &*spec.id, restarts = child.restarts, "child started");
            }
            Ok(None) => {
                child.status = Status::Stopped;
                tracing::info!(supervisor, child = &*spec.id, "child chose not to run");
            }
            Err(error) => {
                child.status = Status::Stopped;
                child.last_error = Some(cut(error.to_string()));
                tracing::warn!(supervisor, child = &*spec.id, %error, "child did not start");
            }
        });
        if spec.restart == Restart::Temporary && matches!(started, Ok(None)) {
            self.forget(&[token]);
        }
        started
    }

    pub(super) async fn stop_one(&self, token: u64) {
        let found = self.with(token, |child| {
            child.revision += 1;
            child.cell.clone().map(|cell| {
                child.status = Status::Stopping;
                (cell, Arc::clone(&child.spec.id), child.spec.shutdown)
            })
        });
        if let Some((cell, id, shutdown)) = found.flatten() {
            stop_child(&id, &cell, shutdown).await;
            tracing::info!(supervisor = &*self.shared.spec.id, child = &*id, "child stopped");
        }
        self.with(token, |child| {
            child.cell = None;
            child.status = Status::Stopped;
            child.started_at = None;
        });
    }

    /// In reverse start order.
    async fn stop_children(&self) {
        let (tokens, _) = self.slots();
        for token in tokens.into_iter().rev() {
            self.stop_one(token).await;
        }
    }

    async fn exited(&self, myself: &ActorRef<Msg>, state: &mut State, cell: &ActorCell, exit: Exit) -> Outcome {
        let spec = &self.shared.spec;
        // ractor notifies just before it calls the actor stopped: two
        // incarnations of a child shall not overlap.
        ended(cell).await;
        // Unknown are the exits of children that this supervisor has stopped.
        let token = {
            let mut children = self.shared.children.lock();
            let Some(child) = children.iter_mut().find(|child| child.cell.as_ref() == Some(cell)) else {
                return Ok(());
            };
            child.cell = None;
            child.status = Status::Stopped;
            child.revision += 1;
            // Taken, so that starts that fail from now on do not pass for a
            // quiet period.
            let ran = child.started_at.take().map(|at| clock::now().saturating_duration_since(at));
            if ran.is_some_and(|ran| ran > spec.intensity.period) {
                child.attempt = 0;
            }
            if let Some(error) = exit.error() {
                child.last_error = Some(cut(error.to_owned()));
                tracing::warn!(supervisor = &*spec.id, child = &*child.spec.id, error, "child failed");
            } else {
                tracing::info!(supervisor = &*spec.id, child = &*child.spec.id, ?exit, "child ended");
            }
            child.token
        };
        let (tokens, slots) = self.slots();
        let index = tokens.iter().position(|&other| other == token).unwrap_or(usize::MAX);
        let verdict = verdict(spec.auto_shutdown, &slots, index, &exit);
        if verdict == Verdict::Restart {
            return self.restart(myself, state, token).await;
        }
        if self.with(token, |child| child.spec.restart) == Some(Restart::Temporary) {
            self.forget(&[token]);
        }
        if verdict == Verdict::Shutdown {
            tracing::info!(supervisor = &*spec.id, "significant children ended: shutting down");
            myself.stop(Some(SHUTDOWN.to_owned()));
        }
        Ok(())
    }

    /// Counts a restart, stops the child's group, and starts it now or after
    /// the back-off.
    async fn restart(&self, myself: &ActorRef<Msg>, state: &mut State, token: u64) -> Outcome {
        let spec = &self.shared.spec;
        if !state.window.admit(spec.intensity, clock::now()) {
            return self.melt_down(token).await;
        }
        self.restarts_total.increment(1);
        self.stop_group(token).await;
        let Some(backoff) = spec.backoff else {
            self.start_group(myself, token).await;
            return Ok(());
        };
        let due = self.with(token, |child| {
            let attempt = child.attempt;
            child.attempt = attempt.saturating_add(1);
            (attempt, Self::mark_due(child))
        });
        if let Some((attempt, due)) = due {
            let delay = backoff.draw(attempt);
            tracing::info!(supervisor = &*spec.id, ?delay, attempt, "restart backs off");
            myself.send_after(delay, move || Msg::Start(due));
        }
        Ok(())
    }

    fn mark_due(child: &mut Child) -> Due {
        child.status = Status::Restarting;
        child.revision += 1;
        Due { token: child.token, revision: child.revision }
    }

    fn is_due(&self, due: Due) -> bool {
        self.with(due.token, |child| child.status == Status::Restarting && child.revision == due.revision) == Some(true)
    }

    /// Stops the live siblings in the child's group and returns the group's
    /// tokens in start order.
    async fn stop_group(&self, token: u64) -> Vec<u64> {
        let (tokens, slots) = self.slots();
        let Some(index) = tokens.iter().position(|&other| other == token) else {
            return Vec::new();
        };
        let group = group(self.shared.spec.strategy, &slots, index);
        let named = |indices: &[usize]| -> Vec<u64> {
            indices.iter().filter_map(|&index| tokens.get(index).copied()).collect()
        };
        for sibling in named(&group.stop) {
            self.stop_one(sibling).await;
        }
        self.forget(&named(&group.forget));
        let start = named(&group.start);
        // Restarts that were due for members are now part of this one.
        for &member in &start {
            self.with(member, |child| {
                child.status = Status::Stopped;
                child.revision += 1;
            });
        }
        start
    }

    async fn start_group(&self, myself: &ActorRef<Msg>, token: u64) {
        for member in self.stop_group(token).await {
            if self.start_one(&myself.get_cell(), member).await.is_err() {
                if let Some(due) = self.with(member, Self::mark_due) {
                    // Fails only when this actor has ended.
                    let _ = myself.send_message(Msg::Retry(due));
                }
                return;
            }
        }
    }

    /// OTP's supervisor exits with `shutdown` here, which a transient parent
    /// entry would take for a normal end; this one fails, so that a meltdown
    /// always reaches the parent.
    async fn melt_down(&self, token: u64) -> Outcome {
        let spec = &self.shared.spec;
        let (child, last_error) = self
            .with(token, |child| (Arc::clone(&child.spec.id), child.last_error.clone()))
            .unwrap_or_else(|| (Arc::clone(&spec.id), None));
        let last_error = last_error.unwrap_or_else(|| "it ended without an error".to_owned());
        let meltdown = Meltdown::new(&spec.id, spec.intensity, child, last_error);
        tracing::error!(supervisor = &*spec.id, %meltdown, "meltdown: stopping all children");
        self.stop_children().await;
        Err(meltdown.into())
    }
}

impl Actor for Process {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let spec = &self.shared.spec;
        self.shared.seat.take(&myself)?;
        let numbered = (0_u64..).zip(&spec.children);
        let children = numbered.map(|(token, child)| Child::new(token, child.clone())).collect();
        let mut earlier = std::mem::replace(&mut *self.shared.children.lock(), children);
        self.shared.adopt(&mut earlier);
        let state = State {
            window: RestartWindow::default(),
            next_token: spec.children.len() as u64,
            _clear: Clear { shared: Arc::clone(&self.shared), actor: myself.get_id() },
        };
        self.shared.bury().await;
        for (token, child) in (0_u64..).zip(&spec.children) {
            if let Err(source) = self.start_one(&myself.get_cell(), token).await {
                self.stop_children().await;
                return Err(Box::new(StartError::Child { child: Arc::clone(&child.id), source: Box::new(source) }));
            }
        }
        tracing::info!(supervisor = &*spec.id, children = spec.children.len(), "supervisor started");
        Ok(state)
    }

    async fn post_stop(&self, _: ActorRef<Msg>, _: &mut State) -> Outcome {
        self.stop_children().await;
        tracing::info!(supervisor = &*self.shared.spec.id, "supervisor stopped");
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Outcome {
        self.shared.seat.beat();
        // A requester that has gone away does not hear its answer.
        match message {
            Msg::Retry(due) if self.is_due(due) => {
                return self.restart(&myself, state, due.token).await;
            }
            Msg::Start(due) if self.is_due(due) => self.start_group(&myself, due.token).await,
            Msg::Retry(_) | Msg::Start(_) => {}
            Msg::StartChild(spec, reply) => {
                let _ = reply.send(self.add(&myself.get_cell(), state, *spec).await);
            }
            Msg::TerminateChild(id, reply) => {
                let _ = reply.send(self.terminate(&id).await);
            }
            Msg::RestartChild(id, reply) => {
                let _ = reply.send(self.start_again(&myself.get_cell(), &id).await);
            }
            Msg::DeleteChild(id, reply) => {
                let _ = reply.send(self.delete(&id));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Outcome {
        match Exit::of_event(event) {
            Some((cell, exit)) => {
                self.shared.seat.beat();
                self.exited(&myself, state, &cell, exit).await
            }
            None => Ok(()),
        }
    }
}
