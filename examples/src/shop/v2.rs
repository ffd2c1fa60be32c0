//! The shop, version 2.0.0: answers in JSON, remembers who came last, and can be rolled back to 1.0.0.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use heirloom_client::axum::Refused;
use heirloom_client::{Hooks, Term};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::v1::{self, Session};
use super::{App, Failure, History, Metrics, Numbered, Place};

/// Schema 2 of the cell `sessions`: it knows who came last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// As in schema 1.
    pub customers: BTreeMap<String, Session>,
    /// New in 2.0.0; unknown after a term of 1.0.0.
    pub last: Option<String>,
}

/// Schema 1 read as schema 2: needed for the upgrade.
fn up(customers: v1::Sessions) -> Sessions {
    Sessions { customers, last: None }
}

/// Schema 2 written as schema 1, beside each value: needed for the way back.
fn down(sessions: &Sessions) -> v1::Sessions {
    sessions.customers.clone()
}

/// Runs one instance of version 2 until it is told to end.
///
/// # Errors
/// If it cannot attach, or its address is taken.
pub async fn run(place: Place) -> Result<(), Failure> {
    let shop = heirloom_client::attach("shop").version("2.0.0").socket(&place.socket).await?;
    let region = shop.region().clone();
    let app = App {
        metrics: Metrics::open(&region)?,
        history: History::open(&region)?,
        sessions: region
            .cell::<Sessions>("sessions")
            .schema(2)
            .reads(1, up)
            .writes(1, down)
            .bytes_max(1 << 20)
            .open()?,
        region,
    };
    // Before it takes over, it proves to itself that it can read what it will own. An error here refuses the handover.
    let sessions = app.sessions.clone();
    let hooks = Hooks::new().prepare(move |_| {
        let sessions = sessions.clone();
        async move { sessions.load().map(drop).map_err(Into::into) }
    });
    let routes = Router::new().route("/visit/{customer}", post(visit)).route("/sessions", get(sessions_by_customer));
    super::serve(shop, &place, hooks, app, routes).await
}

async fn visit(
    term: Term,
    State(app): State<App<Sessions>>,
    Path(customer): Path<String>,
    Query(numbered): Query<Numbered>,
) -> Result<impl IntoResponse, Refused> {
    let (visit, before) = app.sessions.update(&term, |all| {
        let visit = all.customers.entry(customer.clone()).or_default().visit(numbered.request);
        (visit, all.last.replace(customer.clone()))
    })?;
    // Done before, and answered unless a switch came between the two.
    let answered = visit.replay && app.history.holds(&customer, visit.visits)?;
    match answered {
        true => app.metrics.replays.inc(),
        false => app.history.came(&term, &customer, visit.visits)?,
    }
    let headers = [("version", "2.0.0".to_owned()), ("visits", visit.visits.to_string())];
    Ok((headers, Json(json!({ "customer": customer, "visits": visit.visits, "before_you": before }))))
}

async fn sessions_by_customer(State(app): State<App<Sessions>>) -> Result<Json<BTreeMap<String, u64>>, Refused> {
    Ok(Json(app.sessions.load()?.customers.into_iter().map(|(customer, s)| (customer, s.visits)).collect()))
}
