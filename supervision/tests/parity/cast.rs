//! Who plays on this side: scripted workers, who stands above the root, and who
//! reads the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canopy_supervision::{Meltdown, StartError};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::field::{Field, Visit};

use crate::perform::Stage;
use crate::scenario::Manner;

/// How long a slow worker takes to stop.
const SLOW: Duration = Duration::from_millis(20);
pub(crate) enum Order {
    Crash,
    Stop(String),
}

pub(crate) struct Worker {
    stage: Stage,
    id: String,
    manner: Manner,
    refuses: bool,
    started: AtomicBool,
    /// Why it ends, if it was not told by its supervisor.
    reason: Mutex<Option<String>>,
    ended: AtomicBool,
}

impl Worker {
    pub(crate) fn new(stage: Stage, id: String, manner: Manner) -> Self {
        let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { stage, id, manner, refuses: false, started, reason: Mutex::new(None), ended }
    }

    pub(crate) async fn start(mut self, parent: ActorCell) -> Result<ActorCell, StartError> {
        match self.stage.take(&self.id).as_deref() {
            Some("decline") => {
                self.stage.note(format!("decline {}", self.id));
                return Err(StartError::Ignored);
            }
            Some("error") => {
                self.stage.note(format!("refuse {}", self.id));
                return Err(StartError::Failed { error: "refused".into() });
            }
            Some("panic") => {
                self.stage.note(format!("refuse {}", self.id));
                panic!("refused");
            }
            Some(_) => self.refuses = true,
            None => {}
        }
        let (actor, _) = Actor::spawn_linked(None, self, (), parent).await?;
        Ok(actor.get_cell())
    }

    fn end(&self, reason: &str) {
        self.ended.store(true, Ordering::Relaxed);
        self.stage.note(format!("exit {} {reason}", self.id));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.started.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
            self.end("killed");
        }
    }
}

impl Actor for Worker {
    type Msg = Order;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
        if self.refuses {
            self.stage.note(format!("refuse {}", self.id));
            return Err("refused".into());
        }
        self.started.store(true, Ordering::Relaxed);
        self.stage.note(format!("start {}", self.id));
        self.stage.workers.lock().insert(self.id.clone(), myself);
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Order>, order: Order, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Crash => {
                self.end("crash");
                Err("crash".into())
            }
            Order::Stop(reason) => {
                *self.reason.lock() = Some(reason.clone());
                myself.stop(Some(reason));
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Order>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let reason = self.reason.lock().take();
        match (reason, self.manner) {
            (Some(reason), _) => self.end(&reason),
            (None, Manner::Prompt) => self.end("shutdown"),
            (None, Manner::Slow) => {
                tokio::time::sleep(SLOW).await;
                self.end("shutdown");
            }
            (None, Manner::Deaf) => std::future::pending().await,
            (None, Manner::Bitter) => {
                self.end("crash");
                return Err("crash".into());
            }
        }
        Ok(())
    }
}

/// Stands above the root and notes how it ends.
pub(crate) struct Parent(pub(crate) Stage, pub(crate) String);

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let reason = match event {
            SupervisionEvent::ActorFailed(_, error) if error.is::<Meltdown>() => "meltdown".to_owned(),
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => reason.unwrap_or_default(),
            _ => return Ok(()),
        };
        self.0.note(format!("exit {} {reason}", self.1));
        Ok(())
    }
}

/// Notes what the crate logs of supervisors that are children.
pub(crate) struct Log {
    pub(crate) stage: Stage,
    pub(crate) supervisors: Vec<String>,
}

#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("canopy_supervision")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let field = |name: &str| fields.0.get(name).cloned().unwrap_or_default();
        let child = field("child");
        if !self.supervisors.contains(&child) {
            return;
        }
        let note = match field("message").as_str() {
            "child did not start" => format!("unstarted {child}"),
            "child stopped" => format!("exit {child} shutdown"),
            "child ended" => format!("exit {child} {}", field("exit").to_lowercase()),
            "child failed" => {
                let error = field("error");
                let melted = error.starts_with(&format!("supervisor {child} melted down"));
                format!("exit {child} {}", if melted { "meltdown" } else { &error })
            }
            _ => return,
        };
        self.stage.note(note);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
