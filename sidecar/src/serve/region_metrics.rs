//! The metrics of a region: what its services count, and what the region itself counts about them.
//!
//! Only the sidecar exposes these: two instances that both did would double every sum.

use std::sync::Arc;

use heirloom_region::inspect::{self, MetricFamily, ObjectKind, SelfCounter};
use heirloom_region::{digest, gate};

use super::exposition::{Family, Kind, Sample, Value};
use super::host::Host;

/// Hands every family of the region on. Blocks: reads all lanes.
pub(crate) fn collect(host: &Host, each: &mut dyn FnMut(Family)) {
    about(host, each);
    // A catalog that a panic left behind is only a cache: what it lacks is decoded again.
    let families = host.catalog().read(&host.mapping);
    families.into_iter().filter_map(|family| convert(&host.name, family)).for_each(each);
}

fn convert(region: &str, it: MetricFamily) -> Option<Family> {
    let kind = match it.kind {
        ObjectKind::Counter | ObjectKind::FloatCounter => Kind::Counter,
        ObjectKind::Histogram => Kind::Histogram,
        ObjectKind::Gauge | ObjectKind::UpDownGauge => Kind::Gauge,
        _ => return None,
    };
    let samples = it.samples.into_iter().filter_map(|sample| {
        let value = match sample.value {
            inspect::Value::Counter(n) => Value::Integer(n),
            inspect::Value::FloatCounter(x) | inspect::Value::Gauge(x) => Value::Float(x),
            inspect::Value::UpDownGauge(n) => Value::Signed(n),
            inspect::Value::Histogram { buckets, sum } => {
                Value::Histogram { bounds: Arc::clone(&it.bounds), counts: buckets, sum }
            }
            _ => return None,
        };
        Some(Sample { labels: sample.labels, value, created_unix_ms: sample.created_unix_ms })
    });
    let samples = samples.collect();
    Some(Family {
        name: it.name.to_string(),
        help: it.help.to_string(),
        unit: it.unit.to_string(),
        kind,
        region: region.into(),
        samples,
    })
}

/// Heirloom's own words about the region, kept in it: they go on over every restart of the sidecar.
fn about(host: &Host, each: &mut dyn FnMut(Family)) {
    let mapping = &host.mapping;
    let created_unix_ms = mapping.header().created_unix_ms;
    let mut add = |name: &str, help: &str, kind, value: u64| {
        let sample = Sample { created_unix_ms, ..Sample::integer(value) };
        each(Family { region: host.name.clone(), samples: vec![sample], ..Family::new(name, help, kind) });
    };
    let sockets = host.sockets.count() as u64;
    add("heirloom_kept_sockets", "Sockets that outlive the processes that bound them.", Kind::Gauge, sockets);
    let limits = mapping.limits();
    add(
        "heirloom_lanes_used",
        "Threads that count in a lane of their own.",
        Kind::Gauge,
        inspect::lanes_used(mapping).into(),
    );
    add("heirloom_lanes_limit", "Lanes that there are.", Kind::Gauge, limits.lanes_max.into());
    add("heirloom_gate_slots_limit", "Gate slots that there are.", Kind::Gauge, limits.slots_max.into());
    if let Ok(claimed) = gate::slots_claimed(mapping) {
        add("heirloom_gate_slots_used", "Threads that write through a gate slot of their own.", Kind::Gauge, claimed);
    }
    if let Ok(dirty) = digest::dirty_pages(mapping) {
        add("heirloom_dirty_pages", "Pages written since they were last checksummed.", Kind::Gauge, dirty);
    }
    if let Ok(fenced) = gate::fenced_writes(mapping) {
        add("heirloom_fenced_writes_total", "Owned writes refused because their term was over.", Kind::Counter, fenced);
    }
    let ignored = inspect::counted(mapping, SelfCounter::IgnoredUpdates);
    add("heirloom_ignored_updates_total", "Updates that could not be counted, such as NaN.", Kind::Counter, ignored);
    let failed = inspect::counted(mapping, SelfCounter::FailedRegistrations);
    add("heirloom_failed_registrations_total", "Objects that could not be opened.", Kind::Counter, failed);
}
