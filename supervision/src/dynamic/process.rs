//! The dynamic supervisor's actor.
//!
//! Owns nothing but the right to end: children are in the shared table. Hears of
//! exits through ractor's supervision events and handles each in constant time,
//! without waiting. Exits after a meltdown (failed) or when stopped
//! (`shutdown`); callers of `start_child` see `NotRunning` then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use tokio::sync::oneshot;

use super::Shared;
use super::starting::follow;
use crate::clock;
use crate::error::{Meltdown, StartError};
use crate::exit::Exit;
use crate::stop::stop_all;

pub(super) enum Msg {
    /// A restart beside the actor was one too many.
    Meltdown { child: Arc<str>, last_error: String },
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
            table.close();
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
        let live = self.shared.table.lock().close();
        let deadline = clock::now() + spec.shutdown_deadline;
        let abandoned = stop_all(&live, deadline).await;
        if abandoned > 0 {
            tracing::error!(supervisor = &*spec.id, abandoned, "killed children do not yield: leaving them behind");
        }
        tracing::info!(supervisor = &*spec.id, children = live.len(), "children stopped");
    }

    async fn melt_down(&self, child: Arc<str>, last_error: String) -> Outcome {
        let spec = &self.shared.spec;
        let meltdown = Meltdown {
            supervisor: Arc::clone(&spec.id),
            child,
            restarts_max: spec.intensity.restarts_max,
            period: spec.intensity.period,
            last_error,
        };
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
        {
            let mut actor = self.shared.actor.lock();
            if let Some(other) = actor.as_ref().filter(|other| other.get_status() != ActorStatus::Stopped) {
                return Err(Box::new(StartError::AlreadyStarted {
                    key: Arc::clone(&self.shared.spec.id),
                    cell: other.get_cell(),
                }));
            }
            *actor = Some(myself);
        }
        let epoch = self.shared.table.lock().open();
        self.shared.started_ms.store(clock::unix_ms(), Ordering::Relaxed);
        tracing::info!(supervisor = &*self.shared.spec.id, "supervisor started");
        Ok(State { shared: Arc::clone(&self.shared), epoch })
    }

    async fn post_stop(&self, _: ActorRef<Msg>, _: &mut State) -> Outcome {
        self.stop_children().await;
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, message: Msg, _: &mut State) -> Outcome {
        match message {
            Msg::Meltdown { child, last_error } => self.melt_down(child, last_error).await,
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
        tracing::debug!(supervisor = &*self.shared.spec.id, child = ?cell.get_id(), ?exit, "child ended");
        let aftermath = {
            let mut table = self.shared.table.lock();
            let aftermath = table.exited(cell.get_id(), exit, clock::now());
            self.shared.report_quarantine(&table);
            aftermath
        };
        match follow(&self.shared, &myself, aftermath) {
            Some((child, last_error)) => self.melt_down(child, last_error).await,
            None => Ok(()),
        }
    }
}
