//! One thing that subscribers follow, with the last events in memory so that
//! a thousand of them cost one reading.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Events kept in memory.
const EVENTS_MAX: usize = 1024;
/// Bytes of events kept in memory.
const BYTES_MAX: usize = 4 << 20;
/// Events that a follower takes at once; the last transaction is never split.
const TAKE_MAX: usize = 64;
/// Bytes after which it takes no further transaction: what a stream holds while its reader takes
/// nothing.
pub(super) const TAKE_BYTES_MAX: usize = 64 << 10;

/// One answer to subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    pub(crate) bytes: Bytes,
}

/// What is in memory of a topic: every event after `complete_from`.
#[derive(Default)]
struct Recent {
    events: VecDeque<Event>,
    bytes: usize,
    complete_from: u64,
}

/// A topic that somebody follows.
pub(crate) struct Topic {
    pub(crate) label: String,
    recent: Mutex<Recent>,
    followers: Mutex<Vec<Arc<AtomicWaker>>>,
}

/// What a follower finds.
pub(crate) enum Found {
    /// Events after its position, in order.
    Events(Vec<Event>),
    /// Nothing yet.
    Nothing,
    /// Older than memory reaches: read the feed.
    Behind,
}

impl Topic {
    /// A topic whose events after `cursor` will be added.
    pub(crate) fn new(label: String, cursor: u64) -> Self {
        let recent = Recent { complete_from: cursor, ..Recent::default() };
        Self { label, recent: Mutex::new(recent), followers: Mutex::default() }
    }

    pub(crate) fn follow(&self, waker: &Arc<AtomicWaker>) {
        self.followers.lock().push(Arc::clone(waker));
    }

    pub(crate) fn unfollow(&self, waker: &Arc<AtomicWaker>) {
        self.followers.lock().retain(|other| !Arc::ptr_eq(other, waker));
    }

    /// Adds the events of whole transactions and tells the followers.
    pub(crate) fn publish(&self, events: Vec<Event>) {
        {
            let mut recent = self.recent.lock();
            for event in events {
                recent.bytes += event.bytes.len();
                recent.events.push_back(event);
            }
            while recent.events.len() > EVENTS_MAX || recent.bytes > BYTES_MAX {
                let Some(oldest) = recent.events.pop_front() else { break };
                recent.bytes -= oldest.bytes.len();
                recent.complete_from = oldest.seq;
            }
        }
        self.wake();
    }

    /// Holds nothing up to `seq` any more, for some of it was never shown.
    pub(crate) fn lose(&self, seq: u64) {
        let mut recent = self.recent.lock();
        while let Some(lost) = recent.events.pop_front_if(|event| event.seq <= seq) {
            recent.bytes -= lost.bytes.len();
        }
        recent.complete_from = recent.complete_from.max(seq);
        drop(recent);
        self.wake();
    }

    /// Has every follower look again.
    pub(crate) fn wake(&self) {
        for follower in self.followers.lock().iter() {
            follower.wake();
        }
    }

    /// The events after a position.
    pub(crate) fn after(&self, position: u64) -> Found {
        let recent = self.recent.lock();
        if position < recent.complete_from {
            return Found::Behind;
        }
        let start = recent.events.partition_point(|event| event.seq <= position);
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        for event in recent.events.range(start..) {
            let enough = events.len() >= TAKE_MAX || bytes >= TAKE_BYTES_MAX;
            if enough && events.last().is_some_and(|last| last.seq != event.seq) {
                break;
            }
            bytes += event.bytes.len();
            events.push(event.clone());
        }
        if events.is_empty() { Found::Nothing } else { Found::Events(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Event {
        Event { seq, bytes: Bytes::from_static(b"event") }
    }

    /// The seqs that a follower finds; none where it has to read the feed.
    fn found(topic: &Topic, position: u64) -> Option<Vec<u64>> {
        match topic.after(position) {
            Found::Events(events) => Some(events.iter().map(|event| event.seq).collect()),
            Found::Nothing => Some(Vec::new()),
            Found::Behind => None,
        }
    }

    #[test]
    fn what_was_trimmed_before_it_was_shown_is_no_quiet_time() {
        let topic = Topic::new("a label".into(), 4);
        topic.publish(vec![event(5), event(6)]);
        assert_eq!(found(&topic, 4), Some(vec![5, 6]));
        // 7 to 20 are gone, and what came of them here is not known.
        topic.lose(20);
        assert_eq!([4, 6, 19].map(|position| found(&topic, position)), [None, None, None]);
        assert_eq!(found(&topic, 20), Some(Vec::new()));
        topic.publish(vec![event(21)]);
        assert_eq!(found(&topic, 20), Some(vec![21]));
        topic.lose(3);
        assert_eq!((found(&topic, 20), found(&topic, 19)), (Some(vec![21]), None), "what it holds is not older");
    }
}
