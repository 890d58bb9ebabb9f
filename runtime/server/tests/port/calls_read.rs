//! How a request's bytes are read: bounded in size, time and memory, and never inflated.

use std::time::Duration;

use bytes::Bytes;
use canopy_proto::ops::v1::GetInstallationRequest;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::body::Body;

use crate::edge::within;
use crate::harness::Server;

const GET_INSTALLATION: &str = "/canopy.ops.v1.Ops/GetInstallation";
const LOG_IN: &str = "/canopy.identity.v1.Identity/LogIn";
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// A flag, a length, and bytes that need not be as many.
fn message(flag: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag], &length.to_be_bytes()[..], bytes].concat()
}

pub(crate) fn well_formed(bytes: &[u8]) -> Vec<u8> {
    message(0, u32::try_from(bytes.len()).unwrap(), bytes)
}

/// A body of these pieces, which then ends or never does.
pub(crate) fn body(pieces: &[Vec<u8>], ends: bool) -> Body {
    let pieces: Vec<_> =
        pieces.iter().map(|piece| Ok::<_, tonic::Status>(Frame::data(Bytes::from(piece.clone())))).collect();
    let pieces = tokio_stream::iter(pieces);
    match ends {
        true => Body::new(StreamBody::new(pieces)),
        false => Body::new(StreamBody::new(pieces.chain(tokio_stream::pending()))),
    }
}

/// A connection that adds nothing of its own to calls.
pub(crate) type Line = hyper::client::conn::http2::SendRequest<Body>;

pub(crate) async fn line(server: &Server) -> Line {
    let stream = within(TcpStream::connect(server.running.address)).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (line, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    line
}

/// A call's status, its message, and the head of the answer.
pub(crate) async fn post(
    line: &Line,
    path: &str,
    content_type: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> (Code, String, HeaderMap) {
    let mut request =
        Request::post(format!("http://localhost{path}")).header("content-type", content_type).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut line = line.clone();
    let answer = within(async {
        line.ready().await.unwrap();
        line.send_request(request.body(body).unwrap()).await.unwrap()
    })
    .await;
    let head = answer.headers().clone();
    let rest = within(answer.into_body().collect()).await.unwrap();
    let mut found = rest.trailers().filter(|t| t.contains_key("grpc-status")).unwrap_or(&head).clone();
    if !found.contains_key("grpc-status") {
        // gRPC-Web: the trailers are the last frame of the data.
        let data = rest.to_bytes();
        let text = String::from_utf8_lossy(&data).into_owned();
        let status = text.split("grpc-status:").nth(1).expect("a status").trim_start();
        let digits: String = status.chars().take_while(char::is_ascii_digit).collect();
        found.insert("grpc-status", digits.parse().unwrap());
    }
    let text = |name: &str| found.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    (Code::from_bytes(text("grpc-status").as_bytes()), text("grpc-message"), head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_small_plain_message_is_refused() {
    let server = Server::start_with(|config| {
        config.edge.request_bytes_max = REQUEST_BYTES_MAX;
        // How long a request that never ends is waited for.
        config.edge.deadline_default_ms = 200;
    })
    .await;
    let channel = line(&server).await;
    let get = GetInstallationRequest::default().encode_to_vec();
    // As much as is allowed, nearly all of it in a field that the method does not know.
    let largest = {
        let padding = REQUEST_BYTES_MAX - 5;
        let mut bytes = vec![0xfa, 0x7f];
        prost::encoding::encode_varint(u64::try_from(padding).unwrap(), &mut bytes);
        bytes.resize(REQUEST_BYTES_MAX, b'x');
        bytes
    };
    let too_large = [largest.as_slice(), &[0]].concat();
    let bomb = vec![0x1f; 1_000];
    let case = |name, encoding, pieces: Vec<Vec<u8>>, ends, code| (name, encoding, pieces, ends, code);
    for (name, encoding, pieces, ends, code) in [
        case("as it should be", None, vec![well_formed(&get)], true, Code::Ok),
        case("identity", Some("identity"), vec![well_formed(&get)], true, Code::Ok),
        case("byte by byte", None, well_formed(&get).into_iter().map(|byte| vec![byte]).collect(), true, Code::Ok),
        case("the largest", None, vec![well_formed(&largest)], true, Code::Ok),
        case(
            "the largest in pieces",
            None,
            well_formed(&largest).chunks(1_000).map(<[u8]>::to_vec).collect(),
            true,
            Code::Ok,
        ),
        case("a bomb", Some("gzip"), vec![message(1, 1_000, &bomb)], true, Code::Unimplemented),
        case("a bomb that goes on", Some("gzip"), vec![message(1, 1_000, &bomb)], false, Code::Unimplemented),
        case("another encoding", Some("zstd"), vec![well_formed(&get)], true, Code::Unimplemented),
        case("compressed in secret", None, vec![message(1, 1_000, &bomb)], true, Code::Unimplemented),
        case("too large", None, vec![well_formed(&too_large)], true, Code::ResourceExhausted),
        case("4 GiB are announced", None, vec![message(0, u32::MAX, b"")], false, Code::ResourceExhausted),
        case("nothing", None, vec![], true, Code::InvalidArgument),
        case("half a prefix", None, vec![vec![0, 0, 0]], true, Code::InvalidArgument),
        case("half a message", None, vec![message(0, 100, b"abc")], true, Code::InvalidArgument),
        case("two messages", None, vec![well_formed(&get), well_formed(&get)], true, Code::InvalidArgument),
        case("a message and more", None, vec![[well_formed(&get), vec![0]].concat()], true, Code::InvalidArgument),
        case("no end of nothing", None, vec![], false, Code::DeadlineExceeded),
        case("no end of a prefix", None, vec![vec![0]], false, Code::DeadlineExceeded),
        case("no end of a message", None, vec![message(0, 100, b"abc")], false, Code::DeadlineExceeded),
        case("no end after the message", None, vec![well_formed(&get)], false, Code::DeadlineExceeded),
    ] {
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let headers: Vec<(&str, &str)> = encoding.map(|encoding| ("grpc-encoding", encoding)).into_iter().collect();
            let answer = post(&channel, GET_INSTALLATION, content_type, &headers, body(&pieces, ends)).await;
            let (found, message, head) = answer;
            assert_eq!(found, code, "{name}, {content_type}: {message}");
            if code == Code::Unimplemented {
                assert_eq!(head.get("grpc-accept-encoding").unwrap(), "identity", "{name}, {content_type}");
            }
        }
    }
    server.stop().await;
}

/// Large requests that never end fill the room for them, and nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_hang_leave_room_for_others() {
    const STREAMS: usize = 128;
    let server = Server::start_with(|config| {
        config.edge.request_bytes_max = REQUEST_BYTES_MAX;
        config.edge.deadline_default_ms = 60_000;
    })
    .await;
    let channel = line(&server).await;
    let length = u32::try_from(REQUEST_BYTES_MAX).unwrap();
    let hanging = message(0, length, &vec![b'x'; REQUEST_BYTES_MAX - 1]);
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (channel, hanging) = (channel.clone(), hanging.clone());
        uploads.spawn(async move {
            let answer = post(&channel, LOG_IN, "application/grpc", &[], body(&[hanging], false)).await;
            (answer.0, answer.1)
        });
    }
    // Twice as much as there is room for: what is refused says so, and the rest hangs.
    let (code, why) = within(uploads.join_next()).await.unwrap().unwrap();
    assert_eq!(code, Code::ResourceExhausted, "{why}");
    assert!(why.contains("large%20requests") || why.contains("large requests"), "{why}");

    let get = well_formed(&GetInstallationRequest::default().encode_to_vec());
    let (code, why, _) = post(&channel, GET_INSTALLATION, "application/grpc", &[], body(&[get], true)).await;
    assert_eq!(code, Code::Ok, "small requests are served on the same connection: {why}");
    uploads.abort_all();
    while uploads.join_next().await.is_some() {}
    // The room is free again as soon as the server has heard of it.
    let largest = message(0, length, &vec![b'x'; REQUEST_BYTES_MAX]);
    within(async {
        loop {
            let (code, _, _) =
                post(&channel, LOG_IN, "application/grpc", &[], body(std::slice::from_ref(&largest), true)).await;
            if code == Code::InvalidArgument {
                return;
            }
            assert_eq!(code, Code::ResourceExhausted);
            tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await.unwrap_err();
        }
    })
    .await;
    server.stop().await;
}
