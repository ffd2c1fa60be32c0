//! The scrape: what the regions count, and what the sidecar knows about them.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use super::exposition::{Exposition, Family, Format, Kind};
use super::host::Host;
use super::{own_metrics, region_metrics};

/// Writes the metrics of `hosts`, after `own`.
pub(crate) async fn respond(hosts: Vec<Arc<Host>>, own: Vec<Family>, format: Format) -> Response {
    let about = own_metrics::of_regions(&hosts).await;
    // Reading a region copies and checks every entry: not on the threads that answer others.
    let text = tokio::task::spawn_blocking(move || {
        let mut exposition = Exposition::default();
        own.into_iter().chain(about).for_each(|family| exposition.add(family));
        for host in &hosts {
            region_metrics::collect(host, &mut |family| exposition.add(family));
        }
        if exposition.conflicts > 0 {
            let help = "Families left out of this scrape: same name, other kind. /metrics/{region} has them.";
            let mut family = Family::new("heirloom_conflicting_families", help, Kind::Gauge);
            family.samples.push(super::exposition::Sample::integer(exposition.conflicts));
            exposition.add(family);
        }
        exposition.encode(format)
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Target groups for Prometheus: `/metrics/{region}` of each region, and the sidecar's own without any region's.
///
/// `region` is a label of the series themselves; as a label of the target it would push that one aside.
pub(crate) fn discovery(target: &str, regions: impl Iterator<Item = String>) -> Json {
    let own = json!({"targets": [target], "labels": {"__metrics_path__": "/metrics", "__param_scope": "sidecar"}});
    let regions = regions.map(|region| {
        let service = region.split('.').next().unwrap_or_default();
        json!({"targets": [target], "labels": {
            "__metrics_path__": format!("/metrics/{region}"),
            "__meta_heirloom_region": region,
            "__meta_heirloom_service": service,
        }})
    });
    std::iter::once(own).chain(regions).collect()
}
