//! Floods of frames: each ends its connection, is counted by what it was, and is in nobody
//! else's way.

use canopy::edge::listener::{Options, Security};

use crate::attack::attacked;
use crate::edge::loopback;
use crate::raw::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, NEWEST_ENTRY, PING, PRIORITY, Raw, field, frame, get,
    head, indexed_field, reset, settings, stream, window_update,
};

/// More than any limit.
pub(crate) const MANY: usize = 100_000;

fn options() -> Options {
    let mut options = Options::new(loopback(), Security::Plaintext);
    // Little, so that floods are short, and slowly back.
    options.http2.overhead_max = 500;
    options.http2.overhead_per_s = 10;
    options.http2.local_error_reset_streams_max = 50;
    options
}

/// One flood: the `n`th piece of it, and what it is counted as.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    pub(crate) before: fn() -> Vec<u8>,
    pub(crate) unit: fn(usize) -> Vec<u8>,
    /// One of these: what is one too many depends on what arrives together.
    reasons: &'static [&'static str],
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

/// A request that goes on, so that its stream is open.
fn hanging() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &head("POST", "/hang", &[]))
}

/// The same, with the client's half closed.
fn half_closed() -> Vec<u8> {
    get(1, "/hang")
}

pub(crate) const FLOODS: &[Flood] = &[
    Flood { name: "PING", before: nothing, unit: |_| frame(PING, 0, 0, &[0; 8]), reasons: &["ping_flood"] },
    Flood {
        name: "PING, acknowledged",
        before: nothing,
        unit: |_| frame(PING, ACK, 0, &[7; 8]),
        reasons: &["ping_flood"],
    },
    Flood { name: "SETTINGS", before: nothing, unit: |_| settings(&[]), reasons: &["settings_flood"] },
    Flood {
        name: "SETTINGS that move all windows",
        before: hanging,
        unit: |n| settings(&[(4, u32::try_from(n % 1_000).unwrap())]),
        reasons: &["settings_flood"],
    },
    Flood {
        name: "PRIORITY",
        before: nothing,
        unit: |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1]),
        reasons: &["priority_flood"],
    },
    Flood {
        name: "WINDOW_UPDATE of the connection",
        before: nothing,
        unit: |_| window_update(0, 1),
        reasons: &["window_update_flood"],
    },
    Flood {
        name: "WINDOW_UPDATE of a stream",
        before: hanging,
        unit: |_| window_update(1, 1),
        reasons: &["window_update_flood"],
    },
    Flood { name: "unknown frames", before: nothing, unit: |_| frame(0xbe, 0, 0, &[]), reasons: &["unknown_flood"] },
    Flood {
        name: "empty DATA",
        before: hanging,
        unit: |_| frame(DATA, 0, 1, &[]),
        reasons: &["http2_calm", "data_flood"],
    },
    Flood {
        name: "DATA of one byte",
        before: hanging,
        unit: |_| frame(DATA, 0, 1, &[0]),
        reasons: &["http2_calm", "data_flood"],
    },
    Flood {
        name: "rapid reset (CVE-2023-44487)",
        before: nothing,
        unit: |n| [get(stream(n), "/hang"), reset(stream(n))].concat(),
        reasons: &["http2_calm", "headers_flood", "reset_flood"],
    },
    Flood {
        name: "100,000 streams",
        before: nothing,
        unit: |n| get(stream(n), "/hang"),
        reasons: &["http2_calm", "headers_flood"],
    },
    Flood {
        name: "CONTINUATION without end (CVE-2024-27316)",
        before: || frame(HEADERS, 0, 1, &head("GET", "/", &[])),
        unit: |_| frame(CONTINUATION, 0, 1, &field("x", &[b'x'; 1_000])),
        reasons: &["http2_calm", "continuation_flood"],
    },
    Flood {
        name: "CONTINUATION, empty",
        before: || frame(HEADERS, 0, 1, &head("GET", "/", &[])),
        unit: |_| frame(CONTINUATION, 0, 1, &[]),
        reasons: &["http2_calm", "continuation_flood"],
    },
    Flood {
        name: "HEADERS of nothing",
        before: nothing,
        unit: |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &[]),
        reasons: &["http2_calm", "headers_flood"],
    },
    Flood {
        name: "header lists over the limit",
        before: nothing,
        unit: |n| {
            let mut fields = head("GET", "/", &[]);
            // 33 kB: past the 32 of the limit, below what h2 ends a connection for.
            for _ in 0..3 {
                fields.extend(field("x", &[b'x'; 11_000]));
            }
            let (first, rest) = fields.split_at(16_000);
            let (second, third) = rest.split_at(16_000);
            [
                frame(HEADERS, END_STREAM, stream(n), first),
                frame(CONTINUATION, 0, stream(n), second),
                frame(CONTINUATION, END_HEADERS, stream(n), third),
            ]
            .concat()
        },
        reasons: &["http2_calm", "continuation_flood", "headers_flood"],
    },
    Flood {
        name: "a header list that unpacks a thousandfold",
        before: nothing,
        unit: |n| {
            let mut fields = head("GET", "/", &[]);
            fields.extend(indexed_field("x", &[b'x'; 3_000]));
            fields.extend([NEWEST_ENTRY; 1_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &fields)
        },
        reasons: &["http2_calm"],
    },
    // MadeYouReset (CVE-2025-8671): the client has the server reset streams that are being served.
    Flood {
        name: "windows that overflow",
        before: nothing,
        unit: |n| [get(stream(n), "/hang"), window_update(stream(n), 0x7fff_ffff)].concat(),
        reasons: &["http2_calm", "headers_flood", "window_update_flood"],
    },
    Flood {
        name: "DATA after the end of a stream",
        before: nothing,
        unit: |n| [get(stream(n), "/hang"), frame(DATA, END_STREAM, stream(n), b"more")].concat(),
        reasons: &["http2_error", "headers_flood", "data_flood"],
    },
    Flood {
        name: "HEADERS after the end of a stream",
        before: nothing,
        unit: |n| [get(stream(n), "/hang"), get(stream(n), "/hang")].concat(),
        reasons: &["http2_error", "headers_flood"],
    },
    Flood {
        name: "PRIORITY that depends on itself",
        before: nothing,
        unit: |n| {
            let id = stream(n).to_be_bytes();
            [get(stream(n), "/hang"), frame(PRIORITY, 0, stream(n), &[&id[..], &[1]].concat())].concat()
        },
        reasons: &["http2_calm", "headers_flood", "priority_flood"],
    },
    Flood {
        name: "a window update of nothing",
        before: half_closed,
        unit: |_| window_update(1, 0),
        reasons: &["http2_error", "window_update_flood"],
    },
    Flood {
        name: "PRIORITY of a wrong size",
        before: half_closed,
        unit: |_| frame(PRIORITY, 0, 1, &[0; 4]),
        reasons: &["http2_error", "priority_flood"],
    },
    Flood {
        name: "a frame larger than agreed",
        before: half_closed,
        unit: |_| frame(DATA, 0, 1, &[0; (16 << 10) + 1]),
        reasons: &["http2_error", "data_flood"],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_ends_its_connection_and_no_other() {
    for flood in FLOODS {
        let (end, ended) = attacked(options(), async |address| {
            let mut raw = Raw::open(address, &[]).await;
            raw.send(&(flood.before)()).await;
            raw.flood(MANY, flood.unit).await
        })
        .await;
        let [(reason, 1)] = &ended[..] else { panic!("{}: {ended:?}, {end:?}", flood.name) };
        assert!(flood.reasons.contains(&reason.as_str()), "{}: {reason}, {end:?}", flood.name);
        // A client that floods on past all patience may find a reset instead.
        if end.goaway.is_some() {
            assert_eq!(end.was_calmed(), reason != "http2_error", "{}: {end:?}", flood.name);
        }
    }
}

/// Streams that are reset only after the server has begun to serve them: h2 has nothing against
/// these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_reset_one_by_one_end_their_connection() {
    let (end, ended) = attacked(options(), async |address| {
        let mut raw = Raw::open(address, &[]).await;
        for n in 0..MANY {
            // A PING is answered after what came before it was looked at.
            let open = [get(stream(n), "/hang"), frame(PING, 0, 0, &[0; 8])].concat();
            if !raw.send(&open).await || raw.inbox.next(PING).await.is_none() || !raw.send(&reset(stream(n))).await {
                break;
            }
        }
        raw.inbox.until_end().await
    })
    .await;
    let [(reason, 1)] = &ended[..] else { panic!("{ended:?}, {end:?}") };
    assert!(["reset_flood", "headers_flood", "ping_flood"].contains(&reason.as_str()), "{reason}");
    assert!(end.was_calmed(), "{end:?}");
}

/// The same frames, as a client sends them that gets something for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_connection_is_no_flood() {
    const CALLS: usize = 2_000;
    let (end, ended) = attacked(options(), async |address| {
        let mut raw = Raw::open(address, &[]).await;
        for n in 0..CALLS {
            let id = stream(n);
            let call = [get(id, "/"), frame(PING, 0, 0, &[1; 8]), frame(PRIORITY, 0, id, &[0, 0, 0, 0, 9])].concat();
            assert!(raw.send(&call).await, "call {n}: {:?}", raw.inbox.until_end().await);
            while !raw.inbox.frame().await.is_some_and(|frame| frame.stream == id && frame.flags & END_STREAM != 0) {}
            raw.send(&[window_update(0, 4), window_update(id, 4)].concat()).await;
        }
        raw.inbox.end
    })
    .await;
    assert_eq!(ended, [], "{end:?}");
    assert_eq!(end.frames[&HEADERS], CALLS);
    assert_eq!(end.goaway, None);
}
