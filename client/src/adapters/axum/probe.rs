//! What a load balancer asks before it sends new traffic.

use ::axum::http::{StatusCode, header};
use ::axum::response::{IntoResponse, Response};
use ::axum::routing::{MethodRouter, get};

use crate::region::Region;

/// A route that answers 200 while this instance takes new traffic ([`Region::takes_traffic`]), and else 503 with the reason in a
/// word: `standby`, `not_ready`, `draining`, `withdrawn`, `leaving` or `left`. It needs no sidecar. What is on its way is served whatever
/// it answers.
///
/// Serve it on an address of this instance's own, beside [`serve`](super::serve()): at a kept listener the owner answers, always.
///
/// ```
/// # use heirloom_client::{Region, axum::probe};
/// # fn f(region: &Region) -> axum::Router {
/// axum::Router::new().route("/ready", probe(region))
/// # }
/// ```
pub fn probe<S: Clone + Send + Sync + 'static>(region: &Region) -> MethodRouter<S> {
    route(region, false)
}

/// As [`probe`], and 200 for a ready standby, too: for a rollout that ends the old version only when the new one is said to be
/// ready (a Kubernetes Deployment). What reaches the standby before it owns is a stray, and passed on to the owner
/// ([`Serve::owner_at`](super::Serve::owner_at)).
pub fn probe_standing<S: Clone + Send + Sync + 'static>(region: &Region) -> MethodRouter<S> {
    route(region, true)
}

fn route<S: Clone + Send + Sync + 'static>(region: &Region, standing: bool) -> MethodRouter<S> {
    let region = region.clone();
    get(move || {
        let answer = answer(region.session.no_traffic(), standing);
        async { answer }
    })
}

fn answer(no_traffic: Option<&'static str>, standing: bool) -> Response {
    let fresh = [(header::CACHE_CONTROL, "no-store")];
    match no_traffic {
        None => (fresh, "owner\n").into_response(),
        Some("standby") if standing => (fresh, "standby\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, fresh, format!("{why}\n")).into_response(),
    }
}
