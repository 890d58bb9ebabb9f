//! Calls to a server with messages known by their descriptors alone.

use std::time::Duration;

use canopy_proto::options::v1::Access;
use http::uri::{PathAndQuery, Uri};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use super::context::{Device, Secret};
use super::error::Error;
use super::field::REQUEST_ID;
use super::mirror::MethodEntry;

/// Calls made for one command, the first included, while the server is away.
pub const ATTEMPTS_MAX: u32 = 5;
/// Wait before the second attempt; doubles each time.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait that is not asked for by the server.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Largest answer read, so that a broken server cannot fill the memory.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where calls go, and as whom.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

/// What sessions show that were opened from the command line.
const AGENT: &str = concat!("canopy/", env!("CARGO_PKG_VERSION"));

impl Client {
    /// Makes ready to connect; the first call does.
    ///
    /// # Errors
    /// The URL is not `https://`, nor `http://` of a loopback address; or
    /// there is no certificate authority to check the server against.
    pub fn new(server: &str, ca_pem: Option<&str>, device: Option<&Device>) -> Result<Self, Error> {
        let uri = server_uri(server)?;
        let is_tls = uri.scheme_str() == Some("https");
        let bad = |why: tonic::transport::Error| {
            let why = std::error::Error::source(&why).map_or_else(|| why.to_string(), ToString::to_string);
            Error::usage(
                format!("cannot use {server}: {why}"),
                "check the URL and the PEM files of --ca, --client-cert and --client-key",
            )
        };
        let mut endpoint = Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).user_agent(AGENT).map_err(bad)?;
        if is_tls {
            let ca = ca_pem.ok_or_else(|| {
                Error::usage(
                    format!("no certificate authority is known for {server}"),
                    "give the PEM file of the authority that signed the server's certificate: --ca FILE",
                )
            })?;
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some(device) = device {
                tls = tls.identity(Identity::from_pem(&device.cert_pem, device.key_pem.expose()));
            }
            endpoint = endpoint.tls_config(tls).map_err(bad)?;
        }
        Ok(Self { channel: endpoint.connect_lazy(), authorization: None })
    }

    /// The same connection with an access token.
    ///
    /// # Errors
    /// The token holds characters that no header may.
    pub fn with_token(&self, token: &Secret) -> Result<Self, Error> {
        let header = format!("Bearer {}", token.expose());
        let mut value: MetadataValue<Ascii> = header.parse().map_err(|_| {
            Error::usage(
                "the access token holds characters that a header may not",
                "log in again: canopy identity log-in",
            )
        })?;
        value.set_sensitive(true);
        Ok(Self { channel: self.channel.clone(), authorization: Some(value) })
    }

    /// Calls a method that answers once. While the server is `UNAVAILABLE`, a
    /// request that is harmless to repeat is repeated, with the same request
    /// id.
    ///
    /// # Errors
    /// What the server answered last, or `DEADLINE_EXCEEDED`.
    pub async fn unary(
        &self,
        method: &MethodEntry,
        request: &DynamicMessage,
        timeout: Duration,
    ) -> Result<DynamicMessage, Error> {
        let deadline = Instant::now() + timeout;
        let repeats = may_repeat(method);
        let mut attempt = 1;
        loop {
            let outcome = timeout_at(deadline, self.unary_once(&method.descriptor, request, deadline)).await;
            let status = match outcome {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => return Err(no_answer(timeout).into()),
            };
            let wait = wait_before(&status, attempt);
            if !repeats
                || status.code() != Code::Unavailable
                || attempt >= ATTEMPTS_MAX
                || Instant::now() + wait >= deadline
            {
                return Err(status.into());
            }
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn unary_once(
        &self,
        method: &MethodDescriptor,
        request: &DynamicMessage,
        deadline: Instant,
    ) -> Result<DynamicMessage, Status> {
        let mut grpc = self.ready().await?;
        let request = self.request(request, Some(deadline));
        let codec = DynamicCodec { answer: method.output() };
        Ok(grpc.unary(request, path_of(method)?, codec).await?.into_inner())
    }

    /// Calls a method that answers with a stream. Opening it is repeated as a
    /// unary call is; once it stands, its end is the end.
    ///
    /// # Errors
    /// As [`Client::unary`].
    pub async fn streaming(
        &self,
        method: &MethodEntry,
        request: &DynamicMessage,
        timeout: Option<Duration>,
    ) -> Result<Streaming<DynamicMessage>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut attempt = 1;
        loop {
            let status = match self.streaming_once(&method.descriptor, request, deadline).await {
                Ok(stream) => return Ok(stream),
                Err(status) => status,
            };
            let wait = wait_before(&status, attempt);
            let is_late = deadline.is_some_and(|deadline| Instant::now() + wait >= deadline);
            if !may_repeat(method) || status.code() != Code::Unavailable || attempt >= ATTEMPTS_MAX || is_late {
                return Err(status.into());
            }
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn streaming_once(
        &self,
        method: &MethodDescriptor,
        request: &DynamicMessage,
        deadline: Option<Instant>,
    ) -> Result<Streaming<DynamicMessage>, Status> {
        let mut grpc = self.ready().await?;
        let request = self.request(request, deadline);
        let codec = DynamicCodec { answer: method.output() };
        Ok(grpc.server_streaming(request, path_of(method)?, codec).await?.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }

    fn request(&self, message: &DynamicMessage, deadline: Option<Instant>) -> Request<DynamicMessage> {
        let mut request = Request::new(message.clone());
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        request
    }
}

fn no_answer(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {:.1} s", timeout.as_secs_f64()))
}

fn path_of(method: &MethodDescriptor) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(format!("/{}", super::mirror::path(method)))
        .map_err(|_| Status::internal("a method's name is not a path"))
}

/// Whether a second call does no more than the first: it changes nothing, or
/// carries an id that tells the server so.
fn may_repeat(method: &MethodEntry) -> bool {
    method.rule.is_some_and(|rule| rule.access != Access::Command)
        || method.descriptor.input().get_field_by_name(REQUEST_ID).is_some()
}

/// What the server asks for, else longer each time, spread so that many
/// clients do not come back at once.
fn wait_before(status: &Status, attempt: u32) -> Duration {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let doubled = BACKOFF.saturating_mul(1 << (attempt - 1).min(16)).min(BACKOFF_MAX);
    asked.unwrap_or_else(|| doubled.mul_f64(rand::random_range(0.5..=1.0)))
}

/// The server's URL without path.
///
/// # Errors
/// Not a URL that a token may be sent to.
pub fn server_uri(server: &str) -> Result<Uri, Error> {
    const FORM: &str = "write https://HOST:PORT";
    let uri: Uri = server.parse().map_err(|why| Error::usage(format!("{server} is not a URL: {why}"), FORM))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Error::usage("a server's URL holds no user name", FORM));
    }
    match uri.scheme_str() {
        Some("https") if uri.path().len() <= 1 => Ok(uri),
        Some("http") if is_loopback(host) && uri.path().len() <= 1 => Ok(uri),
        Some("http") if !is_loopback(host) => Err(Error::usage(
            format!("{server} would carry passwords and tokens in the clear"),
            "write https://; http:// is for this machine alone (127.0.0.1, ::1, localhost)",
        )),
        _ => Err(Error::usage(format!("{server} is not a server's URL"), FORM)),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// tonic's own codec makes answers by `Default`; a dynamic message needs its
/// descriptor.
#[derive(Debug, Clone)]
struct DynamicCodec {
    answer: MessageDescriptor,
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|why| Status::internal(why.to_string()))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.answer.clone(), buffer)
            .map_err(|why| Status::internal(format!("the answer is not a {}: {why}", self.answer.full_name())))?;
        Ok(Some(message))
    }
}
