//! Follows one partition's feed for all its topics: each transaction is read
//! once, however many follow.

use std::collections::HashMap;
use std::sync::Arc;

use canopy_actors::Node;
use canopy_domain::{Address, Change, Reader, Refusal, View, ViewWrite};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::history::{Show, domain_change};
use super::topic::{Event, Topic};

/// Bytes after the prefix in a view's key: seq and n.
const POINTER_BYTES: usize = 12;

type Key = (u16, Vec<u8>);

struct Topics {
    followed: HashMap<Key, (Arc<Topic>, Show)>,
    /// Every transaction up to here has been shown to the topics.
    position: u64,
    /// Nobody may join any more.
    ended: bool,
}

/// The topics of one partition.
pub(crate) struct Tail {
    address: Address,
    views: Vec<View>,
    topics: Mutex<Topics>,
    left: Notify,
}

impl Tail {
    /// A tail from `position` on; `run` keeps it up to date.
    pub(crate) fn new(address: Address, views: Vec<View>, position: u64) -> Arc<Self> {
        let topics = Topics { followed: HashMap::new(), position, ended: false };
        Arc::new(Self { address, views, topics: Mutex::new(topics), left: Notify::new() })
    }

    /// The topic under a view's prefix; none if the tail has ended.
    pub(crate) fn topic(&self, view: u16, prefix: &[u8], label: &str, show: Show) -> Option<Arc<Topic>> {
        let mut topics = self.topics.lock();
        if topics.ended {
            return None;
        }
        let position = topics.position;
        let fresh = || (Arc::new(Topic::new(label.to_owned(), position)), show);
        let (topic, _) = topics.followed.entry((view, prefix.to_vec())).or_insert_with(fresh);
        Some(Arc::clone(topic))
    }

    /// Somebody no longer follows.
    pub(crate) fn leave(&self) {
        self.left.notify_one();
    }

    /// Has every follower look again.
    pub(crate) fn wake(&self) {
        for (topic, _) in self.topics.lock().followed.values() {
            topic.wake();
        }
    }

    /// Follows the feed until nobody follows a topic.
    pub(crate) async fn run(self: Arc<Self>, node: Node, mut durable: watch::Receiver<u64>) {
        loop {
            let seq = *durable.borrow_and_update();
            if let Err(refusal) = self.advance(&node, seq).await {
                tracing::warn!(address = %self.address, %refusal, "a feed cannot be followed; trying again");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                continue;
            }
            if self.end_if_unfollowed() {
                return;
            }
            tokio::select! {
                changed = durable.changed() => if changed.is_err() { return },
                () = self.left.notified() => {}
            }
        }
    }

    /// Whether nobody may join any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.topics.lock().ended
    }

    fn end_if_unfollowed(&self) -> bool {
        let mut topics = self.topics.lock();
        topics.followed.retain(|_, (topic, _)| Arc::strong_count(topic) > 1);
        topics.ended = topics.followed.is_empty();
        topics.ended
    }

    async fn advance(&self, node: &Node, seq: u64) -> Result<(), Refusal> {
        let from = self.topics.lock().position;
        if seq <= from {
            return Ok(());
        }
        let snapshot = node.snapshot(&self.address).await?;
        let kept = from.max(snapshot.floor()? - 1);
        let mut happened: Vec<(Key, u64, Change)> = Vec::new();
        for seq in kept + 1..=seq {
            let transaction = snapshot.transaction(seq)?;
            let changes = transaction.iter().flat_map(|transaction| &transaction.changes);
            for (n, change) in (0u32..).zip(changes) {
                let change = domain_change(change);
                happened.extend(self.keys(seq, n, &change).map(|key| (key, seq, change.clone())));
            }
        }
        let mut topics = self.topics.lock();
        if kept > from {
            // Trimmed before it was shown: who follows reads the feed, and is told.
            topics.followed.values().for_each(|(topic, _)| topic.lose(kept));
        }
        let mut shown: HashMap<Key, Vec<Event>> = HashMap::new();
        for (key, seq, change) in happened {
            if let Some((topic, show)) = topics.followed.get(&key)
                && let Some(bytes) = show(&topic.label, seq, &change)
            {
                shown.entry(key).or_default().push(Event { seq, bytes });
            }
        }
        for (key, events) in shown {
            if let Some((topic, _)) = topics.followed.get(&key) {
                topic.publish(events);
            }
        }
        topics.position = seq.max(kept);
        Ok(())
    }

    /// Under which prefixes of which views a change is seen.
    fn keys(&self, seq: u64, n: u32, change: &Change) -> impl Iterator<Item = Key> {
        let mut keys = Vec::new();
        let mut writes = Vec::new();
        for view in &self.views {
            (view.apply)(seq, n, change, &mut writes);
            for write in writes.drain(..) {
                if let ViewWrite::Put { key, .. } = write
                    && let Some(prefix) = key.len().checked_sub(POINTER_BYTES).and_then(|end| key.get(..end))
                {
                    keys.push((view.id, prefix.to_vec()));
                }
            }
        }
        keys.into_iter()
    }
}
