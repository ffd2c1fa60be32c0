//! Finding series among a million: how long one takes by exact matchers and by others, and what an index takes in memory.
//!
//! The million is what 1,000 targets with 1,000 metrics each make, with eight labels and two samples. The region lies in a file,
//! so anonymous memory is the index's own.

use std::ops::RangeInclusive;
use std::time::Instant;

use heirloom_client::embedded::Embedded;
use heirloom_client::series::{Labels, Matcher, Reader, Sample, Store};
use heirloom_client::{Hooks, Term, wait};
use heirloom_region::mapping::{Mapping, RegionSpec};

use crate::ground::tmpfs;
use crate::measure::{Effort, in_turns, repeated};
use crate::memory::anonymous_bytes;
use crate::table::{Row, Table, mebibytes, time};

const TARGETS: usize = 1000;
const METRICS: usize = 1000;
const ALL: RangeInclusive<i64> = i64::MIN..=i64::MAX;
/// The slowest that one series among all may be found.
const SELECT_NS_MAX: f64 = 50_000.0;

pub(crate) fn select(table: &mut Table, effort: Effort) {
    let dir = tmpfs();
    let count = TARGETS * METRICS;
    let spec = RegionSpec { series_max: count as u32 + 1024, ..RegionSpec::new("bench", 4 << 30) };
    drop(Mapping::create_file(dir.path(), &spec).expect("a region"));
    let arbiter = Embedded::open("bench", dir.path()).expect("an arbiter");
    let attached = arbiter.attach("here").wait().expect("attached");
    let series = attached.region().series().expect("series");
    let mut serving = wait(attached.ready(Hooks::new())).expect("ready");
    let term = wait(serving.next_term()).expect("the owner");
    let start = Instant::now();
    (0..TARGETS).for_each(|target| fill(&series, &term, target));
    println!("  {count} series with 8 labels and 2 samples made in {:.1?}", start.elapsed());

    let reader = arbiter.observe().expect("an observer").series().expect("series");
    let (before, start) = (anonymous_bytes(std::process::id()), Instant::now());
    wait(reader.warm()).expect("an index");
    let (took, bytes) = (start.elapsed(), anonymous_bytes(std::process::id()).saturating_sub(before));
    table.add(Row {
        what: "index of 1 M series with 8 labels: memory".into(),
        ours: format!("{} B a series", bytes / count as u64),
        against: format!("{} in all, made in {:.1} s", mebibytes(bytes), took.as_secs_f64()),
        asked: "report".into(),
        ..Row::default()
    });
    rows(table, effort, &reader);
}

/// One target's metrics, twice scraped.
fn fill(series: &Store, term: &Term, target: usize) {
    let word = |what: &str, n: usize| format!("{what}-{n}");
    let texts = [
        word("job", target % 10),
        format!("10.1.{}.{}:9100", target / 250, target % 250),
        word("namespace", target % 20),
        word("pod", target),
        word("container", target % 50),
        word("node", target % 100),
    ];
    let mut batch = series.appender(term);
    for metric in 0..METRICS {
        let (name, path) = (word("metric", metric).replace('-', "_"), word("path", metric % 10));
        let names = ["__name__", "job", "instance", "namespace", "pod", "container", "node", "path"];
        let values = [&name, &texts[0], &texts[1], &texts[2], &texts[3], &texts[4], &texts[5], &path];
        let labels = Labels::new(names.into_iter().zip(values.map(String::as_str))).expect("labels");
        let one = series.open(term, &labels).expect("a series");
        for timestamp_ms in [1000, 16_000] {
            batch.push(one, Sample { timestamp_ms, value: metric as f64 });
        }
    }
    assert_eq!(batch.commit().expect("in").appended, 2 * METRICS as u64);
}

fn rows(table: &mut Table, effort: Effort, reader: &Reader) {
    let name = Matcher::equal("__name__", "metric_777");
    let instance = Matcher::equal("instance", "10.1.2.77:9100");
    let cases: [(&str, Vec<Matcher>, usize); 5] = [
        ("name and instance", vec![name.clone(), instance.clone()], 1),
        (
            "five labels",
            vec![
                name.clone(),
                instance.clone(),
                Matcher::equal("job", "job-7"),
                Matcher::equal("pod", "pod-577"),
                Matcher::equal("path", "path-7"),
            ],
            1,
        ),
        (
            "instance, and name by a regular expression",
            vec![Matcher::regex("__name__", "metric_77[78]|up"), instance],
            2,
        ),
        ("name, and not one job", vec![name.clone(), Matcher::not_equal("job", "job-7")], 900),
        ("name, and any of ten jobs", vec![name, Matcher::regex("job", "job-.")], 1000),
    ];
    for (words, matchers, expected) in &cases {
        let found = || -> usize {
            let found = reader.select(matchers, ALL).expect("matchers");
            found.map(|series| series.expect("whole").samples().count() / 2).sum()
        };
        assert_eq!(found(), *expected, "{words}");
        let ns = in_turns(Effort { rounds: effort.rounds / 4, ..effort }, vec![repeated(found)]).ns[0];
        table.add(Row {
            what: format!("select {expected} among 1 M series, with samples: {words}"),
            ours: time(ns),
            asked: if *expected == 1 { format!("<= {}", time(SELECT_NS_MAX)) } else { "report".into() },
            met: (*expected == 1).then_some(ns <= SELECT_NS_MAX),
            ..Row::default()
        });
    }
}
