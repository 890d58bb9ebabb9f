//! A call on its way to the actor that answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

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
    /// The node has started, and the address had something left to do when the
    /// last one ended: it is told of each such address that it wants, once.
    fn found(&self, _: &Address) {}
}

/// What a call comes back as.
pub(crate) type Answer = Result<Bytes, Refusal>;

/// Whether a command is begun: either its actor begins it, or whoever waited gives it up, and
/// then it never is.
#[derive(Debug, Default)]
pub struct Turn(AtomicU8);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Turn {
    /// Whether the command may be done; from now on it cannot be given up.
    pub(crate) fn begin(&self) -> bool {
        self.change(BEGUN)
    }

    /// Whether the command has not begun; from now on it will not.
    pub fn give_up(&self) -> bool {
        self.change(GIVEN_UP)
    }

    fn change(&self, to: u8) -> bool {
        let changed = self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire);
        changed.map_or_else(|is| is == to, |_| true)
    }
}

/// Nobody waits for a command any more.
pub(crate) fn given_up() -> Refusal {
    Refusal::new(Code::DeadlineExceeded, "nobody waited for this any more when its turn came")
        .hint("nothing was done: repeat it with more time")
}

/// A command in a mailbox. Dropped there, as when its actor dies, it tells the
/// caller that nothing was done.
pub(crate) struct Command {
    pub(crate) call: Arc<Call>,
    pub(crate) prepared: Arc<Vec<Prepared>>,
    pub(crate) span: tracing::Span,
    pub(crate) turn: Arc<Turn>,
    /// Why it is not done, unless it was before: then it is told the first answer.
    pub(crate) refused: Option<Refusal>,
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
        turn: Arc<Turn>,
        refused: Option<Refusal>,
        reply: oneshot::Sender<Delivered>,
    ) -> Self {
        Self { call, prepared, span, turn, refused, reply: Some(reply) }
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
