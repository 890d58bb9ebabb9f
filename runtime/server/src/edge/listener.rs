//! One port for HTTP/1.1 and HTTP/2, over TLS or (on loopback) in plain text.
//!
//! [`Bound::serve`] owns the socket and every connection's task. It ends when its
//! `shutdown` future does: it stops accepting, tells each connection to finish what is
//! in flight (GOAWAY, or `connection: close`), and aborts what is left after
//! [`Options::drain_grace`]. Per request it costs one extension and one clone of the
//! service.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tower::Service;

use super::connection;
use super::connection_metrics::Metrics;
use super::devices::Shown;
use super::load::{Addresses, ConnectionLoad};

/// Connections that the kernel completes while `serve` is busy accepting others.
const BACKLOG_CONNECTIONS: u32 = 1024;
/// First pause after the system refused to accept; doubles at each refusal in a row.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest such pause: an exhausted process must notice freed descriptors within a second.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Unique among all listeners of the process, so that an id names one connection.
static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// Who sent a request; in the extensions of each.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end of the TCP connection.
    pub remote: SocketAddr,
    /// Unique in this process.
    pub connection_id: u64,
    /// Whether the connection is over TLS.
    pub secure: bool,
    /// The certificate that the client has shown, which nobody has looked at;
    /// absent where none was asked for.
    pub device: Option<Shown>,
    /// What the connection has under way.
    pub load: Arc<ConnectionLoad>,
}

/// How the bytes of a connection are protected.
#[derive(Clone)]
pub enum Security {
    /// TLS, with the protocol chosen by ALPN; without ALPN it is HTTP/1.1. Another configuration
    /// that is stored there is that of the next connection.
    Tls(Arc<ArcSwap<rustls::ServerConfig>>),
    /// None; allowed on loopback addresses only. The protocol is told by the preface.
    Plaintext,
}

impl Security {
    /// TLS by this configuration.
    #[must_use]
    pub fn tls(config: rustls::ServerConfig) -> Self {
        Self::Tls(Arc::new(ArcSwap::from_pointee(config)))
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls(_) => "Tls",
            Self::Plaintext => "Plaintext",
        })
    }
}

/// Limits of one HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Http2Limits {
    /// Requests in flight at once (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams_max: u32,
    /// How much a client may send on one stream before the service reads it.
    pub stream_window_bytes: u32,
    /// The same over all streams of a connection.
    pub connection_window_bytes: u32,
    /// A ping is sent after this long without a frame, so that dead peers are found.
    pub keep_alive_interval: Duration,
    /// The connection is closed when the ping is not answered in this time.
    pub keep_alive_timeout: Duration,
    /// Streams that the client reset before they were looked at (CVE-2023-44487,
    /// rapid reset); one more ends the connection with `ENHANCE_YOUR_CALM`.
    pub pending_accept_reset_streams_max: usize,
    /// Streams that were reset because of the client's errors (RUSTSEC-2024-0003);
    /// one more ends the connection with `ENHANCE_YOUR_CALM`.
    pub local_error_reset_streams_max: usize,
    /// What a client may send that brings nothing about, in units: a PING costs 1, SETTINGS 20,
    /// a stream that is opened and reset at once 12; answers and data give it back. One more
    /// ends the connection with `ENHANCE_YOUR_CALM`.
    pub overhead_max: u32,
    /// How many of these units come back each second.
    pub overhead_per_s: u32,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            streams_max: 256,
            // With a window of 64 KiB an upload over 50 ms runs at 1.3 MB/s; with 1 MiB at 20.
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            pending_accept_reset_streams_max: 20,
            local_error_reset_streams_max: 256,
            // 300 calls given up at once, or 4,000 PINGs; a second's worth of the latter costs
            // the server about a millisecond.
            overhead_max: 4_000,
            overhead_per_s: 400,
        }
    }
}

/// What a listener needs to know; see [`Options::new`] for the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS, or plain text on loopback.
    pub security: Security,
    /// Connections at once; more are closed as soon as they are accepted.
    pub connections_max: usize,
    /// Connections at once from one address (of IPv6, one /64); more are closed likewise.
    pub connections_per_address_max: usize,
    /// From accepting a connection to the end of its TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// For the head of an HTTP/1 request, counted from the end of the one before (so it
    /// also ends idle connections), and for a plain-text client's first bytes.
    pub header_read_timeout: Duration,
    /// A client that has read nothing for so long, while there is something to read, is cut off.
    pub write_stall_timeout: Duration,
    /// A client that has not taken an answer for so long is cut off, after twice the time at
    /// the latest. Subscriptions may wait.
    pub answer_stall_timeout: Duration,
    /// The head of a request, over either protocol; more is answered with 431.
    pub header_bytes_max: u32,
    /// A connection of this age, a tenth more or less, is told to end, and ends after
    /// [`Self::drain_grace`] at the latest; `None` for none.
    pub connection_age_max: Option<Duration>,
    /// How long requests in flight may go on after shutdown began.
    pub drain_grace: Duration,
    /// Limits of one HTTP/2 connection.
    pub http2: Http2Limits,
}

impl Options {
    /// Defaults for one node on one machine.
    #[must_use]
    pub fn new(address: SocketAddr, security: Security) -> Self {
        Self {
            address,
            security,
            // Half of the 20,000 files that a process may usually open; vaults need the rest.
            connections_max: 10_000,
            // An office or a mobile carrier behind one address, and no more than a fifth of all.
            connections_per_address_max: 2_000,
            tls_handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(30),
            // The largest answers over the slowest lines: 4 MiB at 70 kB/s.
            answer_stall_timeout: Duration::from_secs(60),
            header_bytes_max: 32 << 10,
            connection_age_max: None,
            // Under the 30 s after which orchestrators kill.
            drain_grace: Duration::from_secs(25),
            http2: Http2Limits::default(),
        }
    }
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Plain text was asked for where others could listen in.
    #[error(
        "{address} can be reached from other machines, and plain text is for loopback only; turn TLS on, or listen on 127.0.0.1 behind a proxy that does TLS"
    )]
    PlaintextExposed {
        /// The address as configured.
        address: SocketAddr,
    },
    /// A limit of zero would serve nobody.
    #[error("{name} is 0, which would refuse everybody; set it to 1 or more")]
    LimitZero {
        /// The option's name.
        name: &'static str,
    },
    /// The system refused the address.
    #[error(
        "cannot listen on {address}: {source}; check that the address is this machine's and that no other process has the port"
    )]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// What a listener did in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeReport {
    /// Connections taken on, those whose TLS handshake failed included.
    pub connections_accepted: u64,
    /// Connections closed because of [`Options::connections_max`].
    pub connections_refused: u64,
    /// Times that the system could not accept (too many open files, say).
    pub accept_errors: u64,
    /// Connections cut off, with requests in flight, when the drain grace ended.
    pub connections_aborted: u64,
}

/// Opens ports.
#[derive(Debug)]
pub struct Listener;

impl Listener {
    /// Opens the port; connections wait in the kernel until [`Bound::serve`]. Call it in
    /// a tokio runtime, after the metrics recorder is installed.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(options: Options) -> Result<Bound, ListenError> {
        let address = options.address;
        let plaintext = matches!(options.security, Security::Plaintext);
        if plaintext && !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::PlaintextExposed { address });
        }
        if options.connections_max == 0 {
            let name = "connections_max";
            return Err(ListenError::LimitZero { name });
        }
        if options.connections_per_address_max == 0 {
            let name = "connections_per_address_max";
            return Err(ListenError::LimitZero { name });
        }
        if options.http2.streams_max == 0 {
            let name = "streams_max";
            return Err(ListenError::LimitZero { name });
        }
        let (listener, address) = listen(address).map_err(|source| ListenError::Bind { address, source })?;
        Ok(Bound { listener, address, options, metrics: Metrics::new() })
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restarted server must not wait a minute for its predecessor's TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG_CONNECTIONS)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// An open port that nobody serves yet.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
    metrics: Metrics,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("address", &self.address).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Bound {
    /// The address with its actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` ends, then drains. Cancel-safe in the sense that
    /// dropping it aborts every connection.
    ///
    /// An axum `Router` is such a service; so is anything that sits in front of one.
    pub async fn serve<S, B>(self, service: S, shutdown: impl Future<Output = ()>) -> ServeReport
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let secure = matches!(self.options.security, Security::Tls(_));
        let connections_max = self.options.connections_max;
        let per_address_max = self.options.connections_per_address_max;
        let drain_grace = self.options.drain_grace;
        let shared = Arc::new(connection::Shared::new(&self.options, self.metrics));
        let metrics = &shared.metrics;
        let mut report = ServeReport::default();
        let mut open = Connections::default();
        let mut pause = AcceptPause::default();
        let mut shutdown = std::pin::pin!(shutdown);

        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Ends first, so that a place that came free is free for the next. It
                // also cuts a pause short: a connection's end frees a file descriptor.
                () = open.ended() => continue,
                accepted = accept(&self.listener, pause.current()) => accepted,
            };
            match accepted {
                Ok((stream, remote)) if open.count() < connections_max => {
                    pause.reset();
                    let Some(address) = open.addresses.enter(remote.ip(), per_address_max) else {
                        report.connections_refused += 1;
                        metrics.refused_address.increment(1);
                        let _ = stream.set_zero_linger();
                        continue;
                    };
                    report.connections_accepted += 1;
                    let connection_id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
                    let load = Arc::new(ConnectionLoad::new(address, connection_id));
                    let peer = Peer { remote, connection_id, secure, device: None, load };
                    let (drain, draining) = oneshot::channel();
                    let service = service.clone();
                    let connection = connection::run(Arc::clone(&shared), stream, peer, service, draining);
                    open.insert(connection, remote.ip(), drain);
                }
                Ok((stream, _)) => {
                    pause.reset();
                    report.connections_refused += 1;
                    metrics.refused.increment(1);
                    // A reset instead of TIME_WAIT: what is over the limit leaves nothing behind.
                    let _ = stream.set_zero_linger();
                }
                Err(error) if pause.concerns_all(&error) => {
                    report.accept_errors += 1;
                    metrics.accept_errors.increment(1);
                    tracing::warn!(%error, pause = ?pause.current(), "cannot accept connections");
                }
                Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
            }
        }

        drop(self.listener);
        report.connections_aborted = open.drain(drain_grace).await;
        report
    }
}

async fn accept(listener: &TcpListener, pause: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    listener.accept().await
}

/// How long to wait before the next accept; zero unless the last one failed for want
/// of something that the process or the machine ran out of (`EMFILE`, `ENFILE`,
/// `ENOBUFS`, `ENOMEM`). Such a connection stays in the backlog, so accepting again at
/// once would spin.
#[derive(Debug, Default)]
struct AcceptPause(Duration);

impl AcceptPause {
    fn current(&self) -> Duration {
        self.0
    }

    fn reset(&mut self) {
        self.0 = Duration::ZERO;
    }

    /// Whether `error` is about more than the one connection; if so, waits longer.
    fn concerns_all(&mut self, error: &io::Error) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        let own = matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted);
        if !own {
            self.0 = (self.0 * 2).clamp(ACCEPT_PAUSE_MIN, ACCEPT_PAUSE_MAX);
        }
        !own
    }
}

/// The tasks of the open connections, each with the sender that tells it to drain.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    drains: HashMap<Id, (IpAddr, oneshot::Sender<()>)>,
    addresses: Addresses,
}

impl Connections {
    fn insert(
        &mut self,
        connection: impl Future<Output = ()> + Send + 'static,
        ip: IpAddr,
        drain: oneshot::Sender<()>,
    ) {
        let task = self.tasks.spawn(connection);
        self.drains.insert(task.id(), (ip, drain));
    }

    fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Waits for the next connection to end; for ever while there is none.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.forget(ended),
            None => std::future::pending().await,
        }
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked; its peer was cut off");
                }
                error.id()
            }
        };
        if let Some((ip, _)) = self.drains.remove(&id) {
            self.addresses.leave(ip);
        }
    }

    /// Lets requests in flight end within `grace`; returns how many connections were
    /// aborted after it.
    async fn drain(mut self, grace: Duration) -> u64 {
        for (_, (_, drain)) in self.drains.drain() {
            // A connection that has just ended no longer listens.
            let _ = drain.send(());
        }
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.forget(ended);
            }
        };
        if tokio::time::timeout(grace, all_ended).await.is_ok() {
            return 0;
        }
        self.tasks.abort_all();
        let mut aborted = 0;
        while let Some(ended) = self.tasks.join_next().await {
            aborted += u64::from(ended.is_err_and(|error| error.is_cancelled()));
        }
        tracing::warn!(connections = aborted, ?grace, "aborted what did not end in time");
        aborted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_longer_at_each_exhaustion_and_not_for_one_connection() {
        const EMFILE: i32 = 24;
        const ECONNABORTED: i32 = 103;
        let mut pause = AcceptPause::default();
        let mut pauses_ms = Vec::new();
        for _ in 0..10 {
            assert!(pause.concerns_all(&io::Error::from_raw_os_error(EMFILE)));
            pauses_ms.push(pause.current().as_millis());
        }
        assert_eq!(pauses_ms, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pause.reset();
        assert!(!pause.concerns_all(&io::Error::from_raw_os_error(ECONNABORTED)));
        assert_eq!(pause.current(), Duration::ZERO);
    }
}
