//! `POST /api/v1/read`.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use heirloom_client::Error;
use heirloom_client::axum::Refused;
use heirloom_client::series::{Labels, Matcher, Store};

use super::wire::{
    self, Label, QueryResult, ReadRequest, ReadResponse, Sample, TimeSeries, read_request::ResponseType,
};
use super::{App, body, selector, streamed};

/// Samples that one `SAMPLES` answer holds at most; it stands in memory as a whole. A stream has no limit.
const SAMPLES_MAX: usize = 20_000_000;

/// One query, ready to be asked.
pub(super) struct Query {
    pub(super) matchers: Vec<Matcher>,
    pub(super) range: std::ops::RangeInclusive<i64>,
}

/// Answers in the first form that the client takes and we know; a client that names none gets `SAMPLES`.
pub(super) async fn read(State(app): State<App>, request: Request) -> Response {
    let (parts, bytes) = request.into_parts();
    let taken = async {
        body::check_media(&parts.headers, "prometheus.ReadRequest")?;
        body::message::<ReadRequest>(&parts.headers, bytes, "prometheus.ReadRequest").await
    };
    let request = match taken.await {
        Ok(request) => request,
        Err(bad) => return bad.into_response(),
    };
    let accepted = &request.accepted_response_types;
    let known = accepted.iter().find_map(|kind| ResponseType::try_from(*kind).ok());
    let kind = match known {
        None if !accepted.is_empty() => {
            return bad(format!("accepted_response_types: found {accepted:?}, expected 0 or 1"));
        }
        known => known.unwrap_or(ResponseType::Samples),
    };
    let queries: Result<Vec<Query>, String> = request.queries.into_iter().map(checked).collect();
    let queries = match queries {
        Ok(queries) => queries,
        Err(why) => return bad(why),
    };
    match kind {
        ResponseType::StreamedXorChunks => streamed::answer(app.store, queries).await,
        ResponseType::Samples => match tokio::task::spawn_blocking(move || samples(&app.store, &queries)).await {
            Ok(Ok(message)) => {
                let headers = [(header::CONTENT_TYPE, wire::PROTOBUF), (header::CONTENT_ENCODING, "snappy")];
                (headers, message).into_response()
            }
            Ok(Err(refused)) => refused.into_response(),
            Err(panicked) => (StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string()).into_response(),
        },
    }
}

fn checked(query: wire::Query) -> Result<Query, String> {
    let matchers = selector::matchers(query.matchers)?;
    Ok(Query { matchers, range: query.start_timestamp_ms..=query.end_timestamp_ms })
}

fn bad(why: String) -> Response {
    (StatusCode::BAD_REQUEST, why + "\n").into_response()
}

/// Why a read has no answer.
pub(super) enum NoAnswer {
    TooMany,
    Heirloom(Error),
}

impl<E: Into<Error>> From<E> for NoAnswer {
    fn from(error: E) -> Self {
        NoAnswer::Heirloom(error.into())
    }
}

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        match self {
            NoAnswer::TooMany => {
                bad(format!("expected at most {SAMPLES_MAX} samples, found more; ask for a stream of chunks"))
            }
            NoAnswer::Heirloom(Error::Misuse(misuse)) => bad(misuse.to_string()),
            NoAnswer::Heirloom(error) => Refused(error).into_response(),
        }
    }
}

pub(super) fn labels(labels: &Labels) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: name.into(), value: value.into() }).collect()
}

fn samples(store: &Store, queries: &[Query]) -> Result<Vec<u8>, NoAnswer> {
    let mut left = SAMPLES_MAX;
    let mut results = Vec::with_capacity(queries.len());
    for query in queries {
        let mut timeseries = Vec::new();
        for series in store.select(&query.matchers, query.range.clone())? {
            let series = series?;
            let mut samples = Vec::new();
            for sample in series.samples() {
                let sample = sample?;
                left = left.checked_sub(1).ok_or(NoAnswer::TooMany)?;
                samples.push(Sample::exact(sample.timestamp_ms, sample.value));
            }
            if !samples.is_empty() {
                timeseries.push(TimeSeries { labels: labels(series.labels()), samples, ..Default::default() });
            }
        }
        results.push(QueryResult { timeseries });
    }
    Ok(wire::compressed(&ReadResponse { results }))
}
