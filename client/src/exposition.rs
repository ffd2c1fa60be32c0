//! Metrics as text, for a private region and for observers. Shared regions are exposed by their sidecar.
//!
//! OpenMetrics 1.0 and Prometheus' text format 0.0.4.

use std::fmt::Write;

use heirloom_region::inspect::{self, MetricFamily, ObjectKind, Sample, Value};
use heirloom_region::mapping::Mapping;

/// A text format of metrics.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// `application/openmetrics-text; version=1.0.0`, with start timestamps.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Prometheus,
}

/// Appends every metric of the region.
pub(crate) fn encode(mapping: &Mapping, out: &mut String, format: Exposition) {
    for family in inspect::metrics(mapping) {
        // Writing to a string does not fail.
        let _ = encode_family(&family, out, format);
    }
    if format == Exposition::OpenMetrics {
        out.push_str("# EOF\n");
    }
}

fn encode_family(family: &MetricFamily, out: &mut String, format: Exposition) -> std::fmt::Result {
    let open = format == Exposition::OpenMetrics;
    let (counter, kind) = match family.kind {
        ObjectKind::Counter | ObjectKind::FloatCounter => (true, "counter"),
        ObjectKind::Histogram => (false, "histogram"),
        _ => (false, "gauge"),
    };
    // A counter's family is named without its suffix in OpenMetrics, with it in the older format.
    let head = format!("{}{}", family.name, if counter && !open { "_total" } else { "" });
    if !family.help.is_empty() {
        writeln!(out, "# HELP {head} {}", escape(&family.help, open))?;
    }
    writeln!(out, "# TYPE {head} {kind}")?;
    if open && !family.unit.is_empty() {
        writeln!(out, "# UNIT {head} {}", family.unit)?;
    }
    for sample in &family.samples {
        encode_sample(family, sample, out)?;
        if open && kind != "gauge" {
            let seconds = sample.created_unix_ms as f64 / 1000.0;
            line(out, &family.name, "_created", sample, None, &number(seconds))?;
        }
    }
    Ok(())
}

fn encode_sample(family: &MetricFamily, sample: &Sample, out: &mut String) -> std::fmt::Result {
    let name = &family.name;
    match &sample.value {
        Value::Counter(n) => line(out, name, "_total", sample, None, &n.to_string()),
        Value::FloatCounter(v) => line(out, name, "_total", sample, None, &number(*v)),
        Value::Histogram { buckets, sum } => {
            let mut count = 0;
            let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
            for (bound, n) in bounds.zip(buckets) {
                count += n;
                line(out, name, "_bucket", sample, Some(bound), &count.to_string())?;
            }
            line(out, name, "_sum", sample, None, &number(*sum))?;
            line(out, name, "_count", sample, None, &count.to_string())
        }
        Value::UpDownGauge(n) => line(out, name, "", sample, None, &n.to_string()),
        Value::Gauge(v) => line(out, name, "", sample, None, &number(*v)),
        // A kind of a later release.
        _ => Ok(()),
    }
}

fn line(out: &mut String, name: &str, suffix: &str, sample: &Sample, le: Option<f64>, value: &str) -> std::fmt::Result {
    write!(out, "{name}{suffix}")?;
    let labels = sample.labels.iter().map(|(n, v)| (n.as_str(), escape(v, true)));
    let le = le.map(|bound| ("le", number(bound)));
    let mut separator = '{';
    for (label, text) in labels.chain(le) {
        write!(out, "{separator}{label}=\"{text}\"")?;
        separator = ',';
    }
    let end = if separator == ',' { "}" } else { "" };
    writeln!(out, "{end} {value}")
}

fn number(v: f64) -> String {
    match v {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        v if v.fract() == 0.0 && v.abs() < 1e15 => format!("{v:.1}"),
        v => v.to_string(),
    }
}

fn escape(text: &str, quotes: bool) -> String {
    let mut escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes {
        escaped = escaped.replace('"', "\\\"");
    }
    escaped
}
