//! A process out of file descriptors: the listener pauses, counts, and goes on when
//! there are some again. Alone in its file, because the limit is the whole process's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

#[path = "port/edge/mod.rs"]
mod edge;

use canopy::edge::listener::{Options, Security};
use edge::{Server, connect_plain, echo, loopback, within};
use http::Version;
use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn accepting_goes_on_after_descriptors_ran_out() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let options = Options::new(loopback(), Security::Plaintext);
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, echo));
    let errors = || {
        let rendered = recorder.handle().render();
        let found = rendered.lines().find_map(|line| line.strip_prefix("canopy_edge_accept_errors_total "));
        found.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let mut first = within(connect_plain(server.address, Version::HTTP_2)).await.unwrap();
    assert_eq!(within(first.get()).await.unwrap().0, 200);

    // The client's socket is made while there still are descriptors, and the listener's
    // task does not run before the limit is down: this runtime has one thread.
    let socket = std::net::TcpStream::connect(server.address).unwrap();
    let before = getrlimit(Resource::Nofile);
    let lowered = Rlimit { current: Some(3), maximum: before.maximum };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let started = std::time::Instant::now();
    within(async {
        while errors() < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // 5 + 10 + 20 + 40 ms lie between five refusals.
    assert!(started.elapsed().as_millis() >= 75, "it spins: {:?}", started.elapsed());
    assert_eq!(within(first.get()).await.unwrap().0, 200, "open connections are served");
    setrlimit(Resource::Nofile, before).unwrap();

    socket.set_nonblocking(true).unwrap();
    let mut socket = tokio::net::TcpStream::from_std(socket).unwrap();
    let answer = within(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        socket.write_all(request).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(first);
    let report = server.stop().await;
    assert!(report.accept_errors >= 5);
    assert_eq!(report.connections_accepted, 2);
}
