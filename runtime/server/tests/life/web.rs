//! What browsers, probes and collectors find on the one port: gRPC-Web in
//! both forms over HTTP/1.1, health, reflection, the page and metrics.

use std::time::Duration;

use crate::harness::{Caller, Server, message};
use bytes::{Buf, Bytes, BytesMut};
use canopy::telemetry;
use canopy_config::MetricsAccess;
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, Message as ChatMessage, SubscribeRequest, SubscribeResponse};
use canopy_proto::ops::v1::{GetInstallationRequest, Installation};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const DEADLINE: Duration = Duration::from_secs(20);

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

/// The two forms of gRPC-Web: frames as they are, or in base 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Text,
}

const FORMS: [Form; 2] = [Form::Binary, Form::Text];
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
    text
}

/// Whole groups of four, each of which may be padded: a server may end a
/// piece anywhere.
fn from_base64(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in text.chunks_exact(4) {
        let padding = group.iter().filter(|c| **c == b'=').count();
        let digit = |c: &u8| u32::try_from(ALPHABET.iter().position(|a| a == c).unwrap_or(0)).unwrap();
        let value = group.iter().fold(0, |value, c| value << 6 | digit(c));
        bytes.extend_from_slice(&value.to_be_bytes()[1..4 - padding]);
    }
    bytes
}

/// A connection as a browser's: HTTP/1.1, one request at a time.
struct Browser(http1::SendRequest<Full<Bytes>>);

impl Browser {
    async fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.running.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(&mut self, request: http::request::Builder, body: Vec<u8>) -> Response<Incoming> {
        let request = request.header(header::HOST, "localhost").body(Full::from(body)).unwrap();
        within(async {
            self.0.ready().await.unwrap();
            self.0.send_request(request).await.unwrap()
        })
        .await
    }

    async fn get(&mut self, path: &str, token: Option<&Caller>) -> (StatusCode, String) {
        let mut request = Request::builder().uri(path);
        if let Some(token) = token.and_then(|caller| caller.token.0.as_ref()) {
            request = request.header(header::AUTHORIZATION, token.to_str().unwrap());
        }
        let response = self.send(request, Vec::new()).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn call(&mut self, form: Form, path: &str, caller: Option<&Caller>, request: &impl Message) -> Answer {
        let message = request.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        let (content_type, body) = match form {
            Form::Binary => ("application/grpc-web+proto", frame),
            Form::Text => ("application/grpc-web-text+proto", to_base64(&frame)),
        };
        let mut http = Request::builder().method(Method::POST).uri(format!("/{path}"));
        http = http
            .header(header::CONTENT_TYPE, content_type)
            .header("x-grpc-web", "1")
            .header(header::ACCEPT, content_type);
        if let Some(token) = caller.and_then(|caller| caller.token.0.as_ref()) {
            http = http.header(header::AUTHORIZATION, token.to_str().unwrap());
        }
        let response = self.send(http, body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let answered = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        assert!(answered.starts_with(content_type.trim_end_matches("+proto")), "{answered}");
        let at_once = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().parse().unwrap());
        Answer { form, body: response.into_body(), text: Vec::new(), read: BytesMut::new(), status: at_once }
    }
}

/// Frames as they come.
struct Answer {
    form: Form,
    body: Incoming,
    /// Base 64 short of a group.
    text: Vec<u8>,
    read: BytesMut,
    status: Option<i32>,
}

impl Answer {
    /// The next message; none after the trailers, which are kept.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.read.len() >= 5 {
                let length = u32::from_be_bytes(self.read[1..5].try_into().unwrap()) as usize;
                if self.read.len() >= 5 + length {
                    let flags = self.read.get_u8();
                    self.read.advance(4);
                    let frame = self.read.split_to(length).freeze();
                    if flags == 0 {
                        return Some(frame);
                    }
                    assert_eq!(flags, 0x80, "trailers");
                    let trailers = String::from_utf8(frame.to_vec()).unwrap();
                    let of_status =
                        trailers.lines().find_map(|line| line.strip_prefix("grpc-status:")).expect("a status");
                    self.status = Some(of_status.trim().parse().unwrap());
                    return None;
                }
            }
            let piece = within(self.body.frame()).await?.unwrap();
            let Ok(piece) = piece.into_data() else { continue };
            match self.form {
                Form::Binary => self.read.extend_from_slice(&piece),
                Form::Text => {
                    self.text.extend_from_slice(&piece);
                    let whole: Vec<u8> = self.text.drain(..self.text.len() / 4 * 4).collect();
                    self.read.extend_from_slice(&from_base64(&whole));
                }
            }
        }
    }

    /// The one message of a unary answer, and the status.
    async fn whole(mut self) -> (Option<Bytes>, i32) {
        let message = self.next().await;
        if message.is_some() {
            assert_eq!(self.next().await, None);
        }
        (message, self.status.expect("a status"))
    }
}

#[test]
fn base_64_is_what_it_is() {
    for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")] {
        assert_eq!(to_base64(bytes), text.as_bytes());
        assert_eq!(from_base64(text.as_bytes()), bytes);
    }
}

#[tokio::test]
async fn grpc_web_calls_and_streams() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    for form in FORMS {
        let mut browser = Browser::open(&server).await;
        let path = "canopy.ops.v1.Ops/GetInstallation";
        let (answer, status) = browser.call(form, path, None, &GetInstallationRequest {}).await.whole().await;
        let installation = Installation::decode(answer.unwrap()).unwrap();
        assert_eq!((status, installation.version.as_str()), (0, env!("CARGO_PKG_VERSION")));

        let text = format!("from {form:?}");
        let path = "canopy.chat.v1.Chat/SendMessage";
        let (answer, status) = browser.call(form, path, Some(&ada), &message(&channel, &text)).await.whole().await;
        let sent = ChatMessage::decode(answer.unwrap()).unwrap();
        assert_eq!((status, &sent.text), (0, &text));

        // On the same connection still, whatever was refused before.
        let refused = [
            (path, None, message(&channel, "x"), tonic::Code::Unauthenticated),
            (path, Some(&ada), message(&channel, ""), tonic::Code::InvalidArgument),
            (path, Some(&ada), message("org/nowhere/project/x/chat/channel/y", "x"), tonic::Code::NotFound),
            ("canopy.chat.v1.Chat/NoSuchMethod", Some(&ada), message(&channel, "x"), tonic::Code::Unimplemented),
        ];
        for (path, caller, request, code) in refused {
            let (answer, status) = browser.call(form, path, caller, &request).await.whole().await;
            assert_eq!((answer, tonic::Code::from(status)), (None, code), "{form:?} {path}");
        }

        let mut following = Browser::open(&server).await;
        let channels = vec![ChannelPosition { name: channel.clone(), cursor: None }];
        let request = SubscribeRequest { channels };
        let mut stream = following.call(form, "canopy.chat.v1.Chat/Subscribe", Some(&ada), &request).await;
        let opened = SubscribeResponse::decode(stream.next().await.unwrap()).unwrap();
        assert!(matches!(opened.event, Some(Event::Opened(_))), "{form:?}");
        for words in ["one", "two", &"long ".repeat(1000)] {
            ada.send(&channel, words).await;
            let shown = SubscribeResponse::decode(stream.next().await.unwrap()).unwrap();
            let Some(Event::Sent(shown)) = shown.event else { panic!("{form:?}: {shown:?}") };
            assert_eq!(shown.decode().unwrap().text, words);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_a_browsers_stream_with_a_status() {
    for form in FORMS {
        let server = Server::start().await;
        let ada = server.person("ada@example.org").await;
        ada.create_org("acme").await;
        let project = ada.create_project("org/acme", "web").await.name;
        let channel = ada.create_channel(&project, "general").await;
        let request = SubscribeRequest { channels: vec![ChannelPosition { name: channel, cursor: None }] };
        let mut browser = Browser::open(&server).await;
        let mut stream = browser.call(form, "canopy.chat.v1.Chat/Subscribe", Some(&ada), &request).await;
        assert!(stream.next().await.is_some());
        server.stop().await;
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.status.map(tonic::Code::from), Some(tonic::Code::Unavailable), "{form:?}");
    }
}

#[tokio::test]
async fn health_and_reflection_know_every_service() {
    let server = Server::start().await;
    let ours: Vec<_> = canopy_proto::pool()
        .services()
        .filter(|service| service.package_name().starts_with("canopy."))
        .map(|service| service.full_name().to_owned())
        .collect();
    let mut health = HealthClient::new(server.channel().await);
    for service in ours.iter().map(String::as_str).chain([""]) {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "canopy.chat.v1.Chap".into() }).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);

    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let ask = |message_request: MessageRequest| {
        tokio_stream::iter([ServerReflectionRequest { host: String::new(), message_request: Some(message_request) }])
    };
    let listed = reflection.server_reflection_info(ask(MessageRequest::ListServices(String::new()))).await.unwrap();
    let listed = listed.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    for service in &ours {
        assert!(listed.service.iter().any(|s| s.name == *service), "{service}");
    }
    let symbol = MessageRequest::FileContainingSymbol("canopy.chat.v1.Chat".into());
    let found = reflection.server_reflection_info(ask(symbol)).await.unwrap();
    let found = found.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::FileDescriptorResponse(files) = found else { panic!("{found:?}") };
    let file = prost_types::FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
    assert_eq!(file.name(), "canopy/chat/v1/chat_service.proto");
    server.stop().await;
}

#[tokio::test]
async fn pages_and_metrics() {
    // One test: a process has one recorder.
    let metrics = telemetry::start_metrics();
    assert!(metrics.is_some(), "nobody else counts in this process");
    let cases = [
        (MetricsAccess::Loopback, StatusCode::OK, StatusCode::OK, StatusCode::OK),
        (MetricsAccess::Authorised, StatusCode::FORBIDDEN, StatusCode::FORBIDDEN, StatusCode::OK),
        (MetricsAccess::Off, StatusCode::NOT_FOUND, StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
    ];
    for (access, for_nobody, for_bob, for_admin) in cases {
        let server = Server::start_measured(metrics.clone(), |config| config.edge.metrics = access).await;
        let admin = server.sys_admin("root@example.org").await;
        let bob = server.person("bob@example.org").await;
        let forged = bob.with_token("v4.public.forged");
        let mut browser = Browser::open(&server).await;
        for (caller, expected) in
            [(None, for_nobody), (Some(&forged), for_nobody), (Some(&bob), for_bob), (Some(&admin), for_admin)]
        {
            let (status, text) = browser.get("/metrics", caller).await;
            assert_eq!(status, expected, "{access:?}: {text}");
            let shown = text.contains("canopy_edge_calls_total");
            assert_eq!(shown, status == StatusCode::OK, "{access:?}: {text}");
            assert!(!text.is_empty());
        }
        let (status, page) = browser.get("/", None).await;
        assert_eq!(status, StatusCode::OK);
        for part in [
            "<!doctype html>",
            "Canopy",
            env!("CARGO_PKG_VERSION"),
            server.running.node.store().installation_id().to_string().as_str(),
        ] {
            assert!(page.contains(part), "`{part}` is not in: {page}");
        }
        assert_eq!(browser.get("/no-such-page", None).await.0, StatusCode::NOT_FOUND);
        server.stop().await;
    }
}
