//! Every gRPC call comes through here: who calls, is there room, are the
//! bytes a request, whom does it concern, may the caller; then the owner
//! answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use canopy_actors::{Call, Denials, Node, Turn, now_ms};
use canopy_domain::{Code, Origin, Principal, Refusal, Role};
use canopy_proto::identity::v1::LogInStrength;
use canopy_proto::{Access, Requirement};
use http::HeaderMap;
use http::Request as HttpRequest;
use http::request::Parts;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::Service;
use tracing::Instrument;

use super::admission::{Admission, Denied, count_quota_refusal};
use super::attempt::{Attempt, origin};
use super::callers::{Caller, Callers};
use super::exchange::{self, ReadLimits};
use super::gate::{self, Admitted};
use super::grants::Grants;
use super::layers::{Layers, Standing};
use super::listener::Peer;
use super::local::Local;
use super::pace::Pace;
use super::pool::Part;
use super::route::{Destination, Route, routes};
use super::status::status;
use crate::subscription::{EventStream, Hub};

/// Limits of a call.
#[derive(Debug, Clone)]
pub struct CallLimits {
    /// Of its request.
    pub read: ReadLimits,
    /// Time for a call that does not say.
    pub deadline_default: Duration,
    /// Longest time that a call may ask for.
    pub deadline_max: Duration,
    /// What a log-in has to show.
    pub log_in_strength: LogInStrength,
    /// How long ago a log-in may be for what asks for a recent one.
    pub recent_log_in: Duration,
    /// What a sys-admin's role rests on beside the session.
    pub layers: Layers,
}

/// What answers calls.
pub struct Edge {
    /// Where actors are.
    pub node: Node,
    /// Who calls.
    pub callers: Arc<Callers>,
    /// What they may.
    pub grants: Arc<Grants>,
    /// What was denied.
    pub denials: Denials,
    /// How much at once.
    pub admission: Admission,
    /// How long calls take, by the route's number.
    pub paces: Vec<Pace>,
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
                return Ok(exchange::refusal(exchange::refusal_head(&status(&gate::unserved(path)))));
            };
            let (head, body) = request.into_parts();
            let load = head.extensions.get::<Peer>().map(|peer| Arc::clone(&peer.load));
            let answer = match route.rule.access {
                Access::Subscription => {
                    let span = tracing::debug_span!("subscribe", method = route.rule.path);
                    edge.subscribe(route, head, body).instrument(span).await.map(exchange::stream)
                }
                _ => {
                    let began = Instant::now();
                    let span = tracing::debug_span!("call", method = route.rule.path);
                    let answer = edge.unary(route, head, body, began).instrument(span).await;
                    route.seconds.record(began.elapsed().as_secs_f64());
                    answer.map(exchange::unary)
                }
            };
            if let Some(load) = load {
                load.called(matches!(answer, Err(Denied::Shed(_))));
            }
            Ok(match answer {
                Ok(answer) => {
                    route.answered.increment(1);
                    answer
                }
                Err(Denied::Refused(refusal)) => {
                    route.count_refused(refusal.code);
                    refusal.details().quota.iter().for_each(|quota| count_quota_refusal(quota.limit));
                    exchange::refusal(exchange::refusal_head(&status(&refusal)))
                }
                Err(Denied::Shed(head)) => {
                    route.count_refused(Code::ResourceExhausted);
                    exchange::refusal(HeaderMap::clone(&head))
                }
            })
        })
    }
}

/// A call whose caller, bytes and destination are known and allowed.
struct Checked {
    caller: Option<Arc<Caller>>,
    destination: Destination,
    admitted: Admitted,
    call: Call,
}

/// A command's turn, given up by whoever stops waiting for it.
struct Waiting(Arc<Turn>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Edge {
    async fn unary(&self, route: &'static Route, head: Parts, body: Body, began: Instant) -> Result<Bytes, Denied> {
        let peer = peer(&head)?;
        let _connection = self.admission.connection(&peer.load)?;
        exchange::check_encoding(&head.headers)?;
        let metadata = MetadataMap::from_headers(head.headers);
        let time = self.deadline(&metadata)?;
        let pace = self.paces.get(route.number);
        if let Some(Err(expected)) = pace.map(|pace| pace.fits(time)) {
            self.admission.shed_late();
            let message = format!("such calls take {} ms at present, and this one has less", expected.as_millis());
            return Err(Refusal::new(Code::DeadlineExceeded, message)
                .hint("nothing was done: give it more time, or wait until the server is less busy")
                .into());
        }
        let deadline = began + time;
        let bytes = exchange::read(body, &self.admission, &peer.load, &self.limits.read, deadline).await?;
        let waiting = Waiting(Arc::default());
        let answer = async {
            let arrival = self.admission.arrival()?;
            let request_bytes = bytes.len();
            let checked = self.check(route, &peer, &metadata, bytes).await?;
            let _place = self.place(route, &peer, &checked, request_bytes)?;
            drop(arrival);
            let started = Instant::now();
            let org = checked.admitted.orgs.first().map(Arc::clone);
            let principal = checked.call.principal.clone();
            let attempt = Attempt::new(route.rule, &principal, &peer, &metadata, &checked.destination);
            if route.rule.audited && checked.destination.owner.is_none() {
                attempt.record(&self.node).await?;
            }
            let answer = match (&checked.destination.owner, route.rule.access) {
                (None, _) => self.local.answer(route.rule.path, &checked.call.request).await,
                (Some(owner), Access::Query) => self.node.query(owner, &checked.call).await,
                (Some(owner), _) => self.node.command_in_turn(owner, checked.call, &waiting.0).await,
            };
            if let Some(pace) = pace {
                pace.took(started.elapsed());
            }
            match &answer {
                Ok(answer) => org.iter().for_each(|org| org.party.sent(answer.len())),
                Err(refusal) => attempt.refused(&self.node, &self.denials, refusal).await,
            }
            Ok::<_, Denied>(answer?)
        };
        match timeout_at(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                if let Some(pace) = pace {
                    pace.took(began.elapsed());
                }
                let refusal = Refusal::new(Code::DeadlineExceeded, "the call took longer than it was given");
                Err(match (route.rule.access, waiting.0.give_up()) {
                    (Access::Query, _) => refusal.hint("give it more time"),
                    (_, true) => refusal.hint("it had not begun and will not: repeat it with more time"),
                    (_, false) => {
                        refusal.hint("whether it took effect is not known: repeat it with the same request id")
                    }
                }
                .into())
            }
        }
    }

    /// A place among the calls of the org that it is for; else of the account, or of the address,
    /// that it comes from. What a sys-admin alone may do is not the org's doing, and how else would
    /// a limit be raised that is reached?
    fn place(&self, route: &Route, peer: &Peer, checked: &Checked, request_bytes: usize) -> Result<Part, Denied> {
        let is_operators = matches!(route.rule.requires, Requirement::Least(Role::SysAdmin));
        match (checked.admitted.orgs.first().filter(|_| !is_operators), &checked.caller) {
            (Some(org), _) => self.admission.org(&org.party, request_bytes),
            (None, Some(caller)) => self.admission.account(&caller.calls),
            (None, None) => self.admission.address(&peer.load),
        }
    }

    async fn subscribe(&self, route: &'static Route, head: Parts, body: Body) -> Result<EventStream, Denied> {
        let peer = peer(&head)?;
        let permit = self.admission.subscription(&peer.load)?;
        exchange::check_encoding(&head.headers)?;
        let deadline = Instant::now() + self.limits.deadline_default;
        let bytes = exchange::read(body, &self.admission, &peer.load, &self.limits.read, deadline).await?;
        let metadata = MetadataMap::from_headers(head.headers);
        let request_bytes = bytes.len();
        let arrival = self.admission.arrival()?;
        let checked = self.check(route, &peer, &metadata, bytes).await?;
        let _place = self.place(route, &peer, &checked, request_bytes)?;
        drop(arrival);
        let caller = checked.caller.ok_or_else(|| gate::unserved(route.rule.path))?;
        if route.rule.audited {
            let attempt = Attempt::new(route.rule, &caller.principal, &peer, &metadata, &checked.destination);
            attempt.record(&self.node).await?;
        }
        let owners = match (checked.destination.scopes.as_slice(), &checked.destination.owner) {
            // What belongs to no org has no scope.
            ([], Some(owner)) => std::slice::from_ref(owner),
            (scopes, _) => scopes,
        };
        let stream = self.hub.open(&self.node, &checked.call, owners).await?;
        let grants = Arc::clone(&self.grants);
        Ok(stream.guarded(caller, grants, route.rule, checked.destination, checked.admitted, permit))
    }

    async fn check(
        &self,
        route: &'static Route,
        peer: &Peer,
        metadata: &MetadataMap,
        bytes: Bytes,
    ) -> Result<Checked, Refusal> {
        // Before anything that would tell what exists. What anybody may call
        // looks at no token, so that an expired one is in nobody's way and a
        // repeat with another one is still the same request.
        let caller = match route.rule.requires {
            Requirement::Anybody => None,
            _ => {
                let caller = self.callers.identify(&self.node, metadata, peer.remote.ip()).await?;
                let caller = caller.ok_or_else(|| gate::nobody(route.rule))?;
                gate::strong_enough(route.rule, &caller, self.limits.log_in_strength)?;
                Some(caller)
            }
        };
        if let Err(violations) = route.input.check(&bytes) {
            return Err(malformed(&violations));
        }
        let standing = caller.as_ref().map_or(Standing::No, |caller| self.standing(caller, peer, metadata));
        let nobody = Principal::Nobody;
        let principal = caller.as_ref().map_or(&nobody, |caller| &caller.principal);
        let found = route.destination(&self.node, principal, bytes).await;
        let mut destination = found.map_err(|refusal| match (route.rule.requires, &standing) {
            _ if refusal.code != Code::NotFound => refusal,
            (Requirement::Own, _) => gate::not_own(),
            // What there is, is for who administers the server, and not for who would.
            (Requirement::Least(_), Standing::Held(held)) => held.refusal.clone(),
            // Whether somebody has an account is for a sys-admin alone to see.
            (Requirement::Least(least), Standing::No) if route.rule.owner == "account" => gate::too_little(least),
            _ => refusal,
        })?;
        let admitted =
            gate::admit(&self.node, &self.grants, route.rule, caller.as_deref(), &standing, &destination).await;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(turned) => {
                let attempt = Attempt::new(route.rule, principal, peer, metadata, &destination);
                let holder = principal.account().filter(|_| turned.is_elsewhere);
                for to in turned.audit.iter().chain(holder) {
                    attempt.deny(&self.node, &self.denials, to.clone(), turned.refusal.code).await;
                }
                return Err(turned.refusal);
            }
        };
        if let Some(caller) = caller.as_ref().filter(|_| route.rule.recent) {
            gate::logged_in_lately(caller, self.limits.recent_log_in, now_ms())?;
        }
        // A query that is let in leaves no trace that names its origin.
        let origin = if route.rule.access == Access::Command { origin(peer, metadata) } else { Origin::default() };
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

    /// Whether a caller administers the installation.
    pub fn standing(&self, caller: &Caller, peer: &Peer, metadata: &MetadataMap) -> Standing {
        self.limits.layers.standing(&self.grants, caller, peer, || origin(peer, metadata), now_ms())
    }

    fn deadline(&self, metadata: &MetadataMap) -> Result<Duration, Refusal> {
        let Some(text) = metadata.get("grpc-timeout") else { return Ok(self.limits.deadline_default) };
        let asked = text
            .to_str()
            .ok()
            .and_then(grpc_timeout)
            .ok_or_else(|| Refusal::new(Code::InvalidArgument, "the grpc-timeout header is malformed"))?;
        Ok(asked.min(self.limits.deadline_max))
    }
}

/// `grpc-timeout`, as in "gRPC over HTTP2": at most eight digits and a unit.
#[must_use]
pub fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // A number may have a sign for Rust, and may not here.
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| well_formed)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

fn peer(head: &Parts) -> Result<Peer, Refusal> {
    head.extensions.get::<Peer>().cloned().ok_or_else(|| Refusal::new(Code::Internal, "the call has no peer"))
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
