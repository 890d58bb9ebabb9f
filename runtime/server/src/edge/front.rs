//! One port for everything: gRPC, gRPC-Web, health, reflection, pages. Told
//! apart by content type and path, the most frequent first.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use http::{Request, Response, header};
use http_body_util::Limited;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service};

use super::answer::Endless;
use super::dispatch::Dispatch;

/// Bytes that one stream may send to health and reflection, whose requests are names.
const STANDARD_BYTES_MAX: usize = 64 << 10;

type AnyFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// All gRPC services: Canopy's own, health and reflection.
#[derive(Clone)]
struct Grpc {
    dispatch: Dispatch,
    standard: Router,
}

impl Service<Request<Body>> for Grpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AnyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> AnyFuture {
        if request.uri().path().starts_with("/grpc.") {
            // Anybody may ask these: a message that never ends must not be kept.
            let answer = self.standard.call(request.map(|body| Body::new(Limited::new(body, STANDARD_BYTES_MAX))));
            Box::pin(async move {
                let mut answer = answer.await?.map(Body::new);
                // Some of them go on for as long as their reader wants.
                answer.extensions_mut().insert(Endless);
                Ok(answer)
            })
        } else {
            self.dispatch.call(request)
        }
    }
}

/// The service of the port.
#[derive(Clone)]
pub struct Front {
    grpc: Grpc,
    web: GrpcWebService<Grpc>,
    pages: Router,
}

impl Front {
    /// Canopy's services, the standard ones, and the pages.
    pub fn new(dispatch: Dispatch, standard: Routes, pages: Router) -> Self {
        let grpc = Grpc { dispatch, standard: standard.prepare().into_axum_router() };
        let web = GrpcWebLayer::new().layer(grpc.clone());
        Self { grpc, web, pages }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AnyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> AnyFuture {
        let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        if content_type.starts_with(b"application/grpc-web") {
            let answer = self.web.call(request.map(Body::new));
            Box::pin(async move { Ok(answer.await?.map(Body::new)) })
        } else if content_type.starts_with(b"application/grpc") {
            self.grpc.call(request.map(Body::new))
        } else {
            let answer = self.pages.call(request);
            Box::pin(async move { Ok(answer.await?.map(Body::new)) })
        }
    }
}
