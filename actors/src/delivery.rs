//! Effects on their way to other actors: in order, at least once, with a
//! request id that makes them happen once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use canopy_domain::{Address, Code, Effect};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Node;
use crate::shell::Note;

/// First wait before an effect is tried again.
const RETRY_MS_MIN: u64 = 20;
/// Longest wait between tries.
const RETRY_MS_MAX: u64 = 5_000;
/// How long an answer waits for its effects.
const SETTLE_MS_MAX: u64 = 5_000;

/// Counts an answer's effects down.
#[derive(Clone)]
pub(crate) struct Settled(Arc<(AtomicUsize, Notify)>);

impl Settled {
    pub(crate) fn new(effects: usize) -> Self {
        Self(Arc::new((AtomicUsize::new(effects), Notify::new())))
    }

    fn one_done(&self) {
        if self.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.1.notify_one();
        }
    }

    /// Returns when all effects have been delivered, or after
    /// [`SETTLE_MS_MAX`].
    pub(crate) async fn wait(&self) {
        if self.0.0.load(Ordering::Acquire) > 0 {
            let limit = Duration::from_millis(SETTLE_MS_MAX);
            let _ = tokio::time::timeout(limit, self.0.1.notified()).await;
        }
    }
}

/// An effect, and the answer that waits for it.
pub(crate) struct Outgoing {
    pub(crate) n: u32,
    pub(crate) target: Address,
    pub(crate) method: &'static str,
    pub(crate) request: bytes::Bytes,
    pub(crate) settled: Option<Settled>,
}

impl Outgoing {
    pub(crate) fn new(n: u32, effect: &Effect, settled: Option<Settled>) -> Self {
        let (target, request) = (effect.target.clone(), effect.request.clone());
        Self { n, target, method: effect.method, request, settled }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Outgoing)>,
    running: bool,
}

/// The outgoing effects of one actor.
pub(crate) struct Delivery {
    address: Address,
    node: Node,
    queue: Mutex<Queue>,
}

impl Delivery {
    pub(crate) fn new(address: Address, node: Node) -> Arc<Self> {
        Arc::new(Self { address, node, queue: Mutex::default() })
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.queue.lock().running
    }

    /// Takes the durable effects of transaction `seq`.
    pub(crate) fn send(self: &Arc<Self>, seq: u64, effects: Vec<Outgoing>) {
        if effects.is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        queue.waiting.extend(effects.into_iter().map(|effect| (seq, effect)));
        if !queue.running {
            queue.running = true;
            tokio::spawn(Arc::clone(self).run());
        }
    }

    /// Has the actor act at a time.
    pub(crate) fn wake_at(&self, at_ms: i64) {
        self.node.note_at(&self.address, at_ms);
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                match queue.waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        queue.running = false;
                        break;
                    }
                }
            };
            let (seq, effect) = next;
            self.deliver(seq, &effect).await;
            self.node.note(&self.address, Note::Delivered { seq, n: effect.n }).await;
            if let Some(settled) = &effect.settled {
                settled.one_done();
            }
        }
    }

    /// Tries until the receiver has made it, or says that it never will.
    async fn deliver(&self, seq: u64, effect: &Outgoing) {
        let request_id = format!("{}#{seq}.{}", self.address, effect.n);
        let mut wait_ms = RETRY_MS_MIN;
        loop {
            let asked =
                self.node.ask(&effect.target, effect.method, effect.request.clone(), &self.address, &request_id);
            match asked.await {
                Ok(_) => return,
                Err(refusal) if is_passing(refusal.code) => {
                    tracing::warn!(from = %self.address, to = %effect.target, effect.method, %refusal, "effect waits");
                }
                Err(refusal) => {
                    metrics::counter!("canopy_actors_effects_refused_total").increment(1);
                    tracing::error!(from = %self.address, to = %effect.target, effect.method, %refusal, "effect refused");
                    return;
                }
            }
            if self.node.is_stopping() {
                // It stays in the partition, for the next start.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
        }
    }
}

pub(crate) fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded | Code::Internal
    )
}
