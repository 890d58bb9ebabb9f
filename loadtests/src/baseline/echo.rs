//! Bare tonic unary: answers with the request's bytes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tower::{Service, service_fn};

use crate::client::codec::RawCodec;

pub const PATH: PathAndQuery = PathAndQuery::from_static("/canopy.load.v1.Echo/Echo");

/// Takes whatever method of its service is called for the echo: there is one.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "canopy.load.v1.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let echo = service_fn(|request: Request<Bytes>| {
                std::future::ready(Ok::<_, Status>(Response::new(request.into_inner())))
            });
            Ok(Grpc::new(RawCodec::unary()).unary(echo, request).await)
        })
    }
}
