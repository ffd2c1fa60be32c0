//! Opening and counting in one process.

use std::thread;
use std::time::Duration;

use super::*;
use crate::alloc::{SelfCounter, counted};
use crate::error::{Error, Full, Incompatible, Misuse};
use crate::inspect::{self, Value};
use crate::sync::Ordering;

#[test]
fn opening_is_idempotent_and_labels_have_no_order() {
    let m = heap(&spec());
    let (p, q) = (attach(&m), attach(&m));
    let labels = [("path", "/"), ("code", "200")];
    let a = open_counter(&p, &MetricDesc { labels: &labels, help: "First.", ..desc("requests_total") }).unwrap();
    let turned = [labels[1], labels[0]];
    let b = open_counter(&q, &MetricDesc { labels: &turned, help: "Second.", ..desc("requests") }).unwrap();
    a.inc();
    b.add(2);
    assert_eq!((a.total(), b.total()), (3, 3));
    let families = inspect::metrics(&m);
    assert_eq!(families.len(), 1);
    assert_eq!((&*families[0].name, &*families[0].help), ("requests", "First."));
    assert_eq!(families[0].samples.len(), 1);
    assert_eq!(families[0].samples[0].value, Value::Counter(3));
    assert!(families[0].samples[0].created_unix_ms > 0);
}

#[test]
fn another_kind_or_other_buckets_are_refused_and_change_nothing() {
    let m = heap(&spec());
    let p = attach(&m);
    open_counter(&p, &desc("x")).unwrap();
    let labels = [("a", "b")];
    let e = open_gauge(&p, &MetricDesc { labels: &labels, ..desc("x") }).unwrap_err();
    let expected = Incompatible::Kind { name: "x".into(), expected: "gauge", found: "counter" };
    assert!(matches!(&e, Error::Incompatible(e) if *e == expected), "{e}");
    open_histogram(&p, &desc("h"), &[1.0, 2.0, f64::INFINITY]).unwrap();
    let e = open_histogram(&p, &desc("h"), &[1.0, 3.0]).unwrap_err();
    let (expected, found) = ("[1.0, 3.0]".to_owned(), "[1.0, 2.0]".to_owned());
    let expected = Incompatible::Buckets { name: "h".into(), expected, found };
    assert!(matches!(&e, Error::Incompatible(e) if *e == expected), "{e}");
    for bounds in [&[2.0, 1.0][..], &[f64::NAN], &[1.0, 1.0], &[f64::INFINITY, 1.0]] {
        let e = open_histogram(&p, &desc("h"), bounds).unwrap_err();
        assert!(matches!(e, Error::Misuse(Misuse::Argument { what: "buckets", .. })), "{e}");
    }
    assert_eq!(inspect::object_counts(&m), [("counter".into(), 1), ("histogram".into(), 1)].into());
    assert_eq!(counted(&m, SelfCounter::FailedRegistrations), 6);
}

#[test]
fn names_are_checked_before_the_region_is_touched() {
    let m = heap(&spec());
    let p = attach(&m);
    let used = m.used_bytes();
    for name in ["", "0x", "a b", "__x", "x_bucket"] {
        let e = open_counter(&p, &desc(name)).unwrap_err();
        assert_eq!(e.reason(), "INVALID_NAME", "{name}: {e}");
    }
    for labels in [[("le", "1"), ("a", "")], [("a", "1"), ("a", "1")], [("__a", "1"), ("b", "")]] {
        let e = open_histogram(&p, &MetricDesc { labels: &labels, ..desc("h") }, &[]).unwrap_err();
        assert_eq!(e.reason(), "INVALID_NAME", "{labels:?}: {e}");
    }
    assert_eq!(open_gauge(&p, &MetricDesc { unit: "bytes", ..desc("x") }).unwrap_err().reason(), "INVALID_NAME");
    assert_eq!(m.used_bytes(), used);
}

#[test]
fn values_add_up_over_kinds() {
    let m = heap(&spec());
    let p = attach(&m);
    let h = open_histogram(&p, &desc("h"), &DEFAULT_BUCKETS).unwrap();
    for v in [0.005, 0.0051, 11.0, -1.0] {
        h.observe(v);
    }
    h.observe(f64::NAN);
    h.observe_duration(Duration::from_millis(500));
    assert_eq!((h.count(), h.bounds()), (5, &DEFAULT_BUCKETS[..]));
    assert_eq!(h.counts()[..2], [2, 1]);
    assert!((h.sum() - 10.5101).abs() < 1e-9);
    let f = open_float_counter(&p, &desc("f")).unwrap();
    for v in [1.5, -1.0, f64::NAN, f64::INFINITY, 0.25] {
        f.add(v);
    }
    assert_eq!(f.total(), 1.75);
    assert_eq!(counted(&m, SelfCounter::IgnoredUpdates), 4);
    let u = open_updown(&p, &desc("u")).unwrap();
    let share = u.share();
    u.add(-3);
    assert_eq!(u.total(), -2);
    drop(share);
    assert_eq!(u.total(), -3);
    let values: Vec<_> = inspect::metrics(&m).into_iter().map(|f| f.samples[0].value.clone()).collect();
    let mut buckets = h.counts();
    assert_eq!(buckets.len(), 12);
    let sum = h.sum();
    assert_eq!(
        values,
        [
            Value::FloatCounter(1.75),
            Value::Histogram { buckets: std::mem::take(&mut buckets), sum },
            Value::UpDownGauge(-3)
        ]
    );
}

#[test]
fn threads_that_open_the_same_names_at_once_get_one_object_each() {
    let m = heap(&spec());
    let processes = [attach(&m), attach(&m)];
    thread::scope(|s| {
        for t in 0..8 {
            let p = &processes[t % 2];
            s.spawn(move || {
                for i in 0..60 {
                    let name = format!("metric_{i}");
                    open_counter(p, &desc(&name)).unwrap().inc();
                }
            });
        }
    });
    let families = inspect::metrics(&m);
    assert_eq!(families.len(), 60);
    assert!(families.iter().all(|f| f.samples.len() == 1 && f.samples[0].value == Value::Counter(8)));
}

#[test]
fn the_index_grows_by_levels_to_100_000_series() {
    let m = heap(&RegionSpec { series_max: 100_000, ..RegionSpec::new("r", 256 << 20) });
    let p = attach(&m);
    for i in 0..100_000 {
        let value = i.to_string();
        open_counter(&p, &MetricDesc { labels: &[("i", &value)], ..desc("many") }).unwrap().add(i);
    }
    let e = open_counter(&p, &desc("one_more")).unwrap_err();
    assert!(matches!(e, Error::Full(Full::Table { table: "series", limit: 100_000 })), "{e}");
    let again = open_counter(&p, &MetricDesc { labels: &[("i", "99999")], ..desc("many") }).unwrap();
    assert_eq!(again.total(), 99_999);
    let families = inspect::metrics(&m);
    let values: u64 = families[0].samples.iter().map(|s| if let Value::Counter(n) = s.value { n } else { 0 }).sum();
    assert_eq!((families.len(), families[0].samples.len(), values), (1, 100_000, 100_000 * 99_999 / 2));
    assert!(inspect::faults(&m).is_empty());
}

#[test]
fn a_catalog_finds_what_came_after_its_first_look() {
    let m = heap(&spec());
    let p = attach(&m);
    let mut catalog = inspect::Catalog::default();
    assert!(catalog.read(&m).is_empty());
    for i in (0..50).rev() {
        let value = format!("{i:02}");
        let d = MetricDesc { labels: &[("i", &value)], ..desc("f") };
        open_float_counter(&p, &d).unwrap().add(f64::from(i));
        let families = catalog.read(&m);
        assert_eq!(families[0].samples.len(), 50 - i as usize);
        assert_eq!(families[0].samples[0].value, Value::FloatCounter(f64::from(i)));
    }
}

#[test]
fn a_full_region_refuses_new_series_and_counts_on_in_old_ones() {
    let m = heap(&RegionSpec::new("r", RegionSpec::LIMIT_BYTES_MIN));
    let p = attach(&m);
    let first = open_counter(&p, &desc("first")).unwrap();
    let mut opened = 1;
    let error = loop {
        let value = opened.to_string();
        let d = MetricDesc { labels: &[("i", &value)], ..desc("many") };
        match open_histogram(&p, &d, &DEFAULT_BUCKETS) {
            Ok(h) => h.observe(1.0),
            Err(e) => break e,
        }
        opened += 1;
    };
    let Error::Full(Full::Region { needed_bytes, limit_bytes, .. }) = error else { panic!("{error}") };
    assert!(needed_bytes > 0 && limit_bytes == RegionSpec::LIMIT_BYTES_MIN);
    assert!(opened > 100);
    assert!(m.used_bytes() <= RegionSpec::LIMIT_BYTES_MIN);
    let before = inspect::object_counts(&m);
    // Threads without room for a lane of their own count in the overflow lane.
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..1000).for_each(|_| first.inc()));
        }
    });
    assert_eq!(first.total(), 4000);
    assert!(open_counter(&p, &desc("other")).is_err() || inspect::object_counts(&m) != before);
    assert!(open_counter(&p, &desc("first")).is_ok());
}

#[test]
fn an_observer_reads_and_makes_nothing() {
    let m = heap(&spec());
    let (p, observer) = (attach(&m), Process::observer(Arc::clone(&m)).unwrap());
    open_counter(&p, &desc("x")).unwrap().inc();
    let seen = open_counter(&observer, &desc("x")).unwrap();
    seen.inc();
    assert_eq!((seen.total(), counted(&m, SelfCounter::IgnoredUpdates)), (1, 1));
    assert!(matches!(open_counter(&observer, &desc("y")).unwrap_err(), Error::Misuse(Misuse::Argument { .. })));
    assert_eq!(inspect::metrics(&m).len(), 1);
}

#[test]
fn a_total_below_what_a_seal_vouched_for_is_found() {
    let m = heap(&spec());
    let (mut keeper, _) = Keeper::open(Arc::clone(&m)).unwrap();
    let p = attach(&m);
    let counter = open_counter(&p, &desc("c")).unwrap();
    let histogram = open_histogram(&p, &desc("h"), &[1.0]).unwrap();
    let float = open_float_counter(&p, &desc("f")).unwrap();
    let updown = open_updown(&p, &desc("u")).unwrap();
    counter.add(10);
    histogram.observe(5.0);
    float.add(2.5);
    updown.add(3);
    keeper.record_totals().unwrap();
    // These may fall.
    updown.add(-5);
    histogram.observe(-50.0);
    assert!(keeper.verify(&mut |_, _| {}).is_empty());
    // The counter's lane word, the first one that says 10, goes back.
    let words = (0..lane::rows(&m)).flat_map(|row| m.words(lane::strip(&m, row), 1024).into_iter().flatten());
    let counted = words.into_iter().find(|word| word.load(Ordering::Relaxed) == 10).expect("the counter's");
    counted.store(9, Ordering::Relaxed);
    float.add(1.0);
    let faults = keeper.verify(&mut |_, _| {});
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].expected.starts_with("a total of at least 10"), "{faults:?}");
    assert_eq!(faults[0].found, "9");
}

/// A counter never goes back, so none is taken for damaged at its end.
#[test]
fn counters_stay_at_their_highest_number() {
    let (m, mut keeper) = crate::digest::tests::region(1);
    let (a, b) = (crate::digest::tests::attach(&mut keeper, "v1"), crate::digest::tests::attach(&mut keeper, "v2"));
    let [one, other] = [&a, &b].map(|p| open_counter(p, &desc("bytes_total")).unwrap());
    let [float, far] = [&a, &b].map(|p| open_float_counter(p, &desc("seconds_total")).unwrap());
    one.add(u64::MAX - 1);
    other.add_in_signal_handler(1);
    float.add(f64::MAX);
    keeper.record_totals().unwrap();
    for _ in 0..3 {
        one.add(7);
        other.add(u64::MAX / 2);
        other.add_in_signal_handler(u64::MAX);
        float.add(f64::MAX);
        far.add(f64::MAX);
        assert_eq!((one.total(), float.total()), (u64::MAX, f64::INFINITY));
        assert_eq!(keeper.verify(&mut |_, _| {}), []);
        keeper.record_totals().unwrap();
    }
    drop(m);
}
