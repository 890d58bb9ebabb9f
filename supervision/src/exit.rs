//! Why a child is gone, in OTP's three classes.

use ractor::{ActorCell, SupervisionEvent};

/// The stop reason of an orderly shutdown, OTP's `shutdown`.
///
/// A supervisor stops its children with it. `shutdown: <detail>` is OTP's
/// `{shutdown, Term}` and counts the same.
pub const SHUTDOWN: &str = "shutdown";

/// The stop reason that is the same as none, OTP's `normal`.
pub const NORMAL: &str = "normal";

/// What ractor reports after `drain`: everything queued was served.
const DRAINED: &str = "Drained";

/// How a child ended.
///
/// `supervisor.erl`, "Child specification": a transient child "is restarted
/// only if it terminates abnormally, that is, with another exit reason than
/// `normal`, `shutdown`, or `{shutdown,Term}`".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `stop(None)`, `stop("normal")`, or drained.
    Normal,
    /// `stop("shutdown")` or `stop("shutdown: …")`.
    Shutdown,
    /// A panic, an `Err` from a handler, a kill, or a stop with any other
    /// reason. Carries the message.
    Abnormal(String),
}

impl Exit {
    /// Classifies the reason of an actor that ractor reports as terminated.
    pub fn of_reason(reason: Option<&str>) -> Self {
        match reason {
            None | Some(NORMAL | DRAINED) => Self::Normal,
            Some(SHUTDOWN) => Self::Shutdown,
            Some(detailed) if detailed.starts_with("shutdown:") => Self::Shutdown,
            Some(other) => Self::Abnormal(other.to_owned()),
        }
    }

    /// Whether a transient child that ended like this is started again.
    pub fn is_abnormal(&self) -> bool {
        matches!(self, Self::Abnormal(_))
    }

    /// The message of an abnormal exit.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Abnormal(error) => Some(error),
            Self::Normal | Self::Shutdown => None,
        }
    }

    /// The actor that ended, and how; `None` for events that are no exit.
    pub(crate) fn of_event(event: SupervisionEvent) -> Option<(ActorCell, Self)> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _state, reason) => Some((cell, Self::of_reason(reason.as_deref()))),
            SupervisionEvent::ActorFailed(cell, error) => {
                let error = chain(error.as_ref());
                Some((cell, Self::Abnormal(error)))
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
        }
    }
}

/// An error with its sources, `outer: inner`, without repeating one that the
/// outer text already ends with.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
