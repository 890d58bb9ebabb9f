//! A channel's subscribers and senders, on either side of the chat scenario.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use super::chat::Side;
use super::{CONNECTIONS, Settings};
use crate::LoadError;
use crate::client::{Connection, Deliveries, Latencies, OpenPlan, Sample, open_loop, percentile_ms};
use crate::clock::{nanoseconds, now_ns, seconds_between};
use crate::ledger::{Ledger, Stamp, Tally};

/// Messages under way to the subscribers at the peak: enough that streams always have something to
/// send, few enough for every server's buffers.
const WINDOW_MESSAGES: usize = 1_024;
/// Without a single delivery for this long, what is missing counts as lost.
const STALL_SECONDS: u64 = 10;
const LATE_AFTER_NS: u64 = 10_000_000_000;
/// Connections for sends, apart from those that carry deliveries.
const SEND_CONNECTIONS: usize = 8;

/// Deliveries of all subscribers so far.
struct Progress {
    subscribers: u64,
    delivered: AtomicU64,
    bytes: AtomicU64,
    broken: AtomicU64,
    /// One permit per message that may be under way.
    window: Semaphore,
    advanced: Notify,
    timing: AtomicBool,
    latencies: Latencies,
}

impl Progress {
    fn add(&self, messages: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let before = self.delivered.fetch_add(messages, Ordering::AcqRel);
        let rounds = (before + messages) / self.subscribers - before / self.subscribers;
        if rounds > 0 {
            self.window.add_permits(usize::try_from(rounds).unwrap_or_default());
            self.advanced.notify_one();
        }
    }

    /// Waits until `expected` deliveries were made; false when they stall.
    async fn reaches(&self, expected: u64) -> bool {
        loop {
            let before = self.delivered.load(Ordering::Acquire);
            if before >= expected {
                return true;
            }
            let stall = Duration::from_secs(STALL_SECONDS);
            let waited = tokio::time::timeout(stall, self.advanced.notified()).await;
            if waited.is_err() && self.delivered.load(Ordering::Acquire) == before {
                return false;
            }
        }
    }
}

/// A sender's identity. It has one message under way at most, so its order is the order of arrival.
#[derive(Clone, Copy, Debug)]
struct Sender {
    id: u16,
    sent: u64,
}

/// Sender identities: those not in use, and how many there are.
#[derive(Default)]
struct Senders {
    idle: Vec<Sender>,
    made: u16,
}

/// A running side with its subscribers.
pub(super) struct Room {
    side: Side,
    text_bytes: usize,
    sending: Vec<Connection>,
    senders: Arc<Mutex<Senders>>,
    sent: Arc<AtomicU64>,
    progress: Arc<Progress>,
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    followers: Vec<AbortHandle>,
}

impl Room {
    /// Opens `subscribers` streams over the settings' connections.
    pub(super) async fn open(
        side: Side,
        subscribers: usize,
        text_bytes: usize,
        settings: &Settings,
    ) -> Result<Self, LoadError> {
        let count = settings.connections.unwrap_or(CONNECTIONS).clamp(1, subscribers.max(1));
        let mut connections = Connection::open_many(&side.endpoint, count).await?;
        let progress = Arc::new(Progress {
            subscribers: u64::try_from(subscribers.max(1)).unwrap_or(u64::MAX),
            delivered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            window: Semaphore::new(WINDOW_MESSAGES),
            advanced: Notify::new(),
            timing: AtomicBool::new(false),
            latencies: Latencies::default(),
        });
        let (mut ledgers, mut followers) = (Vec::new(), Vec::new());
        for subscriber in 0..subscribers {
            let connection = connections.get_mut(subscriber % count).expect("the index is below the length");
            let deliveries = connection.subscribe(&(side.subscribe)(subscriber)).await?;
            let ledger = Arc::new(Mutex::new(Ledger::new(LATE_AFTER_NS)));
            ledgers.push(ledger.clone());
            let follower = tokio::spawn(follow(deliveries, ledger, progress.clone(), subscriber % count));
            followers.push(follower.abort_handle());
        }
        let sending = Connection::open_many(&side.endpoint, SEND_CONNECTIONS).await?;
        Ok(Self {
            side,
            text_bytes,
            sending,
            senders: Arc::default(),
            sent: Arc::default(),
            progress,
            ledgers,
            followers,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    pub(super) fn subscribers_f64(&self) -> f64 {
        self.progress.subscribers as f64
    }

    fn post(&self, connection: usize) -> Post {
        let connection = self.sending.get(connection % SEND_CONNECTIONS);
        Post {
            connection: connection.expect("the index is below the length").clone(),
            send: self.side.send.clone(),
            text_bytes: self.text_bytes,
            senders: self.senders.clone(),
            sent: self.sent.clone(),
        }
    }

    /// Sends one message and returns how many bytes each subscriber was delivered for it.
    pub(super) async fn probe(&self) -> Result<usize, LoadError> {
        let bytes = self.progress.bytes.load(Ordering::Relaxed);
        let delivered = self.progress.delivered.load(Ordering::Relaxed);
        self.post(0).message(now_ns()).await?;
        self.drain().await?;
        let bytes = self.progress.bytes.load(Ordering::Relaxed) - bytes;
        let delivered = self.progress.delivered.load(Ordering::Relaxed) - delivered;
        Ok(usize::try_from(bytes / delivered.max(1)).unwrap_or_default())
    }

    /// Waits until all that was sent is delivered.
    async fn drain(&self) -> Result<(), LoadError> {
        let expected = self.sent.load(Ordering::Acquire) * self.progress.subscribers;
        if self.progress.reaches(expected).await {
            return Ok(());
        }
        let delivered = self.progress.delivered.load(Ordering::Acquire);
        Err(LoadError::Stalled { delivered, expected, seconds: STALL_SECONDS })
    }

    /// Sends as fast as deliveries are made. The sample counts deliveries and runs to the last one.
    /// A stall ends the round early; what is missing then is lost in the tally.
    pub(super) async fn burst(&self, senders: usize, seconds: f64) -> Result<Sample, LoadError> {
        let cpu_before = self.side.server.cpu_s()?;
        let delivered_before = self.progress.delivered.load(Ordering::Acquire);
        let start_ns = now_ns();
        let end_ns = start_ns + nanoseconds(Duration::from_secs_f64(seconds));
        let mut tasks = JoinSet::new();
        for index in 0..senders {
            let mut post = self.post(index);
            let progress = self.progress.clone();
            tasks.spawn(async move {
                let mut errors = 0;
                while now_ns() < end_ns {
                    let stall = Duration::from_secs(STALL_SECONDS);
                    let Ok(Ok(permit)) = tokio::time::timeout(stall, progress.window.acquire()).await else {
                        return errors + 1;
                    };
                    // Returned by the deliveries.
                    permit.forget();
                    errors += u64::from(post.message(now_ns()).await.is_err());
                }
                errors
            });
        }
        let mut sample = Sample::default();
        while let Some(errors) = tasks.join_next().await {
            sample.errors += errors.unwrap_or(1);
        }
        sample.errors += u64::from(self.drain().await.is_err());
        sample.wall_s = seconds_between(start_ns, now_ns());
        sample.cpu_s = self.side.server.cpu_s()? - cpu_before;
        sample.operations = self.progress.delivered.load(Ordering::Acquire) - delivered_before;
        Ok(sample)
    }

    /// Sends by schedule. `p99_ms` is from a message's scheduled time to its delivery, over all
    /// subscribers.
    pub(super) async fn at_rate(&self, rate_per_s: u64, seconds: f64) -> Result<Sample, LoadError> {
        let posts: Vec<Post> = (0..SEND_CONNECTIONS).map(|index| self.post(index)).collect();
        let _ = self.progress.latencies.take();
        self.progress.timing.store(true, Ordering::Release);
        let plan = OpenPlan { rate_per_s, seconds };
        let (mut sample, _) = open_loop(
            plan,
            || self.side.server.cpu_s(),
            move |arrival| {
                let index = usize::try_from(arrival.index).unwrap_or_default() % SEND_CONNECTIONS;
                let post = posts.get(index).cloned();
                async move { post.expect("the index is below the length").message(arrival.due_ns).await }
            },
        )
        .await?;
        sample.errors += u64::from(self.drain().await.is_err());
        self.progress.timing.store(false, Ordering::Release);
        sample.p99_ms = percentile_ms(&self.progress.latencies.take(), 99.0);
        // The peak's window was passed by: its permits came back without having been taken.
        let surplus = self.progress.window.available_permits().saturating_sub(WINDOW_MESSAGES);
        self.progress.window.forget_permits(surplus);
        Ok(sample)
    }

    /// Ends the subscriptions and adds up what the ledgers found.
    pub(super) fn close(self) -> Tally {
        for follower in &self.followers {
            follower.abort();
        }
        let senders = self.senders.lock();
        let mut sent = vec![0; usize::from(senders.made)];
        for sender in &senders.idle {
            if let Some(count) = sent.get_mut(usize::from(sender.id)) {
                *count = sender.sent;
            }
        }
        let mut tally = Tally::default();
        for ledger in &self.ledgers {
            tally += ledger.lock().tally(&sent);
        }
        // A stream that broke may have missed nothing so far; it would have.
        tally.lost += self.progress.broken.load(Ordering::Acquire);
        tally
    }
}

/// What sending takes.
#[derive(Clone)]
struct Post {
    connection: Connection,
    send: super::chat::SendCall,
    text_bytes: usize,
    senders: Arc<Mutex<Senders>>,
    sent: Arc<AtomicU64>,
}

impl Post {
    async fn message(&mut self, sent_ns: u64) -> Result<(), LoadError> {
        let mut sender = {
            let mut senders = self.senders.lock();
            match senders.idle.pop() {
                Some(sender) => sender,
                None => {
                    let id = senders.made;
                    senders.made = id
                        .checked_add(1)
                        .ok_or_else(|| LoadError::Subject("65,535 sends are unanswered; lower the rate".to_owned()))?;
                    Sender { id, sent: 0 }
                }
            }
        };
        let stamp = Stamp { sender: sender.id, number: sender.sent, sent_ns };
        let result = self.connection.unary(&(self.send)(&stamp.text(self.text_bytes))).await;
        // A failed send may have been delivered; it is an error anyway, and counts as sent.
        sender.sent += 1;
        self.sent.fetch_add(1, Ordering::AcqRel);
        self.senders.lock().idle.push(sender);
        result.map(drop)
    }
}

/// Enters a subscriber's deliveries until its stream ends.
async fn follow(mut deliveries: Deliveries, ledger: Arc<Mutex<Ledger>>, progress: Arc<Progress>, lane: usize) {
    let mut latencies_ns = Vec::new();
    loop {
        let data = match deliveries.data().await {
            Ok(Some(data)) => data,
            Ok(None) | Err(_) => {
                progress.broken.fetch_add(1, Ordering::AcqRel);
                return;
            }
        };
        let timing = progress.timing.load(Ordering::Acquire);
        let now = now_ns();
        let (mut messages, mut bytes) = (0_u64, 0_u64);
        {
            let mut ledger = ledger.lock();
            deliveries.messages(data, |message| {
                bytes += u64::try_from(message.len()).unwrap_or_default();
                Stamp::scan(message, |stamp| {
                    messages += 1;
                    let latency_ns = ledger.observe(&stamp, now);
                    if timing {
                        latencies_ns.push(latency_ns);
                    }
                });
            });
        }
        if timing {
            progress.latencies.record(lane, latencies_ns.drain(..));
        }
        progress.add(messages, bytes);
    }
}
