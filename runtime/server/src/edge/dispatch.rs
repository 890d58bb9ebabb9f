//! Every gRPC call comes through here: who calls, is there room, are the
//! bytes a request, whom does it concern, may the caller; then the owner
//! answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use canopy_actors::{Call, Node};
use canopy_domain::{Code, Origin, Principal, Refusal};
use canopy_proto::{Access, Requirement};
use http::Request as HttpRequest;
use metrics::counter;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tower::Service;
use tracing::Instrument;

use super::admission::Admission;
use super::callers::{Caller, Callers};
use super::codec::BytesCodec;
use super::gate::{self, Admitted};
use super::grants::Grants;
use super::listener::Peer;
use super::local::Local;
use super::route::{Destination, Route, routes};
use super::status::{grpc_code, status};
use crate::subscription::{EventStream, Hub};

/// Characters of a client's own name that are kept.
const CLIENT_CHARS_MAX: usize = 120;

/// Limits of a call.
#[derive(Debug, Clone)]
pub struct CallLimits {
    /// Largest request, in bytes.
    pub request_bytes_max: usize,
    /// Time for a call that does not say.
    pub deadline_default: Duration,
    /// Longest time that a call may ask for.
    pub deadline_max: Duration,
}

/// What answers calls.
pub struct Edge {
    /// Where actors are.
    pub node: Node,
    /// Who calls.
    pub callers: Arc<Callers>,
    /// What they may.
    pub grants: Arc<Grants>,
    /// How much at once.
    pub admission: Admission,
    /// Who follows what.
    pub hub: Arc<Hub>,
    /// What the node answers itself.
    pub local: Local,
    /// Size and time.
    pub limits: CallLimits,
}

/// The service behind `/canopy.*`.
#[derive(Clone)]
pub struct Dispatch(pub Arc<Edge>);

type AnyFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<HttpRequest<Body>> for Dispatch {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = AnyFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let edge = Arc::clone(&self.0);
        Box::pin(async move {
            let path = request.uri().path().strip_prefix('/').unwrap_or_default();
            let Some(route) = routes().get(path) else {
                return Ok(status(&gate::unserved(path)).into_http());
            };
            let limits = &edge.limits;
            let mut grpc = Grpc::new(BytesCodec).max_decoding_message_size(limits.request_bytes_max);
            let handler = Handler { edge: Arc::clone(&edge), route };
            let answer = match route.rule.access {
                Access::Subscription => grpc.server_streaming(handler, request).await,
                _ => grpc.unary(handler, request).await,
            };
            Ok(oversized(&answer, limits.request_bytes_max).unwrap_or(answer))
        })
    }
}

struct Handler {
    edge: Arc<Edge>,
    route: &'static Route,
}

impl UnaryService<Bytes> for Handler {
    type Response = Bytes;
    type Future = AnyFuture<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (edge, route) = (Arc::clone(&self.edge), self.route);
        Box::pin(async move {
            let started = Instant::now();
            let span = tracing::debug_span!("call", method = route.rule.path);
            let answer = edge.unary(route, request).instrument(span).await;
            route.seconds.record(started.elapsed().as_secs_f64());
            match answer {
                Ok(answer) => {
                    route.answered.increment(1);
                    Ok(Response::new(answer))
                }
                Err(refusal) => Err(refused(route, &refusal)),
            }
        })
    }
}

impl ServerStreamingService<Bytes> for Handler {
    type Response = Bytes;
    type ResponseStream = EventStream;
    type Future = AnyFuture<Result<Response<EventStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (edge, route) = (Arc::clone(&self.edge), self.route);
        Box::pin(async move {
            let span = tracing::debug_span!("subscribe", method = route.rule.path);
            match edge.subscribe(route, request).instrument(span).await {
                Ok(stream) => {
                    route.answered.increment(1);
                    Ok(Response::new(stream))
                }
                Err(refusal) => Err(refused(route, &refusal)),
            }
        })
    }
}

fn refused(route: &Route, refusal: &Refusal) -> Status {
    let code = format!("{:?}", grpc_code(refusal.code));
    counter!("canopy_edge_calls_total", "method" => route.rule.path, "code" => code).increment(1);
    status(refusal)
}

/// A call whose caller, bytes and destination are known and allowed.
struct Checked {
    caller: Option<Arc<Caller>>,
    destination: Destination,
    admitted: Admitted,
    call: Call,
}

impl Edge {
    async fn unary(&self, route: &'static Route, request: Request<Bytes>) -> Result<Bytes, Refusal> {
        let peer = peer(&request)?;
        let _permits = self.admission.call(peer.connection_id)?;
        let deadline = self.deadline(request.metadata())?;
        let answer = async {
            let checked = self.check(route, peer, request).await?;
            let _org = match checked.admitted.orgs.first() {
                Some(org) => Some(self.admission.org(&org.in_flight)?),
                None => None,
            };
            match (&checked.destination.owner, route.rule.access) {
                (None, _) => self.local.answer(route.rule.path, &checked.call.request),
                (Some(owner), Access::Query) => self.node.query(owner, &checked.call).await,
                (Some(owner), _) => self.node.command(owner, checked.call).await,
            }
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::new(Code::DeadlineExceeded, "the call took longer than it was given")
                .hint("whether it took effect is not known: repeat it with the same request id")),
        }
    }

    async fn subscribe(&self, route: &'static Route, request: Request<Bytes>) -> Result<EventStream, Refusal> {
        let peer = peer(&request)?;
        let permit = self.admission.subscription(peer.connection_id)?;
        let checked = self.check(route, peer, request).await?;
        let caller = checked.caller.ok_or_else(|| gate::unserved(route.rule.path))?;
        let stream = self.hub.open(&self.node, &checked.call, &checked.destination.scopes).await?;
        let grants = Arc::clone(&self.grants);
        Ok(stream.guarded(caller, grants, route.rule, checked.destination, checked.admitted, permit))
    }

    async fn check(&self, route: &'static Route, peer: Peer, request: Request<Bytes>) -> Result<Checked, Refusal> {
        let (metadata, _, bytes) = request.into_parts();
        // Before anything that would tell what exists. What anybody may call
        // looks at no token, so that an expired one is in nobody's way and a
        // repeat with another one is still the same request.
        let caller = match route.rule.requires {
            Requirement::Anybody => None,
            _ => {
                let caller = self.callers.identify(&self.node, &metadata).await?;
                Some(caller.ok_or_else(|| gate::nobody(route.rule))?)
            }
        };
        if let Err(violations) = route.input.check(&bytes) {
            return Err(malformed(&violations));
        }
        let nobody = Principal::Nobody;
        let principal = caller.as_ref().map_or(&nobody, |caller| &caller.principal);
        let found = route.destination(&self.node, principal, bytes).await;
        let mut destination = found.map_err(|refusal| match route.rule.requires {
            Requirement::Own if refusal.code == Code::NotFound => gate::not_own(),
            _ => refusal,
        })?;
        let admitted = gate::admit(&self.node, &self.grants, route.rule, caller.as_deref(), &destination).await?;
        // A query leaves no trace that names its origin.
        let origin = if route.rule.access == Access::Command { origin(peer, &metadata) } else { Origin::default() };
        let call = Call {
            method: route.rule.path,
            request: destination.request.clone(),
            principal: principal.clone(),
            origin,
            role: admitted.role,
            request_id: std::mem::take(&mut destination.request_id),
        };
        Ok(Checked { caller, destination, admitted, call })
    }

    /// `grpc-timeout`, as in "gRPC over HTTP2": at most eight digits and a unit.
    fn deadline(&self, metadata: &MetadataMap) -> Result<Duration, Refusal> {
        let Some(text) = metadata.get("grpc-timeout") else { return Ok(self.limits.deadline_default) };
        let parsed = text.to_str().ok().and_then(|text| {
            let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let value: u64 = digits.parse().ok().filter(|_| (1..=8).contains(&digits.len()))?;
            match unit {
                "H" => Some(Duration::from_secs(value * 3600)),
                "M" => Some(Duration::from_secs(value * 60)),
                "S" => Some(Duration::from_secs(value)),
                "m" => Some(Duration::from_millis(value)),
                "u" => Some(Duration::from_micros(value)),
                "n" => Some(Duration::from_nanos(value)),
                _ => None,
            }
        });
        let asked =
            parsed.ok_or_else(|| Refusal::new(Code::InvalidArgument, "the grpc-timeout header is malformed"))?;
        Ok(asked.min(self.limits.deadline_max))
    }
}

fn origin(peer: Peer, metadata: &MetadataMap) -> Origin {
    let client = metadata.get("user-agent").and_then(|text| text.to_str().ok()).unwrap_or_default();
    Origin { peer: peer.remote.to_string(), client: client.chars().take(CLIENT_CHARS_MAX).collect() }
}

/// tonic refuses what is too large with `OUT_OF_RANGE`, where gRPC's own code
/// for it is `RESOURCE_EXHAUSTED`. Its refusals are known by their want of
/// details.
fn oversized(answer: &http::Response<Body>, bytes_max: usize) -> Option<http::Response<Body>> {
    let headers = answer.headers();
    let refused = headers.get(Status::GRPC_STATUS)? == "11" && !headers.contains_key("grpc-status-details-bin");
    let refusal = Refusal::new(Code::ResourceExhausted, format!("the request has more than {bytes_max} bytes"))
        .hint("send less at once; the server's `edge.request_bytes_max` is the limit");
    refused.then(|| status(&refusal).into_http())
}

fn peer(request: &Request<Bytes>) -> Result<Peer, Refusal> {
    request.extensions().get::<Peer>().copied().ok_or_else(|| Refusal::new(Code::Internal, "the call has no peer"))
}

fn malformed(violations: &[canopy_proto::schema::Violation]) -> Refusal {
    let first = violations.first().map(ToString::to_string).unwrap_or_default();
    let mut refusal = Refusal::new(Code::InvalidArgument, first);
    for violation in violations {
        refusal.fields.push(canopy_domain::FieldViolation {
            field: violation.field.clone(),
            description: violation.message.clone(),
        });
    }
    refusal.hint("correct the fields named and send the request again")
}
