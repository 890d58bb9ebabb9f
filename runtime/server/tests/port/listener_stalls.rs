//! Clients that take a server's memory and time by being slow: each is let go after its time,
//! is counted, and is in nobody else's way.

use std::sync::Arc;
use std::time::Duration;

use canopy::edge::listener::{Options, Security};
use canopy::edge::tls;
use http::Version;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attack::{LARGE_BYTES, answer_or_hang, attacked, ended, recorder};
use crate::edge::{Server, connect_plain, connect_tls, local_certificate, loopback, secure, within};
use crate::raw::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, Raw, frame, get, head, settings, stream, window_update,
};

/// The time after which a client that does nothing has stalled.
const SHORT: Duration = Duration::from_millis(60);
/// One that no test reaches.
const LONG: Duration = Duration::from_secs(3_600);
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// Only what a test shortens can end a connection.
fn patient() -> Options {
    let mut options = Options::new(loopback(), Security::Plaintext);
    options.header_read_timeout = LONG;
    options.write_stall_timeout = LONG;
    options.answer_stall_timeout = LONG;
    options.http2.keep_alive_interval = LONG;
    options
}

fn once(reason: &str) -> Vec<(String, u64)> {
    vec![(reason.to_owned(), 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_window_is_never_opened_is_given_up() {
    let mut options = patient();
    options.answer_stall_timeout = SHORT;
    let (end, ended) = attacked(options, async |address| {
        let mut raw = Raw::open(address, &[(INITIAL_WINDOW, 0)]).await;
        raw.send(&get(1, "/large")).await;
        raw.inbox.until_end().await
    })
    .await;
    assert_eq!(ended, once("answer_stall"));
    assert_eq!((end.frames.get(&HEADERS), end.frames.get(&DATA)), (Some(&1), None), "{end:?}");
}

/// One stream's answers go on, another's is never taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_other_answers_does_not_help() {
    let mut options = patient();
    options.answer_stall_timeout = SHORT;
    let (calls, ended) = attacked(options, async |address| {
        let mut raw = Raw::open(address, &[(INITIAL_WINDOW, 0)]).await;
        raw.send(&get(1, "/large")).await;
        for n in 1.. {
            if !raw.send(&[get(stream(n), "/"), window_update(stream(n), 4)].concat()).await {
                return n;
            }
            while let Some(answer) = raw.inbox.next(DATA).await {
                if answer.stream == stream(n) {
                    break;
                }
            }
        }
        0
    })
    .await;
    assert_eq!(ended, once("answer_stall"));
    assert!(calls > 1, "{calls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_is_cut_off() {
    type Unit = fn(usize) -> Vec<u8>;
    let ways: [(&str, Unit); 3] = [
        ("large answers", |n| [get(stream(n), "/large"), window_update(0, 1 << 10)].concat()),
        ("PINGs", |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", |_| settings(&[])),
    ];
    for (name, unit) in ways {
        let mut options = patient();
        options.write_stall_timeout = SHORT;
        // Nothing but the stall ends it.
        options.http2.overhead_max = i32::MAX.unsigned_abs();
        options.http2.local_error_reset_streams_max = usize::MAX;
        let ((), ended) = attacked(options, async |address| {
            let mut raw = Raw::open(address, &[(INITIAL_WINDOW, 1 << 20)]).await;
            // More than the sockets' buffers take.
            raw.send(&window_update(0, 1 << 30)).await;
            raw.flood_unread(unit).await;
        })
        .await;
        assert_eq!(ended, once("write_stall"), "{name}");
    }
}

#[tokio::test]
async fn who_reads_nothing_over_http1_is_cut_off() {
    let mut options = patient();
    options.write_stall_timeout = SHORT;
    let ((), ended) = attacked(options, async |address| {
        let mut stream = within(TcpStream::connect(address)).await.unwrap();
        // Pipelined, so that the answers do not fit into the sockets' buffers.
        let requests = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(64);
        within(stream.write_all(&requests)).await.unwrap();
        within(stream.writable()).await.unwrap();
        // The connection's end shows without reading a byte.
        within(async { while stream.write_all(b" ").await.is_ok() {} }).await;
    })
    .await;
    assert_eq!(ended, once("write_stall"));
}

/// A slow line is no attack: what is taken, however slowly, is sent to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_gets_everything() {
    let mut options = patient();
    options.write_stall_timeout = SHORT;
    let (end, ended) = attacked(options, async |address| {
        let mut raw = Raw::open(address, &[(INITIAL_WINDOW, 0)]).await;
        raw.send(&get(1, "/large")).await;
        let mut taken = 0;
        while taken < LARGE_BYTES {
            raw.send(&[window_update(0, 1 << 10), window_update(1, 1 << 10)].concat()).await;
            taken += raw.inbox.next(DATA).await.expect("more of the answer").payload.len();
        }
        raw.inbox.end
    })
    .await;
    assert_eq!(ended, []);
    assert_eq!(end.goaway, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_are_given_up() {
    let mut options = patient();
    // The PING cannot be answered in the middle of a head.
    options.http2.keep_alive_interval = SHORT;
    options.http2.keep_alive_timeout = SHORT;
    for (name, begun) in [
        ("HEADERS", frame(HEADERS, 0, 1, &head("GET", "/", &[]))),
        ("CONTINUATION", [frame(HEADERS, 0, 1, &[]), frame(CONTINUATION, 0, 1, &[])].concat()),
        ("half a frame", frame(HEADERS, END_HEADERS, 1, &head("GET", "/", &[]))[..20].to_vec()),
    ] {
        let (end, _) = attacked(options.clone(), async |address| {
            let mut raw = Raw::open(address, &[]).await;
            raw.send(&begun).await;
            raw.inbox.until_end().await
        })
        .await;
        assert_eq!(end.frames.get(&HEADERS), None, "{name}: {end:?}");
    }
}

/// A byte each time that the server has said nothing for a while: more often than any limit, so
/// that each byte alone would be in time.
#[tokio::test]
async fn a_byte_now_and_then_is_not_enough() {
    let mut options = patient();
    options.header_read_timeout = SHORT;
    for head in ["GET / HTTP/1.1\r\nhost: localhost\r\nx-padding: ", "PRI * HTTP/2.0\r\n"] {
        let ((), _) = attacked(options.clone(), async |address| {
            let mut stream = within(TcpStream::connect(address)).await.unwrap();
            let mut bytes = head.bytes().chain(std::iter::repeat(b'x'));
            let answered = within(async {
                loop {
                    if stream.write_all(&[bytes.next().unwrap()]).await.is_err() {
                        return 0;
                    }
                    let mut read = [0; 64];
                    let read = stream.read(&mut read);
                    if let Ok(read) = tokio::time::timeout(SHORT / 20, read).await {
                        return read.unwrap_or(0);
                    }
                }
            });
            // Closed, or told that it took too long.
            assert!(answered.await < 64, "{head:?}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_clients_that_stop_half_way_are_let_go() {
    const ATTACKERS: usize = 100;
    let recorder = recorder();
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    let mut options = patient();
    options.security = secure(certificate);
    options.tls_handshake_timeout = Duration::from_millis(500);
    options.header_read_timeout = SHORT;
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, answer_or_hang));
    let mut half_open = Vec::new();
    for _ in 0..ATTACKERS {
        half_open.push(within(TcpStream::connect(server.address)).await.unwrap());
    }
    let mut client = within(connect_tls(server.address, authority.ca_pem(), Version::HTTP_2)).await.unwrap();
    for mut stream in half_open {
        assert_eq!(within(client.get()).await.unwrap().0, 200, "others are served meanwhile");
        let _ = within(stream.read(&mut [0])).await;
    }
    let rendered = recorder.handle().render();
    let late = format!("canopy_edge_tls_handshake_errors_total{{reason=\"timeout\"}} {ATTACKERS}");
    assert!(rendered.contains(&late), "{rendered}");
    assert_eq!(ended(&recorder), []);

    // The handshake is done, HTTP/2 agreed on, and nothing follows.
    let config = Arc::new(tls::client_config(authority.ca_pem()).unwrap());
    let stream = within(TcpStream::connect(server.address)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut silent = within(tokio_rustls::TlsConnector::from(config).connect(name, stream)).await.unwrap();
    assert_eq!(silent.get_ref().1.alpn_protocol(), Some(tls::ALPN_HTTP2));
    let _ = within(silent.read_to_end(&mut Vec::new())).await;
    assert_eq!(ended(&recorder), once("preface_timeout"));
    assert_eq!(within(client.get()).await.unwrap().0, 200);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let recorder = recorder();
    let mut options = patient();
    options.connections_per_address_max = 2;
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, answer_or_hang));
    let mut first = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    let mut second = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    assert_eq!(within(first.get()).await.unwrap().0, 200);
    assert_eq!(within(second.get()).await.unwrap().0, 200);
    let mut third = within(TcpStream::connect(server.address)).await.unwrap();
    assert!(within(third.read(&mut [0])).await.is_err(), "it is reset");
    let rendered = recorder.handle().render();
    assert!(rendered.contains("canopy_edge_connections_refused_total{limit=\"address\"} 1"), "{rendered}");

    // Another address of this machine has its own.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = within(socket.connect(server.address)).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(other.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop((first, second));
    server.stop().await;
}
