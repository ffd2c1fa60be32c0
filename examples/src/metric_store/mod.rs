//! A small Prometheus-compatible store whose samples lie in the region: the next version has all of them the moment it owns.
//!
//! | | |
//! |---|---|
//! | `POST /api/v1/write` | remote write 1.0; 204 once every sample is committed to the region |
//! | `POST /api/v1/read` | remote read, `SAMPLES` and `STREAMED_XOR_CHUNKS` |
//! | `/api/v1/series`, `/labels`, `/label/<name>/values` | what there is, as Prometheus answers it |
//! | `/metrics`, `/-/healthy`, `/-/ready` | of this process |
//! | `/ready` | 200 from the owner alone: where a gateway sends writes |
//!
//! The owner writes; every instance reads, also while the owner writes, and a handover changes nothing about that. A write
//! that reaches another instance, or that a switch interrupts, is answered 503 with Retry-After. Senders ask again then, and
//! may send the whole request again: a series' newest sample is accepted as an equal duplicate if it is in already. Older ones
//! that are in are answered as out of order (400), as by Prometheus; nothing of them is lost.
//!
//! Version 1 ([`v1`]) and version 2 ([`v2`]) hold the same samples; version 2 answers `/api/v1/status/tsdb` too.

mod body;
mod discovery;
pub mod gateway;
mod ingest;
mod labels;
mod metrics;
mod read;
mod selector;
mod streamed;
pub mod v1;
pub mod v2;
pub mod wire;
mod write;

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use heirloom_client::series::Store;
use heirloom_client::{Error, Hooks, Region, Term, WriteError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use crate::shop::{Failure, Place};
use metrics::Metrics;

/// What the service is called: its region's name.
pub const SERVICE: &str = "metric-store";

/// How long a write to the one that does not own is held before it is sent away: about what a gateway's health check needs to
/// learn who owns, so that it asks the right one next.
const HOLD_STRAYS: Duration = Duration::from_millis(20);

/// How long samples are kept, as in Prometheus' head.
const RETENTION: Duration = Duration::from_secs(2 * 3600);
/// How often the owner lets old ones go.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// What a request finds.
#[derive(Clone)]
pub(crate) struct App {
    region: Region,
    store: Store,
    metrics: Metrics,
    version: &'static str,
}

/// So that a handler can ask for a [`Term`](heirloom_client::Term).
impl FromRef<App> for Region {
    fn from_ref(app: &App) -> Region {
        app.region.clone()
    }
}

/// Runs one instance of `version`, with the routes that only this version has, until SIGTERM; hands ownership on before it ends.
async fn run(place: Place, version: &'static str, more: Router<App>) -> Result<(), Failure> {
    let attachment = heirloom_client::attach(SERVICE).version(version).socket(&place.socket).await?;
    let region = attachment.region().clone();
    let store = region.series()?;
    store.set_retention(Some(RETENTION), None);
    let app = App { store, metrics: Metrics::open(&region, version)?, region, version };
    let listener = TcpListener::bind(place.listen).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The index is this process's own. Built before it takes over, no request of its term has to wait for it.
    let (store, expiring) = (app.store.clone(), app.store.clone());
    let hooks = Hooks::new().prepare(move |_| {
        let store = store.clone();
        async move { store.warm().await.map_err(Into::into) }
    });
    let serving = attachment.ready(hooks).await?;
    serving.leave_when(async move {
        terminate.recv().await;
    });
    let (left, stopped) = tokio::sync::oneshot::channel::<()>();
    let routes = routes(app, more);
    let http = tokio::spawn(async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(async {
                stopped.await.ok();
            })
            .await
    });
    serving.run(|term| expire(expiring.clone(), term)).await?;
    drop(left);
    // Connections that a gateway keeps open must not keep the process: the last answers are out within a second.
    tokio::time::timeout(Duration::from_secs(1), http).await.ok();
    Ok(())
}

/// Lets go what is older than the retention, for as long as the term lasts.
async fn expire(store: Store, term: Term) -> Result<(), Error> {
    let mut ended = pin!(term.ended());
    while tokio::time::timeout(EXPIRE_EVERY, ended.as_mut()).await.is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        match store.expire(&term, i64::try_from(now).unwrap_or(i64::MAX)) {
            Ok(_) => {}
            // Over, or frozen for longer than usual: the next time, or the next owner.
            Err(WriteError::Fenced(_) | WriteError::Frozen { .. }) => {}
            // Old samples that stay harm nobody.
            Err(error) => eprintln!("metric-store: old samples stay: {error}"),
        }
    }
    Ok(())
}

fn routes(app: App, more: Router<App>) -> Router {
    Router::new()
        .route("/api/v1/write", post(write::write))
        .route("/api/v1/read", post(read::read))
        .route("/api/v1/series", get(discovery::series).post(discovery::series))
        .route("/api/v1/labels", get(discovery::labels).post(discovery::labels))
        .route("/api/v1/label/{name}/values", get(discovery::values))
        .route("/metrics", get(metrics::metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(standing))
        .route("/ready", get(owning))
        .merge(more)
        .layer(middleware::from_fn_with_state(app.clone(), measure))
        // Handlers bound what they read themselves, so that the answer says which limit it was.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn healthy(State(app): State<App>) -> String {
    format!("metric-store {} is healthy.\n", app.version)
}

/// Every instance that runs can read all there is.
async fn standing(State(app): State<App>) -> String {
    let role = if app.region.term().is_ok() { "owner" } else { "standby" };
    format!("metric-store {} is ready ({role}).\n", app.version)
}

async fn owning(State(app): State<App>) -> StatusCode {
    if app.region.term().is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Counts requests, and holds strays for a moment.
async fn measure(State(app): State<App>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    // Whatever strangers ask for, the label has few values.
    let path = path.as_ref().map_or("none", MatchedPath::as_str);
    let _drained_after = app.region.in_flight("request");
    let start = Instant::now();
    let response = next.run(request).await;
    app.metrics.answered(path, response.status(), start.elapsed());
    if response.status() == StatusCode::SERVICE_UNAVAILABLE && path != "/ready" {
        tokio::time::sleep(HOLD_STRAYS).await;
    }
    response
}
