//! A subscriber's stream. It is polled by its connection and owns no task: a
//! slow reader only reads later.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use canopy_actors::{Node, now_ms};
use canopy_domain::{Address, Code, Refusal, Watch};
use canopy_proto::Rule;
use futures::Stream;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::history::{self, Show, Stretch};
use super::hub::Hub;
use super::tail::Tail;
use super::topic::{Found, Topic};
use crate::edge::admission::Permit;
use crate::edge::callers::Caller;
use crate::edge::gate::{self, Admitted};
use crate::edge::grants::Grants;
use crate::edge::route::Destination;
use crate::edge::status::status;

/// One topic, followed from a position on.
pub(crate) struct Follower {
    address: Address,
    watch: Watch,
    show: Show,
    /// Absent where the watch ends by itself: all of it is read from the feed.
    live: Option<(Arc<Tail>, Arc<Topic>)>,
    waker: Arc<AtomicWaker>,
    position: u64,
    reading: Option<BoxFuture<'static, Result<Stretch, Refusal>>>,
}

impl Follower {
    pub(crate) fn new(
        address: Address,
        watch: Watch,
        show: Show,
        live: Option<(Arc<Tail>, Arc<Topic>)>,
        waker: Arc<AtomicWaker>,
        position: u64,
    ) -> Self {
        Self { address, watch, show, live, waker, position, reading: None }
    }

    /// Whether everything has been read and nothing will come.
    fn is_over(&self) -> bool {
        self.watch.end.as_ref().is_some_and(|end| self.position >= end.seq)
    }

    fn read(&mut self, node: &Node) {
        let (node, address) = (node.clone(), self.address.clone());
        let (watch, show, position) = (self.watch.clone(), self.show, self.position);
        self.reading = Some(Box::pin(async move { history::read(&node, &address, &watch, show, position).await }));
    }

    /// What there is after the position, without waiting for it.
    fn poll(&mut self, node: &Node, cx: &mut Context<'_>, out: &mut VecDeque<Bytes>) -> Result<(), Refusal> {
        loop {
            if let Some(reading) = &mut self.reading {
                match reading.as_mut().poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(stretch) => {
                        self.reading = None;
                        let mut stretch = stretch?;
                        self.position = self.position.max(stretch.position);
                        if let Some(end) = &self.watch.end {
                            stretch.events.retain(|event| event.seq <= end.seq);
                        }
                        let any = !stretch.events.is_empty();
                        out.extend(stretch.events.into_iter().map(|event| event.bytes));
                        if any {
                            return Ok(());
                        }
                    }
                }
            }
            let Some((_, topic)) = &self.live else {
                if self.is_over() {
                    return Ok(());
                }
                self.read(node);
                continue;
            };
            match topic.after(self.position) {
                Found::Nothing => return Ok(()),
                Found::Events(events) => {
                    self.position = events.last().map_or(self.position, |event| event.seq);
                    out.extend(events.into_iter().map(|event| event.bytes));
                    return Ok(());
                }
                Found::Behind => self.read(node),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some((tail, topic)) = self.live.take() {
            topic.unfollow(&self.waker);
            drop(topic);
            tail.leave();
        }
    }
}

/// A subscription that stands, before it is known who may read it.
pub struct OpenedStream {
    pub(crate) hub: Arc<Hub>,
    pub(crate) node: Node,
    pub(crate) waker: Arc<AtomicWaker>,
    pub(crate) followers: Vec<Follower>,
    pub(crate) greetings: Vec<Bytes>,
    /// Tells when the stream ends, unless the session is refreshed.
    pub(crate) expiring: Option<fn(i64) -> Bytes>,
}

/// Who reads a stream, and under which conditions.
struct Guard {
    caller: Arc<Caller>,
    life: Life,
    grants: Arc<Grants>,
    rule: &'static Rule,
    destination: Destination,
    admitted: Admitted,
    /// Sum of the orgs' versions when the caller was last found entitled.
    seen: u64,
    /// Until when the org's bytes of this second are used up.
    paused: Option<Pin<Box<Sleep>>>,
    _permit: Permit,
}

impl Guard {
    /// Whether the reader may still read: asked before every event.
    fn check(&mut self) -> Result<(), Refusal> {
        if self.caller.has_ended() {
            return Err(Refusal::new(Code::Unauthenticated, "the session has ended").hint("log in again"));
        }
        let versions = self.admitted.orgs.iter().map(|org| org.version()).sum();
        let now_ms = now_ms();
        // What a sys-admin's role rests on may end without any change.
        let lapses = self.admitted.sys_admin_until_ms.is_some_and(|until_ms| now_ms >= until_ms);
        if versions != self.seen || lapses {
            let Self { grants, rule, caller, destination, admitted, .. } = self;
            gate::still_admitted(grants, rule, caller, destination, admitted, now_ms)?;
            self.seen = versions;
        }
        Ok(())
    }

    /// Waits until the org may send so many bytes; a paused stream loses nothing, for it reads on
    /// from where it is.
    fn poll_pace(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        let Some(org) = self.admitted.orgs.first() else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.paused {
                ready!(pause.as_mut().poll(cx));
                self.paused = None;
            }
            match org.party.send(bytes) {
                Ok(()) => return Poll::Ready(()),
                Err(wait) => self.paused = Some(Box::pin(sleep(wait))),
            }
        }
    }
}

/// How long a stream may go on by who reads it.
struct Life {
    expiring: Option<fn(i64) -> Bytes>,
    /// The end that the reader has been told of.
    told_ms: i64,
    /// When to look again.
    alarm: Option<(i64, Pin<Box<Sleep>>)>,
}

impl Life {
    /// What to tell the reader now, if anything.
    fn poll(&mut self, caller: &Caller, cx: &mut Context<'_>) -> Result<Option<Bytes>, Refusal> {
        loop {
            let (now_ms, until_ms) = (now_ms(), caller.lives_until_ms());
            if now_ms >= until_ms {
                return Err(Refusal::new(Code::Unauthenticated, "what proved who reads this has expired")
                    .hint("refresh the session, and subscribe again with the cursor of the last event received"));
            }
            let untold = |_: &i64| self.told_ms < until_ms;
            let tells = self.expiring.zip(caller.refresh_margin_ms.filter(untold));
            let next_ms = match tells {
                Some((expiring, margin_ms)) if now_ms >= until_ms - margin_ms => {
                    self.told_ms = until_ms;
                    return Ok(Some(expiring(until_ms)));
                }
                Some((_, margin_ms)) => until_ms - margin_ms,
                None => until_ms,
            };
            match &mut self.alarm {
                Some((at_ms, alarm)) if *at_ms == next_ms => {
                    if alarm.as_mut().poll(cx).is_pending() {
                        return Ok(None);
                    }
                    self.alarm = None;
                }
                _ => {
                    let wait = Duration::from_millis(u64::try_from(next_ms - now_ms).unwrap_or(0));
                    self.alarm = Some((next_ms, Box::pin(sleep(wait))));
                }
            }
        }
    }
}

/// A subscriber's stream of encoded answers.
pub struct EventStream {
    hub: Arc<Hub>,
    node: Node,
    waker: Arc<AtomicWaker>,
    followers: Vec<Follower>,
    ready: VecDeque<Bytes>,
    guard: Guard,
    ended: bool,
}

impl OpenedStream {
    /// The stream for a caller who was let in.
    pub fn guarded(
        self,
        caller: Arc<Caller>,
        grants: Arc<Grants>,
        rule: &'static Rule,
        destination: Destination,
        admitted: Admitted,
        permit: Permit,
    ) -> EventStream {
        metrics::gauge!("canopy_edge_subscriptions").increment(1.0);
        caller.streams.add(&self.waker);
        for org in &admitted.orgs {
            org.streams.add(&self.waker);
        }
        // Nothing is taken as seen: the first event checks again.
        let life = Life { expiring: self.expiring, told_ms: 0, alarm: None };
        let guard =
            Guard { caller, life, grants, rule, destination, admitted, seen: u64::MAX, paused: None, _permit: permit };
        EventStream {
            hub: self.hub,
            node: self.node,
            waker: self.waker,
            followers: self.followers,
            ready: self.greetings.into(),
            guard,
            ended: false,
        }
    }
}

impl EventStream {
    fn end(&mut self, refusal: &Refusal) -> Poll<Option<Result<Bytes, Status>>> {
        self.ended = true;
        self.followers.clear();
        Poll::Ready(Some(Err(status(refusal))))
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Registered before looking, so that nothing falls in between.
        this.waker.register(cx.waker());
        if let Err(refusal) = this.guard.check() {
            return this.end(&refusal);
        }
        if this.ready.is_empty() {
            match this.guard.life.poll(&this.guard.caller, cx) {
                Ok(told) => this.ready.extend(told),
                Err(refusal) => return this.end(&refusal),
            }
            for follower in &mut this.followers {
                if let Err(refusal) = follower.poll(&this.node, cx, &mut this.ready) {
                    return this.end(&refusal);
                }
            }
        }
        if let Some(bytes) = this.ready.front() {
            ready!(this.guard.poll_pace(bytes.len(), cx));
        }
        if let Some(bytes) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if !this.followers.is_empty() && this.followers.iter().all(Follower::is_over) {
            this.ended = true;
            return Poll::Ready(None);
        }
        if this.hub.is_closing() {
            let refusal = Refusal::new(Code::Unavailable, "the server is going down")
                .retry_after_ms(1000)
                .hint("subscribe again with the cursor of the last event received");
            return this.end(&refusal);
        }
        Poll::Pending
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.guard.caller.streams.remove(&self.waker);
        for org in &self.guard.admitted.orgs {
            org.streams.remove(&self.waker);
        }
        metrics::gauge!("canopy_edge_subscriptions").decrement(1.0);
    }
}
