//! Every limit of the listener, each shown by what happens just past it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::edge::{Client, Server, connect_plain, echo, local_certificate, loopback, request, secure, within};
use crate::raw::{PREFACE, frame};
use canopy::edge::listener::{ListenError, Listener, Options, Security};
use http::{Response, Version};
use http_body_util::Full;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

const SHORT: Duration = Duration::from_millis(20);

fn plain() -> Options {
    Options::new(loopback(), Security::Plaintext)
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

fn assert_metric(recorder: &PrometheusRecorder, line: &str) {
    let rendered = recorder.handle().render();
    assert!(rendered.lines().any(|found| found == line), "{line:?} is not in\n{rendered}");
}

/// Everything up to the end of the connection, as frames of (kind, payload).
async fn frames_until_closed(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    // A reset ends it as well as an end of stream does.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    let mut frames = Vec::new();
    let mut rest = bytes.as_slice();
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        frames.push((rest[3], rest[9..9 + length].to_vec()));
        rest = &rest[9 + length..];
    }
    frames
}

/// What the server sent before it closed. It resets when it has not read everything.
async fn closed_by_server(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match within(stream.read_to_end(&mut bytes)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    bytes
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_until_one_ends() {
    let recorder = recorder();
    let mut options = plain();
    options.connections_max = 2;
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, echo));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
        assert_eq!(within(client.get()).await.unwrap().0, 200);
        open.push(client);
    }
    assert_metric(&recorder, "canopy_edge_connections 2");
    let mut third = within(TcpStream::connect(server.address)).await.unwrap();
    let refused = within(third.read(&mut [0; 1])).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_metric(&recorder, "canopy_edge_connections_refused_total{limit=\"server\"} 1");
    for client in &mut open {
        assert_eq!(within(client.get()).await.unwrap().0, 200, "the others are not disturbed");
    }

    let ended = open.pop().unwrap();
    drop(ended.client);
    let _ = within(ended.ended).await.unwrap();
    // The server learns of the end by reading it; until then it goes on refusing.
    let mut client = within(async {
        loop {
            if let Ok(mut client) = connect_plain(server.address, Version::HTTP_11).await
                && client.get().await.is_ok()
            {
                return client;
            }
        }
    })
    .await;
    assert_eq!(within(client.get()).await.unwrap().0, 200);
    drop((open, client));
    let report = server.stop().await;
    assert_eq!(report.connections_accepted, 3);
    assert!(report.connections_refused >= 1);
    assert_metric(&recorder, "canopy_edge_connections 0");
}

#[tokio::test]
async fn limits_of_zero_are_refused_by_name() {
    let mut nobody = plain();
    nobody.connections_max = 0;
    let mut nowhere = plain();
    nowhere.connections_per_address_max = 0;
    let mut nothing = plain();
    nothing.http2.streams_max = 0;
    for (options, expected) in
        [(nobody, "connections_max"), (nowhere, "connections_per_address_max"), (nothing, "streams_max")]
    {
        let error = Listener::bind(options).unwrap_err();
        assert!(matches!(error, ListenError::LimitZero { name } if name == expected), "{error}");
    }
}

#[tokio::test]
async fn a_tls_handshake_has_a_time_out() {
    let recorder = recorder();
    let data_dir = tempfile::tempdir().unwrap();
    let (_, certificate) = local_certificate(data_dir.path());
    let mut options = Options::new(loopback(), secure(certificate));
    options.tls_handshake_timeout = SHORT;
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, echo));
    let mut silent = within(TcpStream::connect(server.address)).await.unwrap();
    assert_eq!(closed_by_server(&mut silent).await, b"");
    assert_metric(&recorder, "canopy_edge_tls_handshake_errors_total{reason=\"timeout\"} 1");
    server.stop().await;
}

#[tokio::test]
async fn failed_and_good_handshakes_are_measured() {
    let recorder = recorder();
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    let options = Options::new(loopback(), secure(certificate));
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, echo));
    let mut plain = within(TcpStream::connect(server.address)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let alert = closed_by_server(&mut plain).await;
    assert_eq!(alert.first(), Some(&21), "a TLS alert (RFC 8446 §6): {alert:?}");
    let mut client =
        within(crate::edge::connect_tls(server.address, authority.ca_pem(), Version::HTTP_2)).await.unwrap();
    assert_eq!(within(client.get()).await.unwrap().0, 200);
    assert_metric(&recorder, "canopy_edge_tls_handshake_errors_total{reason=\"failed\"} 1");
    assert_metric(&recorder, "canopy_edge_tls_handshake_seconds_count 1");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn slow_heads_and_silence_have_a_time_out() {
    let mut options = plain();
    options.header_read_timeout = SHORT;
    let server = Server::start(options, echo);
    let cases: [&[u8]; 5] =
        [b"", b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "];
    for sent in cases {
        let mut stream = within(TcpStream::connect(server.address)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let answer = closed_by_server(&mut stream).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200"), "{:?}: {answer}", String::from_utf8_lossy(sent));
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_http1_connection_is_closed_and_an_idle_http2_connection_is_not() {
    let mut options = plain();
    options.header_read_timeout = SHORT;
    let server = Server::start(options, echo);
    let mut http2 = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    assert_eq!(within(http2.get()).await.unwrap().0, 200);
    let mut http1 = within(connect_plain(server.address, Version::HTTP_11)).await.unwrap();
    assert_eq!(within(http1.get()).await.unwrap().0, 200);
    // The client's end is open: only the server can have ended it.
    let _ = within(http1.ended).await.unwrap();
    assert_eq!(within(http2.get()).await.unwrap().0, 200);
    server.stop().await;
}

#[tokio::test]
async fn heads_over_the_limit_are_answered_with_431() {
    let mut options = plain();
    options.header_bytes_max = 8 << 10;
    let server = Server::start(options, echo);
    for version in [Version::HTTP_2, Version::HTTP_11] {
        for (bytes, expected) in [(7 << 10, 200), (9 << 10, 431)] {
            let mut client = within(connect_plain(server.address, version)).await.unwrap();
            let mut request = request("/");
            let long = "x".repeat(bytes).parse().unwrap();
            request.headers_mut().insert("x-long", long);
            let (status, _) = within(client.send(request)).await.unwrap();
            assert_eq!(status, expected, "{version:?} with {bytes} bytes");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn streams_over_the_limit_wait() {
    let (begun, mut seen) = mpsc::unbounded_channel();
    let (gate, running) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut options = plain();
    options.http2.streams_max = 2;
    let server = {
        let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
        Server::start(options, move |_| {
            let (begun, gate, running) = (begun.clone(), Arc::clone(&gate), Arc::clone(&running));
            async move {
                begun.send(running.fetch_add(1, Ordering::SeqCst) + 1).unwrap();
                gate.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Response::new(Full::from("")))
            }
        })
    };
    let mut client = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    // The first answer comes after the server's SETTINGS, so the client knows the limit.
    gate.add_permits(1);
    assert_eq!(within(client.get()).await.unwrap().0, 200);
    assert_eq!(within(seen.recv()).await, Some(1));
    let Client::Http2(sender) = client.client else { unreachable!() };
    let answers: Vec<_> = (0..6)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { sender.send_request(request("/")).await.unwrap().status() })
        })
        .collect();
    gate.add_permits(6);
    for answer in answers {
        assert_eq!(within(answer).await.unwrap(), 200);
    }
    let mut most = 0;
    for _ in 0..6 {
        most = most.max(within(seen.recv()).await.unwrap());
    }
    assert!(most <= 2, "{most} requests at once on a connection of 2 streams");
    drop(sender);
    server.stop().await;
}

#[tokio::test]
async fn the_windows_are_announced() {
    let mut options = plain();
    options.http2.stream_window_bytes = 200_000;
    options.http2.connection_window_bytes = 300_000;
    options.http2.streams_max = 77;
    options.header_bytes_max = 12_345;
    // Also ends the connection: this client answers no ping.
    options.http2.keep_alive_interval = SHORT;
    options.http2.keep_alive_timeout = SHORT;
    let server = Server::start(options, echo);
    let mut stream = within(TcpStream::connect(server.address)).await.unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    let frames = frames_until_closed(&mut stream).await;
    let settings: Vec<_> = frames[0]
        .1
        .chunks(6)
        .map(|setting| {
            let id = u16::from_be_bytes(setting[..2].try_into().unwrap());
            (id, u32::from_be_bytes(setting[2..].try_into().unwrap()))
        })
        .collect();
    // RFC 9113 §6.5.2: 3 streams, 4 window of a stream, 6 header list.
    for expected in [(3, 77), (4, 200_000), (6, 12_345)] {
        assert!(settings.contains(&expected), "{expected:?} is not in {settings:?}");
    }
    let grown = frames.iter().find(|(kind, _)| *kind == 8).expect("a WINDOW_UPDATE");
    let grown = u32::from_be_bytes(grown.1.as_slice().try_into().unwrap());
    assert_eq!(grown + 65_535, 300_000);
    assert!(frames.iter().any(|(kind, _)| *kind == 6), "a PING went unanswered");
    server.stop().await;
}

/// One connection, `count` streams that end in a reset; the server calms it iff there
/// are more than it bears.
#[tokio::test]
async fn rapid_resets_and_malformed_streams_end_the_connection() {
    // `:method GET`, `:scheme http`, `:path /`, `:authority a` (RFC 7541 appendix A).
    const GOOD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
    // `connection: a` is malformed in HTTP/2 (RFC 9113 §8.2.2).
    const BAD: &[u8] =
        &[0x82, 0x86, 0x84, 0x41, 1, b'a', 0, 10, b'c', b'o', b'n', b'n', b'e', b'c', b't', b'i', b'o', b'n', 1, b'a'];
    const CANCEL: &[u8] = &[0, 0, 0, 8];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: &[u8] = &[0, 0, 0, 11];

    let mut options = plain();
    options.http2.pending_accept_reset_streams_max = 10;
    options.http2.local_error_reset_streams_max = 10;
    options.http2.keep_alive_interval = Duration::from_millis(100);
    options.http2.keep_alive_timeout = Duration::from_millis(100);
    let server = Server::start(options, echo);
    for (case, head, reset, count, calmed) in [
        ("rapid resets at the limit", GOOD, true, 10, false),
        ("rapid resets past it, within h2's own limit of 20", GOOD, true, 15, true),
        ("malformed requests at the limit", BAD, false, 10, false),
        ("malformed requests past it", BAD, false, 15, true),
    ] {
        let mut attack = [PREFACE, &frame(4, 0, 0, &[])].concat();
        for stream in (0..count).map(|n| 2 * n + 1) {
            attack.extend(frame(1, 0x5, stream, head));
            if reset {
                attack.extend(frame(3, 0, stream, CANCEL));
            }
        }
        let mut stream = within(TcpStream::connect(server.address)).await.unwrap();
        stream.write_all(&attack).await.unwrap();
        let frames = frames_until_closed(&mut stream).await;
        let found =
            frames.iter().any(|(kind, payload)| *kind == GOAWAY && payload.get(4..8) == Some(ENHANCE_YOUR_CALM));
        assert_eq!(found, calmed, "{case}: {frames:?}");
    }
    let mut client = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    assert_eq!(within(client.get()).await.unwrap().0, 200, "others are served");
    server.stop().await;
}
