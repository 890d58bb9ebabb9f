//! A call's bytes in and out, as "gRPC over HTTP2" frames them: a flag, a length, the message.
//!
//! Reading is bounded by size, by time, and by memory that all share; compressed messages are
//! not taken, so nothing inflates.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use canopy_domain::{Code, Refusal};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Code as GrpcCode, Status};

use super::admission::{Admission, Denied, SMALL_REQUEST_BYTES};
use super::answer::Endless;
use super::codec::BytesCodec;
use super::load::ConnectionLoad;
use crate::subscription::EventStream;

/// Flag and length before a message.
const PREFIX_BYTES: usize = 5;
/// Up to this size an answer is copied behind its prefix, and travels as one frame of data.
const COPIED_BYTES_MAX: usize = 16 << 10;
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// How large a request may be, and how slow.
#[derive(Debug, Clone)]
pub struct ReadLimits {
    /// Largest request, in bytes.
    pub request_bytes_max: usize,
    /// Time for a request to arrive, whatever its size.
    pub grace: Duration,
    /// Beyond that, time for as many bytes as it says it has, at this rate.
    pub bytes_per_s_min: usize,
}

impl ReadLimits {
    fn time(&self, bytes: usize) -> Duration {
        let ms = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1000);
        self.grace + Duration::from_millis(ms / u64::try_from(self.bytes_per_s_min).unwrap_or(u64::MAX).max(1))
    }
}

fn malformed(message: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, message).hint("a gRPC call holds one message: send it with a gRPC library")
}

/// Refuses what cannot be read before reading it.
///
/// # Errors
/// `UNIMPLEMENTED`: the message is compressed.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(GRPC_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(compressed()),
        _ => Ok(()),
    }
}

fn compressed() -> Refusal {
    Refusal::new(Code::Unimplemented, "compressed requests are not taken")
        .hint("send it as it is: `grpc-accept-encoding` of any answer names what is taken")
}

/// The one message of a request, which is read to its end.
///
/// # Errors
/// `RESOURCE_EXHAUSTED`: too large, or there is no room for it now; `DEADLINE_EXCEEDED`: too
/// slow; `INVALID_ARGUMENT`: not one message; `UNIMPLEMENTED`: compressed.
pub async fn read(
    mut body: Body,
    admission: &Admission,
    load: &ConnectionLoad,
    limits: &ReadLimits,
    deadline: Instant,
) -> Result<Bytes, Denied> {
    let began = Instant::now();
    let mut until = deadline.min(began + limits.grace);
    let mut read = Read::default();
    let mut room = Vec::new();
    loop {
        let frame = match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(read.message()?),
            Ok(Some(Err(error))) => return Err(malformed(&format!("the request cannot be read: {error}")).into()),
            Err(_) => {
                let refusal = Refusal::new(Code::DeadlineExceeded, "the request did not arrive in time");
                return Err(refusal.hint("nothing was done: send it again, faster or smaller").into());
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        let before = read.bytes();
        if let Some(length) = read.add(data, limits.request_bytes_max)? {
            until = deadline.min(began + limits.time(length));
        }
        let large = read.bytes().max(SMALL_REQUEST_BYTES) - before.max(SMALL_REQUEST_BYTES);
        if large > 0 {
            room.push(admission.request_bytes(load, large)?);
        }
        // The common case, all in one frame, leaves without another look at the body.
        if http_body::Body::is_end_stream(&body) {
            return Ok(read.message()?);
        }
    }
}

/// A message as far as it has come.
#[derive(Debug, Default)]
struct Read {
    /// While it came in one piece.
    whole: Bytes,
    pieces: BytesMut,
    length: Option<usize>,
}

impl Read {
    fn bytes(&self) -> usize {
        self.whole.len() + self.pieces.len()
    }

    fn front(&self) -> &[u8] {
        if self.pieces.is_empty() { &self.whole } else { &self.pieces }
    }

    /// Adds data; says how long the message is, once that is known.
    fn add(&mut self, data: Bytes, bytes_max: usize) -> Result<Option<usize>, Refusal> {
        if self.bytes() == 0 {
            self.whole = data;
        } else {
            if self.pieces.is_empty() {
                self.pieces.extend_from_slice(&std::mem::take(&mut self.whole));
            }
            self.pieces.extend_from_slice(&data);
        }
        let mut known = None;
        if self.length.is_none()
            && let Some((flag, length)) = prefix(self.front())
        {
            if flag != 0 {
                return Err(compressed());
            }
            if length > bytes_max {
                let message = format!("the request has more than {bytes_max} bytes");
                return Err(Refusal::new(Code::ResourceExhausted, message)
                    .hint("send less at once; the server's `edge.request_bytes_max` is the limit"));
            }
            self.length = Some(length);
            known = Some(length);
        }
        match self.length {
            Some(length) if self.bytes() > PREFIX_BYTES + length => Err(malformed("the request has a second message")),
            _ => Ok(known),
        }
    }

    fn message(self) -> Result<Bytes, Refusal> {
        let Some(length) = self.length else {
            return Err(malformed("the request has no message"));
        };
        let mut all = if self.pieces.is_empty() { self.whole } else { self.pieces.freeze() };
        if all.len() != PREFIX_BYTES + length {
            return Err(malformed("the request ends within its message"));
        }
        Ok(all.split_off(PREFIX_BYTES))
    }
}

fn prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let (flag, length) = bytes.get(..PREFIX_BYTES)?.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    Some((*flag, usize::try_from(length).unwrap_or(usize::MAX)))
}

fn answer(body: Body) -> http::Response<Body> {
    let mut answer = http::Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    answer
}

/// An answer of one message.
pub fn unary(message: Bytes) -> http::Response<Body> {
    let mut prefix = BytesMut::with_capacity(if message.len() <= COPIED_BYTES_MAX {
        PREFIX_BYTES + message.len()
    } else {
        PREFIX_BYTES
    });
    prefix.put_u8(0);
    prefix.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    let rest = if message.len() <= COPIED_BYTES_MAX {
        prefix.put_slice(&message);
        None
    } else {
        Some(message)
    };
    answer(Body::new(Unary { data: [Some(prefix.freeze()), rest], trailers: true }))
}

/// An answer that goes on until its reader or the server ends it.
pub fn stream(events: EventStream) -> http::Response<Body> {
    let body = EncodeBody::new_server(BytesCodec, events, None, SingleMessageCompressionOverride::default(), None);
    let mut answer = answer(Body::new(body));
    answer.extensions_mut().insert(Endless);
    answer
}

/// A refusal: headers alone.
pub fn refusal(head: HeaderMap) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::empty());
    *answer.headers_mut() = head;
    answer
}

/// The headers that say what a status does.
pub fn refusal_head(status: &Status) -> HeaderMap {
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    if status.add_header(&mut head).is_err() {
        // Its message is no header: what the code says has to do.
        head.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    if status.code() == GrpcCode::Unimplemented {
        head.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    head
}

/// A message in one or two frames, and the status `OK`.
struct Unary {
    data: [Option<Bytes>; 2],
    trailers: bool,
}

impl http_body::Body for Unary {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.data.iter_mut().find_map(Option::take) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if std::mem::take(&mut self.trailers) {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        !self.trailers
    }

    /// How much waits here. Never exact: gRPC-Web adds the trailers to the data.
    fn size_hint(&self) -> SizeHint {
        let left: usize = self.data.iter().flatten().map(Bytes::len).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(u64::try_from(left).unwrap_or(u64::MAX));
        hint
    }
}
