//! Serving during a term, and lingering after it.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ::axum::Router;
use ::axum::body::Body;
use ::axum::extract::ConnectInfo;
use ::axum::http::{HeaderValue, Request, header};
use ::axum::response::Response;
use heirloom_region::error::{Error, Peer};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::door::{Accepted, Door};
use super::patience;
use super::strays::{Resolve, Strays};
use crate::net::Stream;
use crate::region::Region;
use crate::term::Term;

/// How long connections linger, if nothing else is said.
const LINGER: Duration = Duration::from_secs(5);
/// Body kept for a second try, if nothing else is said.
const STRAY_BODY_BYTES_MAX: usize = 1 << 20;
/// After lingering, so many times as long for a client that has sent half a request, head or body, to send the rest.
const HEAD_LINGERS: u32 = 3;

/// Serves `routes` during one term, and after it until its connections are done:
///
/// 1. accepts while the term lasts, from a kept [`Listener`](crate::Listener) or one of this instance's own
///    (`Arc<TcpListener>`); between terms it stays open, and of a kept one the next owner accepts;
/// 2. then answers with `Connection: close` and lingers, instead of closing idle connections under a request that is on
///    its way, as `with_graceful_shutdown(term.ended())` does;
/// 3. a request that was too late for this term, and wrote nothing, is done again: here, if this instance owns again; at the
///    owner, if [`Serve::owner_at`] knows where; else it is answered with 503 and `Retry-After: 1`.
///
/// HTTP/1.1. `Send + 'static`; for [`Serving::run`](crate::Serving::run).
pub fn serve(term: Term, listener: impl Into<Door>, routes: Router) -> Serve {
    let door = listener.into();
    let strays = Strays { resolve: door.resolve(), body_bytes_max: STRAY_BODY_BYTES_MAX };
    Serve { term, door, routes, linger: LINGER, accept_late: false, strays }
}

/// See [`serve`].
#[must_use = "await it"]
pub struct Serve {
    term: Term,
    door: Door,
    routes: Router,
    linger: Duration,
    accept_late: bool,
    strays: Strays,
}

impl Serve {
    /// How long an idle connection may go on after the term. Default 5 s. A request that comes on it is answered with
    /// `Connection: close`; one that has none is closed when this is over, between two requests. A request whose head or body
    /// is not complete has three times as long more; then a stalled body is answered with 408 and `Retry-After: 1`.
    pub fn linger(mut self, limit: Duration) -> Self {
        self.linger = limit;
        self
    }
    /// Largest body kept for a stray's second try. Default 1 MiB; a larger one is answered with 503. Zero: no second try.
    pub fn stray_body_bytes_max(mut self, bytes: usize) -> Self {
        self.strays.body_bytes_max = bytes;
        self
    }
    /// Where an owner serves, so that strays are passed on to it. Default: for a kept [`Listener`](crate::Listener) on TCP its
    /// own address, from which the owner alone accepts; else nowhere.
    pub fn owner_at(mut self, resolve: impl Fn(&Peer) -> Option<SocketAddr> + Send + Sync + 'static) -> Self {
        let resolve: Resolve = Arc::new(resolve);
        self.strays.resolve = Some(resolve);
        self
    }
    /// Whether connections are still accepted while lingering. Default no, which is right for a listener that the next owner
    /// shares. Right for an address of this instance's own, behind a gateway that takes a moment to see that it does not
    /// own: connections would wait in the backlog for nobody.
    pub fn accept_while_lingering(mut self, accept: bool) -> Self {
        self.accept_late = accept;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let region = Region { session: self.term.session().clone() };
        let (close, closing) = watch::channel(false);
        let head = self.linger.saturating_mul(HEAD_LINGERS);
        let shared = Arc::new(Shared {
            region,
            term: self.term.clone(),
            routes: self.routes,
            strays: self.strays,
            closing,
            head,
        });
        let mut connections = JoinSet::new();

        let mut ended = pin!(self.term.ended());
        loop {
            tokio::select! {
                biased;
                () = &mut ended => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.door.accept(&self.term) => { connections.spawn(shared.clone().connection(accepted)); }
            }
        }
        let mut lingered = pin!(tokio::time::sleep(self.linger));
        while self.accept_late || !connections.is_empty() {
            tokio::select! {
                biased;
                () = &mut lingered => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.door.accept_late(), if self.accept_late => {
                    connections.spawn(shared.clone().connection(accepted));
                }
            }
        }
        // Idle ones close; those with a request finish it; those that send half of one and no more are cut after a while.
        close.send_replace(true);
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

impl IntoFuture for Serve {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("term", &self.term)
            .field("listener", &self.door)
            .field("linger", &self.linger)
            .field("accept_while_lingering", &self.accept_late)
            .finish_non_exhaustive()
    }
}

/// What the connections of one term share.
struct Shared {
    region: Region,
    term: Term,
    routes: Router,
    strays: Strays,
    closing: watch::Receiver<bool>,
    /// For the rest of a request's head or body, once idle connections close.
    head: Duration,
}

impl Shared {
    async fn connection(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, from, _counted } = accepted;
        if let Stream::Tcp(stream) = &stream {
            let _ = stream.set_nodelay(true);
        }
        let mut closing = self.closing.clone();
        let (shared, requests) = (self.clone(), Arc::new(()));
        let here = Arc::downgrade(&requests);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (shared, request_here) = (shared.clone(), requests.clone());
            async move { Ok::<_, std::convert::Infallible>(shared.answer(request, from, request_here).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        let close = async move {
            // An error: the serving future is gone, and so will this one be.
            let _ = closing.wait_for(|close| *close).await;
        };
        let done = tokio::select! {
            done = connection.as_mut() => done,
            () = close => {
                connection.as_mut().graceful_shutdown();
                loop {
                    tokio::select! {
                        done = connection.as_mut() => break done,
                        // The service holds one, each request another.
                        () = tokio::time::sleep(self.head) => if here.strong_count() <= 1 {
                            return tracing::debug!(%from, "began a request and did not go on");
                        },
                    }
                }
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, %from, "connection");
        }
    }

    async fn answer(&self, request: Request<Incoming>, from: SocketAddr, here: Arc<()>) -> Response {
        let counts = self.region.in_flight("requests");
        let (parts, body) = request.into_parts();
        let (mut closing, rest) = (self.closing.clone(), self.head);
        let late = async move {
            // An error: the serving future is gone, and nobody waits for the rest.
            let _ = closing.wait_for(|close| *close).await;
            tokio::time::sleep(rest).await;
        };
        let (body, given_up) = patience::until(Body::new(body), late);
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(ConnectInfo(from));
        let mut response = given_up.or(self.strays.answer(&self.region, &self.routes, request).await);
        if !self.term.is_current() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // In flight until the last byte of the body was taken.
        response.map(|body| {
            Body::new(http_body_util::BodyExt::map_frame(body, move |frame| {
                let _in_flight = (&counts, &here);
                frame
            }))
        })
    }
}
