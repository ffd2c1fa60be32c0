//! An owner that appends samples: so many a second, over all series of the region, whenever this process owns; and the switch
//! under it, by the number of series.
//!
//! Each append goes to another series than the one before, far from it, so that after each takeover a new owner finds heads that it
//! has never seen, and every round of the digest has pages from all over the region.

use std::sync::Arc;
use std::time::Instant;

use heirloom_region::error::{Generation, WriteError};
use heirloom_region::mapping::RegionSpec;
use heirloom_region::objects::{Counter, open_counter};
use heirloom_region::os::clock::monotonic_ns;
use heirloom_region::process::Process;
use heirloom_region::series::{AppendError, Sample, SeriesId, SeriesStore};

use crate::actor::Stage;
use crate::blackout::{Load, in_turns};
use crate::ground::Ground;
use crate::measure::{Effort, median, quantile};
use crate::storm::UPDATES;
use crate::table::{Row, Table, time};

const SERIES: [u32; 4] = [1000, 30_000, 300_000, 1_000_000];
const PER_SECOND: u64 = 100_000;
/// Samples of each series before it begins.
const SAMPLES: i64 = 10;
const P99_MAX_NS: f64 = 1e6;
const RATIO_MAX: f64 = 1.5;
const LOAD_MIN: f64 = 0.95;
/// Sealed chunks are kept in so many bytes, so that regions do not grow.
const LOG_BYTES: u64 = 16 << 20;
/// Appends that are let go rather than made up for after a wait.
const BACKLOG_MAX: u64 = 1000;

pub(crate) fn takeover(table: &mut Table, effort: Effort) {
    let mut loads: Vec<Load> =
        SERIES.into_iter().map(|series| Load::new(fill(series), "scraper", series.into())).collect();
    let figures = in_turns(&mut loads, PER_SECOND, effort);
    for (load, f) in loads.iter().zip(&figures) {
        let p99 = quantile(f.waits.clone(), 0.99);
        println!("  {} series: {}", load.size(), f.words());
        table.add(Row {
            what: format!("blackout, {} series, {PER_SECOND} appends/s, region crate", load.size()),
            ours: format!("p50 {}, p99 {}", time(median(f.waits.clone())), time(p99)),
            against: f.gate_closed(),
            asked: "p99 <= 1 ms".into(),
            met: Some(p99 <= P99_MAX_NS),
            ..Row::default()
        });
    }
    let p50: Vec<f64> = figures.iter().map(|f| median(f.waits.clone())).collect();
    let ratio = p50.iter().fold(0.0f64, |a, b| a.max(*b)) / p50.iter().fold(f64::INFINITY, |a, b| a.min(*b));
    let is_loaded = figures.iter().all(|f| f.updates_per_second >= LOAD_MIN * PER_SECOND as f64);
    let made: Vec<String> = figures.iter().map(|f| format!("{:.0}", f.updates_per_second / 1e3)).collect();
    table.add(Row {
        what: format!("blackout by number of series, {PER_SECOND}/s (made {} thousand)", made.join(", ")),
        ours: p50.iter().map(|ns| time(*ns)).collect::<Vec<_>>().join(", "),
        against: "largest p50 to smallest".into(),
        ratio: format!("{ratio:.2}"),
        asked: format!("<= {RATIO_MAX}, at this load"),
        met: Some(ratio <= RATIO_MAX && is_loaded),
    });
}

/// A region with so many series.
fn fill(series: u32) -> Ground {
    let limit_bytes = (256 << 20) + u64::from(series) * 1024;
    let mut ground = Ground::of(&RegionSpec { series_max: series + 1024, ..RegionSpec::new("bench", limit_bytes) });
    let (process, generation) = ground.own();
    let store = SeriesStore::open(&process).expect("the series");
    for n in 0..series {
        let n = n.to_string();
        store.open_series(generation, &[("__name__", "bench_requests_total"), ("n", &n)]).expect("a series");
    }
    for timestamp_ms in 1..=SAMPLES {
        let sample = Sample { timestamp_ms, value: timestamp_ms as f64 };
        let batch: Vec<_> = (0..series).map(|n| (SeriesId::new(n), sample)).collect();
        store.append_batch(generation, &batch).expect("a scrape");
    }
    ground
}

/// Plays the owner: `[series, appends a second]`. Says one number when it is ready.
pub(crate) fn play(stage: &Stage) {
    let [series, per_second] = stage.more[..] else { panic!("expected two numbers, found {:?}", stage.more) };
    let process: &Arc<Process> = &stage.process;
    let store = SeriesStore::open(process).expect("the series");
    store.set_retention(None, Some(LOG_BYTES));
    let appended = open_counter(process, &UPDATES).expect("a counter");
    println!("{series}");
    loop {
        match process.learn() {
            Ok(generation) => feed(&store, &appended, generation, series as u32, per_second),
            Err(_) => _ = process.watch(process.gate(), std::time::Duration::from_millis(50)),
        }
    }
}

/// Until the term ends.
fn feed(store: &SeriesStore, appended: &Counter, generation: Generation, series: u32, per_second: u64) {
    let (began, mut done, mut next) = (Instant::now(), 0u64, 0u32);
    loop {
        let due = (began.elapsed().as_nanos() as u64).saturating_mul(per_second) / 1_000_000_000;
        done = done.max(due.saturating_sub(BACKLOG_MAX));
        if done == due {
            std::hint::spin_loop();
        }
        while done < due {
            // A prime step: all series in turn, and none near the one before.
            next = ((u64::from(next) + 611_953) % u64::from(series)) as u32;
            // Microseconds: later than what any process appended to this series before.
            let timestamp_ms = (monotonic_ns() / 1000) as i64;
            match store.append(generation, SeriesId::new(next), Sample { timestamp_ms, value: done as f64 }) {
                Ok(_) => appended.inc(),
                Err(AppendError::Write(WriteError::Fenced(_))) => return,
                Err(e) => panic!("an append: {e}"),
            }
            done += 1;
        }
    }
}
