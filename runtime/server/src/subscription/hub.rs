//! Who follows what on this node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use canopy_actors::{Call, Node, now_ms};
use canopy_domain::{Address, Code, Context, Reader, Refusal, State, TokenIssuer, Watch};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::history::{Show, check_kept};
use super::stream::{Follower, OpenedStream};
use super::tail::Tail;
use super::topic::Topic;

/// All subscriptions of this node.
pub struct Hub {
    tails: Mutex<HashMap<Address, Arc<Tail>>>,
    closing: AtomicBool,
    issuer: Arc<dyn TokenIssuer>,
}

impl Hub {
    /// A hub without subscriptions.
    pub fn new(issuer: Arc<dyn TokenIssuer>) -> Arc<Self> {
        Arc::new(Self { tails: Mutex::default(), closing: AtomicBool::new(false), issuer })
    }

    /// Ends all streams: the node is going down.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for tail in self.tails.lock().values() {
            tail.wake();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Opens what a subscription asks for, in the partitions of `owners`.
    ///
    /// # Errors
    /// The module's refusal; `OUT_OF_RANGE`: a cursor from the future, or one of a past that is
    /// not kept.
    pub async fn open(self: &Arc<Self>, node: &Node, call: &Call, owners: &[Address]) -> Result<OpenedStream, Refusal> {
        let waker = Arc::new(AtomicWaker::new());
        let mut followers = Vec::new();
        let mut greetings = Vec::new();
        let mut expiring: Option<fn(i64) -> Bytes> = None;
        for owner in owners.iter().collect::<BTreeSet<_>>() {
            let module = Arc::clone(node.module(owner)?);
            let subscription = module.subscription_of(call.method)?;
            let snapshot = node.snapshot(owner).await?;
            let cx = Context {
                now_ms: now_ms(),
                entropy: [0; 32],
                address: owner,
                principal: &call.principal,
                origin: &call.origin,
                role: call.role,
                seq: 0,
                prepared: &[],
                issuer: self.issuer.as_ref(),
                settings: node.settings(),
            };
            let watches = (subscription.open)(&State(&snapshot), &call.request, &cx)?;
            for watch in watches {
                let position = start(&snapshot, &watch)?;
                let show = subscription.show;
                if let Some(end) = &watch.end {
                    greetings.push(end.opened.clone());
                    followers.push(Follower::new(owner.clone(), watch, show, None, Arc::clone(&waker), position));
                    continue;
                }
                greetings.push((subscription.opened)(&watch.label, position));
                expiring = Some(subscription.expiring);
                let (tail, topic) = self.topic(node, owner, &watch, show).await?;
                topic.follow(&waker);
                let live = Some((tail, topic));
                followers.push(Follower::new(owner.clone(), watch, show, live, Arc::clone(&waker), position));
            }
        }
        Ok(OpenedStream { hub: Arc::clone(self), node: node.clone(), waker, followers, greetings, expiring })
    }

    async fn topic(
        &self,
        node: &Node,
        owner: &Address,
        watch: &Watch,
        show: Show,
    ) -> Result<(Arc<Tail>, Arc<Topic>), Refusal> {
        loop {
            if let Some(tail) = self.tails.lock().get(owner).cloned()
                && let Some(topic) = tail.topic(watch.view, &watch.prefix, &watch.label, show)
            {
                return Ok((tail, topic));
            }
            let durable = node.reader(owner).await?.durable();
            let module = node.module(owner)?;
            let position = node.snapshot(owner).await?.seq()?;
            let tail = Tail::new(owner.clone(), module.views().to_vec(), position);
            let topic = tail.topic(watch.view, &watch.prefix, &watch.label, show);
            let mut tails = self.tails.lock();
            let taken = tails
                .get(owner)
                .is_some_and(|other| other.topic(watch.view, &watch.prefix, &watch.label, show).is_some());
            if let (false, Some(topic)) = (taken, topic) {
                // Those that nobody follows any more are forgotten when the map has doubled.
                if tails.len().is_power_of_two() {
                    tails.retain(|_, other| !other.has_ended());
                }
                tails.insert(owner.clone(), Arc::clone(&tail));
                tokio::spawn(Arc::clone(&tail).run(node.clone(), durable));
                return Ok((tail, topic));
            }
        }
    }
}

fn start(reader: &dyn Reader, watch: &Watch) -> Result<u64, Refusal> {
    let last = reader.seq()?;
    match watch.cursor {
        None => Ok(last),
        Some(cursor) if cursor <= last => {
            check_kept(reader, &watch.label, cursor)?;
            Ok(cursor)
        }
        Some(cursor) => Err(Refusal::new(
            Code::OutOfRange,
            format!("cursor {cursor} of `{}` lies beyond its end, {last}", watch.label),
        )
        .hint("subscribe with the cursor of the last event received, or list anew and start from there")),
    }
}
