//! What metric-store measures of itself.
//!
//! Samples are counted in the region, where both versions add to the same counters and the sidecar shows them. What concerns
//! one process alone stays with it and is shown at its own `/metrics`.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use heirloom_client::{Counter, Error, Family, Region};
use prometheus::{Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::App;
use super::ingest::Outcome;

/// Handles; clones are the same metrics.
#[derive(Clone)]
pub(super) struct Metrics {
    samples: Family<Counter, 1>,
    requests: IntCounterVec,
    seconds: HistogramVec,
    registry: Registry,
}

impl Metrics {
    /// Opens the shared ones in the region, and makes this process's own.
    pub(super) fn open(region: &Region, version: &str) -> Result<Self, Error> {
        let samples = region
            .counter("metric_store_samples_total")
            .help("Samples received by remote write, by what became of them.")
            .family(["result"])?;
        let own = || -> prometheus::Result<_> {
            let registry = Registry::new();
            let opts = Opts::new("metric_store_http_requests_total", "Requests answered by this process.");
            let requests = IntCounterVec::new(opts, &["handler", "code"])?;
            let opts = HistogramOpts::new("metric_store_http_request_seconds", "Time to answer.");
            let seconds = HistogramVec::new(opts.buckets(vec![0.001, 0.01, 0.1, 1.0, 10.0]), &["handler"])?;
            let build =
                IntGaugeVec::new(Opts::new("metric_store_build_info", "This process's version."), &["version"])?;
            build.with_label_values(&[version]).set(1);
            registry.register(Box::new(requests.clone()))?;
            registry.register(Box::new(seconds.clone()))?;
            registry.register(Box::new(build))?;
            Ok((registry, requests, seconds))
        };
        let (registry, requests, seconds) = own().expect("names are valid and differ");
        Ok(Metrics { samples, requests, seconds, registry })
    }

    /// A request was answered.
    pub(super) fn answered(&self, handler: &str, status: StatusCode, after: Duration) {
        self.requests.with_label_values(&[handler, status.as_str()]).inc();
        self.seconds.with_label_values(&[handler]).observe(after.as_secs_f64());
    }

    /// A write request was read to its end.
    pub(super) fn ingested(&self, outcome: &Outcome) {
        let counts =
            [("appended", outcome.appended), ("duplicate", outcome.duplicates), ("rejected", outcome.rejected)];
        for (result, count) in counts {
            // A full region drops counts, never samples.
            if let Ok(counter) = self.samples.get([result]) {
                counter.add(count);
            }
        }
    }
}

/// `/metrics`.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&app.metrics.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
