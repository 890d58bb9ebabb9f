//! What happens when a commit is durable: hooks hear of it, then callers are
//! answered, in the order of seqs. One task an actor does this while there is
//! anything to wait for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use canopy_domain::{Address, Change, Refusal};
use canopy_store::Ticket;
use parking_lot::Mutex;

use crate::call::{Answer, CommitHook, Reply};
use crate::delivery::{Delivery, Outgoing, Settled};

/// What waits for a ticket.
pub(crate) struct Completion {
    pub(crate) ticket: Ticket,
    /// What hooks are told.
    pub(crate) changes: Vec<Change>,
    pub(crate) answer: Answer,
    /// Nobody waits for work that the actor does of itself.
    pub(crate) reply: Option<Reply>,
    pub(crate) effects: Vec<Outgoing>,
    /// Where the answer waits for the effects.
    pub(crate) settled: Option<Settled>,
    /// When the actor is to act, once the wish is durable.
    pub(crate) wake_at_ms: Option<i64>,
}

impl Completion {
    /// A durable answer without anything else to do.
    pub(crate) fn answer(ticket: Ticket, answer: Result<Bytes, Refusal>, reply: Reply) -> Self {
        Self {
            ticket,
            changes: Vec::new(),
            answer,
            reply: Some(reply),
            effects: Vec::new(),
            settled: None,
            wake_at_ms: None,
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Completion>,
    running: bool,
}

/// The completions of one actor.
pub(crate) struct Completions {
    address: Address,
    hooks: Vec<Arc<dyn CommitHook>>,
    delivery: Arc<Delivery>,
    queue: Mutex<Queue>,
}

impl Completions {
    pub(crate) fn new(address: Address, hooks: &[Arc<dyn CommitHook>], delivery: Arc<Delivery>) -> Arc<Self> {
        let hooks = hooks.iter().filter(|hook| hook.wants(&address)).cloned().collect();
        Arc::new(Self { address, hooks, delivery, queue: Mutex::default() })
    }

    /// Whether commits are to keep their changes for hooks.
    pub(crate) fn has_hooks(&self) -> bool {
        !self.hooks.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.queue.lock().running
    }

    pub(crate) fn push(self: &Arc<Self>, completion: Completion) {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(completion);
        if !queue.running {
            queue.running = true;
            tokio::spawn(Arc::clone(self).run());
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                match queue.waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        queue.running = false;
                        return;
                    }
                }
            };
            self.complete(next).await;
        }
    }

    async fn complete(&self, completion: Completion) {
        let Completion { ticket, changes, answer, reply, effects, settled, wake_at_ms } = completion;
        match ticket.await {
            Ok(seq) => {
                for hook in &self.hooks {
                    hook.committed(&self.address, seq, &changes);
                }
                self.delivery.send(seq, effects);
                if let Some(at_ms) = wake_at_ms {
                    self.delivery.wake_at(at_ms);
                }
                match (reply, settled) {
                    (Some(reply), Some(settled)) => {
                        tokio::spawn(async move {
                            settled.wait().await;
                            reply.send(answer);
                        });
                    }
                    (Some(reply), None) => reply.send(answer),
                    (None, _) => {}
                }
            }
            Err(error) => {
                if let Some(reply) = reply {
                    reply.send(Err(error.into()));
                }
            }
        }
    }
}
