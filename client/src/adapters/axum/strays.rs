//! Requests that came too late for a term: done again here, passed on to the owner, or refused.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::axum::Router;
use ::axum::body::{Body, Bytes, HttpBody};
use ::axum::http::request::Parts;
use ::axum::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use ::axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use ::axum::response::{IntoResponse, Response};
use heirloom_region::error::Peer;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::ServiceExt;

use super::Stray;
use crate::region::Region;

pub(super) type Resolve = Arc<dyn Fn(&Peer) -> Option<SocketAddr> + Send + Sync>;

/// How often a request was passed on, so that two instances that both do not own do not pass it on for ever.
const HOPS: HeaderName = HeaderName::from_static("x-heirloom-hops");
const HOPS_MAX: u32 = 4;
/// How long a stray waits for an owner to be there, and for it to take the connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries at an owner that does not answer.
const AGAIN: Duration = Duration::from_millis(10);
/// Headers of one connection, not of the request.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[derive(Clone)]
pub(super) struct Strays {
    pub(super) resolve: Option<Resolve>,
    pub(super) body_bytes_max: usize,
}

impl Strays {
    /// The routes' answer, or that of whoever owns by now.
    pub(super) async fn answer(&self, region: &Region, routes: &Router, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        let Some(len) = body.size_hint().exact().filter(|len| *len <= self.body_bytes_max as u64) else {
            return call(routes, parts, body).await; // too large, or of unknown length: one try
        };
        let body = match ::axum::body::to_bytes(body, len as usize).await {
            Ok(body) => body,
            Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        };
        let response = call(routes, parts.clone(), body.clone()).await;
        match response.extensions().get::<Stray>() {
            Some(Stray) if self.body_bytes_max > 0 => self.again(region, routes, parts, body, response).await,
            _ => response,
        }
    }

    /// Does a stray again, where it belongs; `refused` is the answer if there is no such place in time.
    async fn again(
        &self,
        region: &Region,
        routes: &Router,
        parts: Parts,
        body: Bytes,
        mut refused: Response,
    ) -> Response {
        let until = Instant::now() + PATIENCE;
        let mut roles = region.roles();
        loop {
            if region.term().is_ok() {
                let response = call(routes, parts.clone(), body.clone()).await;
                if response.extensions().get::<Stray>().is_none() {
                    return response;
                }
                refused = response;
            } else if let Some(resolve) = &self.resolve {
                let owner = roles.current().owner.filter(|owner| owner != region.me());
                if owner.is_none() && region.session.state().leaving.is_some() {
                    return refused; // the next owner may need this process' end: its client had better wait there
                }
                if let Some(address) = owner.as_ref().and_then(|owner| resolve(owner)) {
                    match pass_on(address, &parts, body.clone()).await {
                        Ok(response) => return response,
                        Err(NotPassedOn::TooOften) => return refused,
                        Err(NotPassedOn::NotReached(error)) => {
                            tracing::debug!(%error, %address, "the owner did not take a stray");
                        }
                        Err(NotPassedOn::NoAnswer(error)) => {
                            // It may have been done there, so it is not done again.
                            return (StatusCode::BAD_GATEWAY, error).into_response();
                        }
                    }
                }
            } else {
                return refused;
            }
            // Until somebody owns, or takes the connection.
            tokio::select! {
                _ = roles.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            if Instant::now() >= until {
                return refused;
            }
        }
    }
}

async fn call(routes: &Router, parts: Parts, body: impl Into<Body>) -> Response {
    match routes.clone().oneshot(Request::from_parts(parts, body.into())).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

enum NotPassedOn {
    TooOften,
    /// Not a byte was sent.
    NotReached(String),
    NoAnswer(String),
}

async fn pass_on(owner: SocketAddr, parts: &Parts, body: Bytes) -> Result<Response, NotPassedOn> {
    let hops = parts.headers.get(HOPS).and_then(|n| n.to_str().ok()).and_then(|n| n.parse().ok()).unwrap_or(0);
    if hops >= HOPS_MAX {
        return Err(NotPassedOn::TooOften);
    }
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = at(owner, parts.uri.path_and_query()).map_err(|e| NotPassedOn::NotReached(e.to_string()))?;
    *request.headers_mut() = parts.headers.clone();
    strip(request.headers_mut());
    request.headers_mut().insert(HOPS, HeaderValue::from(hops + 1));
    match client().request(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            strip(response.headers_mut());
            Ok(response)
        }
        Err(error) if error.is_connect() => Err(NotPassedOn::NotReached(error.to_string())),
        Err(error) => Err(NotPassedOn::NoAnswer(error.to_string())),
    }
}

fn at(owner: SocketAddr, path: Option<&PathAndQuery>) -> Result<Uri, ::axum::http::Error> {
    let authority = Authority::try_from(owner.to_string())?;
    let path = path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build()
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// One connection per stray: an idle one kept from the last switch may be closed under it.
fn client() -> &'static Client<HttpConnector, Body> {
    static CLIENT: OnceLock<Client<HttpConnector, Body>> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        connector.set_nodelay(true);
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
    })
}
