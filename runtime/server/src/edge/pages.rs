//! What a browser or a metrics collector sees: `/` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use canopy_config::MetricsAccess;
use canopy_proto::methods::ops;
use metrics_exporter_prometheus::PrometheusHandle;
use tonic::metadata::MetadataMap;

use super::dispatch::Edge;
use super::gate;
use super::listener::Peer;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Who may read metrics.
    pub metrics_access: MetricsAccess,
    /// Renders metrics; absent where another recorder is installed.
    pub metrics: Option<PrometheusHandle>,
    /// Says who calls.
    pub edge: Arc<Edge>,
}

/// The router of the pages.
pub fn router(pages: Pages) -> Router {
    Router::new().route("/", get(status)).route("/metrics", get(metrics)).with_state(pages)
}

async fn status(State(pages): State<Pages>) -> Html<String> {
    let local = &pages.edge.local;
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Canopy</title>\
         <meta name=viewport content='width=device-width'>\
         <style>body{{font:16px/1.5 system-ui;max-width:38em;margin:4em auto;padding:0 1em;color:#1d2b24}}\
         code{{background:#eef4f0;padding:.1em .3em;border-radius:.2em}}dt{{font-weight:600}}</style>\
         <h1>Canopy</h1><p>This server is up.</p>\
         <dl><dt>Version</dt><dd>{}</dd><dt>Installation</dt><dd><code>{}</code></dd>\
         <dt>Sign-up</dt><dd>{}</dd></dl>\
         <p>Talk to it with <code>canopy --help</code>, or any gRPC client: server reflection, \
         <code>grpc.health.v1</code> and gRPC-Web are on this port.</p></html>",
        env!("CARGO_PKG_VERSION"),
        local.installation_id,
        local.sign_up,
    ))
}

async fn metrics(State(pages): State<Pages>, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let Some(handle) = pages.metrics.as_ref().filter(|_| pages.metrics_access != MetricsAccess::Off) else {
        return (StatusCode::NOT_FOUND, "metrics are off: set edge.metrics\n").into_response();
    };
    let near = pages.metrics_access == MetricsAccess::Loopback && peer.remote.ip().is_loopback();
    if !near && !is_sys_admin(&pages.edge, headers, &peer).await {
        let hint = "metrics are for the loopback address, or for a sys-admin's access token\n";
        return (StatusCode::FORBIDDEN, hint).into_response();
    }
    let text = handle.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn is_sys_admin(edge: &Edge, headers: HeaderMap, peer: &Peer) -> bool {
    let metadata = MetadataMap::from_headers(headers);
    let caller = edge.callers.identify(&edge.node, &metadata, peer.remote.ip()).await.ok().flatten();
    // As strongly as for what the tree says of itself.
    let rule = ops::OBSERVE.rule();
    caller.is_some_and(|caller| {
        let strong = gate::strong_enough(rule, &caller, edge.limits.log_in_strength);
        strong.is_ok() && edge.standing(&caller, peer, &metadata).is_sys_admin()
    })
}
