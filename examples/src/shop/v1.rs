//! The shop, version 1.0.0: a customer's visits, in plain text.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use heirloom_client::axum::Refused;
use heirloom_client::{Hooks, Term};
use serde::{Deserialize, Serialize};

use super::{App, Failure, History, Metrics, Numbered, Place, Visit};

/// What the shop knows of one customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// How often the customer came.
    pub visits: u64,
    /// Number of the customer's last request, so that one asked twice is done once.
    pub request: u64,
}

impl Session {
    /// Does request number `request`, unless it was done.
    pub fn visit(&mut self, request: u64) -> Visit {
        let replay = request <= self.request;
        if !replay {
            *self = Session { visits: self.visits + 1, request };
        }
        Visit { visits: self.visits, replay }
    }
}

/// Schema 1 of the cell `sessions`.
pub type Sessions = BTreeMap<String, Session>;

/// Runs one instance of version 1 until it is told to end.
///
/// # Errors
/// If it cannot attach, or its address is taken.
pub async fn run(place: Place) -> Result<(), Failure> {
    let shop = heirloom_client::attach("shop").version("1.0.0").socket(&place.socket).await?;
    let region = shop.region().clone();
    let app = App {
        metrics: Metrics::open(&region)?,
        history: History::open(&region)?,
        sessions: region.cell::<Sessions>("sessions").schema(1).bytes_max(1 << 20).open()?,
        region,
    };
    let routes = Router::new().route("/visit/{customer}", post(visit)).route("/sessions", get(sessions));
    super::serve(shop, &place, Hooks::new(), app, routes).await
}

/// Changes owned state, so it takes a term. A request overtaken by a switch ends at a `?` with 503: the owner does what is
/// left of it. Its number keeps it from being counted twice where only the history was missing.
async fn visit(
    term: Term,
    State(app): State<App<Sessions>>,
    Path(customer): Path<String>,
    Query(numbered): Query<Numbered>,
) -> Result<impl IntoResponse, Refused> {
    let visit = app.sessions.update(&term, |all| all.entry(customer.clone()).or_default().visit(numbered.request))?;
    // Done before, and answered unless a switch came between the two.
    let answered = visit.replay && app.history.holds(&customer, visit.visits)?;
    match answered {
        true => app.metrics.replays.inc(),
        false => app.history.came(&term, &customer, visit.visits)?,
    }
    let headers = [("version", "1.0.0".to_owned()), ("visits", visit.visits.to_string())];
    Ok((headers, format!("Welcome, {customer}! This is visit {}.\n", visit.visits)))
}

/// Only reads: any instance answers, at any moment.
async fn sessions(State(app): State<App<Sessions>>) -> Result<Json<BTreeMap<String, u64>>, Refused> {
    Ok(Json(app.sessions.load()?.into_iter().map(|(customer, s)| (customer, s.visits)).collect()))
}
