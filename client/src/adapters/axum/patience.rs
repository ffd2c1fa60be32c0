//! Bodies that may not come to an end: a client that begins one and sends no more must not hold a term.
//!
//! While the term's connections are open a body has all the time it wants, as any server gives it; from their closing on, a bounded
//! one for all of the rest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use ::axum::body::{Body, Bytes, HttpBody};
use ::axum::http::{HeaderValue, StatusCode, header};
use ::axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

/// What a client hears that stopped in the middle of its body.
const WORDS: &str = "the rest of the body did not come in time";

/// Says whether a body was given up.
#[derive(Clone, Debug, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    /// The answer to a request whose body was given up, whatever its handler made of that.
    pub(super) fn or(&self, response: Response) -> Response {
        if !self.0.load(Ordering::Acquire) {
            return response;
        }
        let mut late = (StatusCode::REQUEST_TIMEOUT, WORDS).into_response();
        // The router, which is not asked here, says this of its own answers.
        late.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(WORDS.len()));
        late.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        late.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        late
    }
}

/// The same body, given up when `late` completes before its end.
pub(super) fn until(body: Body, late: impl Future<Output = ()> + Send + 'static) -> (Body, GivenUp) {
    let given_up = GivenUp::default();
    if body.is_end_stream() {
        return (body, given_up);
    }
    let patient = Patient { body, late: Box::pin(late), given_up: given_up.clone() };
    (Body::new(patient), given_up)
}

struct Patient {
    body: Body,
    late: Pin<Box<dyn Future<Output = ()> + Send>>,
    given_up: GivenUp,
}

impl HttpBody for Patient {
    type Data = Bytes;
    type Error = ::axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ::axum::Error>>> {
        if self.given_up.0.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.late.as_mut().poll(cx));
        self.given_up.0.store(true, Ordering::Release);
        Poll::Ready(Some(Err(::axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
