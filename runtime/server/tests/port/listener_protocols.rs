//! Both protocols on one port, over TLS and in plain text, with the peer in each
//! request; and where plain text is refused.

use std::net::SocketAddr;

use crate::edge::{Server, connect_plain, connect_tls, echo, local_certificate, loopback, secure, within};
use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use canopy::edge::listener::{ListenError, Listener, Options, Peer, Security};
use http::Version;
use tokio::sync::oneshot;

#[tokio::test]
async fn plain_text_speaks_both_protocols_on_loopback() {
    let server = Server::start(Options::new(loopback(), Security::Plaintext), echo);
    for (version, shown) in [(Version::HTTP_2, "HTTP/2.0"), (Version::HTTP_11, "HTTP/1.1")] {
        let mut client = within(connect_plain(server.address, version)).await.unwrap();
        for _ in 0..3 {
            let answer = within(client.get()).await.unwrap();
            assert_eq!(answer, (200, format!("{} false {shown}", client.local)));
        }
    }
    let report = server.stop().await;
    assert_eq!((report.connections_accepted, report.connections_aborted), (2, 0));
}

#[tokio::test]
async fn a_preface_in_pieces_is_still_http2() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start(Options::new(loopback(), Security::Plaintext), echo);
    let mut stream = within(tokio::net::TcpStream::connect(server.address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut frame = [0; 9];
    within(stream.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[3], 4, "the server answers with its SETTINGS");
    // It answers no ping, so the drain would wait for it.
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn an_axum_router_is_a_service() {
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    let bound = Listener::bind(Options::new(loopback(), secure(certificate))).unwrap();
    let address = bound.local_addr();
    let router =
        Router::new().route("/", get(|Extension(peer): Extension<Peer>| async move { peer.connection_id.to_string() }));
    let (shutdown, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(bound.serve(router, async {
        let _ = ended.await;
    }));
    let mut ids = Vec::new();
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let mut client = within(connect_tls(address, authority.ca_pem(), version)).await.unwrap();
        let first = within(client.get()).await.unwrap();
        assert_eq!(first.0, 200);
        assert_eq!(within(client.get()).await.unwrap(), first, "one connection, one id");
        ids.push(first.1);
    }
    assert_ne!(ids[0], ids[1], "another connection, another id");
    shutdown.send(()).unwrap();
    within(serving).await.unwrap();
}

#[tokio::test]
async fn plain_text_is_refused_where_others_could_listen() {
    // Nothing is opened for the refused ones, so no address but loopback is ever bound.
    let cases = [
        ("127.0.0.1:0", true),
        ("127.9.9.9:0", true),
        ("[::1]:0", true),
        ("0.0.0.0:0", false),
        ("[::]:0", false),
        ("10.0.0.1:0", false),
        ("192.168.1.1:80", false),
        ("[::ffff:10.0.0.1]:0", false),
        ("[fe80::1]:0", false),
    ];
    for (address, allowed) in cases {
        let address: SocketAddr = address.parse().unwrap();
        match Listener::bind(Options::new(address, Security::Plaintext)) {
            Ok(bound) => {
                assert!(allowed, "{address}");
                assert_ne!(bound.local_addr().port(), 0);
            }
            Err(ListenError::PlaintextExposed { address: named }) => {
                assert!(!allowed, "{address}");
                assert_eq!(named, address);
            }
            // A machine without IPv6.
            Err(error @ ListenError::Bind { .. }) => {
                assert!(allowed && address.is_ipv6(), "{error}");
            }
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = Listener::bind(Options::new(loopback(), Security::Plaintext)).unwrap();
    let second = Listener::bind(Options::new(first.local_addr(), Security::Plaintext));
    let error = second.unwrap_err();
    assert!(matches!(error, ListenError::Bind { address, .. } if address == first.local_addr()));
}
