//! What HTTP callers send, and how they are refused: always with the object that `heirloom -o json` prints, also where the
//! framework would answer for itself (no such path, another method, a body too large, what is no text).

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tonic::Code;

use super::http_serve::Asking;
use crate::output;

/// The largest body that is read.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;
/// What there is, for those who ask for something else.
const PATHS: &str = "/metrics, /metrics/{region}, /sd, /healthz, /readyz or /v1/regions…";

/// A failure as the command line prints it, with the status that webhooks understand.
pub(crate) struct Refused {
    region: String,
    failure: Failure,
    status: StatusCode,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused { region: failure.region.clone().unwrap_or_default(), status: status_of(failure.reason), failure }
    }
}

impl Refused {
    /// A failure that speaks of this region.
    pub(crate) fn about(region: &str, failure: Failure) -> Self {
        Refused { region: region.to_owned(), ..failure.into() }
    }

    fn with_status(self, status: StatusCode) -> Self {
        Refused { status, ..self }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused { region, failure, status } = self;
        (status, retry_after(failure.reason), Json(output::Handover::refused(&region, &failure))).into_response()
    }
}

fn status_of(reason: ErrorReason) -> StatusCode {
    match reason.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::PermissionDenied | Code::Unauthenticated => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// For an answer that may be another one soon.
pub(crate) fn retry_after(reason: ErrorReason) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if reason.code() == Code::Unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    headers
}

/// Any path that there is not.
pub(crate) async fn no_such_path(uri: Uri) -> Refused {
    let failure = Failure::new(ErrorReason::InvalidName, "there is no such path");
    Refused::from(failure.expected(PATHS).found(uri.path())).with_status(StatusCode::NOT_FOUND)
}

/// A path that there is, with a method that it has not; the framework adds `Allow`.
pub(crate) async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let failure = Failure::new(ErrorReason::InvalidField, format!("{} has no such method", uri.path()));
    let failure = failure.expected("a method that the header Allow names").found(method);
    Refused::from(failure).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The pairs of the query, in order.
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        // What is no text would be read with marks in its place, and be another note or another name.
        percent_decode_str(parts.uri.query().unwrap_or_default())
            .decode_utf8()
            .map_err(|e| unreadable("query", "pairs of UTF-8 text", &e))?;
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Pairs(pairs)),
            Err(e) => Err(unreadable("query", "pairs of UTF-8 text", &e).into()),
        }
    }
}

/// The variable parts of the path.
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Names(names)),
            Err(e) => Err(unreadable("path", "UTF-8 text", &e).into()),
        }
    }
}

/// A body that is not too large.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let refused = |e: BytesRejection| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let failure = Failure::new(ErrorReason::MessageTooLarge, "the body is too large");
                let failure = failure.expected(format!("at most {BODY_BYTES_MAX} bytes")).found("more");
                Refused::from(failure).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            status => Refused::from(unreadable("body", "a whole body", &e)).with_status(status),
        };
        let asking = request.extensions().get::<Asking>().cloned();
        let within = asking.as_ref().map_or(Duration::MAX, |asking| asking.within);
        match tokio::time::timeout(within, Bytes::from_request(request, state)).await {
            Ok(_) if asking.is_some_and(|asking| !asking.is_done()) => {
                let failure =
                    unreadable("body", "a client that was quicker", &"a connection that made room for another");
                Err(Refused::from(failure).with_status(StatusCode::SERVICE_UNAVAILABLE))
            }
            Ok(body) => body.map(Body).map_err(refused),
            Err(_) => {
                let failure = unreadable("body", &format!("a whole body within {within:?}"), &"a part of it");
                Err(Refused::from(failure).with_status(StatusCode::REQUEST_TIMEOUT))
            }
        }
    }
}

fn unreadable(what: &str, expected: &str, found: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorReason::InvalidField, format!("the {what} cannot be read")).expected(expected).found(found)
}
