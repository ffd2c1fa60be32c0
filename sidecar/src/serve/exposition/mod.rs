//! The text that Prometheus reads: OpenMetrics 1.0 and Prometheus text 0.0.4 from one list of families.
//!
//! Our own encoder, because what we have fits no library at hand: values that another process counts, with start
//! timestamps that outlive us. `prometheus` knows no OpenMetrics and no start timestamps, `prometheus-client` stamps
//! them itself, and both want to own the metrics.
//!
//! Invariants: one family has one `# TYPE` and its samples stand together, also when several regions have it; a sample
//! name belongs to one family; the names of series are the same in both formats (counters end in `_total`, `le` is
//! written as OpenMetrics wants it), so that a scraper which negotiates anew sees no new series. A family that would
//! break this (a gauge in one region, a counter in another) is left out of the joint scrape and counted; alone, by
//! `/metrics/{region}`, it is served.

mod negotiate;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

pub(crate) use negotiate::{Format, negotiate};

/// How the samples of a family are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// One metric name in one region, or of the sidecar itself.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) unit: String,
    pub(crate) kind: Kind,
    /// The region that all samples come from; nothing for the sidecar's own.
    pub(crate) region: String,
    pub(crate) samples: Vec<Sample>,
}

/// Sorted by name.
pub(crate) type Labels = Arc<[(String, String)]>;

/// One label set.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) labels: Labels,
    pub(crate) value: Value,
    /// When it began to count; 0: not known.
    pub(crate) created_unix_ms: u64,
}

/// What a sample says.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Integer(u64),
    Signed(i64),
    Float(f64),
    /// Counts per bucket, not cumulative, one more than bounds; and the sum.
    Histogram {
        bounds: Arc<[f64]>,
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Sample {
    /// A number without labels.
    pub(crate) fn integer(value: u64) -> Self {
        Sample { labels: Arc::default(), value: Value::Integer(value), created_unix_ms: 0 }
    }
}

impl Family {
    pub(crate) fn new(name: &str, help: &str, kind: Kind) -> Self {
        Family {
            name: name.into(),
            help: help.into(),
            unit: String::new(),
            kind,
            region: String::new(),
            samples: Vec::new(),
        }
    }

    /// The name without the suffix that the kind adds.
    fn base(&self) -> &str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(&self.name)
    }

    fn sample_names(&self) -> Vec<String> {
        let base = self.base();
        let suffixes: &[&str] = match self.kind {
            Kind::Counter => &["_total", "_created"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
            Kind::Info => &["_info"],
        };
        suffixes.iter().map(|s| format!("{base}{s}")).collect()
    }
}

/// The same family in several places, joined for one text.
#[derive(Default)]
pub(crate) struct Exposition {
    families: BTreeMap<String, Joined>,
    names: HashSet<String>,
    /// Families left out, because they contradict another of the same name.
    pub(crate) conflicts: u64,
}

struct Joined {
    first: Family,
    others: Vec<Family>,
}

impl Exposition {
    /// Adds a family; what is added first wins a conflict.
    pub(crate) fn add(&mut self, family: Family) {
        if let Some(joined) = self.families.get_mut(family.base()) {
            if joined.first.kind == family.kind && joined.first.name == family.name {
                joined.others.push(family);
            } else {
                self.conflicts += 1;
            }
            return;
        }
        let names = family.sample_names();
        if names.iter().any(|n| self.names.contains(n)) {
            self.conflicts += 1;
            return;
        }
        self.names.extend(names);
        self.families.insert(family.base().to_owned(), Joined { first: family, others: Vec::new() });
    }

    /// Writes the whole text.
    pub(crate) fn encode(&self, format: Format) -> String {
        let samples: usize = self
            .families
            .values()
            .map(|j| j.first.samples.len() + j.others.iter().map(|o| o.samples.len()).sum::<usize>())
            .sum();
        let mut out = Encoder { out: String::with_capacity(samples * 128 + 4096), format, labels: String::new() };
        for (base, joined) in &self.families {
            out.head(base, &joined.first);
            for family in std::iter::once(&joined.first).chain(&joined.others) {
                for sample in &family.samples {
                    out.sample(base, family, sample);
                }
            }
        }
        if format == Format::OpenMetrics {
            out.out.push_str("# EOF\n");
        }
        out.out
    }
}

struct Encoder {
    out: String,
    format: Format,
    /// The labels of the sample at hand, without braces.
    labels: String,
}

impl Encoder {
    fn head(&mut self, base: &str, family: &Family) {
        let open = self.format == Format::OpenMetrics;
        let (suffix, kind) = match family.kind {
            Kind::Counter => (if open { "" } else { "_total" }, "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
            Kind::Info => {
                if open {
                    ("", "info")
                } else {
                    ("_info", "gauge")
                }
            }
        };
        let _ = writeln!(self.out, "# TYPE {base}{suffix} {kind}");
        if open && !family.unit.is_empty() && base.strip_suffix(family.unit.as_str()).is_some_and(|b| b.ends_with('_'))
        {
            let _ = writeln!(self.out, "# UNIT {base} {}", family.unit);
        }
        if !family.help.is_empty() {
            let _ = write!(self.out, "# HELP {base}{suffix} ");
            escape(&mut self.out, &family.help, open);
            self.out.push('\n');
        }
    }

    fn sample(&mut self, base: &str, family: &Family, sample: &Sample) {
        let kind = family.kind;
        self.labels.clear();
        if !family.region.is_empty() {
            // A region's name needs no escaping.
            let _ = write!(self.labels, "region=\"{}\"", family.region);
        }
        for (name, value) in sample.labels.iter() {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            // What Prometheus does to a label that the target has, too.
            let taken = !family.region.is_empty() && name == "region";
            self.labels.push_str(if taken { "exported_region" } else { name });
            self.labels.push_str("=\"");
            escape(&mut self.labels, value, true);
            self.labels.push('"');
        }
        match (&sample.value, kind) {
            (Value::Histogram { bounds, counts, sum }, _) => self.histogram(base, bounds, counts, *sum),
            (Value::Integer(n), kind) => {
                self.line(base, suffix(kind), None);
                let _ = writeln!(self.out, " {n}");
            }
            (Value::Signed(n), kind) => {
                self.line(base, suffix(kind), None);
                let _ = writeln!(self.out, " {n}");
            }
            (Value::Float(x), kind) => {
                self.line(base, suffix(kind), None);
                self.float(*x);
            }
        }
        if self.format == Format::OpenMetrics
            && sample.created_unix_ms != 0
            && matches!(kind, Kind::Counter | Kind::Histogram)
        {
            self.line(base, "_created", None);
            let _ = writeln!(self.out, " {}.{:03}", sample.created_unix_ms / 1000, sample.created_unix_ms % 1000);
        }
    }

    fn histogram(&mut self, base: &str, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0u64;
        let bounds = bounds.iter().copied().filter(|b| b.is_finite()).chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(counts) {
            total = total.wrapping_add(*count);
            self.line(base, "_bucket", Some(bound));
            let _ = writeln!(self.out, " {total}");
        }
        self.line(base, "_count", None);
        let _ = writeln!(self.out, " {total}");
        self.line(base, "_sum", None);
        self.float(sum);
    }

    /// Name and labels of one line.
    fn line(&mut self, base: &str, suffix: &str, le: Option<f64>) {
        self.out.push_str(base);
        self.out.push_str(suffix);
        if self.labels.is_empty() && le.is_none() {
            return;
        }
        self.out.push('{');
        self.out.push_str(&self.labels);
        if let Some(le) = le {
            let comma = if self.labels.is_empty() { "" } else { "," };
            let _ = match le {
                f64::INFINITY => write!(self.out, "{comma}le=\"+Inf\""),
                le => write!(self.out, "{comma}le=\"{le:?}\""),
            };
        }
        self.out.push('}');
    }

    fn float(&mut self, x: f64) {
        let _ = match x {
            f64::INFINITY => writeln!(self.out, " +Inf"),
            f64::NEG_INFINITY => writeln!(self.out, " -Inf"),
            x if x.is_nan() => writeln!(self.out, " NaN"),
            x => writeln!(self.out, " {x:?}"),
        };
    }
}

fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    }
}

/// Backslash, line feed and, in label values and OpenMetrics, the quotation mark.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}
