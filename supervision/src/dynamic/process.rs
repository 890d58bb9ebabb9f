//! The dynamic supervisor's actor.
//!
//! Owns nothing but the right to end: children are in the shared table. Hears of
//! exits through ractor's supervision events and handles each in constant time,
//! without waiting. Exits after a meltdown (failed), on automatic shutdown or
//! when stopped (`shutdown`); callers of `start_child` see `NotRunning` then.

use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::starting::{Ending, follow};
use super::{Shared, opened};
use crate::clock;
use crate::error::Meltdown;
use crate::exit::{Exit, SHUTDOWN};
use crate::spec::Shutdown;
use crate::stop::stop_all;

pub(super) enum Msg {
    /// A restart beside the actor was one too many, or the last significant
    /// child is gone.
    End(Ending),
    /// Answered when all exits before it have been handled.
    Settle(oneshot::Sender<()>),
}

pub(super) struct Process {
    shared: Arc<Shared>,
}

/// Closes the table however the actor ends, a kill included.
pub(super) struct State {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Drop for State {
    fn drop(&mut self) {
        // ractor hands the state of an ended actor to its supervisor, which may
        // drop it after it has started the next incarnation.
        let mut table = self.shared.table.lock();
        if table.epoch() == self.epoch {
            table.abandon();
        }
    }
}

type Outcome = Result<(), ActorProcessingErr>;

impl Process {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn stop_children(&self) {
        let spec = &self.shared.spec;
        let deadline = clock::now() + spec.shutdown_deadline;
        let closed = self.shared.table.lock().close();
        for start in closed.starts {
            // A start that is given up ends at its next `await`.
            if tokio::time::timeout_at(deadline, opened(start)).await.is_err() {
                tracing::error!(supervisor = &*spec.id, "a start blocks its thread: leaving it behind");
            }
        }
        self.stop_all(&closed.live, deadline).await;
        tracing::info!(supervisor = &*spec.id, children = closed.live.len(), "children stopped");
    }

    async fn stop_all(&self, children: &[(ActorCell, Shutdown)], deadline: Instant) {
        let abandoned = stop_all(children, deadline).await;
        if abandoned > 0 {
            tracing::error!(
                supervisor = &*self.shared.spec.id,
                abandoned,
                "killed children do not yield: leaving them behind"
            );
        }
    }

    async fn end(&self, myself: &ActorRef<Msg>, ending: Ending) -> Outcome {
        match ending {
            Ending::Meltdown { child, last_error } => self.melt_down(child, last_error).await,
            Ending::Shutdown => {
                tracing::info!(supervisor = &*self.shared.spec.id, "significant children ended: shutting down");
                myself.stop(Some(SHUTDOWN.to_owned()));
                Ok(())
            }
        }
    }

    async fn melt_down(&self, child: Arc<str>, last_error: String) -> Outcome {
        let spec = &self.shared.spec;
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
        self.shared.seat.take(&myself)?;
        let (epoch, orphans) = self.shared.table.lock().open();
        let state = State { shared: Arc::clone(&self.shared), epoch };
        // ractor kills the children of a supervisor that was killed.
        self.stop_all(&orphans, clock::now()).await;
        tracing::info!(supervisor = &*self.shared.spec.id, "supervisor started");
        Ok(state)
    }

    async fn post_stop(&self, _: ActorRef<Msg>, _: &mut State) -> Outcome {
        self.stop_children().await;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, _: &mut State) -> Outcome {
        self.shared.seat.beat();
        match message {
            Msg::End(ending) => self.end(&myself, ending).await,
            Msg::Settle(reply) => {
                // The one who asked may be gone.
                let _ = reply.send(());
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(&self, myself: ActorRef<Msg>, event: SupervisionEvent, _: &mut State) -> Outcome {
        let Some((cell, exit)) = Exit::of_event(event) else {
            return Ok(());
        };
        self.shared.seat.beat();
        tracing::debug!(supervisor = &*self.shared.spec.id, child = ?cell.get_id(), ?exit, "child ended");
        let aftermath = {
            let mut table = self.shared.table.lock();
            let aftermath = table.exited(cell.get_id(), exit, clock::now());
            self.shared.report_quarantine(&table);
            aftermath
        };
        match follow(&self.shared, &myself, aftermath) {
            Some(ending) => self.end(&myself, ending).await,
            None => Ok(()),
        }
    }
}
