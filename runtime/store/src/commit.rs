//! What a writer is given to commit, and what it gives back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use canopy_domain::{Change, Effect};
use canopy_proto::system::v1::{Effect as StoredEffect, Origin, RequestRecord};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::StoreError;

/// What one command commits: a feed entry with its rows, effects and first
/// answer. It takes a seq even where it changes no row.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// `account/<id>`, an actor's address, or empty for nobody.
    pub principal: String,
    /// Where the command came from.
    pub origin: Origin,
    /// The client's request id, or empty.
    pub request_id: String,
    /// Full method name.
    pub method: &'static str,
    /// Rows.
    pub changes: Vec<Change>,
    /// Messages to other actors.
    pub effects: Vec<Effect>,
    /// When to activate the actor again, in milliseconds since 1970; `None`
    /// leaves the last wish as it is.
    pub wake_at_ms: Option<i64>,
    /// Subjects whose keys are destroyed when this is durable. See
    /// [`canopy_domain::Draft::shred`].
    pub shreds: Vec<[u8; 16]>,
    /// The answer to repeat. [`RequestRecord::seq`] is filled in when it is 0.
    pub record: Option<(RequestKey, RequestRecord)>,
}

/// A request id of one principal for one method. Stored only as a keyed
/// digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestKey([u8; 16]);

impl RequestKey {
    /// The first 16 bytes of SHA-256 over the three, each with its length.
    pub fn new(principal: &str, method: &str, request_id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [principal, method, request_id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        Self(*digest.first_chunk().expect("32 bytes have 16"))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// An effect that is committed and not known to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEffect {
    /// The transaction that caused it.
    pub seq: u64,
    /// Its number there, from 0.
    pub n: u32,
    /// The message.
    pub effect: StoredEffect,
}

/// The answer to come: the partition's durable seq, or why nothing was
/// committed. Dropping it does not take the commit back.
#[must_use = "an answer may be given only when the ticket says so"]
pub struct Ticket(TicketState);

enum TicketState {
    Ready(Option<Result<u64, StoreError>>),
    Waiting(oneshot::Receiver<Result<u64, StoreError>>),
}

impl Ticket {
    pub(crate) fn ready(result: Result<u64, StoreError>) -> Self {
        Self(TicketState::Ready(Some(result)))
    }

    pub(crate) fn waiting(receiver: oneshot::Receiver<Result<u64, StoreError>>) -> Self {
        Self(TicketState::Waiting(receiver))
    }

    /// Waits on a thread that may block.
    pub(crate) fn wait(self) -> Result<u64, StoreError> {
        match self.0 {
            TicketState::Ready(result) => result.unwrap_or(Err(StoreError::Closed)),
            TicketState::Waiting(receiver) => receiver.blocking_recv().unwrap_or(Err(StoreError::Closed)),
        }
    }
}

impl Future for Ticket {
    type Output = Result<u64, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            TicketState::Ready(result) => Poll::Ready(result.take().unwrap_or(Err(StoreError::Closed))),
            // The sender goes without a word only when the process ends.
            TicketState::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
            }
        }
    }
}
