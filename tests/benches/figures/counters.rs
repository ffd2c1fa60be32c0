//! What takes nanoseconds: counting, observing, one owned write.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use heirloom_region::objects::{DEFAULT_BUCKETS, MetricDesc, open_counter, open_gauge, open_histogram};

use crate::ground::Ground;
use crate::measure::{Effort, Medians, Subject, in_turns, repeated};
use crate::table::{Row, Table, time};

const LIMIT_BYTES: u64 = 64 << 20;

pub(crate) fn counter(table: &mut Table, effort: Effort) {
    let mut ground = Ground::new(LIMIT_BYTES);
    let process = ground.attach();
    let ours = open_counter(&process, &MetricDesc { name: "bench_total", ..MetricDesc::default() }).expect("a counter");
    let theirs = prometheus::IntCounter::new("bench_total", "help").expect("a counter");

    let subjects = vec![repeated(|| black_box(&ours).inc()), repeated(|| black_box(&theirs).inc())];
    table.add(against_prometheus("counter inc, 1 thread", "IntCounter::inc", &in_turns(effort, subjects), 1.0));

    let subjects = vec![by_two(|| black_box(&ours).inc()), by_two(|| black_box(&theirs).inc())];
    let few = Effort { rounds: effort.rounds / 4 + 1, ..effort };
    let medians = in_turns(few, subjects);
    table.add(against_prometheus("counter inc, 2 threads on one counter", "IntCounter::inc", &medians, 0.3));
    assert!(ours.total() > 0 && theirs.get() > 0, "the compiler left something of both");
}

pub(crate) fn histogram(table: &mut Table, effort: Effort) {
    let mut ground = Ground::new(LIMIT_BYTES);
    let process = ground.attach();
    let description = MetricDesc { name: "bench_seconds", ..MetricDesc::default() };
    let ours = open_histogram(&process, &description, &DEFAULT_BUCKETS).expect("a histogram");
    let options = prometheus::HistogramOpts::new("bench_seconds", "help").buckets(DEFAULT_BUCKETS.to_vec());
    let theirs = prometheus::Histogram::with_opts(options).expect("a histogram");

    // Into every bucket, in an order that no branch predictor learns.
    let mixed: Vec<f64> =
        (0u32..4096).map(|i| DEFAULT_BUCKETS[(i.wrapping_mul(2_654_435_761) >> 16) as usize % 11] * 0.9).collect();
    let row = |what, values: &[f64]| {
        let next = |at: &mut usize| {
            *at = (*at + 1) & (values.len() - 1);
            values[*at]
        };
        let (mut a, mut b) = (0, 0);
        let subjects = vec![repeated(|| ours.observe(next(&mut a))), repeated(|| theirs.observe(next(&mut b)))];
        against_prometheus(what, "Histogram::observe", &in_turns(effort, subjects), 0.6)
    };
    table.add(row("histogram observe, 11 buckets, all hit in turn at random", &mixed));
    table.add(Row {
        met: None,
        asked: "report".into(),
        ..row("histogram observe, 11 buckets, always the same", &[0.02])
    });
    assert!(ours.count() > 0 && theirs.get_sample_count() > 0, "the compiler left something of both");
}

pub(crate) fn gauge(table: &mut Table, effort: Effort) {
    let mut ground = Ground::new(LIMIT_BYTES);
    let (process, generation) = ground.own();
    let gauge = open_gauge(&process, &MetricDesc { name: "bench_level", ..MetricDesc::default() }).expect("a gauge");
    let bare = AtomicU64::new(0);
    let subjects = vec![
        repeated(|| {
            if let Err(e) = black_box(&gauge).set(generation, black_box(1.5)) {
                panic!("{e}");
            }
        }),
        repeated(|| black_box(&bare).store(black_box(1.5f64).to_bits(), Ordering::Relaxed)),
    ];
    let medians = in_turns(effort, subjects);
    let more = medians.more_ns[1];
    assert_eq!(gauge.value(), 1.5, "it was written");
    table.add(Row {
        what: "owned write: gauge set through the gate".into(),
        ours: time(medians.ns[0]),
        against: format!("the store alone {}", time(medians.ns[1])),
        ratio: format!("+{more:.2} ns"),
        asked: "<= +2 ns".into(),
        met: Some(more <= 2.0),
    });
}

fn against_prometheus(what: &str, theirs: &str, medians: &Medians, at_most: f64) -> Row {
    Row {
        what: what.into(),
        ours: time(medians.ns[0]),
        against: format!("prometheus {theirs} {}", time(medians.ns[1])),
        ratio: format!("{:.2}", medians.ratio[1]),
        asked: format!("<= {at_most:.2}"),
        met: Some(medians.ratio[1] <= at_most),
    }
}

/// Two threads do it `n` times each, at once; the mean of what each took.
fn by_two<'a>(once: impl Fn() + Sync + 'a) -> Subject<'a> {
    Box::new(move |n| {
        let (near, here) = (Barrier::new(2), AtomicUsize::new(0));
        let run = || {
            // The first time finds a lane.
            once();
            near.wait();
            here.fetch_add(1, Ordering::AcqRel);
            while here.load(Ordering::Acquire) < 2 {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            for _ in 0..n {
                once();
            }
            start.elapsed()
        };
        let both: Duration = std::thread::scope(|scope| {
            let other = scope.spawn(run);
            run() + other.join().expect("the other thread")
        });
        both / 2
    })
}
