//! What the edge's tests share: a listener on a free loopback port, and clients of it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "certificates are made for the real clock, which TLS clients check")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use canopy::edge::authority::{Authority, NodeNames};
use canopy::edge::certificate::ReloadingCertificate;
use canopy::edge::credential::Summary;
use canopy::edge::listener::{Listener, Options, Peer, Security, ServeReport};
use canopy::edge::tls::{self, ALPN_HTTP1, ALPN_HTTP2};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A deadline for what should take milliseconds: it fails a hung test, and no test
/// waits it out.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn names(hostnames: &[&str]) -> NodeNames {
    NodeNames::new(hostnames, loopback().ip()).expect("the test's names are valid")
}

pub(crate) fn local_certificate(data_dir: &Path) -> (Authority, Arc<ReloadingCertificate>) {
    let now = SystemTime::now();
    let authority = Authority::open_or_create(data_dir, now).expect("an authority");
    let certificate = ReloadingCertificate::from_authority(authority.clone(), names(&[]), now).expect("a certificate");
    (authority, certificate)
}

pub(crate) fn secure(certificate: Arc<ReloadingCertificate>) -> Security {
    Security::tls(tls::server_config(certificate, None).expect("a configuration"))
}

/// A running listener.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<ServeReport>,
}

impl Server {
    pub(crate) fn start<S, F>(options: Options, service: S) -> Self
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
    {
        let bound = Listener::bind(options).expect("a free loopback port");
        let address = bound.local_addr();
        let (shutdown, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(bound.serve(tower::service_fn(service), async {
            let _ = ended.await;
        }));
        Self { address, shutdown: Some(shutdown), serving }
    }

    pub(crate) fn begin_shutdown(&mut self) {
        self.shutdown.take().expect("first time").send(()).expect("serving");
    }

    pub(crate) async fn report(self) -> ServeReport {
        within(self.serving).await.expect("serve does not panic")
    }

    pub(crate) async fn stop(mut self) -> ServeReport {
        self.begin_shutdown();
        self.report().await
    }
}

/// Answers with what the edge said about the request.
pub(crate) async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let peer = request.extensions().get::<Peer>().expect("each request has a peer");
    let text = format!("{} {} {:?}", peer.remote, peer.secure, request.version());
    Ok(Response::new(Full::new(text.into())))
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

/// A client's end of one connection. Its task ends when the sender is dropped.
pub(crate) enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

pub(crate) struct Connected {
    pub(crate) client: Client,
    pub(crate) local: SocketAddr,
    /// The certificate that the server presented, on TLS.
    pub(crate) certificate: Option<Summary>,
    /// Ends when the connection does.
    pub(crate) ended: JoinHandle<Result<(), hyper::Error>>,
}

impl Connected {
    pub(crate) async fn get(&mut self) -> Result<(u16, String), hyper::Error> {
        self.send(request("/")).await
    }

    pub(crate) async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<(u16, String), hyper::Error> {
        let response = match &mut self.client {
            Client::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Client::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

pub(crate) fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::builder()
        .uri(format!("http://localhost{path}"))
        .header("host", "localhost")
        .body(Empty::new())
        .expect("a valid request")
}

pub(crate) async fn connect_plain(address: SocketAddr, version: Version) -> std::io::Result<Connected> {
    let stream = TcpStream::connect(address).await?;
    let local = stream.local_addr()?;
    Box::pin(start_client(stream, version, local, None)).await
}

pub(crate) async fn connect_tls(address: SocketAddr, ca_pem: &str, version: Version) -> std::io::Result<Connected> {
    connect_tls_as(address, ca_pem, version, "localhost").await
}

pub(crate) async fn connect_tls_as(
    address: SocketAddr,
    ca_pem: &str,
    version: Version,
    name: &str,
) -> std::io::Result<Connected> {
    let mut config = tls::client_config(ca_pem).expect("the authority's own PEM");
    let alpn = if version == Version::HTTP_2 { ALPN_HTTP2 } else { ALPN_HTTP1 };
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let local = stream.local_addr()?;
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(alpn));
    let presented = session.peer_certificates().expect("a certificate").first().expect("a leaf");
    let certificate = Some(Summary::parse(presented).expect("a certificate"));
    Box::pin(start_client(stream, version, local, certificate)).await
}

async fn start_client<I>(
    stream: I,
    version: Version,
    local: SocketAddr,
    certificate: Option<Summary>,
) -> std::io::Result<Connected>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    let (client, ended) = if version == Version::HTTP_2 {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
        (Client::Http2(sender), tokio::spawn(connection))
    } else {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(std::io::Error::other)?;
        (Client::Http1(sender), tokio::spawn(connection))
    };
    Ok(Connected { client, local, certificate, ended })
}
