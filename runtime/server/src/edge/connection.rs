//! One connection from its handshake to its end: TLS, the choice of protocol, then
//! hyper until the peer, an error or the drain ends it.
//!
//! hyper-util's `auto` server would choose the protocol as well, but waits for a
//! silent client's first bytes without a time-out. ALPN needs no bytes at all.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use metrics::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::listener::{Metrics, Options, Peer, Security};
use super::tls::ALPN_HTTP2;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between looks at a preface that arrives in pieces; only odd clients do that.
const PREFACE_POLL: Duration = Duration::from_millis(5);

/// What the connections of one listener have in common.
pub(super) struct Shared {
    tls: Option<TlsAcceptor>,
    tls_handshake_timeout: Duration,
    first_bytes_timeout: Duration,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
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
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(header_bytes_max)
            .max_concurrent_streams(options.http2.streams_max)
            .initial_stream_window_size(options.http2.stream_window_bytes)
            .initial_connection_window_size(options.http2.connection_window_bytes)
            .keep_alive_interval(options.http2.keep_alive_interval)
            .keep_alive_timeout(options.http2.keep_alive_timeout)
            .max_pending_accept_reset_streams(options.http2.pending_accept_reset_streams_max)
            .max_local_error_reset_streams(options.http2.local_error_reset_streams_max);
        Self {
            tls: match &options.security {
                Security::Tls(config) => Some(TlsAcceptor::from(Arc::clone(config))),
                Security::Plaintext => None,
            },
            tls_handshake_timeout: options.tls_handshake_timeout,
            first_bytes_timeout: options.header_read_timeout,
            http1,
            http2,
            metrics,
        }
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
    let service = PeerService { service, peer };
    let ended = if let Some(acceptor) = &shared.tls {
        let stream = tokio::select! {
            biased;
            stream = handshake(&shared, acceptor, stream) => stream,
            // No request can be in flight yet.
            _ = &mut draining => return,
        };
        let Some(stream) = stream else { return };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
        speak(&shared, http2, stream, service, draining).await
    } else {
        let first = tokio::select! {
            biased;
            first = timeout(shared.first_bytes_timeout, starts_with_preface(&stream)) => first,
            _ = &mut draining => return,
        };
        let Ok(Ok(http2)) = first else { return };
        speak(&shared, http2, stream, service, draining).await
    };
    if let Err(error) = ended {
        // The peer's doing, nearly always: it went away, or broke the protocol.
        tracing::debug!(%error, ?peer, "connection ended with an error");
    }
}

async fn handshake(
    shared: &Shared,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
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
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TokioIo::new(stream);
    if http2 {
        drive(shared.http2.serve_connection(stream, service), draining).await
    } else {
        drive(shared.http1.serve_connection(stream, service), draining).await
    }
}

/// Polls the connection; a oneshot beside it costs one atomic load per poll, where a
/// shared cancellation token would take a lock that all connections share.
async fn drive<C: GracefulConnection>(connection: C, draining: oneshot::Receiver<()>) -> Result<(), C::Error> {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        _ = draining => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
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

/// Puts the [`Peer`] into each request and hands it to a clone of the service.
#[derive(Clone)]
struct PeerService<S> {
    service: S,
    peer: Peer,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for PeerService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Oneshot<S, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.service.clone().oneshot(request)
    }
}
