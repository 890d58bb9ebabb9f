//! Counts what an HTTP/2 client sends that brings nothing about.
//!
//! h2 ends connections that reset too many streams before they are looked at, that make it
//! reset streams, and that send endless or empty headers. It answers as many PINGs and
//! SETTINGS as a client sends, takes streams that are opened and reset one by one, and reads
//! over PRIORITY, WINDOW_UPDATE and unknown frames for ever. So each frame costs a client some
//! of its allowance here, by what it costs the server; answers, and data in either direction,
//! give it back, and so does time.
//!
//! Only the nine bytes of each frame's head are looked at (RFC 9113 §4.1).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::load::ConnectionLoad;

/// Bytes of the client's preface (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;
/// `END_STREAM` of DATA and HEADERS.
const END_STREAM: u8 = 0x1;
/// `ACK` of SETTINGS and PING.
const ACK: u8 = 0x1;
/// A stream that is reset within this time of its opening costs as a rapid reset does.
const RAPID: Duration = Duration::from_secs(1);
/// Bytes of data that give one unit of allowance back.
pub(super) const BYTES_PER_UNIT: usize = 1024;
/// What a finished answer gives back: more than its own frames cost, for some clients measure
/// the connection with a PING and update windows at each.
pub(super) const ANSWER_UNITS: u32 = 12;
/// What a frame of an answer's data gives back, for the same reason.
pub(super) const DATA_UNITS: u32 = 4;

/// What a client sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Push,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

impl Flood {
    pub(super) const ALL: [Self; 11] = [
        Self::Data,
        Self::Headers,
        Self::Priority,
        Self::Reset,
        Self::Settings,
        Self::Push,
        Self::Ping,
        Self::GoAway,
        Self::WindowUpdate,
        Self::Continuation,
        Self::Unknown,
    ];

    /// For metrics and for the client.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Data => "data_flood",
            Self::Headers => "headers_flood",
            Self::Priority => "priority_flood",
            Self::Reset => "reset_flood",
            Self::Settings => "settings_flood",
            Self::Push => "push_flood",
            Self::Ping => "ping_flood",
            Self::GoAway => "goaway_flood",
            Self::WindowUpdate => "window_update_flood",
            Self::Continuation => "continuation_flood",
            Self::Unknown => "unknown_flood",
        }
    }
}

impl std::fmt::Display for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: the connection sends more than it brings about", self.name())
    }
}

impl std::error::Error for Flood {}

/// Reads along with one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    load: Arc<ConnectionLoad>,
    preface_left: usize,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    payload_left: usize,
    max: i32,
    per_s: u32,
    left: i32,
    refilled: Instant,
    highest_stream: u32,
    /// Streams up to here were opened before `marked`.
    old_streams: u32,
    marked: Instant,
}

impl FrameMeter {
    /// An allowance of `max` units, of which `per_s` come back each second.
    pub(super) fn new(load: Arc<ConnectionLoad>, max: u32, per_s: u32) -> Self {
        let now = Instant::now();
        let max = i32::try_from(max).unwrap_or(i32::MAX);
        Self {
            load,
            preface_left: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            payload_left: 0,
            max,
            per_s,
            left: max,
            refilled: now,
            highest_stream: 0,
            old_streams: 0,
            marked: now,
        }
    }

    /// The last stream that the client opened.
    pub(super) fn highest_stream(&self) -> u32 {
        self.highest_stream
    }

    /// Takes note of bytes that the client sent.
    ///
    /// # Errors
    /// The frame that was one too many.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        if self.preface_left > 0 {
            let preface = bytes.len().min(self.preface_left);
            self.preface_left -= preface;
            bytes = bytes.get(preface..).unwrap_or_default();
            if self.preface_left == 0 {
                self.load.preface_came();
            }
        }
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = bytes.len().min(self.payload_left);
                self.payload_left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head_bytes));
            for (place, byte) in self.head.iter_mut().skip(self.head_bytes).zip(part) {
                *place = *byte;
            }
            self.head_bytes += part.len();
            bytes = rest;
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
                let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
                let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
                self.payload_left = length;
                let (flood, cost) = self.cost(kind, flags, stream, length);
                self.left = self.left.saturating_sub(cost).min(self.max);
                if self.left < 0 && !self.refill() {
                    return Err(flood);
                }
            }
        }
        Ok(())
    }

    /// What a frame costs: negative where it gives back.
    fn cost(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> (Flood, i32) {
        match kind {
            0 if length == 0 => (Flood::Data, if flags & END_STREAM == 0 { 8 } else { 0 }),
            0 => {
                let own = i32::from(flags & END_STREAM == 0);
                (Flood::Data, own - i32::try_from(length / BYTES_PER_UNIT).unwrap_or(i32::MAX))
            }
            1 => {
                self.opened(stream);
                (Flood::Headers, 4)
            }
            2 => (Flood::Priority, 1),
            3 => (Flood::Reset, if self.is_rapid(stream) { 8 } else { 1 }),
            4 => (Flood::Settings, if flags & ACK == 0 { 20 } else { 1 }),
            5 => (Flood::Push, 20),
            6 => (Flood::Ping, 1),
            7 => (Flood::GoAway, 20),
            8 => (Flood::WindowUpdate, 1),
            9 => (Flood::Continuation, 4),
            _ => (Flood::Unknown, 2),
        }
    }

    fn opened(&mut self, stream: u32) {
        self.highest_stream = self.highest_stream.max(stream);
    }

    fn is_rapid(&mut self, stream: u32) -> bool {
        let now = Instant::now();
        if now.duration_since(self.marked) >= RAPID {
            // All that were open at the last look have been open for long enough by the next.
            self.old_streams = self.highest_stream;
            self.marked = now;
        }
        stream > self.old_streams
    }

    /// Adds what answers and time have given back; false when that is not enough.
    fn refill(&mut self) -> bool {
        let now = Instant::now();
        let by_time = now.duration_since(self.refilled).as_millis() * u128::from(self.per_s) / 1000;
        let by_time = i32::try_from(by_time).unwrap_or(i32::MAX);
        if by_time > 0 {
            self.refilled = now;
        }
        let by_answers = i32::try_from(self.load.take_credit()).unwrap_or(i32::MAX);
        self.left = self.left.saturating_add(by_time).saturating_add(by_answers).min(self.max);
        self.left >= 0
    }
}
