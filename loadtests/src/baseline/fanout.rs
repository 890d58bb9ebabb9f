//! Bare tonic fan-out: `Send` hands its bytes to every open `Subscribe` stream.
//!
//! Nothing is stored and nothing is checked. The bytes are shared, not copied, until tonic frames
//! them for each stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tower::{Service, service_fn};

use crate::client::codec::RawCodec;

pub const SEND: PathAndQuery = PathAndQuery::from_static("/canopy.load.v1.Fanout/Send");
pub const SUBSCRIBE: PathAndQuery = PathAndQuery::from_static("/canopy.load.v1.Fanout/Subscribe");

/// How far the slowest subscriber may fall behind before its stream ends with `DATA_LOSS`:
/// more than any scenario has under way at once.
const BACKLOG_MESSAGES_MAX: usize = 1 << 16;
/// Messages a stream takes from the log at a time: each taking costs a lock that all streams share.
const TAKEN_MESSAGES_MAX: usize = 256;

/// The last messages, shared by all streams.
#[derive(Debug, Default)]
struct Log {
    /// Number of the message at the front.
    first: u64,
    messages: VecDeque<Bytes>,
}

impl Log {
    fn push(&mut self, message: Bytes) {
        if self.messages.len() == BACKLOG_MESSAGES_MAX {
            self.messages.pop_front();
            self.first += 1;
        }
        self.messages.push_back(message);
    }

    fn end(&self) -> u64 {
        self.first + u64::try_from(self.messages.len()).unwrap_or_default()
    }

    /// Copies messages from number `next` on; `None` when the oldest of them are gone.
    fn take(&self, next: u64, into: &mut VecDeque<Bytes>) -> Option<()> {
        let skipped = usize::try_from(next.checked_sub(self.first)?).ok()?;
        into.extend(self.messages.iter().skip(skipped).take(TAKEN_MESSAGES_MAX).cloned());
        Some(())
    }
}

#[derive(Debug, Default)]
struct Topic {
    log: RwLock<Log>,
    /// Tells waiting streams that there is more; the number itself is in the log.
    grown: watch::Sender<()>,
}

#[derive(Clone, Debug, Default)]
pub struct Fanout {
    topic: Arc<Topic>,
}

/// One subscriber's place in the log.
struct Reader {
    topic: Arc<Topic>,
    grown: watch::Receiver<()>,
    next: u64,
    taken: VecDeque<Bytes>,
}

impl Reader {
    fn new(topic: Arc<Topic>) -> Self {
        let next = topic.log.read().end();
        Self { grown: topic.grown.subscribe(), topic, next, taken: VecDeque::new() }
    }

    async fn message(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(message) = self.taken.pop_front() {
                self.next += 1;
                return Some(Ok(message));
            }
            // Before the log is read, so that what comes in between is not slept through.
            self.grown.mark_unchanged();
            if self.topic.log.read().take(self.next, &mut self.taken).is_none() {
                return Some(Err(Status::data_loss("the subscriber fell behind the backlog")));
            }
            if self.taken.is_empty() && self.grown.changed().await.is_err() {
                return None;
            }
        }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

fn follow(reader: Reader) -> Messages {
    // `unfold` keeps the future in place: no allocation per message.
    Box::pin(futures::stream::unfold(reader, |mut reader| async {
        reader.message().await.map(|message| (message, reader))
    }))
}

impl NamedService for Fanout {
    const NAME: &'static str = "canopy.load.v1.Fanout";
}

impl Service<http::Request<Body>> for Fanout {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let topic = self.topic.clone();
        Box::pin(async move {
            if request.uri().path() == SUBSCRIBE.path() {
                let subscribe = service_fn(|_: Request<Bytes>| {
                    let messages = follow(Reader::new(topic.clone()));
                    std::future::ready(Ok::<_, Status>(Response::new(messages)))
                });
                return Ok(Grpc::new(RawCodec::streaming()).server_streaming(subscribe, request).await);
            }
            let send = service_fn(|message: Request<Bytes>| {
                topic.log.write().push(message.into_inner());
                topic.grown.send_replace(());
                std::future::ready(Ok::<_, Status>(Response::new(Bytes::new())))
            });
            Ok(Grpc::new(RawCodec::unary()).unary(send, request).await)
        })
    }
}
