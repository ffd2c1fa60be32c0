//! Connections to HTTP, which is open to whoever reaches its address: bounded in number and in time, so that those who say
//! nothing take nothing from those who ask.
//!
//! - A connection's first request must come within [`Bounds::head`], the next ones each within [`Bounds::kept`], which is longer
//!   than those that come by the clock stay away; a request's body within [`Bounds::body`]; and whoever takes nothing of an
//!   answer for [`Bounds::taken`] is cut off.
//! - At most [`Bounds::connections`] are open. One more takes the place of the one that has kept us waiting for a request the
//!   longest, which is closed: however many idle ones there are, who comes and asks is answered. Only where every one is
//!   being answered does the next wait.
//!
//! A connection that is closed in favour of another, or because the sidecar stops, had no request that was whole and no answer
//! that was not: nothing was done that nobody was told, and nothing was told that was not done.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::ConnectInfo;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;

use super::http_seats::{Line, Seat, Seats};
use super::limit::ACCEPT_AGAIN;

/// What strangers may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// At once.
    pub(super) connections: usize,
    /// A connection that is no older makes no room for another: its request is on the way.
    pub(super) fresh: Duration,
    /// For the first request's head, from the connection's beginning.
    pub(super) head: Duration,
    /// For each next one's, from the end of the answer before.
    pub(super) kept: Duration,
    /// For its body.
    pub(super) body: Duration,
    /// For some of the answer to be taken.
    pub(super) taken: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let patience = Duration::from_secs(10);
        let kept = Duration::from_secs(75);
        Bounds {
            connections: 512,
            fresh: Duration::from_millis(50),
            head: patience,
            kept,
            body: patience,
            taken: patience,
        }
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Serves until `stopped` completes; then answers what it has been asked, and returns.
pub(super) async fn serve(listener: TcpListener, bounds: Bounds, router: Router, stopped: impl Future<Output = ()>) {
    let mut stopped = pin!(stopped);
    let seats = Arc::new(Seats::default());
    let (close, closing) = watch::channel(false);
    let mut open = JoinSet::new();
    'serving: loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while open.len() >= bounds.connections {
            tokio::select! {
                () = &mut stopped => break 'serving,
                Some(_) = open.join_next() => {}
                () = seats.make_room(bounds.fresh) => {}
            }
        }
        let ends = Ends { peer, local: stream.local_addr().unwrap_or(peer) };
        let (router, seat, begun) = (router.clone(), Seat::of(&seats), Arc::default());
        let connection = Connection { ends, bounds, router, seat, begun };
        open.spawn(connection.run(stream, closing.clone()));
    }
    drop(listener);
    close.send_replace(true);
    while open.join_next().await.is_some() {}
}

/// One connection.
#[derive(Clone)]
struct Connection {
    ends: Ends,
    bounds: Bounds,
    router: Router,
    seat: Arc<Seat>,
    /// A request's head has come.
    begun: Arc<Notify>,
}

impl Connection {
    async fn run(self, stream: TcpStream, mut closing: watch::Receiver<bool>) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.bounds.taken));
        let this = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let line = Line::new(Box::pin(stream), Arc::clone(&self.seat));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.kept)
            .serve_connection(TokioIo::new(line), service);
        let (mut connection, stopping) =
            (pin!(connection), async move { drop(closing.wait_for(|close| *close).await) });
        let done = tokio::select! {
            done = connection.as_mut() => done,
            () = self.seat.closed() => return,
            () = self.says_nothing() => return,
            () = stopping => {
                if self.seat.is_waited_for() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, peer = %self.ends.peer, "connection");
        }
    }

    /// Completes when it is too late for the first request, and never once that has begun.
    async fn says_nothing(&self) {
        if tokio::time::timeout(self.bounds.head, self.begun.notified()).await.is_ok() {
            std::future::pending().await
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response {
        self.begun.notify_one();
        let mut request = request.map(Body::new);
        let asking = Asking { seat: Arc::clone(&self.seat), within: self.bounds.body };
        if request.body().is_end_stream() && !asking.is_done() {
            // Any answer might still be sent, and be believed.
            return std::future::pending().await;
        }
        request.extensions_mut().insert(ConnectInfo(self.ends));
        request.extensions_mut().insert(asking);
        let answered = Answered(self.seat);
        let Ok(response) = self.router.oneshot(request).await;
        // Once the last byte was handed on; the line knows when it was sent.
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_then = &answered;
                frame
            }))
        })
    }
}

/// A request of which we may not have all.
#[derive(Clone)]
pub(super) struct Asking {
    seat: Arc<Seat>,
    /// For its body.
    pub(super) within: Duration,
}

impl Asking {
    /// It is here: from now on its client waits for us, and not we for it. False: it came too late, its connection closes
    /// without an answer, and nothing may be done for it.
    pub(super) fn is_done(&self) -> bool {
        self.seat.serve()
    }
}

/// When it goes, the answer is whole, and the connection waits for the next request as soon as it was sent.
struct Answered(Arc<Seat>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

#[cfg(test)]
mod tests;
