//! gRPC on a loopback port with answers from a closure.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use canopy::cli::mirror;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// One call as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub authorization: Option<String>,
    pub request: Json,
}

/// Messages as JSON of the method's answer, then a status.
pub struct Reply {
    pub messages: Vec<Json>,
    pub status: Status,
    /// Leave the stream open after the messages.
    pub stays: bool,
}

impl Reply {
    pub fn ok(message: Json) -> Self {
        Self { messages: vec![message], status: Status::ok(""), stays: false }
    }

    pub fn refusal(status: Status) -> Self {
        Self { messages: Vec::new(), status, stays: false }
    }
}

#[derive(Clone)]
pub struct Canned {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Canned {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn methods(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.method).collect()
    }

    pub async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub async fn start_with(
        identity: Option<Identity>,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let answer = Arc::new(answer);
        let log = Arc::clone(&seen);
        let router = Router::new().fallback(move |request: Request| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            async move { handle(request, &*answer, &log).await }
        });
        let mut builder = Server::builder();
        if let Some(identity) = identity {
            builder = builder.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serving = builder.add_routes(router.into()).serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { serving.await.unwrap() });
        Self { address, seen }
    }
}

async fn handle(request: Request, answer: &(dyn Fn(&Seen) -> Reply + Send + Sync), log: &Mutex<Vec<Seen>>) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let header = |headers: &HeaderMap, name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let authorization = header(request.headers(), "authorization");
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let entry = mirror::areas().iter().flat_map(|a| &a.methods).find(|m| m.path() == path).unwrap();
    let message = DynamicMessage::decode(entry.descriptor.input(), &body[5..]).unwrap();
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    let method = path.rsplit('/').next().unwrap().to_owned();
    let seen = Seen { method, authorization, request: json };
    let reply = answer(&seen);
    log.lock().unwrap().push(seen);

    if reply.messages.is_empty() && reply.status.code() != tonic::Code::Ok {
        return reply.status.into_http::<Body>();
    }
    let mut frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> = Vec::new();
    for json in reply.messages {
        let message = DynamicMessage::deserialize(entry.descriptor.output(), json).unwrap().encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
        frames.push(Ok(Frame::data(bytes.into())));
    }
    let mut trailers = HeaderMap::new();
    reply.status.add_header(&mut trailers).unwrap();
    let stream = tokio_stream::iter(frames);
    let body = if reply.stays {
        Body::new(StreamBody::new(tokio_stream::StreamExt::chain(stream, tokio_stream::pending())))
    } else {
        let end = tokio_stream::iter([Ok(Frame::trailers(trailers))]);
        Body::new(StreamBody::new(tokio_stream::StreamExt::chain(stream, end)))
    };
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
