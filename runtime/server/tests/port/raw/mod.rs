//! An HTTP/2 client that sends any frames it likes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use crate::edge::within;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

// Flags.
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

// Error codes (RFC 9113 §7).
pub(crate) const CANCEL: u32 = 0x8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An integer behind a prefix of `bits` (RFC 7541 §5.1).
fn integer(first: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, text.len(), out);
    out.extend(text);
}

/// A literal field, not indexed (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    text(name.as_bytes(), &mut out);
    text(value, &mut out);
    out
}

/// A literal field that enters the dynamic table (RFC 7541 §6.2.1).
pub(crate) fn indexed_field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x40];
    text(name.as_bytes(), &mut out);
    text(value, &mut out);
    out
}

/// The newest entry of the dynamic table, in one byte (RFC 7541 §6.1).
pub(crate) const NEWEST_ENTRY: u8 = 0x80 | 62;

/// The head of a request.
pub(crate) fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    pseudo.iter().chain(fields).flat_map(|(name, value)| field(name, value.as_bytes())).collect()
}

/// A GET of `path`, in one frame.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path, &[]))
}

pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// The `n`th stream of a client, counted from 0.
pub(crate) fn stream(n: usize) -> u32 {
    u32::try_from(2 * n + 1).unwrap()
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// The last GOAWAY's error code and text.
    pub(crate) goaway: Option<(u32, String)>,
    /// Frames of each type.
    pub(crate) frames: BTreeMap<u8, usize>,
    /// Statuses of resets.
    pub(crate) resets: BTreeMap<u32, usize>,
}

impl End {
    pub(crate) fn was_calmed(&self) -> bool {
        self.goaway.as_ref().is_some_and(|(code, _)| *code == ENHANCE_YOUR_CALM)
    }

    fn add(&mut self, frame: &Frame) {
        *self.frames.entry(frame.kind).or_default() += 1;
        let number = |bytes: Option<&[u8]>| bytes.map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
        match frame.kind {
            GOAWAY => {
                let text = frame.payload.get(8..).unwrap_or_default();
                let code = number(frame.payload.get(4..8)).expect("a code");
                self.goaway = Some((code, String::from_utf8_lossy(text).into_owned()));
            }
            RST_STREAM => *self.resets.entry(number(frame.payload.get(..4)).expect("a code")).or_default() += 1,
            _ => {}
        }
    }
}

/// The reading end.
pub(crate) struct Inbox<I> {
    half: ReadHalf<I>,
    bytes: Vec<u8>,
    pub(crate) end: End,
}

/// A connection.
pub(crate) struct Raw<I = TcpStream> {
    pub(crate) inbox: Inbox<I>,
    pub(crate) out: WriteHalf<I>,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr, own: &[(u16, u32)]) -> Self {
        let stream = within(TcpStream::connect(address)).await.expect("a connection");
        stream.set_nodelay(true).unwrap();
        Self::start(stream, own).await
    }
}

impl<I: AsyncRead + AsyncWrite> Raw<I> {
    /// Sends the preface and settings.
    pub(crate) async fn start(stream: I, own: &[(u16, u32)]) -> Self {
        let (half, out) = tokio::io::split(stream);
        let mut raw = Self { inbox: Inbox { half, bytes: Vec::new(), end: End::default() }, out };
        raw.send(&[PREFACE, &settings(own)].concat()).await;
        raw
    }

    /// Sends bytes; whether the server still takes them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        within(self.out.write_all(bytes)).await.is_ok()
    }

    /// Sends `units` pieces while it reads whatever comes, until the server ends the connection.
    pub(crate) async fn flood(self, units: usize, unit: impl Fn(usize) -> Vec<u8>) -> End {
        let Self { mut inbox, mut out } = self;
        let sending = async {
            let mut batch = Vec::new();
            for n in 0..units {
                batch.extend(unit(n));
                if batch.len() > 16 << 10 || n + 1 == units {
                    if out.write_all(&batch).await.is_err() {
                        break;
                    }
                    batch.clear();
                }
            }
            out
        };
        let (_out, end) = within(async { tokio::join!(sending, inbox.until_end()) }).await;
        end
    }

    /// Sends `units` pieces and reads nothing, until the server ends the connection.
    pub(crate) async fn flood_unread(mut self, unit: impl Fn(usize) -> Vec<u8>) {
        within(async {
            for n in 0.. {
                if self.out.write_all(&unit(n)).await.is_err() {
                    return;
                }
            }
        })
        .await;
    }
}

impl<I: AsyncRead> Inbox<I> {
    /// The next frame; none at the end.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.bytes.get(..9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                if self.bytes.len() >= 9 + length {
                    let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
                    let payload = self.bytes[9..9 + length].to_vec();
                    let frame = Frame { kind: head[3], flags: head[4], stream, payload };
                    self.bytes.drain(..9 + length);
                    self.end.add(&frame);
                    return Some(frame);
                }
            }
            self.bytes.reserve(16 << 10);
            // A reset ends it as well as an end of stream does.
            if !within(self.half.read_buf(&mut self.bytes)).await.is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }

    /// The next frame of a type; none at the end.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    pub(crate) async fn until_end(&mut self) -> End {
        while self.frame().await.is_some() {}
        std::mem::take(&mut self.end)
    }
}
