//! What can go wrong when a child is started or addressed.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, SpawnErr};
use tokio::time::Instant;

use crate::clock;
use crate::exit::chain;
use crate::intensity::Intensity;

/// Why a child, or a supervisor with its children, was not started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// The child's own start failed or panicked.
    #[error("start failed: {error}")]
    Failed { error: String },
    /// A supervisor's child did not start, so neither did the supervisor:
    /// OTP's `{failed_to_start_child, Id, Reason}`.
    #[error("child {child} did not start: {source}")]
    Child { child: Arc<str>, source: Box<StartError> },
    /// The spec contradicts itself or its supervisor; correct it.
    #[error("child spec {child} is invalid: {reason}")]
    InvalidSpec { child: Arc<str>, reason: &'static str },
    /// The factory returned an actor that is not linked to its supervisor;
    /// it has been killed. Spawn it with `Actor::spawn_linked`.
    #[error("the started actor is not linked to its supervisor: spawn it with spawn_linked")]
    NotLinked,
    /// The child chose not to run, OTP's `ignore`: return this from its
    /// [`StartFn`](crate::StartFn). It is no failure. A supervisor goes on
    /// without the child and can be asked to start it later; it forgets a
    /// temporary or dynamic one.
    #[error("the child chose not to run")]
    Ignored,
    /// A child of this key is running: use `cell`.
    #[error("{key} is already started")]
    AlreadyStarted { key: Arc<str>, cell: ActorCell },
    /// The key's restart is due or under way: OTP's `{error, restarting}`.
    #[error("{key} is being restarted: ask again shortly")]
    Restarting { key: Arc<str> },
    /// The key crashed too often. One trial start is allowed from `until` on.
    #[error("{key} is quarantined after crashing repeatedly: wait, or release it; last error: {last_error}")]
    Quarantined { key: Arc<str>, until: Instant, last_error: Arc<str> },
    /// The supervisor has `children_max` children.
    #[error("supervisor {supervisor} has {children_max} children, its limit: try again later")]
    ChildLimit { supervisor: Arc<str>, children_max: usize },
    /// The supervisor is not started, or is stopping.
    #[error("supervisor {supervisor} is not running: try again once it is")]
    NotRunning { supervisor: Arc<str> },
}

impl StartError {
    /// How long a caller should wait before it asks again, for a quarantined
    /// key.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quarantined { until, .. } => Some(until.saturating_duration_since(clock::now())),
            _ => None,
        }
    }
}

impl From<SpawnErr> for StartError {
    /// Keeps a `StartError` that came through ractor, as that of a nested
    /// supervisor does.
    fn from(error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(inner) => match inner.downcast::<Self>() {
                Ok(start_error) => *start_error,
                Err(other) => Self::Failed { error: chain(other.as_ref()) },
            },
            other => Self::Failed { error: other.to_string() },
        }
    }
}

/// Why a request about an existing child was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChildError {
    #[error("no child {key}: list them with which_children")]
    NotFound { key: Arc<str> },
    /// A child of this id is known and has no actor: OTP's `already_present`.
    #[error("child {key} is present and has no actor: restart it, or delete it first")]
    AlreadyPresent { key: Arc<str> },
    /// Only a child without a live actor can be restarted or deleted by hand.
    #[error("child {key} is running: terminate it first")]
    Running { key: Arc<str> },
    #[error("child {key} is being restarted: ask again shortly")]
    Restarting { key: Arc<str> },
    #[error("supervisor {supervisor} is not running: try again once it is")]
    NotRunning { supervisor: Arc<str> },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A child restarted more often than its supervisor's intensity allows. The
/// supervisor has stopped its children and fails with this, so that its own
/// supervisor acts.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "supervisor {supervisor} melted down: more than {restarts_max} restarts in {period:?}, the last of {child}: {last_error}"
)]
pub struct Meltdown {
    pub supervisor: Arc<str>,
    pub child: Arc<str>,
    pub restarts_max: u32,
    pub period: Duration,
    pub last_error: String,
}

impl Meltdown {
    /// Of a supervisor over a child that ended once too often.
    pub(crate) fn new(supervisor: &Arc<str>, intensity: Intensity, child: Arc<str>, last_error: String) -> Self {
        let Intensity { restarts_max, period } = intensity;
        Self { supervisor: Arc::clone(supervisor), child, restarts_max, period, last_error }
    }
}
