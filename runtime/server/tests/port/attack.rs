//! An attack on a listener while somebody else calls.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use canopy::edge::listener::Options;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::edge::{Server, connect_plain, within};

/// Bytes of the answer at `/large`.
pub(crate) const LARGE_BYTES: usize = 1 << 20;

/// `/hang` is never answered; all else is, at once.
pub(crate) async fn answer_or_hang(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        "/hang" => std::future::pending().await,
        "/large" => Ok(Response::new(Full::from(vec![b'x'; LARGE_BYTES]))),
        _ => Ok(Response::new(Full::from("here"))),
    }
}

pub(crate) fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

/// How often connections were ended, by why.
pub(crate) fn ended(recorder: &PrometheusRecorder) -> Vec<(String, u64)> {
    let rendered = recorder.handle().render();
    let lines = rendered.lines().filter_map(|line| line.strip_prefix("canopy_edge_connections_ended_total{reason=\""));
    let counts = lines.filter_map(|line| {
        let (reason, count) = line.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().unwrap()))
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Runs an attack on a server of its own while somebody else calls; tells how it ended, and what
/// the server says about it.
pub(crate) async fn attacked<F: Future<Output = T>, T>(
    options: Options,
    attack: impl FnOnce(SocketAddr) -> F,
) -> (T, Vec<(String, u64)>) {
    let recorder = recorder();
    let server = metrics::with_local_recorder(&recorder, || Server::start(options, answer_or_hang));
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let bystander = {
        let (over, served, address) = (Arc::clone(&over), Arc::clone(&served), server.address);
        tokio::spawn(async move {
            let mut client = within(connect_plain(address, Version::HTTP_2)).await.unwrap();
            while !over.load(Ordering::Acquire) || served.load(Ordering::Acquire) == 0 {
                assert_eq!(within(client.get()).await.unwrap().0, 200);
                served.fetch_add(1, Ordering::AcqRel);
            }
        })
    };
    let outcome = attack(server.address).await;
    over.store(true, Ordering::Release);
    within(bystander).await.expect("the bystander's calls are answered");
    server.stop().await;
    (outcome, ended(&recorder))
}
