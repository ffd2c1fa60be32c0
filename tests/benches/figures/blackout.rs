//! The blackout: how long a writer waits at a switch.
//!
//! The owner and the standby are processes of their own that make random 16-byte updates whenever they own; this process is
//! the arbiter and hands over to and fro. A row gives the longest wait that a writer measured for itself, as it stands in the
//! instance table and in the record of a handover, and how long the gate was closed, as the arbiter measured.

use std::time::{Duration, Instant};

use heirloom_region::objects::open_counter;

use crate::actor::Actor;
use crate::ground::Ground;
use crate::measure::{Effort, median, quantile};
use crate::storm;
use crate::table::{Row, Table, time};

const SIZES_MIB: [u64; 3] = [64, 256, 1024];
const RATES: [u64; 2] = [100_000, 1_000_000];
/// Longest that p50 may be.
const P50_MAX: Duration = Duration::from_micros(100);
/// The largest region's p50 over the smallest's.
const RATIO_MAX: f64 = 1.5;
/// The part of the updates asked for that the owner must have made.
const LOAD_MIN: f64 = 0.95;
/// Between two handovers, so that updates come in between.
const PAUSE: Duration = Duration::from_millis(30);

/// A region, and who writes it.
pub(crate) struct Load {
    ground: Ground,
    part: &'static str,
    size: u64,
}

impl Load {
    /// `part` is played with `size` and the rate; it says `size` when it is ready, and counts [`storm::UPDATES`].
    pub(crate) fn new(ground: Ground, part: &'static str, size: u64) -> Self {
        Self { ground, part, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) waits: Vec<f64>,
    closed: Vec<f64>,
    pages: Vec<f64>,
    rounds: Vec<f64>,
    pub(crate) updates_per_second: f64,
}

impl Figures {
    /// What a row has no room for.
    pub(crate) fn words(&self) -> String {
        format!(
            "{:.0} updates/s made; {} of {} switches met a writer; rounds p50 {}, frozen pages p50 {} p99 {}",
            self.updates_per_second,
            self.waits.len(),
            self.closed.len(),
            median(self.rounds.clone()),
            median(self.pages.clone()),
            quantile(self.pages.clone(), 0.99),
        )
    }

    pub(crate) fn gate_closed(&self) -> String {
        let [p50, p99] = [0.5, 0.99].map(|part| time(quantile(self.closed.clone(), part)));
        format!("gate closed p50 {p50}, p99 {p99}")
    }
}

pub(crate) fn blackout(table: &mut Table, effort: Effort) {
    let mut loads = Vec::new();
    for mib in SIZES_MIB {
        let mut ground = Ground::new((mib << 20) * 3 / 2);
        let cells = storm::fill(&mut ground, mib << 20);
        loads.push(Load::new(ground, "storm", cells));
    }
    for per_second in RATES {
        // All regions stand side by side and are measured in turns, so that a busy moment of the machine hits all.
        let figures: Vec<Figures> = in_turns(&mut loads, per_second, effort);
        for ((mib, load), f) in SIZES_MIB.iter().zip(&loads).zip(&figures) {
            table.add(row(*mib, load.size, per_second, f));
        }
        let p50: Vec<f64> = figures.iter().map(|f| median(f.waits.clone())).collect();
        let ratio = p50.iter().fold(0.0f64, |a, b| a.max(*b)) / p50.iter().fold(f64::INFINITY, |a, b| a.min(*b));
        // A slower owner leaves less for the freeze: sizes are compared only where each had its load.
        let is_loaded = figures.iter().all(|f| f.updates_per_second >= LOAD_MIN * per_second as f64);
        let made: Vec<String> = figures.iter().map(|f| format!("{:.0}", f.updates_per_second / 1e3)).collect();
        table.add(Row {
            what: format!("blackout by region size, {per_second}/s (made {} thousand)", made.join(", ")),
            ours: p50.iter().map(|ns| time(*ns)).collect::<Vec<_>>().join(", "),
            against: "largest p50 to smallest".into(),
            ratio: format!("{ratio:.2}"),
            asked: format!("<= {RATIO_MAX}, at this load"),
            met: Some(ratio <= RATIO_MAX && is_loaded),
        });
    }
}

fn row(mib: u64, cells: u64, per_second: u64, f: &Figures) -> Row {
    let p50 = median(f.waits.clone());
    println!("  {mib} MiB, {cells} cells, {per_second}/s: {}", f.words());
    Row {
        what: format!("blackout, {mib} MiB, {per_second} updates/s, region crate"),
        ours: format!("p50 {}, p99 {}", time(p50), time(quantile(f.waits.clone(), 0.99))),
        against: f.gate_closed(),
        ratio: String::new(),
        asked: format!("p50 <= {} µs", P50_MAX.as_micros()),
        met: Some(p50 <= P50_MAX.as_nanos() as f64),
    }
}

/// The figures of each load, all of them measured bit by bit.
pub(crate) fn in_turns(loads: &mut [Load], per_second: u64, effort: Effort) -> Vec<Figures> {
    let mut all: Vec<Figures> = loads.iter().map(|_| Figures::default()).collect();
    let turns = 4;
    for _ in 0..turns {
        for (load, figures) in loads.iter_mut().zip(&mut all) {
            measure(load, per_second, effort.handovers.div_ceil(turns), figures);
        }
    }
    for figures in &mut all {
        figures.updates_per_second /= turns as f64;
    }
    all
}

fn measure(load: &mut Load, per_second: u64, handovers: usize, figures: &mut Figures) {
    let (ground, size) = (&mut load.ground, load.size);
    let mut actors = [(); 2].map(|()| Actor::start(ground, load.part, &[size, per_second]));
    actors.iter_mut().for_each(|actor| assert_eq!(actor.hear(), size));
    let observer = heirloom_region::process::Process::observer(ground.mapping().clone()).expect("an observer");
    let updates = open_counter(&observer, &storm::UPDATES).expect("a counter");
    // The first ones find their pages; they do not count.
    for i in 0..4 {
        ground.hand_over(actors[i % 2].incarnation);
        std::thread::sleep(PAUSE);
    }
    let (began, before) = (Instant::now(), updates.total());
    for i in 0..handovers {
        std::thread::sleep(PAUSE);
        let switched = ground.hand_over(actors[i % 2].incarnation);
        figures.waits.extend(switched.waited.map(|wait| wait.as_nanos() as f64));
        figures.closed.push(switched.committed.closed.as_nanos() as f64);
        figures.pages.push(switched.committed.frozen_pages as f64);
        figures.rounds.push(f64::from(switched.rounds));
    }
    figures.updates_per_second += (updates.total() - before) as f64 / began.elapsed().as_secs_f64();
    // What the dead held goes to the next ones.
    drop(actors);
    let rows: Vec<u32> = heirloom_region::instances::rows(ground.mapping()).flatten().map(|row| row.seat.row).collect();
    for row in rows {
        if ground.keeper.instance_dead(row) {
            ground.keeper.reclaim(row).expect("reclaimed");
        }
    }
}
