//! metric-store 2.0.0: says what it holds, at `/api/v1/status/tsdb`. It writes nothing that 1.0.0 cannot read.

use std::cmp::Reverse;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use heirloom_client::series::{Matcher, NAME};
use serde_json::{Value, json};

use super::discovery::{Failed, answer, in_background};
use super::{App, Failure, Place};

/// How many names the answer lists, as Prometheus does.
const TOP: usize = 10;

/// Runs one instance of version 2 until it is told to end.
///
/// # Errors
/// If it cannot attach, or its address is taken.
pub async fn run(place: Place) -> Result<(), Failure> {
    super::run(place, "2.0.0", Router::new().route("/api/v1/status/tsdb", get(status))).await
}

/// Series in all, and the names that have most.
async fn status(State(app): State<App>) -> Response {
    answer(in_background(move || statistics(&app)).await)
}

fn statistics(app: &App) -> Result<Value, Failed> {
    let mut by_name = Vec::new();
    for name in app.store.label_values(NAME, &[])? {
        let count = app.store.list(&[Matcher::equal(NAME, name.as_str())])?.len();
        by_name.push((name, count));
    }
    let series: usize = by_name.iter().map(|(_, count)| count).sum();
    by_name.sort_by_key(|(_, count)| Reverse(*count));
    by_name.truncate(TOP);
    let top: Vec<Value> = by_name.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    Ok(json!({ "headStats": { "numSeries": series }, "seriesCountByMetricName": top }))
}
