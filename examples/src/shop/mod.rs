//! A shop that knows how often each customer has come. Both versions keep that in one cell of the region, so that a visit
//! acknowledged by one version is known to the next, and appends each visit to a time series of the customer's own.
//!
//! Version 1 ([`v1`]) answers in plain text. Version 2 ([`v2`]) answers in JSON and remembers who came last, which is a new
//! schema of the cell; it reads version 1's and writes it beside its own, so that it can be rolled back.
//!
//! Customers come to one address, [`Place::kept`]: its socket is kept by Heirloom, and the version that owns accepts from it.
//! So nothing is lost without a gateway: who comes during a switch waits in the kernel's queue for the next owner, and a
//! request that reaches the version that has just ceased to own, on a connection from before, is passed on.
//!
//! Beside it each version listens at an address of its own, for those who ask about this very instance, and for a gateway in
//! front of both: there the one that does not own answers 503 with Retry-After, which means "ask the other one".

mod history;
pub mod v1;
pub mod v2;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use heirloom_client::{Attachment, Cell, Counter, Error, Family, Histogram, Hooks, Region, UpDownGauge};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use history::History;

/// How long a request to the one that does not own is held before it is sent away: about what a gateway's health check needs
/// to learn who owns, so that it asks the right one next.
const HOLD_STRAYS: Duration = Duration::from_millis(20);

/// How long a customer's connection that rests may do so after the switch; then it is closed between two requests.
const LINGER: Duration = Duration::from_secs(2);

/// Where one instance of the shop stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// The sidecar's socket.
    pub socket: PathBuf,
    /// Where this instance alone answers HTTP.
    pub listen: SocketAddr,
    /// Where whichever instance owns answers.
    pub kept: Option<SocketAddr>,
}

/// What both versions measure. Two instances that run at once add to the same series.
#[derive(Clone)]
pub struct Metrics {
    /// Answered requests that were acknowledged, by path.
    pub requests: Family<Counter, 1>,
    /// Requests that came a second time, because the first answer was lost on the way.
    pub replays: Counter,
    /// How long an answer took.
    pub seconds: Histogram,
    /// Requests that are being answered now.
    pub open: UpDownGauge,
}

impl Metrics {
    /// Opens the shop's metrics, or finds them as the other version opened them.
    ///
    /// # Errors
    /// If the region is full, or holds one of the names as another kind.
    pub fn open(region: &Region) -> Result<Self, Error> {
        Ok(Metrics {
            requests: region.counter("shop_requests_total").help("Requests acknowledged.").family(["path"])?,
            replays: region.counter("shop_replays_total").help("Requests answered before.").open()?,
            seconds: region
                .histogram("shop_request_seconds")
                .help("Time to answer.")
                .buckets(&[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0])
                .open()?,
            open: region.up_down_gauge("shop_open_requests").help("Requests being answered.").open()?,
        })
    }
}

/// What a request finds: the region, the metrics, and the sessions in this version's type.
pub(crate) struct App<T> {
    region: Region,
    metrics: Metrics,
    sessions: Cell<T>,
    history: History,
}

impl<T> Clone for App<T> {
    fn clone(&self) -> Self {
        let App { region, metrics, sessions, history } = self;
        let (region, metrics) = (region.clone(), metrics.clone());
        App { region, metrics, sessions: sessions.clone(), history: history.clone() }
    }
}

/// So that a handler can ask for a [`Term`](heirloom_client::Term).
impl<T> FromRef<App<T>> for Region {
    fn from_ref(app: &App<T>) -> Region {
        app.region.clone()
    }
}

/// A request's number. A client counts its own; one that is asked again carries the number it had.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Numbered {
    request: u64,
}

/// What came of a numbered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Visits of this customer, this one included.
    pub visits: u64,
    /// The request had been done before; it was not done twice.
    pub replay: bool,
}

/// Serves `routes` until SIGTERM, and hands ownership on before it ends.
async fn serve<T>(
    shop: Attachment,
    place: &Place,
    hooks: Hooks,
    app: App<T>,
    routes: Router<App<T>>,
) -> Result<(), Failure>
where
    T: Send + Sync + 'static,
{
    let routes = routes
        .route("/ready", heirloom_client::axum::probe(&app.region))
        .route("/history", get(history::history))
        .layer(middleware::from_fn_with_state(app.clone(), measure))
        .with_state(app);
    let listener = TcpListener::bind(place.listen).await?;
    let kept = match place.kept {
        Some(address) => Some(shop.region().listener("http", address).open().await?),
        None => None,
    };
    let customers = routes.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = shop.ready(hooks).await?;
    serving.leave_when(async move {
        terminate.recv().await;
    });
    let (left, stopped) = tokio::sync::oneshot::channel::<()>();
    let http = tokio::spawn(async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(async {
                stopped.await.ok();
            })
            .await
    });
    // One term after the other, for as long as this instance lives. What comes to the kept address is accepted in them;
    // requests ask for the term themselves.
    serving
        .run(|term| {
            let (kept, routes) = (kept.clone(), customers.clone());
            async move {
                match kept {
                    Some(kept) => heirloom_client::axum::serve(term, &kept, routes).linger(LINGER).await,
                    None => {
                        term.ended().await;
                        Ok(())
                    }
                }
            }
        })
        .await?;
    drop(left);
    // Connections that a gateway keeps open must not keep the process: the last answers are out within a second.
    tokio::time::timeout(Duration::from_secs(1), http).await.ok();
    Ok(())
}

/// Counts and times what was acknowledged. Counted before the answer leaves, so no acknowledged request is missing; one that was
/// sent away is counted by the owner that does it.
async fn measure<T>(State(app): State<App<T>>, request: Request, next: Next) -> Response {
    let path = match request.uri().path().split('/').nth(1) {
        Some("visit") => "/visit",
        Some("sessions") => "/sessions",
        _ => return next.run(request).await,
    };
    let _drained_after = app.region.in_flight("request");
    let _open = app.metrics.open.share();
    let start = std::time::Instant::now();
    let response = next.run(request).await;
    if response.status() == StatusCode::OK {
        if let Ok(requests) = app.metrics.requests.get([path]) {
            requests.inc();
        }
        app.metrics.seconds.observe_duration(start.elapsed());
    } else if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        tokio::time::sleep(HOLD_STRAYS).await;
    }
    response
}

/// Why an instance of the shop ended before it was told to.
#[derive(Debug)]
pub enum Failure {
    /// Heirloom said no.
    Heirloom(Error),
    /// The network did.
    Io(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Heirloom(e) => write!(f, "{}: {e}", e.reason()),
            Failure::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Heirloom(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Io(e)
    }
}
