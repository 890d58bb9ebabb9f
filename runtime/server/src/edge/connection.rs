//! One connection from its handshake to its end: TLS, the choice of protocol, then
//! hyper until the peer, an error or the drain ends it.
//!
//! hyper-util's `auto` server would choose the protocol as well, but waits for a
//! silent client's first bytes without a time-out. ALPN needs no bytes at all.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use metrics::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::age::{Stage, Term};
use super::answer::PeerService;
use super::connection_metrics::Metrics;
use super::devices::Shown;
use super::frames::{Flood, FrameMeter};
use super::guard::{Guard, Wire};
use super::listener::{Http2Limits, Options, Peer, Security};
use super::load::{ConnectionLoad, Patience, Stall};
use super::streams::Streams;
use super::tls::ALPN_HTTP2;
use super::turns::Turns;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between looks at a preface that arrives in pieces; only odd clients do that.
const PREFACE_POLL: Duration = Duration::from_millis(5);
/// Looks at a connection in the shortest time that a client may stall.
const LOOKS: u32 = 4;
/// Shortest time between looks, so that small limits cost no more than a hundred looks a second.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// What the connections of one listener have in common.
pub(super) struct Shared {
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    tls_handshake_timeout: Duration,
    first_bytes_timeout: Duration,
    http1: http1::Builder,
    header_bytes_max: u32,
    http2: Http2Limits,
    patience: Patience,
    term: Term,
    pub(super) metrics: Metrics,
}

impl Shared {
    pub(super) fn new(options: &Options, metrics: Metrics) -> Self {
        let header_bytes_max = options.header_bytes_max;
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_read_timeout)
            .max_header_size(usize::try_from(header_bytes_max).unwrap_or(usize::MAX));
        Self {
            tls: match &options.security {
                Security::Tls(config) => Some(Arc::clone(config)),
                Security::Plaintext => None,
            },
            tls_handshake_timeout: options.tls_handshake_timeout,
            first_bytes_timeout: options.header_read_timeout,
            http1,
            header_bytes_max,
            http2: options.http2.clone(),
            patience: Patience {
                preface: options.header_read_timeout,
                write: options.write_stall_timeout,
                answer: options.answer_stall_timeout,
            },
            term: Term { age_max: options.connection_age_max, grace: options.drain_grace },
            metrics,
        }
    }

    fn http2(&self, load: &Arc<ConnectionLoad>) -> http2::Builder<Streams> {
        let limits = &self.http2;
        let mut http2 = http2::Builder::new(Streams::new(Arc::clone(load)));
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(self.header_bytes_max)
            .max_concurrent_streams(limits.streams_max)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .keep_alive_interval(limits.keep_alive_interval)
            .keep_alive_timeout(limits.keep_alive_timeout)
            .max_pending_accept_reset_streams(limits.pending_accept_reset_streams_max)
            .max_local_error_reset_streams(limits.local_error_reset_streams_max);
        http2
    }
}

/// Serves one connection to its end. `draining` ends when it should finish.
pub(super) async fn run<S, B>(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: Peer,
    service: S,
    mut draining: oneshot::Receiver<()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _open = Open::new(&shared.metrics.connections);
    // Without it, small answers wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, ?peer, "TCP_NODELAY could not be set");
    }
    let mut service = PeerService { service, peer: peer.clone(), ambiguous: shared.metrics.ambiguous.clone() };
    let ended = if let Some(config) = &shared.tls {
        let acceptor = TlsAcceptor::from(config.load_full());
        let stream = tokio::select! {
            biased;
            stream = handshake(&shared, &acceptor, Turns::new(stream, Arc::clone(&peer.load))) => stream,
            // No request can be in flight yet.
            _ = &mut draining => return,
        };
        let Some(stream) = stream else { return };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
        service.peer.device = stream.get_ref().1.peer_certificates().map(Shown::from);
        speak(&shared, http2, stream, service, draining).await
    } else {
        let first = tokio::select! {
            biased;
            first = timeout(shared.first_bytes_timeout, starts_with_preface(&stream)) => first,
            _ = &mut draining => return,
        };
        let Ok(Ok(http2)) = first else { return };
        speak(&shared, http2, Turns::new(stream, Arc::clone(&peer.load)), service, draining).await
    };
    match ended {
        Ended::Well => {}
        Ended::Stalled(stall) => {
            shared.metrics.ended(stall.name());
            tracing::debug!(?stall, remote = %peer.remote, "connection given up");
        }
        Ended::Aged => {
            shared.metrics.ended(AGED);
            tracing::debug!(remote = %peer.remote, "connection cut off for its age");
        }
        Ended::Flooded(name) => {
            shared.metrics.ended(name);
            tracing::debug!(flood = name, remote = %peer.remote, "connection cut off");
        }
        Ended::Failed(error) => {
            if let Some(name) = http2_error(&error) {
                shared.metrics.ended(name);
            }
            // The peer's doing, nearly always: it went away, or broke the protocol.
            tracing::debug!(%error, remote = %peer.remote, "connection ended with an error");
        }
    }
}

/// How a connection came to its end.
enum Ended {
    Well,
    Stalled(Stall),
    /// What was under way when it was too old did not end in time.
    Aged,
    Flooded(&'static str),
    Failed(hyper::Error),
}

/// It had become too old, and was not idle for the time that it was given.
const AGED: &str = "age";
/// h2 ended it for a limit of its own.
const CALM: &str = "http2_calm";
/// h2 ended it because the client broke the protocol.
const BROKEN: &str = "http2_error";

/// What a connection may be ended for, as metrics name it.
pub(super) fn end_reasons() -> impl Iterator<Item = &'static str> {
    Flood::ALL.into_iter().map(Flood::name).chain(Stall::ALL.into_iter().map(Stall::name)).chain([AGED, CALM, BROKEN])
}

/// What h2 ended a connection for, if it did.
fn http2_error(error: &hyper::Error) -> Option<&'static str> {
    let error = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    if !error.is_library() {
        return None;
    }
    match error.reason()? {
        h2::Reason::ENHANCE_YOUR_CALM => Some(CALM),
        h2::Reason::NO_ERROR => None,
        _ => Some(BROKEN),
    }
}

async fn handshake(
    shared: &Shared,
    acceptor: &TlsAcceptor,
    stream: Turns,
) -> Option<tokio_rustls::server::TlsStream<Turns>> {
    let started = Instant::now();
    match timeout(shared.tls_handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            shared.metrics.handshake_seconds.record(started.elapsed());
            Some(stream)
        }
        Ok(Err(error)) => {
            shared.metrics.handshakes_failed.increment(1);
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            shared.metrics.handshakes_late.increment(1);
            None
        }
    }
}

/// Whether the peer speaks HTTP/2, told without taking bytes off the stream: it does
/// once the whole preface is there, and does not at the first byte that differs.
async fn starts_with_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if count == HTTP2_PREFACE.len() {
            return Ok(&first == HTTP2_PREFACE);
        }
        if first.get(..count) != HTTP2_PREFACE.get(..count) {
            return Ok(false);
        }
        // The bytes that were looked at keep the socket readable, so there is no event
        // to wait for.
        tokio::time::sleep(PREFACE_POLL).await;
    }
}

async fn speak<I, S, B>(
    shared: &Shared,
    http2: bool,
    stream: I,
    service: PeerService<S>,
    draining: oneshot::Receiver<()>,
) -> Ended
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let load = Arc::clone(&service.peer.load);
    let meter =
        http2.then(|| FrameMeter::new(Arc::clone(&load), shared.http2.overhead_max, shared.http2.overhead_per_s));
    let (guard, wire) = Guard::new(stream, meter, Arc::clone(&load));
    let stream = TokioIo::new(guard);
    let ended = if http2 {
        drive(shared.http2(&load).serve_connection(stream, service), &wire, draining, &load, shared).await
    } else {
        // What it may take to say what it wants is hyper's header time-out.
        load.preface_came();
        drive(shared.http1.serve_connection(stream, service), &wire, draining, &load, shared).await
    };
    // hyper has let go of the connection.
    let Some(ending) = wire.end() else { return ended };
    if let Some(flood) = ending.flood {
        ending.farewell().await;
        return Ended::Flooded(flood.name());
    }
    if matches!(&ended, Ended::Failed(error) if http2_error(error).is_some()) {
        // h2 has said why, and shut down its side.
        ending.farewell().await;
    }
    ended
}

/// Polls the connection; a oneshot beside it costs one atomic load per poll, where a
/// shared cancellation token would take a lock that all connections share.
async fn drive<C: GracefulConnection<Error = hyper::Error>, I: AsyncWrite + Unpin>(
    connection: C,
    wire: &Wire<I>,
    mut draining: oneshot::Receiver<()>,
    load: &ConnectionLoad,
    shared: &Shared,
) -> Ended {
    let mut connection = std::pin::pin!(connection);
    let Shared { patience, term, .. } = shared;
    let shortest = patience.preface.min(patience.write).min(patience.answer);
    let shortest = term.age_max.map_or(shortest, |age| shortest.min(age));
    let mut look = interval((shortest / LOOKS).max(LOOK_EVERY_MIN));
    let mut turns = 0;
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| wire.poll(connection.as_mut(), cx)) => {
                return ended.map_or_else(Ended::Failed, |()| Ended::Well);
            }
            // A sender that is gone means that nobody will drain it.
            _ = &mut draining, if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                if let Some(stall) = load.stall(patience, &mut turns) {
                    return Ended::Stalled(stall);
                }
                match term.stage(load.number(), load.age()) {
                    Stage::Old if !is_draining => {
                        is_draining = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Stage::Young | Stage::Old => {}
                    Stage::Over => return Ended::Aged,
                }
            }
        }
    }
}

/// Counts a connection as open until it is dropped, by a panic or an abort too.
struct Open<'a>(&'a Gauge);

impl<'a> Open<'a> {
    fn new(connections: &'a Gauge) -> Self {
        connections.increment(1.0);
        Self(connections)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
