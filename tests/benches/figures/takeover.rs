//! Attaching to a region and taking it over, by the region's size.
//!
//! Attach: a new process maps the region, takes its seat and opens a counter. Take over: from the arbiter's decision on an
//! idle region to the first owned write of the new owner, which waits for the gate in another process.

use std::time::{Duration, Instant};

use heirloom_region::objects::{CellSpec, MetricDesc, Part, open_cell, open_counter};
use heirloom_region::os::clock::monotonic_ns;

use crate::actor::{Actor, Stage};
use crate::ground::Ground;
use crate::measure::{Effort, median};
use crate::storm;
use crate::table::{Row, Table, time};

const SIZES_MIB: [u64; 3] = [64, 256, 1024];
const FLAT: f64 = 1.5;

pub(crate) fn takeover(table: &mut Table, effort: Effort) {
    let mut grounds: Vec<Ground> = SIZES_MIB
        .iter()
        .map(|mib| {
            let mut ground = Ground::new((mib << 20) * 3 / 2);
            storm::fill(&mut ground, mib << 20);
            ground
        })
        .collect();
    let mut found: Vec<(Vec<f64>, Vec<f64>)> = grounds.iter().map(|_| Default::default()).collect();
    for _ in 0..effort.repeats {
        for (ground, (attach, own)) in grounds.iter_mut().zip(&mut found) {
            let (attached, owned) = once(ground);
            attach.push(attached);
            own.push(owned);
        }
    }
    let (attach, own): (Vec<f64>, Vec<f64>) = found.into_iter().map(|(a, b)| (median(a), median(b))).unzip();
    table.add(row("attach by region size: map, seat, open a counter", &attach));
    table.add(row("takeover by region size: decision to first owned write", &own));
}

fn row(what: &str, ns: &[f64]) -> Row {
    let (least, most) = ns.iter().fold((f64::INFINITY, 0.0f64), |(a, b), ns| (a.min(*ns), b.max(*ns)));
    let all: Vec<String> = SIZES_MIB.iter().zip(ns).map(|(mib, ns)| format!("{mib} MiB {}", time(*ns))).collect();
    Row {
        what: what.into(),
        ours: all.join(", "),
        against: "largest to smallest".into(),
        ratio: format!("{:.2}", most / least),
        asked: format!("flat (<= {FLAT})"),
        met: Some(most / least <= FLAT),
    }
}

/// Nanoseconds to attach, and to take over.
fn once(ground: &mut Ground) -> (f64, f64) {
    let mut newcomer = Actor::start(ground, "newcomer", &[]);
    let attached = newcomer.hear();
    let decided = monotonic_ns();
    ground.hand_over(newcomer.incarnation);
    let owned = newcomer.hear().saturating_sub(decided);
    drop(newcomer);
    let rows: Vec<u32> = heirloom_region::instances::rows(ground.mapping()).flatten().map(|row| row.seat.row).collect();
    for row in rows.into_iter().filter(|row| *row > 0) {
        if ground.keeper.instance_dead(row) {
            ground.keeper.reclaim(row).expect("reclaimed");
        }
    }
    (attached as f64, owned as f64)
}

/// Says how long it took to attach, then when it had written.
pub(crate) fn play(enter: impl FnOnce() -> Stage) {
    let start = Instant::now();
    let process = enter().process;
    open_counter(&process, &MetricDesc { name: "bench_newcomer_total", ..MetricDesc::default() })
        .expect("a counter")
        .inc();
    println!("{}", start.elapsed().as_nanos());
    let cell = open_cell(&process, &CellSpec { name: "newcomer", labels: &[], bytes_max: 64 }).expect("a cell");
    let generation = loop {
        match process.learn() {
            Ok(generation) => break generation,
            Err(_) => _ = process.watch(process.gate(), Duration::from_millis(50)),
        }
    };
    cell.write(generation, &[Part { schema: 1, codec: 1, bytes: vec![1; 16] }], None).expect("written");
    println!("{}", monotonic_ns());
    // Until this is killed.
    loop {
        std::thread::park();
    }
}
