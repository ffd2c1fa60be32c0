//! Resident memory of 10,000 counters, each counted by two instances of 8 threads.
//!
//! Shared memory is what the region's file occupies, whatever it is for; private memory is what opening and counting added to
//! each process (handles, thread-locals; not the threads' stacks).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;

use heirloom_region::mapping::RegionSpec;
use heirloom_region::objects::{Counter, MetricDesc, open_counter};

use crate::actor::{Actor, Stage};
use crate::ground::Ground;
use crate::measure::Effort;
use crate::table::{Row, Table, mebibytes};

const COUNTERS: u64 = 10_000;
const THREADS: u64 = 8;
const LIMIT_BYTES: u64 = 8 << 20;

/// Anonymous memory of a process.
pub(crate) fn anonymous_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("read /proc");
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

pub(crate) fn memory(table: &mut Table, _: Effort) {
    let mut ground = Ground::of(&RegionSpec::new("bench", 64 << 20));
    let file_bytes = |ground: &Ground| fs::metadata(ground.path()).expect("the region's file").blocks() * 512;
    let empty = file_bytes(&ground);
    let mut actors = [(); 2].map(|()| Actor::start(&mut ground, "sweep", &[]));
    // Each says what it had before; when both are ready, all have counted.
    let before: u64 = actors.iter_mut().map(Actor::hear).sum();
    actors.iter_mut().for_each(|actor| assert_eq!(actor.hear(), COUNTERS));
    let after: u64 = actors.iter().map(|actor| anonymous_bytes(actor.pid())).sum();
    let (shared, private) = (file_bytes(&ground), after.saturating_sub(before));
    table.add(Row {
        what: "resident memory, 10 k counters, 2 instances of 8 threads".into(),
        ours: mebibytes(shared + private),
        against: format!("region {} ({} empty), handles {}", mebibytes(shared), mebibytes(empty), mebibytes(private)),
        ratio: String::new(),
        asked: format!("<= {}", mebibytes(LIMIT_BYTES)),
        met: Some(shared + private <= LIMIT_BYTES),
    });
}

/// Opens all counters and counts each on every thread; all threads hold their lanes at once, until this is killed.
pub(crate) fn play(stage: &Stage) {
    let (started, counted) = (Barrier::new(THREADS as usize + 1), Barrier::new(THREADS as usize + 1));
    let counters = std::sync::OnceLock::<Vec<Counter>>::new();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                // Once before and once after the counters are there.
                started.wait();
                started.wait();
                counters.get().into_iter().flatten().for_each(Counter::inc);
                counted.wait();
                loop {
                    std::thread::park();
                }
            });
        }
        started.wait();
        println!("{}", anonymous_bytes(std::process::id()));
        let open = |i: u64| {
            let number = i.to_string();
            let labels = [("number", number.as_str())];
            let description = MetricDesc { name: "bench_sweep_total", labels: &labels, ..MetricDesc::default() };
            open_counter(&stage.process, &description).expect("a counter")
        };
        counters.get_or_init(|| (0..COUNTERS).map(open).collect());
        started.wait();
        counted.wait();
        println!("{COUNTERS}");
    });
}
