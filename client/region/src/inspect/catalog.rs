//! What was decoded once: families and their series.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::seen::Seen;
use super::sums::{Special, Sums};
use super::{Decoded, Directory, Entry, Kind, family_of};
use crate::mapping::Mapping;
use crate::objects::check_place;
use crate::sync::Ordering;

/// A series' labels, sorted by name.
pub type Labels = Arc<[(String, String)]>;

/// All series of one name.
#[derive(Clone, Debug)]
pub struct MetricFamily {
    /// The family's name: a counter's without `_total`, which its samples have in every format.
    pub name: Arc<str>,
    /// Text for `# HELP`, not escaped.
    pub help: Arc<str>,
    /// Unit, or nothing.
    pub unit: Arc<str>,
    /// Kind of the series.
    pub kind: Kind,
    /// A histogram's upper bounds, without `+Inf`.
    pub bounds: Arc<[f64]>,
    /// By labels.
    pub samples: Vec<Sample>,
}

/// One series at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: Value,
    /// When it was created, Unix milliseconds: OpenMetrics' start timestamp.
    pub created_unix_ms: u64,
}

/// A series' value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A counter's.
    Counter(u64),
    /// A float counter's.
    FloatCounter(f64),
    /// A histogram's: observations in each bucket, not cumulated, `+Inf` last.
    Histogram {
        /// In each bucket.
        buckets: Vec<u64>,
        /// The sum of what was observed. The count is the sum of the buckets.
        sum: f64,
    },
    /// The sum over the living.
    UpDownGauge(i64),
    /// What the owner set last.
    Gauge(f64),
}

/// Decoded entries of one region's shared directory; kept between scrapes.
#[derive(Debug, Default)]
pub struct Catalog {
    seen: Seen,
    families: BTreeMap<String, Family>,
    pub(super) special: Special,
    unknown: u64,
}

#[derive(Debug)]
struct Family {
    name: Arc<str>,
    help: Arc<str>,
    unit: Arc<str>,
    kind: Option<Kind>,
    bounds: Arc<[f64]>,
    series: Vec<Series>,
    is_sorted: bool,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    payload: u64,
    words: u32,
    created_unix_ms: u64,
}

impl Catalog {
    /// Reads all metrics with their values: families by name, series by labels.
    pub fn read(&mut self, mapping: &Mapping) -> Vec<MetricFamily> {
        self.refresh(mapping);
        let sums = Sums::read(mapping, &self.special);
        self.families.values().filter_map(|f| f.read(mapping, &sums, &self.special)).collect()
    }

    /// Entries that could not be read when they were last looked at; [`super::faults`] names them.
    pub fn bad_entries(&self) -> u64 {
        self.seen.unreadable()
    }

    /// Entries that were skipped so far because this build does not know their kind.
    pub fn unknown_entries(&self) -> u64 {
        self.unknown
    }

    /// Decodes what is new in the directory, and tries again what could not be read before.
    pub(super) fn refresh(&mut self, mapping: &Mapping) {
        let directory = Directory::shared(mapping);
        let (mut seen, specials) = (std::mem::take(&mut self.seen), self.special.len());
        seen.look(&directory, |slot| match directory.read(slot) {
            Ok((Decoded::Known(entry), _)) if entry.kind == Kind::Family => {
                self.add_family(*entry);
                true
            }
            Ok((Decoded::Known(entry), _)) => self.add_series(mapping, *entry),
            Ok((Decoded::Unknown { .. }, _)) => {
                self.unknown += 1;
                true
            }
            Err(_) => false,
        });
        self.seen = seen;
        if self.special.len() != specials {
            self.special.sort();
        }
        for family in self.families.values_mut().filter(|f| !f.is_sorted) {
            family.series.sort_by(|a, b| a.labels.cmp(&b.labels));
            family.is_sorted = true;
        }
    }

    /// Visits kind, lane words and (for one in `f64`) position in the sums of floats of each series.
    pub(super) fn for_each_series(&self, mut visit: impl FnMut(Kind, Range<usize>, usize)) {
        for family in self.families.values() {
            let Some(kind) = family.kind.filter(|k| k.in_lanes()) else { continue };
            for series in &family.series {
                let first = series.payload as usize;
                visit(
                    kind,
                    first..first + series.words as usize,
                    self.special.float_at(series.payload).unwrap_or(usize::MAX),
                );
            }
        }
    }

    fn add_family(&mut self, entry: Entry) {
        let family = Family {
            name: entry.name.as_str().into(),
            help: entry.help.into(),
            unit: entry.unit.into(),
            kind: u16::try_from(entry.payload).ok().and_then(Kind::from_number),
            bounds: entry.bounds.into(),
            series: Vec::new(),
            is_sorted: true,
        };
        self.families.entry(entry.name).or_insert(family);
    }

    /// Whether the series is whole, and so is its family, which may lie in a slot that the pass has yet to come to.
    fn add_series(&mut self, mapping: &Mapping, entry: Entry) -> bool {
        if !self.families.contains_key(&entry.name) {
            match family_of(mapping, &entry.name) {
                Ok(Some(family)) => self.add_family(*family),
                _ => return false,
            }
        }
        let Some(family) = self.families.get_mut(&entry.name) else { return false };
        if family.kind != Some(entry.kind) || check_place(mapping, &entry, &family.bounds).is_err() {
            return false;
        }
        let first = entry.payload as u32;
        match entry.kind {
            Kind::FloatCounter => self.special.floats.push(first),
            Kind::Histogram => self.special.floats.push(first + entry.words - 1),
            Kind::UpDownGauge => self.special.shares.push(first),
            _ => {}
        }
        family.is_sorted = false;
        let (payload, words, created_unix_ms) = (entry.payload, entry.words, entry.created_unix_ms);
        family.series.push(Series { labels: entry.labels.into(), payload, words, created_unix_ms });
        true
    }
}

impl Special {
    fn len(&self) -> usize {
        self.floats.len() + self.shares.len()
    }

    fn sort(&mut self) {
        self.floats.sort_unstable();
        self.shares.sort_unstable();
    }

    /// Where a series' float word is: a float counter's own, or the last of a histogram.
    fn float_at(&self, word: u64) -> Option<usize> {
        self.floats.binary_search(&u32::try_from(word).ok()?).ok()
    }
}

impl Family {
    fn read(&self, mapping: &Mapping, sums: &Sums, special: &Special) -> Option<MetricFamily> {
        let kind = self.kind?;
        let samples = self.series.iter().map(|s| Sample {
            labels: Arc::clone(&s.labels),
            value: s.value(kind, mapping, sums, special),
            created_unix_ms: s.created_unix_ms,
        });
        Some(MetricFamily {
            name: Arc::clone(&self.name),
            help: Arc::clone(&self.help),
            unit: Arc::clone(&self.unit),
            kind,
            bounds: Arc::clone(&self.bounds),
            samples: samples.collect(),
        })
    }
}

impl Series {
    fn value(&self, kind: Kind, mapping: &Mapping, sums: &Sums, special: &Special) -> Value {
        let float = |word| special.float_at(word).and_then(|at| sums.floats.get(at)).copied().unwrap_or(0.0);
        match kind {
            Kind::Counter => Value::Counter(sums.int(self.payload)),
            Kind::FloatCounter => Value::FloatCounter(float(self.payload)),
            Kind::UpDownGauge => Value::UpDownGauge(sums.int(self.payload).cast_signed()),
            Kind::Histogram => {
                let last = self.payload + u64::from(self.words) - 1;
                Value::Histogram { buckets: (self.payload..last).map(|w| sums.int(w)).collect(), sum: float(last) }
            }
            // Not ready: nobody set it.
            _ => Value::Gauge(mapping.word(self.payload).map_or(0.0, |w| f64::from_bits(w.load(Ordering::Relaxed)))),
        }
    }
}
