//! Between hyper and the service of a connection: says who asks, refuses what no honest client
//! sends, and counts answers until they are taken.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use metrics::Counter;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::frames::{ANSWER_UNITS, BYTES_PER_UNIT, DATA_UNITS};
use super::listener::Peer;
use super::load::{ConnectionLoad, Waiting};

/// In the extensions of an answer that goes on for as long as its reader wants: it may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endless;

/// Puts the [`Peer`] into each request and hands it to a clone of the service.
#[derive(Clone)]
pub(super) struct PeerService<S> {
    pub(super) service: S,
    pub(super) peer: Peer,
    /// Counts what is refused here.
    pub(super) ambiguous: Counter,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for PeerService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    type Response = Response<Answer<B>>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if is_ambiguous(&request) {
            self.ambiguous.increment(1);
            return Answering::Refused;
        }
        request.extensions_mut().insert(self.peer.clone());
        Answering::Asked { asked: self.service.clone().oneshot(request), load: Arc::clone(&self.peer.load) }
    }
}

/// Whether the end of a request can be told in two ways (RFC 9112 §6.1), so that a proxy before
/// this server may see other requests than it does. hyper ignores a `content-length` beside a
/// `transfer-encoding`; all that is served over HTTP/1.1 can do without the latter.
fn is_ambiguous(request: &Request<Incoming>) -> bool {
    request.version() <= Version::HTTP_11 && request.headers().contains_key(header::TRANSFER_ENCODING)
}

pin_project! {
    /// A request that is being answered.
    #[project = AnsweringProjection]
    pub(super) enum Answering<S>
    where
        S: Service<Request<Incoming>>,
    {
        Refused,
        Asked {
            #[pin]
            asked: Oneshot<S, Request<Incoming>>,
            load: Arc<ConnectionLoad>,
        },
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    type Output = Result<Response<Answer<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnsweringProjection::Refused => {
                let mut answer = Response::new(Answer { body: None, load: None, _waiting: None });
                *answer.status_mut() = StatusCode::LENGTH_REQUIRED;
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                Poll::Ready(Ok(answer))
            }
            AnsweringProjection::Asked { asked, load } => {
                let Ok(answer) = ready!(asked.poll(cx));
                load.give_credit(ANSWER_UNITS);
                let endless = answer.extensions().get::<Endless>().is_some();
                Poll::Ready(Ok(answer.map(|body| {
                    let bytes = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
                    let waiting = (!endless && !body.is_end_stream()).then(|| load.answer(bytes));
                    Answer { body: Some(body), load: Some(Arc::clone(load)), _waiting: waiting }
                })))
            }
        }
    }
}

pin_project! {
    /// An answer's body. It is dropped when the last of it was taken, or the request was reset.
    pub(super) struct Answer<B> {
        #[pin]
        body: Option<B>,
        load: Option<Arc<ConnectionLoad>>,
        _waiting: Option<Waiting>,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(body.poll_frame(cx));
        if let (Some(Ok(frame)), Some(load)) = (&frame, this.load)
            && let Some(data) = frame.data_ref()
        {
            let by_bytes = u32::try_from(data.remaining() / BYTES_PER_UNIT).unwrap_or(u32::MAX / 4);
            load.give_credit(DATA_UNITS.saturating_add(by_bytes));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
