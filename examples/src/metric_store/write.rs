//! `POST /api/v1/write`.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use heirloom_client::Term;
use heirloom_client::axum::Refused;

use super::wire::WriteRequest;
use super::{App, body, ingest};

/// 204 when every sample is committed to the region; 400 when some never will be, and the others are; 503 when the same
/// request may succeed later or elsewhere. Metadata and exemplars are taken and not kept, as Prometheus does where it has no
/// room for them.
pub(super) async fn write(term: Term, State(app): State<App>, request: Request) -> Response {
    let (parts, bytes) = request.into_parts();
    let taken = async {
        body::check_media(&parts.headers, "prometheus.WriteRequest")?;
        body::check_version(&parts.headers)?;
        body::message::<WriteRequest>(&parts.headers, bytes, "prometheus.WriteRequest").await
    };
    let request = match taken.await {
        Ok(request) => request,
        Err(bad) => return bad.into_response(),
    };
    let (store, metrics) = (app.store.clone(), app.metrics.clone());
    let ingested = tokio::task::spawn_blocking(move || ingest::ingest(&store, &term, &request)).await;
    let outcome = match ingested {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return Refused(error).into_response(),
        Err(panicked) => return (StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string()).into_response(),
    };
    metrics.ingested(&outcome);
    if outcome.rejected == 0 {
        return StatusCode::NO_CONTENT.into_response();
    }
    let kept = outcome.appended + outcome.duplicates;
    let mut text = format!("{} samples rejected, {kept} kept\n", outcome.rejected);
    outcome.faults.iter().for_each(|fault| text.extend([fault, "\n"]));
    (StatusCode::BAD_REQUEST, text).into_response()
}
