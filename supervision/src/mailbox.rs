//! A bound for ractor's mailboxes, which have none.
//!
//! A permit travels with each message. It is given back when the receiver takes
//! the message out of its envelope, or when the message is dropped, as ractor
//! does with everything queued when an actor ends.
//!
//! **What callers see when the actor dies.** A message that was accepted and
//! not served is dropped, and its oneshot reply channel with it: the caller's
//! `reply.await` ends with `RecvError`. Nothing may be assumed about such a
//! command; a caller answers `ABORTED`, and the client repeats it under its
//! request id. A message that was not accepted comes back in the [`SendError`]:
//! `Full` is `RESOURCE_EXHAUSTED`, `Closed` means that the address has to be
//! resolved again.
//!
//! tokio's channel leaves one gap: a sender that is preempted for the instant
//! between taking its place in the queue and filling it, while the actor ends,
//! leaves its message in the dead queue for as long as anybody holds the
//! actor's cell. [`Mailbox::call`] closes it by watching the actor too.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::{ActorCell, ActorRef, MessagingErr};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::stop::ended;

/// How long [`Mailbox::call`] waits for a reply after the actor has ended. A
/// reply may come late and be right: its sender can be with a commit that was
/// under way.
pub const LATE_REPLY_WAIT_MAX: Duration = Duration::from_secs(10);

/// A handle that sends to an actor as long as fewer than `limit` messages are
/// queued.
///
/// The bound is never exceeded. Senders that meet at the last free place may
/// both be refused.
pub struct Mailbox<M> {
    actor: ActorRef<Permitted<M>>,
    queue: Arc<Queue>,
}

/// The strong count of `places`, less the one held here, is the number of
/// messages queued: cloning it for a message is the one atomic add that a send
/// costs.
struct Queue {
    name: Arc<str>,
    messages_max: usize,
    places: Arc<()>,
}

pub(crate) trait Depth: Send + Sync {
    fn depth(&self) -> usize;
}

impl Depth for Queue {
    fn depth(&self) -> usize {
        Arc::strong_count(&self.places).saturating_sub(1)
    }
}

/// A place in the queue, until it is dropped.
pub struct Permit {
    _place: Arc<()>,
}

/// A message with its permit: what the actor's `Msg` type is.
pub struct Permitted<M> {
    message: M,
    permit: Permit,
}

impl<M> Permitted<M> {
    /// The message, giving the permit back.
    pub fn into_inner(self) -> M {
        self.message
    }

    /// The message and its permit, for a receiver whose work should count
    /// against the limit until it is done.
    pub fn into_parts(self) -> (M, Permit) {
        (self.message, self.permit)
    }
}

/// Why a message was not queued; it comes back unharmed.
pub enum SendError<M> {
    /// `messages_max` messages are queued: refuse the caller, do not wait.
    Full { message: M, mailbox: Arc<str>, messages_max: usize },
    /// The actor has ended or is ending.
    Closed { message: M, mailbox: Arc<str> },
}

impl<M> SendError<M> {
    pub fn into_message(self) -> M {
        match self {
            Self::Full { message, .. } | Self::Closed { message, .. } => message,
        }
    }
}

// By hand, so that M need not be Debug and its content stays out of logs.
impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { .. } => write!(f, "Full({self})"),
            Self::Closed { .. } => write!(f, "Closed({self})"),
        }
    }
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { mailbox, messages_max, .. } => {
                write!(f, "mailbox {mailbox} holds {messages_max} messages, its limit: retry later")
            }
            Self::Closed { mailbox, .. } => {
                write!(f, "mailbox {mailbox} is closed: resolve its address again")
            }
        }
    }
}

impl<M> std::error::Error for SendError<M> {}

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the mailbox is full: retry later")]
    Full,
    #[error("the actor has ended: resolve its address again")]
    Closed,
    /// The message was accepted and its reply will not come. Whether it took
    /// effect is not known.
    #[error("the actor ended before it replied: repeat under the same request id")]
    Aborted,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), queue: Arc::clone(&self.queue) }
    }
}

impl<M: Send + 'static> Mailbox<M> {
    /// Bounds `actor` to `messages_max` queued messages sent through this
    /// handle and its clones. `name` is for errors.
    ///
    /// # Panics
    /// When `actor` was made from an `ActorCell` of another message type, which
    /// ractor's types do not prevent.
    pub fn new(name: impl Into<Arc<str>>, actor: ActorRef<Permitted<M>>, messages_max: usize) -> Self {
        let name = name.into();
        assert!(
            actor.is_message_type_of::<Permitted<M>>() != Some(false),
            "mailbox {name}: the actor takes another type of message"
        );
        Self { actor, queue: Arc::new(Queue { name, messages_max, places: Arc::new(()) }) }
    }

    /// Queues `message`, without ever waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] and [`SendError::Closed`] hand the message back.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        let permit = Permit { _place: Arc::clone(&self.queue.places) };
        if self.queue.depth() > self.queue.messages_max {
            return Err(SendError::Full {
                message,
                mailbox: Arc::clone(&self.queue.name),
                messages_max: self.queue.messages_max,
            });
        }
        self.actor.send_message(Permitted { message, permit }).map_err(|error| match error {
            MessagingErr::SendErr(permitted) => {
                SendError::Closed { message: permitted.into_inner(), mailbox: Arc::clone(&self.queue.name) }
            }
            MessagingErr::ChannelClosed | MessagingErr::InvalidActorType => {
                // The type was checked when this handle was made, and a closed
                // channel hands the message back as SendErr.
                unreachable!("ractor lost a typed message")
            }
        })
    }

    /// Sends what `request` makes of a reply channel, and waits for the reply.
    ///
    /// # Errors
    /// [`CallError::Aborted`] when the channel closes without a reply, or when
    /// the actor has ended and no reply came within [`LATE_REPLY_WAIT_MAX`].
    pub async fn call<R>(&self, request: impl FnOnce(oneshot::Sender<R>) -> M) -> Result<R, CallError> {
        let (reply, mut replied) = oneshot::channel();
        self.try_send(request(reply)).map_err(|error| match error {
            SendError::Full { .. } => CallError::Full,
            SendError::Closed { .. } => CallError::Closed,
        })?;
        tokio::select! {
            biased;
            answer = &mut replied => return answer.map_err(|_| CallError::Aborted),
            () = ended(&self.actor) => {}
        }
        match timeout(LATE_REPLY_WAIT_MAX, replied).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(CallError::Aborted),
        }
    }

    /// Messages queued now.
    pub fn depth(&self) -> usize {
        self.queue.depth()
    }

    pub fn messages_max(&self) -> usize {
        self.queue.messages_max
    }

    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    pub(crate) fn depth_source(&self) -> Weak<dyn Depth> {
        let queue: Weak<Queue> = Arc::downgrade(&self.queue);
        queue
    }
}
