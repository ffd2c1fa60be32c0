//! HTTP: metrics, service discovery, health for gateways, and twins of the verbs for webhooks.
//!
//! A verb's answer is the object that `heirloom -o json` prints. 200 means that what was asked holds, and nothing else
//! does: a deploy tool that takes any 2xx for success must not be told 202 while a handover runs. What is not decided
//! within [`ANSWER_WITHIN`] is 503 with `Retry-After`; the same call with the same `request_id` joins it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use heirloom_region::arbiter::{Outcome, Role};
use tokio::sync::watch;

use super::exposition::negotiate;
use super::grpc_control::Control;
use super::host::Host;
use super::hosts::Slot;
use super::http_guard::Guard;
use super::http_input::{BODY_BYTES_MAX, Body, Names, Pairs, Refused, no_such_method, no_such_path, retry_after};
use super::http_options::{self, Options};
use super::http_serve::Ends;
use super::{convert, http_metrics, switch};
use crate::output;

/// Webhooks give up after 10 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);
/// Records of a history if the caller does not say.
const HISTORY_DEFAULT: usize = 20;
const HISTORY_MAX: usize = 1000;

/// What the routes share.
pub(crate) struct Http {
    pub(crate) control: Control,
    pub(crate) guard: Guard,
    pub(crate) ready: watch::Receiver<bool>,
    /// Socket files that are gone.
    pub(crate) missing: watch::Receiver<Vec<PathBuf>>,
    pub(crate) address: SocketAddr,
}

type Shared = State<Arc<Http>>;

pub(crate) fn router(http: Http) -> Router {
    Router::new()
        .route("/metrics", get(metrics_of_all))
        .route("/metrics/{region}", get(metrics_of_one))
        .route("/sd", get(discovery))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1/regions", get(regions))
        .route("/v1/regions/{region}", post(verb).get(region))
        .route("/v1/regions/{region}/handovers", get(history))
        .route("/v1/regions/{region}/handovers/{number}", get(handover))
        .route("/v1/regions/{region}/instances/{instance}/traffic", get(traffic))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(http))
}

async fn metrics_of_all(State(http): Shared, Pairs(pairs): Pairs, headers: HeaderMap) -> Result<Response, Refused> {
    let scope = pairs.iter().find(|(name, _)| name == "scope").map(|(_, scope)| scope.as_str());
    let hosts = match scope {
        None => http.control.hosts.serving(),
        Some("sidecar") => Vec::new(),
        Some(other) => {
            return Err(Failure::new(ErrorReason::InvalidField, "scope").expected("sidecar").found(other).into());
        }
    };
    let own =
        super::own_metrics::of_sidecar(&http.control.hosts, http.control.start_unix_ms, http.missing.borrow().len());
    Ok(http_metrics::respond(hosts, own, format_of(&headers)).await)
}

async fn metrics_of_one(
    State(http): Shared,
    Names(region): Names<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let host = http.control.hosts.host(&region)?;
    Ok(http_metrics::respond(vec![host], Vec::new(), format_of(&headers)).await)
}

fn format_of(headers: &HeaderMap) -> super::exposition::Format {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    negotiate(&accept.join(","))
}

/// Prometheus HTTP service discovery: one target per region, and one for the sidecar itself.
async fn discovery(State(http): Shared, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).filter(|h| !h.is_empty());
    let target = host.map_or_else(|| http.address.to_string(), str::to_owned);
    let regions = http.control.hosts.serving().into_iter().map(|h| h.name.clone());
    Json(http_metrics::discovery(&target, regions)).into_response()
}

async fn ready(State(http): Shared) -> Response {
    let why = match http.missing.borrow().first() {
        _ if !*http.ready.borrow() => "stopping\n".to_owned(),
        Some(path) => format!("the socket {} is gone\n", path.display()),
        None => return "ok\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn regions(State(http): Shared, headers: HeaderMap) -> Result<Json<Vec<output::Region>>, Refused> {
    http.guard.same_site(&headers)?;
    let mut all = Vec::new();
    for (_, slot) in http.control.hosts.all() {
        all.push(match slot {
            Slot::Serving(host) => output::Region::from(&host.region().await?),
            Slot::Quarantined(region) => output::Region::from(&*region),
        });
    }
    Ok(Json(all))
}

async fn region(
    State(http): Shared,
    Names(name): Names<String>,
    headers: HeaderMap,
) -> Result<Json<Vec<output::Region>>, Refused> {
    http.guard.same_site(&headers)?;
    Ok(Json(vec![output::Region::from(&http.control.region(&name).await?)]))
}

async fn history(
    State(http): Shared,
    Names(name): Names<String>,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
) -> Result<Json<Vec<output::Handover>>, Refused> {
    http.guard.same_site(&headers)?;
    let host = http.control.hosts.host(&name)?;
    let newest = match pairs.iter().find(|(name, _)| name == "n") {
        None => HISTORY_DEFAULT,
        Some((_, n)) => n.parse().ok().filter(|n| (1..=HISTORY_MAX).contains(n)).ok_or_else(|| {
            Failure::new(ErrorReason::InvalidField, "n").expected(format!("1 to {HISTORY_MAX}")).found(n)
        })?,
    };
    let records = host.ask(|arbiter, reply| arbiter.history(newest, None, reply)).await?;
    Ok(Json(records.iter().map(|r| output::Handover::from(&convert::record(&host.name, r))).collect()))
}

async fn handover(
    State(http): Shared,
    Names((name, number)): Names<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<output::Handover>, Refused> {
    http.guard.same_site(&headers)?;
    let host = http.control.hosts.host(&name)?;
    let number = number.parse().map_err(|_| {
        Failure::new(ErrorReason::InvalidName, "a handover's number")
            .region(&*name)
            .expected("a whole number")
            .found(&number)
    })?;
    let record = host.ask_for(|arbiter, reply| arbiter.record(number, reply)).await?;
    Ok(Json(output::Handover::from(&convert::record(&host.name, &record))))
}

/// For gateways that ask before they send: 200 while this instance, or this version, owns and has not said that it goes.
async fn traffic(State(http): Shared, Names((name, instance)): Names<(String, String)>) -> Result<Response, Refused> {
    let host = http.control.hosts.host(&name)?;
    let status = host.status().await?;
    let meant = |i: &&heirloom_region::arbiter::InstanceStatus| i.instance == instance || i.version == instance;
    let mut found = status.instances.iter().filter(meant).peekable();
    if found.peek().is_none() {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "not attached\n").into_response());
    }
    Ok(match found.find(|i| i.role == Role::Owner) {
        Some(owner) if owner.withdrew => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response(),
        Some(_) => "owner\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not the owner\n").into_response(),
    })
}

/// `POST /v1/regions/{region}:handover`, `:rollback`, `:abort`.
async fn verb(
    State(http): Shared,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Names(path): Names<String>,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Refused> {
    let (name, verb) = path.split_once(':').unwrap_or((&path, ""));
    let about = |failure: Failure| Refused::about(name, failure);
    let caller = http.guard.verb(ends.peer, ends.local, &headers).map_err(|failure| {
        tracing::warn!(peer = %ends.peer, %failure, "HTTP caller denied");
        about(failure)
    })?;
    let options = http_options::parse(&pairs, &body).map_err(about)?;
    let host = http.control.hosts.host(name)?;
    match verb {
        "handover" => {
            let switch = switch::handover(Arc::clone(&host), options.target, options.switch, caller)?;
            Ok(answer(&host, switch).await)
        }
        "rollback" => {
            let switch = switch::rollback(Arc::clone(&host), options.handover, options.switch, caller)?;
            Ok(answer(&host, switch).await)
        }
        "abort" => abort(&host, options).await,
        other => {
            let failure = Failure::new(ErrorReason::InvalidName, "there is no such verb");
            Err(about(failure.expected("handover, rollback or abort").found(other)))
        }
    }
}

async fn abort(host: &Host, options: Options) -> Result<Response, Refused> {
    let note = options.switch.note;
    let record = host.ask_for(|arbiter, reply| arbiter.abort(options.handover, note, reply)).await?;
    // What was asked holds: it is aborted.
    Ok(Json(output::Handover::from(&convert::record(&host.name, &record))).into_response())
}

async fn answer(host: &Host, mut switch: switch::Switch) -> Response {
    let mut last = None;
    match tokio::time::timeout(ANSWER_WITHIN, switch.decided(&mut last)).await {
        Ok(Ok(record)) => {
            let status = match record.outcome {
                Outcome::Aborted => StatusCode::CONFLICT,
                _ => StatusCode::OK,
            };
            (status, Json(output::Handover::from(&convert::record(&host.name, &record)))).into_response()
        }
        Ok(Err(failure)) => Refused::about(&host.name, failure).into_response(),
        Err(_) => {
            let running = match last {
                Some(record) => output::Handover::from(&convert::record(&host.name, &record)),
                None => {
                    output::Handover::without_record(&host.name, output::Outcome::Running, 0, "waiting for its target")
                }
            };
            (StatusCode::SERVICE_UNAVAILABLE, retry_after(ErrorReason::Unreachable), Json(running)).into_response()
        }
    }
}
