//! One HTTP/2 connection, and gRPC calls on it with as little client work as possible.
//!
//! The gRPC frame (a flag, four bytes of length, the message) is written and read here directly on
//! tonic's channel: every cycle that the client saves is one the server under test can use, since
//! both share the machine.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tower::{Service, ServiceExt};

use super::deliveries::Deliveries;
use crate::LoadError;

/// Flag byte and length of a gRPC message.
pub(super) const FRAME_HEADER_BYTES: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Wide enough that flow control never holds a fan-out back; the same for both sides.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 24;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server listens, and whom to trust there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// A certificate in PEM to trust; `None` speaks plaintext HTTP/2.
    pub ca_pem: Option<String>,
    /// The name the certificate must carry.
    pub server_name: String,
}

impl Endpoint {
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, ca_pem: None, server_name: "localhost".to_owned() }
    }

    pub fn tls(address: SocketAddr, ca_pem: impl Into<String>) -> Self {
        Self { ca_pem: Some(ca_pem.into()), ..Self::plain(address) }
    }
}

/// A prepared gRPC request; cloning it copies nothing.
#[derive(Clone, Debug)]
pub struct Call {
    path: PathAndQuery,
    /// The message with its frame header.
    frame: Bytes,
    authorization: Option<HeaderValue>,
}

impl Call {
    /// A call of `path` (`/package.Service/Method`) with an encoded message.
    pub fn new(path: &PathAndQuery, message: &[u8]) -> Self {
        let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("load payloads are far below 4 GiB"));
        frame.put_slice(message);
        Self { path: path.clone(), frame: frame.freeze(), authorization: None }
    }

    /// Adds an authorization header, for example `Bearer …`.
    #[must_use]
    pub fn authorized(mut self, authorization: HeaderValue) -> Self {
        self.authorization = Some(authorization);
        self
    }

    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    fn request(&self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::new(Full::new(self.frame.clone())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from(self.path.clone());
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    fn failed(&self, reason: impl ToString) -> LoadError {
        LoadError::Call { path: self.path.to_string(), reason: reason.to_string() }
    }
}

/// A connection that many callers may share by cloning.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Channel,
}

impl Connection {
    /// # Errors
    /// [`LoadError::Connect`] when nobody answers, [`LoadError::Tls`] when the certificate is no PEM.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, LoadError> {
        let address = endpoint.address;
        let connect = |source| LoadError::Connect { address: address.to_string(), source };
        let scheme = if endpoint.ca_pem.is_some() { "https" } else { "http" };
        let mut builder = Channel::from_shared(format!("{scheme}://{address}"))
            .expect("a socket address makes a valid URI")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(pem) = &endpoint.ca_pem {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(pem))
                .domain_name(endpoint.server_name.clone());
            builder = builder.tls_config(tls).map_err(|source| LoadError::Tls(source.to_string()))?;
        }
        Ok(Self { channel: builder.connect().await.map_err(connect)? })
    }

    /// Opens `count` connections, one after the other.
    pub async fn open_many(endpoint: &Endpoint, count: usize) -> Result<Vec<Self>, LoadError> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Self::open(endpoint).await?);
        }
        Ok(connections)
    }

    async fn send(&mut self, call: &Call) -> Result<http::Response<Body>, LoadError> {
        let channel = self.channel.ready().await.map_err(|error| call.failed(error))?;
        let response = channel.call(call.request()).await.map_err(|error| call.failed(error))?;
        if response.status() != http::StatusCode::OK {
            return Err(call.failed(format!("HTTP status {}", response.status())));
        }
        // An error without a message comes as headers alone.
        if response.headers().contains_key(GRPC_STATUS) {
            check_status(response.headers()).map_err(|reason| call.failed(reason))?;
        }
        Ok(response)
    }

    /// A unary call; returns the reply message's bytes.
    ///
    /// # Errors
    /// [`LoadError::Call`] with the gRPC status when it is not OK, or the transport's complaint.
    pub async fn unary(&mut self, call: &Call) -> Result<Bytes, LoadError> {
        let mut body = self.send(call).await?.into_body();
        let mut reply = Bytes::new();
        let mut complete = false;
        while let Some(frame) = body.frame().await {
            match frame.map_err(|error| call.failed(error))?.into_data() {
                Ok(data) if reply.is_empty() => reply = data,
                Ok(data) => reply = [reply, data].concat().into(),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        check_status(&trailers).map_err(|reason| call.failed(reason))?;
                        complete = true;
                    }
                }
            }
        }
        if !complete {
            return Err(call.failed("the reply ended without a status"));
        }
        if reply.len() < FRAME_HEADER_BYTES {
            return Err(call.failed("the reply holds no message"));
        }
        Ok(reply.split_off(FRAME_HEADER_BYTES))
    }

    /// A server-streaming call; returns once the server has answered with headers.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub async fn subscribe(&mut self, call: &Call) -> Result<Deliveries, LoadError> {
        Ok(Deliveries::new(self.send(call).await?.into_body()))
    }
}

/// `Ok` for `grpc-status: 0`, else the status and its message.
pub(super) fn check_status(headers: &HeaderMap) -> Result<(), String> {
    match headers.get(GRPC_STATUS) {
        Some(status) if status == "0" => Ok(()),
        Some(status) => {
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let message = headers.get(GRPC_MESSAGE).map(text).unwrap_or_default();
            Err(format!("grpc-status {} {message}", text(status)))
        }
        None => Err("no grpc-status".to_owned()),
    }
}
