//! A call on its way to the actor that answers it.

use std::sync::Arc;

use bytes::Bytes;
use canopy_domain::{Address, Change, Code, Origin, Prepared, Principal, Refusal, Role};
use tokio::sync::oneshot;

/// A call that the edge has let through, or an actor sends.
#[derive(Debug, Clone)]
pub struct Call {
    /// `canopy.chat.v1.Chat/SendMessage`
    pub method: &'static str,
    /// The encoded request.
    pub request: Bytes,
    /// Who calls.
    pub principal: Principal,
    /// From where.
    pub origin: Origin,
    /// The caller's highest role where the request points to.
    pub role: Option<Role>,
    /// Empty where the caller gave none.
    pub request_id: String,
}

/// Hears of commits after they are durable and before anybody is answered: who
/// caches a partition's rows learns here what changed, so that an answer to a
/// revocation is true everywhere.
pub trait CommitHook: Send + Sync {
    /// Whether commits at this address matter.
    fn wants(&self, address: &Address) -> bool;
    /// Transaction `seq` is durable. Called in order for an address.
    fn committed(&self, address: &Address, seq: u64, changes: &[Change]);
}

/// What a call comes back as.
pub(crate) type Answer = Result<Bytes, Refusal>;

/// A command in a mailbox. Dropped there, as when its actor dies, it tells the
/// caller that nothing was done.
pub(crate) struct Command {
    pub(crate) call: Arc<Call>,
    pub(crate) prepared: Arc<Vec<Prepared>>,
    pub(crate) span: tracing::Span,
    reply: Option<oneshot::Sender<Delivered>>,
}

/// What a mailbox made of a command.
pub(crate) enum Delivered {
    /// The actor answered.
    Answered(Answer),
    /// The actor went before it took the command: nothing was done.
    NotTaken,
}

impl Command {
    pub(crate) fn new(
        call: Arc<Call>,
        prepared: Arc<Vec<Prepared>>,
        span: tracing::Span,
        reply: oneshot::Sender<Delivered>,
    ) -> Self {
        Self { call, prepared, span, reply: Some(reply) }
    }

    /// The reply channel: from now on the command counts as taken.
    pub(crate) fn take_reply(&mut self) -> Reply {
        Reply(self.reply.take())
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Delivered::NotTaken);
        }
    }
}

/// The actor went while it worked on a command, which may have taken effect.
pub(crate) fn aborted() -> Refusal {
    Refusal::new(Code::Aborted, "the actor restarted while it worked on this")
        .hint("try again with the same request id: it is done once")
}

/// Answers a taken command. Dropped unanswered, it says so.
pub(crate) struct Reply(Option<oneshot::Sender<Delivered>>);

impl Reply {
    pub(crate) fn send(mut self, answer: Answer) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(Delivered::Answered(answer));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(Delivered::Answered(Err(aborted())));
        }
    }
}
