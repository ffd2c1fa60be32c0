//! Opening metrics by name.
//!
//! Two entries of the shared directory make a series: its *family* (name, kind, help, unit, buckets), which is what all
//! series of a name have in common, so that two of them cannot differ in kind or buckets, and the series itself (labels,
//! words). Both are inserted at most once; who comes second gets the first one's. Help and unit of the first stay.
//!
//! Space comes before names: lanes and words are made ready first, so that a full region refuses without leaving a series
//! that cannot count. A creator killed in between leaves words that nobody uses, or a family without series.

use std::sync::Arc;

use crate::alloc::{self, SelfCounter};
use crate::directory::entry::{Decoded, Entry, Kind, bounds_ok};
use crate::directory::{Directory, Key, Lookup};
use crate::error::{Corrupt, Error, Full, Incompatible, Misuse};
use crate::mapping::Mapping;
use crate::name;
use crate::objects::histogram::words_of;
use crate::objects::lane::{check_words, make_ready};
use crate::objects::{Counter, FloatCounter, Gauge, Histogram, UpDownGauge};
use crate::os::clock;
use crate::process::Process;
use crate::sync::Ordering;

/// Prometheus' default buckets, for seconds: 5 ms to 10 s.
pub const DEFAULT_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a metric is opened by.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricDesc<'a> {
    /// Its name, by the rules of [`name::family`].
    pub name: &'a str,
    /// Text for `# HELP`. The first one's stays.
    pub help: &'a str,
    /// Unit for OpenMetrics, or nothing; the name ends in it.
    pub unit: &'a str,
    /// Constant labels, in any order.
    pub labels: &'a [(&'a str, &'a str)],
}

/// Opens or creates a counter. `name` and `name_total` are the same.
///
/// # Errors
/// [`Misuse::Name`] and [`Misuse::Argument`] for what the data model does not allow, [`Misuse::Forked`] in a forked child,
/// [`Incompatible::Kind`] if the name is taken by another kind, [`Full`], [`Corrupt`].
pub fn open_counter(p: &Arc<Process>, d: &MetricDesc) -> Result<Counter, Error> {
    Counter::new(p, open(p, d, Kind::Counter, &[])?.payload)
}

/// Opens or creates a counter in `f64`.
///
/// # Errors
/// As [`open_counter`].
pub fn open_float_counter(p: &Arc<Process>, d: &MetricDesc) -> Result<FloatCounter, Error> {
    FloatCounter::new(p, open(p, d, Kind::FloatCounter, &[])?.payload)
}

/// Opens or creates a histogram with these upper bounds, ascending and finite; `+Inf` is added.
///
/// # Errors
/// As [`open_counter`]; [`Misuse::Argument`] for bounds out of order, [`Incompatible::Buckets`] if the name has others.
pub fn open_histogram(p: &Arc<Process>, d: &MetricDesc, bounds: &[f64]) -> Result<Histogram, Error> {
    // Prometheus' own convention lets callers end in +Inf.
    let bounds = bounds.strip_suffix(&[f64::INFINITY]).unwrap_or(bounds);
    if !bounds_ok(bounds) {
        let found =
            format!("{bounds:?}, not at most {} finite bounds in ascending order", crate::directory::BOUNDS_MAX);
        return Err(failed(p, Misuse::Argument { what: "buckets", found }.into()));
    }
    Histogram::new(p, open(p, d, Kind::Histogram, bounds)?.payload, bounds)
}

/// Opens or creates an up-down gauge.
///
/// # Errors
/// As [`open_counter`].
pub fn open_updown(p: &Arc<Process>, d: &MetricDesc) -> Result<UpDownGauge, Error> {
    UpDownGauge::new(p, open(p, d, Kind::UpDownGauge, &[])?.payload)
}

/// Opens or creates a gauge. Anyone may; the owner alone sets it.
///
/// # Errors
/// As [`open_counter`].
pub fn open_gauge(p: &Arc<Process>, d: &MetricDesc) -> Result<Gauge, Error> {
    Gauge::new(p, open(p, d, Kind::Gauge, &[])?.payload)
}

fn open(p: &Arc<Process>, d: &MetricDesc, kind: Kind, bounds: &[f64]) -> Result<Entry, Error> {
    open_checked(p, d, kind, bounds).map_err(|e| failed(p, e))
}

fn failed(p: &Process, error: Error) -> Error {
    if !p.is_forked_child() {
        alloc::count(p.mapping(), SelfCounter::FailedRegistrations);
    }
    error
}

fn open_checked(p: &Arc<Process>, d: &MetricDesc, kind: Kind, bounds: &[f64]) -> Result<Entry, Error> {
    if p.is_forked_child() {
        return Err(Misuse::Forked.into());
    }
    let family = name::family(d.name, matches!(kind, Kind::Counter | Kind::FloatCounter))?;
    name::unit(d.unit, family)?;
    name::help(d.help)?;
    let labels = name::labels(d.labels, kind == Kind::Histogram)?;
    let mapping = p.mapping();
    let directory = Directory::shared(mapping);
    let (family_key, key) = (Key::family(family), Key::object(family, &labels));
    // Refused before anything is made.
    let known = match directory.find(&family_key)? {
        Lookup::Found(found) => {
            check_family(found, family, kind, bounds)?;
            true
        }
        Lookup::Vacant(_) | Lookup::Full => false,
    };
    let entry = match directory.find(&key)? {
        Lookup::Found(found) => check_kind(found, family, kind)?,
        Lookup::Vacant(_) | Lookup::Full => {
            mapping.check_writable()?;
            p.check_seated()?;
            let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let entry = Entry { labels, ..space_for(p, Entry::new(kind, family), bounds)? };
            if !known {
                let made = Entry {
                    payload: kind as u64,
                    help: d.help.to_owned(),
                    unit: d.unit.to_owned(),
                    bounds: bounds.to_vec(),
                    created_unix_ms: entry.created_unix_ms,
                    ..Entry::new(Kind::Family, family)
                };
                let found = directory.find_or_insert(&family_key, || Ok(made))?;
                check_family(found, family, kind, bounds)?;
            }
            insert_series(mapping, &directory, &key, entry, kind)?
        }
    };
    check_place(mapping, &entry, bounds)?;
    Ok(entry)
}

/// Takes the words of a new series, and makes them ready where this process counts.
fn space_for(p: &Arc<Process>, entry: Entry, bounds: &[f64]) -> Result<Entry, Error> {
    let mapping = p.mapping();
    let limit = u64::from(mapping.limits().series_max);
    if alloc::series(mapping)?.load(Ordering::Relaxed) >= limit {
        return Err(Full::Table { table: "series", limit }.into());
    }
    let words = lane_words_of(entry.kind, bounds);
    let payload = if words == 0 {
        alloc::gauge_word(mapping)?
    } else {
        let first = alloc::lane_words(mapping, u64::from(words))?;
        make_ready(p, first, words)?;
        first
    };
    Ok(Entry { payload, words, created_unix_ms: clock::unix_ms(), ..entry })
}

fn insert_series(m: &Mapping, directory: &Directory, key: &Key, entry: Entry, kind: Kind) -> Result<Entry, Error> {
    let payload = entry.payload;
    let name = entry.name.clone();
    let found = check_kind(directory.find_or_insert(key, || Ok(entry))?, &name, kind)?;
    if found.payload == payload {
        alloc::series(m)?.fetch_add(1, Ordering::Relaxed);
    }
    Ok(found)
}

/// Words in each lane.
pub(crate) fn lane_words_of(kind: Kind, bounds: &[f64]) -> u32 {
    match kind {
        Kind::Histogram => words_of(bounds),
        Kind::Counter | Kind::FloatCounter | Kind::UpDownGauge => 1,
        Kind::Gauge | Kind::Cell | Kind::Series | Kind::Family | Kind::SeriesRoot => 0,
    }
}

fn check_family(found: Decoded, name: &str, kind: Kind, bounds: &[f64]) -> Result<(), Error> {
    let family = check_kind(found, name, Kind::Family)?;
    let is = u16::try_from(family.payload).ok().and_then(Kind::from_number);
    if is != Some(kind) {
        return Err(other_kind(name, kind, is));
    }
    if family.bounds != bounds {
        let text = |bounds: &[f64]| format!("{bounds:?}");
        let (name, expected, found) = (name.to_owned(), text(bounds), text(&family.bounds));
        return Err(Incompatible::Buckets { name, expected, found }.into());
    }
    Ok(())
}

pub(super) fn check_kind(found: Decoded, name: &str, kind: Kind) -> Result<Entry, Error> {
    match found {
        Decoded::Known(entry) if entry.kind == kind => Ok(*entry),
        Decoded::Known(entry) => Err(other_kind(name, kind, Some(entry.kind))),
        Decoded::Unknown { .. } => Err(other_kind(name, kind, None)),
    }
}

fn other_kind(name: &str, expected: Kind, found: Option<Kind>) -> Error {
    let found = found.map_or("kind that this build does not know", Kind::as_str);
    Incompatible::Kind { name: name.to_owned(), expected: expected.as_str(), found }.into()
}

/// Whether an entry's place is one that a writer of this format gives out.
pub(crate) fn check_place(mapping: &Mapping, entry: &Entry, bounds: &[f64]) -> Result<(), Corrupt> {
    if entry.words != lane_words_of(entry.kind, bounds) {
        let expected = "as many as its kind and buckets need";
        return Err(Corrupt::field("directory entry's number of words", 0, expected, u64::from(entry.words)));
    }
    if entry.kind.in_lanes() {
        return check_words(entry.payload, entry.words);
    }
    let gauges = alloc::OwnedAreas::of(mapping).gauges;
    if entry.kind == Kind::Gauge && !(gauges.contains(entry.payload) && entry.payload.is_multiple_of(8)) {
        return Err(Corrupt::field("directory entry's gauge word", 0, "a word of the gauges' area", entry.payload));
    }
    Ok(())
}
