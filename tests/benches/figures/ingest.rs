//! A scrape of 10,000 series with a sample each, as one remote write request: into metric-store, and into an empty Prometheus.
//!
//! Three things take the same samples in turns: a region's store alone, by batch append; metric-store over HTTP; Prometheus over
//! HTTP. The first request makes the series, and counts for itself.

use std::time::{Duration, Instant};

use heirloom_examples::metric_store::SERVICE;
use heirloom_examples::process::free_address;
use heirloom_region::mapping::RegionSpec;
use heirloom_region::series::{Sample, SeriesStore};
use heirloom_tests::host::Host;
use heirloom_tests::metric_store::MetricStore;

use crate::ground::Ground;
use crate::measure::{Effort, median};
use crate::stores::{cpu_time, labels, now_ms, prometheus, request, send};
use crate::table::{Row, Table, time};

const SERIES: u32 = 10_000;
const RATIO_MIN: f64 = 5.0;

pub(crate) fn ingest(table: &mut Table, effort: Effort) {
    let host = Host::configured("[region]\nlimit = \"256MiB\"\n");
    let store = MetricStore::start(&host, "1.0.0", free_address().expect("a free port"));
    host.await_owner(SERVICE, "1.0.0");
    let prometheus = prometheus();
    let mut alone = alone();
    let start_ms = now_ms() - 3_600_000;
    let (mut first, mut rounds) = ([Duration::ZERO; 3], [const { Vec::new() }; 3]);
    let mut cpu = [Duration::ZERO; 2];
    let cpu_of = || [store.pid(), prometheus.pid()].map(cpu_time);
    for round in 0..=effort.repeats as i64 {
        let body = request(0..SERIES, round..round + 1, start_ms);
        let mut took = [Duration::ZERO; 3];
        for turn in 0..3 {
            let who = (turn + round as usize) % 3;
            took[who] = match who {
                0 => alone(round),
                1 => send(store.address, &body),
                _ => send(prometheus.address(), &body),
            };
        }
        if round == 0 {
            (first, cpu) = (took, cpu_of());
        } else {
            rounds.iter_mut().zip(took).for_each(|(all, took)| all.push(took.as_nanos() as f64 / f64::from(SERIES)));
        }
    }
    let samples = effort.repeats as f64 * f64::from(SERIES);
    let cpu: Vec<String> =
        cpu_of().iter().zip(cpu).map(|(now, before)| time((*now - before).as_nanos() as f64 / samples)).collect();
    println!("  processor time a sample: metric-store {}, Prometheus {}", cpu[0], cpu[1]);
    println!("  the first request, which makes the series: {first:.1?}");
    let [alone, ours, theirs] = rounds.map(median);
    let rate = |ns: f64| format!("{} ({:.2} M/s)", time(ns), 1e3 / ns);
    table.add(Row {
        what: "scrape of 10 k series x 1 sample: batch append at the store".into(),
        ours: rate(alone),
        against: format!("Prometheus, remote write into its head {}", rate(theirs)),
        ratio: format!("{:.1} x samples/s", theirs / alone),
        asked: format!(">= {RATIO_MIN}"),
        met: Some(theirs >= RATIO_MIN * alone),
    });
    table.add(Row {
        what: "the same request over HTTP: metric-store".into(),
        ours: rate(ours),
        against: format!("Prometheus {}", rate(theirs)),
        ratio: format!("{:.1} x samples/s", theirs / ours),
        asked: "report".into(),
        ..Row::default()
    });
}

/// A store in this process, which takes the sample of a number of each series and says how long it took.
fn alone() -> impl FnMut(i64) -> Duration {
    let mut ground = Ground::of(&RegionSpec { series_max: SERIES, ..RegionSpec::new("bench", 256 << 20) });
    let (process, generation) = ground.own();
    let store = SeriesStore::open(&process).expect("the series");
    let mut ids = Vec::new();
    move |round| {
        // As long as it is used, the region stays.
        let _ = &ground;
        let start = Instant::now();
        if ids.is_empty() {
            let open = |n: u32| store.open_series(generation, &labels(&n.to_string())).expect("a series");
            ids = (0..SERIES).map(open).collect();
        }
        let sample =
            |n: usize| Sample { timestamp_ms: 1 + round * 15_000, value: (round * 500 + n as i64 % 500) as f64 };
        let batch: Vec<_> = ids.iter().enumerate().map(|(n, id)| (*id, sample(n))).collect();
        let commit = store.append_batch(generation, &batch).expect("a scrape");
        assert_eq!(commit.appended, u64::from(SERIES));
        start.elapsed()
    }
}
