//! Time series: appending, what a sample and a series take, finding one.
//!
//! The counter-like data is what a scrape of a busy counter gives: every 15 s, on time, 0 to 999 more than before. tsz encodes
//! the same timestamps and values into a `Vec`, and begins a new one where Prometheus begins a chunk.

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use heirloom_region::error::Generation;
use heirloom_region::mapping::RegionSpec;
use heirloom_region::series::xor::Encoder;
use heirloom_region::series::{Sample, SeriesId, SeriesStore};
use tsz::stream::BufferedWriter;
use tsz::{DataPoint, Encode, StdEncoder};

use crate::ground::Ground;
use crate::measure::{Effort, in_turns, median, repeated};
use crate::memory::anonymous_bytes;
use crate::stores::labels;
use crate::table::{Row, Table, time};

const START_MS: i64 = 1_790_000_000_000;
const STEP_MS: i64 = 15_000;
/// Samples of a chunk, in Prometheus' head as here.
const CHUNK: u32 = 120;
/// Series of a scrape.
const SCRAPE: u32 = 10_000;
/// What Prometheus takes for a series with 40 samples, measured at 300 k series.
const PROMETHEUS_SERIES_BYTES: f64 = 3100.0;

/// Samples of one counter, one after the other.
#[derive(Clone, Copy, Default)]
struct Counting {
    n: u64,
    value: u64,
}

impl Counting {
    fn next(&mut self) -> Sample {
        self.n += 1;
        self.value += (self.n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 1000;
        Sample { timestamp_ms: START_MS + self.n as i64 * STEP_MS, value: self.value as f64 }
    }
}

pub(crate) fn series(table: &mut Table, effort: Effort) {
    one_counter(table, effort);
    scrapes(table, effort);
    bytes_per_sample(table, effort);
    many(table, effort);
}

fn own(limit_bytes: u64, series_max: u32) -> (Ground, SeriesStore, Generation) {
    let mut ground = Ground::of(&RegionSpec { series_max, ..RegionSpec::new("bench", limit_bytes) });
    let (process, generation) = ground.own();
    (ground, SeriesStore::open(&process).expect("the series"), generation)
}

/// A series as a Kubernetes scrape has them.
fn open(store: &SeriesStore, generation: Generation, n: u32) -> SeriesId {
    store.open_series(generation, &labels(&n.to_string())).expect("a series")
}

fn one_counter(table: &mut Table, effort: Effort) {
    let (_ground, store, generation) = own(64 << 20, 100);
    store.set_retention(None, Some(4 << 20));
    let id = open(&store, generation, 0);
    let (mut a, mut b) = (Counting::default(), Counting::default());
    let mut encoder = tsz_from(START_MS as u64);
    let subjects = vec![
        repeated(|| {
            if let Err(e) = store.append(generation, id, a.next()) {
                panic!("{e}");
            }
        }),
        repeated(|| {
            let sample = b.next();
            if b.n % u64::from(CHUNK) == 0 {
                black_box(std::mem::replace(&mut encoder, tsz_from(sample.timestamp_ms as u64)).close());
            }
            encoder.encode(DataPoint::new(sample.timestamp_ms as u64, sample.value));
        }),
    ];
    let medians = in_turns(effort, subjects);
    let ratio = medians.ratio[1];
    table.add(Row {
        what: "series append, counter-like, gate and mark included".into(),
        ours: format!("{} ({:.1} M/s)", time(medians.ns[0]), 1e3 / medians.ns[0]),
        against: format!("tsz 0.1 on a Vec {}", time(medians.ns[1])),
        ratio: format!("{ratio:.2}"),
        asked: "<= 1.3".into(),
        met: Some(ratio <= 1.3),
    });
}

fn tsz_from(start: u64) -> StdEncoder<BufferedWriter> {
    StdEncoder::new(start, BufferedWriter::new())
}

fn scrapes(table: &mut Table, effort: Effort) {
    let (_ground, store, generation) = own(256 << 20, SCRAPE);
    store.set_retention(None, Some(64 << 20));
    let ids: Vec<_> = (0..SCRAPE).map(|n| open(&store, generation, n)).collect();
    let mut counting = Counting::default();
    let mut batch: Vec<_> = ids.iter().map(|id| (*id, counting.next())).collect();
    let mut times = Vec::new();
    for round in 0..effort.repeats.max(CHUNK as usize) {
        let sample = counting.next();
        let scraped = |i: usize| sample.value + i as f64;
        batch.iter_mut().enumerate().for_each(|(i, item)| item.1 = Sample { value: scraped(i), ..sample });
        let start = Instant::now();
        let commit = store.append_batch(generation, &batch).expect("a scrape");
        times.push(start.elapsed().as_nanos() as f64 / f64::from(SCRAPE));
        assert_eq!(commit.appended, u64::from(SCRAPE), "{round}");
    }
    let ns = median(times);
    table.add(Row {
        what: "series batch append, 10 k series x 1 sample".into(),
        ours: format!("{} ({:.1} M/s)", time(ns), 1e3 / ns),
        asked: "report".into(),
        ..Row::default()
    });
}

/// What the value of a sample is, by its number, the series', and noise.
type Shape = (&'static str, fn(&mut u64, u64) -> f64);

/// Counters count as busy ones do, gauges say a percentage with two digits, constants never change.
const SHAPES: [Shape; 3] = [
    ("counter-like", |value, noise| {
        *value += noise % 1000;
        *value as f64
    }),
    ("gauge-like", |_, noise| (noise % 10_000) as f64 / 100.0),
    ("constant", |_, _| 1.0),
];

fn bytes_per_sample(table: &mut Table, effort: Effort) {
    let found = SHAPES.map(|shape| (shape.0, grown(shape, effort)));
    let sum = found.iter().fold([0.0; 2], |sum, (_, bytes)| [sum[0] + bytes[0] / 3.0, sum[1] + bytes[1] / 3.0]);
    for (what, [ours, theirs]) in found.into_iter().chain([("a third of each", sum)]) {
        let ratio = ours / theirs;
        let is_asked = matches!(what, "counter-like" | "a third of each");
        table.add(Row {
            what: format!("bytes per sample in the region, sealed, {what}"),
            ours: format!("{ours:.3}"),
            against: format!("Prometheus' chunks {theirs:.3}"),
            ratio: format!("{ratio:.3}"),
            asked: if is_asked { "<= 1.05" } else { "report" }.into(),
            met: is_asked.then_some(ratio <= 1.05),
        });
    }
}

/// Bytes of a sample: what the region grows by, whatever it takes them for, while heads stay as they are; and those of the chunks
/// that Prometheus would make.
fn grown((_, shape): Shape, effort: Effort) -> [f64; 2] {
    const SERIES: u32 = 2000;
    const BEFORE: u64 = 4;
    let chunks = 5 * effort.repeats as u64;
    let (ground, store, generation) = own(512 << 20, SERIES);
    let ids: Vec<_> = (0..SERIES).map(|n| open(&store, generation, n)).collect();
    let mut values = vec![0; ids.len()];
    let mut encoders: Vec<_> = ids.iter().map(|_| Encoder::new()).collect();
    let (mut used, mut theirs) = (0, 0);
    for n in 0..(BEFORE + chunks) * u64::from(CHUNK) {
        if n == BEFORE * u64::from(CHUNK) {
            (used, theirs) = (ground.mapping().used_bytes(), 0);
        }
        for ((id, value), encoder) in ids.iter().zip(&mut values).zip(&mut encoders) {
            let noise = (n ^ u64::from(id.get()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let sample = Sample { timestamp_ms: START_MS + n as i64 * STEP_MS, value: shape(value, noise) };
            store.append(generation, *id, sample).expect("appended");
            if u32::from(encoder.count()) == CHUNK {
                theirs += std::mem::take(encoder).to_bytes().len();
            }
            assert!(encoder.push(sample));
        }
    }
    let samples = (chunks * u64::from(CHUNK) * u64::from(SERIES)) as f64;
    [(ground.mapping().used_bytes() - used) as f64 / samples, theirs as f64 / samples]
}

/// Many series with 40 samples: what each takes, and finding one.
fn many(table: &mut Table, effort: Effort) {
    let count: u32 = if effort.repeats >= Effort::FULL.repeats { 1_000_000 } else { 200_000 };
    let (ground, store, generation) = own(4 << 30, count);
    let file_bytes = || fs::metadata(ground.path()).expect("the region's file").blocks() * 512;
    let before = file_bytes() + anonymous_bytes(std::process::id());
    for n in 0..count {
        open(&store, generation, n);
    }
    let mut counting = Counting::default();
    for _ in 0..40 {
        let sample = counting.next();
        let batch =
            |first: u32| (first..count.min(first + 1000)).map(|n| (SeriesId::new(n), sample)).collect::<Vec<_>>();
        for first in (0..count).step_by(1000) {
            store.append_batch(generation, &batch(first)).expect("a scrape");
        }
    }
    let bytes = (file_bytes() + anonymous_bytes(std::process::id()) - before) as f64 / f64::from(count);
    table.add(Row {
        what: format!("bytes per series with 40 samples, {count} series, region and process"),
        ours: format!("{bytes:.0}"),
        against: format!("Prometheus, measured {PROMETHEUS_SERIES_BYTES:.0}"),
        ratio: format!("{:.3}", bytes / PROMETHEUS_SERIES_BYTES),
        asked: "<= 0.25".into(),
        met: Some(bytes <= 0.25 * PROMETHEUS_SERIES_BYTES),
    });
    let mut n = 0u32;
    let select = repeated(|| {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let id = store.find(&labels(&(n % count).to_string())).expect("whole").expect("found");
        let chunks = store.chunks(id, START_MS..=i64::MAX).expect("whole");
        assert_eq!(chunks.chunks[0].count, 40);
        chunks
    });
    let ns = in_turns(Effort { rounds: effort.rounds / 4 + 1, ..effort }, vec![select]).ns[0];
    table.add(Row {
        what: format!("series select by all labels among {count}, decoded once"),
        ours: time(ns),
        asked: "<= 50 us".into(),
        met: Some(ns <= 50_000.0),
        ..Row::default()
    });
}
