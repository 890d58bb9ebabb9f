//! Shutdown: what is in flight ends, what hangs is cut off after the grace, and nobody
//! new comes in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::edge::{Server, connect_plain, connect_tls, local_certificate, loopback, request, secure, within};
use bytes::Bytes;
use canopy::edge::listener::{Options, Security};
use http::{Response, Version};
use http_body_util::Full;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

/// A service whose requests say when they begin and when their future is dropped, and
/// wait at a gate in between.
#[derive(Clone)]
struct Gated {
    gate: Arc<Semaphore>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Begun,
    Dropped,
}

struct OnDrop(mpsc::UnboundedSender<Event>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Dropped);
    }
}

impl Gated {
    fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, seen) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        (Self { gate, events }, seen)
    }

    async fn answer(self) -> Result<Response<Full<Bytes>>, Infallible> {
        let _guard = OnDrop(self.events.clone());
        self.events.send(Event::Begun).expect("the test listens");
        let _permit = self.gate.acquire().await.expect("never closed");
        Ok(Response::new(Full::from("done")))
    }
}

fn start(mut options: Options, grace: Duration, gated: &Gated) -> Server {
    options.drain_grace = grace;
    let gated = gated.clone();
    Server::start(options, move |_| gated.clone().answer())
}

/// The port is closed, which is the first thing that a drain does.
async fn until_closed(server: &Server) {
    within(async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn requests_in_flight_are_answered() {
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    for security in [Security::Plaintext, secure(certificate)] {
        for version in [Version::HTTP_2, Version::HTTP_11] {
            let (gated, mut seen) = Gated::new();
            let options = Options::new(loopback(), security.clone());
            let mut server = start(options, crate::edge::DEADLINE * 10, &gated);
            let mut client = match security {
                Security::Plaintext => within(connect_plain(server.address, version)).await,
                Security::Tls(_) => within(connect_tls(server.address, authority.ca_pem(), version)).await,
            }
            .unwrap();
            let answer = tokio::spawn(async move {
                let answer = client.send(request("/")).await;
                // Ends because the server closes it, though the client would go on.
                let second = client.get().await;
                (answer, second.is_err())
            });
            assert_eq!(within(seen.recv()).await, Some(Event::Begun));
            server.begin_shutdown();
            until_closed(&server).await;
            gated.gate.add_permits(1);
            let (answer, closed) = within(answer).await.unwrap();
            assert_eq!(answer.unwrap(), (200, "done".to_owned()), "{version:?}");
            assert!(closed, "{version:?}: a drained connection takes no second request");
            assert_eq!(server.report().await.connections_aborted, 0, "{version:?}");
        }
    }
}

#[tokio::test]
async fn what_hangs_is_aborted_after_the_grace_and_counted() {
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let (gated, mut seen) = Gated::new();
        let options = Options::new(loopback(), Security::Plaintext);
        let server = start(options, Duration::from_millis(20), &gated);
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut client = within(connect_plain(server.address, version)).await.unwrap();
            answers.push(tokio::spawn(async move { client.get().await }));
            assert_eq!(within(seen.recv()).await, Some(Event::Begun));
        }
        let report = server.stop().await;
        assert_eq!(report.connections_accepted, 2);
        assert_eq!(report.connections_aborted, 2, "{version:?}");
        for answer in answers {
            assert!(within(answer).await.unwrap().is_err(), "{version:?}");
            assert_eq!(within(seen.recv()).await, Some(Event::Dropped), "no request outlives it");
        }
    }
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_drain_up() {
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    for security in [Security::Plaintext, secure(certificate)] {
        let (gated, _seen) = Gated::new();
        gated.gate.add_permits(100);
        let options = Options::new(loopback(), security.clone());
        let server = start(options, crate::edge::DEADLINE * 10, &gated);
        // One that has said nothing yet, and over TLS is in its handshake.
        let mut silent = within(TcpStream::connect(server.address)).await.unwrap();
        let mut idle = Vec::new();
        for version in [Version::HTTP_2, Version::HTTP_11] {
            let mut client = match security {
                Security::Plaintext => within(connect_plain(server.address, version)).await,
                Security::Tls(_) => within(connect_tls(server.address, authority.ca_pem(), version)).await,
            }
            .unwrap();
            assert_eq!(within(client.get()).await.unwrap().0, 200);
            idle.push(client);
        }
        let report = server.stop().await;
        assert_eq!((report.connections_accepted, report.connections_aborted), (3, 0));
        assert_eq!(within(silent.read(&mut [0; 1])).await.unwrap(), 0);
        for client in idle {
            within(client.ended).await.unwrap().unwrap();
        }
    }
}

/// Young for long enough that a request usually comes in time, and old soon.
const AGE_MAX: Duration = Duration::from_millis(200);

fn aging(grace: Duration, gated: &Gated) -> Server {
    let mut options = Options::new(loopback(), Security::Plaintext);
    options.connection_age_max = Some(AGE_MAX);
    start(options, grace, gated)
}

type Answer = JoinHandle<(Result<(u16, String), hyper::Error>, bool)>;

/// A request that has begun on a connection that was young enough for it; afterwards, whether
/// the connection has ended.
#[allow(clippy::async_yields_async, reason = "the answer is waited for later")]
async fn begun(server: &Server, version: Version, seen: &mut mpsc::UnboundedReceiver<Event>) -> Answer {
    within(async {
        loop {
            let mut client = connect_plain(server.address, version).await.unwrap();
            let mut answer: Answer = tokio::spawn(async move {
                let answer = client.get().await;
                // Ends because the server closes it, though the client would go on.
                let _ = client.ended.await;
                (answer, client.client.is_closed())
            });
            tokio::select! {
                biased;
                event = seen.recv() => {
                    assert_eq!(event, Some(Event::Begun));
                    return answer;
                }
                // It was too old, which a machine can be slow enough for.
                _ = &mut answer => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_old_connection_ends_when_it_is_idle() {
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let (gated, mut seen) = Gated::new();
        let server = aging(crate::edge::DEADLINE * 10, &gated);
        // Served in their order: the first is idle while the second waits.
        let [idle, busy] = [begun(&server, version, &mut seen).await, begun(&server, version, &mut seen).await];
        for answer in [idle, busy] {
            gated.gate.add_permits(1);
            let (answer, closed) = within(answer).await.unwrap();
            assert_eq!(answer.unwrap(), (200, "done".to_owned()), "{version:?}: what was under way is answered");
            assert!(closed, "{version:?}");
        }
        assert_eq!(server.stop().await.connections_aborted, 0, "{version:?}");
    }
}

#[tokio::test]
async fn what_an_old_connection_has_under_way_gets_the_grace_and_no_more() {
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let (gated, mut seen) = Gated::new();
        let server = aging(Duration::from_millis(20), &gated);
        let answer = begun(&server, version, &mut seen).await;
        let (answer, closed) = within(answer).await.unwrap();
        assert!(answer.is_err() && closed, "{version:?}");
        assert_eq!(within(seen.recv()).await, Some(Event::Dropped), "{version:?}: no request outlives it");
        assert_eq!(server.stop().await.connections_aborted, 0, "{version:?}");
    }
}
