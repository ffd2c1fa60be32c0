//! An owner under load: random updates of 16 bytes all over the owned area, so many a second, whenever this process owns.

use std::time::{Duration, Instant};

use heirloom_region::error::{Generation, WriteError};
use heirloom_region::objects::{Cell, CellSpec, Counter, MetricDesc, Part, open_cell, open_counter};
use heirloom_region::process::Process;
use std::sync::Arc;

use crate::actor::Stage;
use crate::ground::Ground;

/// Counts the updates, in the region itself.
pub(crate) const UPDATES: MetricDesc<'static> =
    MetricDesc { name: "bench_updates_total", help: "", unit: "", labels: &[] };
/// Between two small cells, so that they lie all over the region: with its header and its name nearly two pages.
const FILLER_BYTES: u64 = 4096;
/// Updates that are let go rather than made up for after a wait.
const BACKLOG_MAX: u64 = 1000;

fn small(process: &Arc<Process>, number: u64) -> Cell {
    let name = format!("small-{number}");
    open_cell(process, &CellSpec { name: &name, labels: &[], bytes_max: 64 }).expect("a small cell")
}

/// Fills the owned area until the region uses `bytes`; gives the number of small cells in it.
pub(crate) fn fill(ground: &mut Ground, bytes: u64) -> u64 {
    let (process, generation) = ground.own();
    let filler = [Part { schema: 1, codec: 1, bytes: vec![0x5a; FILLER_BYTES as usize - 64] }];
    let mut made = 0;
    while ground.mapping().used_bytes() < bytes {
        let name = format!("filler-{made}");
        let cell =
            open_cell(&process, &CellSpec { name: &name, labels: &[], bytes_max: FILLER_BYTES }).expect("a cell");
        cell.write(generation, &filler, None).expect("filled");
        // Four times, so that each of its buffers has its place.
        let small = small(&process, made);
        (0..4).for_each(|i| update(&small, generation, [made, i]).expect("filled"));
        made += 1;
    }
    made
}

fn update(cell: &Cell, generation: Generation, value: [u64; 2]) -> Result<(), WriteError> {
    let bytes = value.iter().flat_map(|word| word.to_le_bytes()).collect();
    cell.write(generation, &[Part { schema: 1, codec: 1, bytes }], None).map(|_| ())
}

/// Plays the owner: `[small cells, updates a second]`. Says one number when it is ready.
pub(crate) fn play(stage: &Stage) {
    let [cells, per_second] = stage.more[..] else { panic!("expected two numbers, found {:?}", stage.more) };
    let cells: Vec<Cell> = (0..cells).map(|i| small(&stage.process, i)).collect();
    let updates = open_counter(&stage.process, &UPDATES).expect("a counter");
    println!("{}", cells.len());
    loop {
        match stage.process.learn() {
            Ok(generation) => storm(&cells, &updates, generation, per_second),
            Err(_) => _ = stage.process.watch(stage.process.gate(), Duration::from_millis(50)),
        }
    }
}

/// Until the term ends.
fn storm(cells: &[Cell], updates: &Counter, generation: Generation, per_second: u64) {
    let mut random = generation.get() | 1;
    let (began, mut done) = (Instant::now(), 0u64);
    loop {
        let due = (began.elapsed().as_nanos() as u64).saturating_mul(per_second) / 1_000_000_000;
        done = done.max(due.saturating_sub(BACKLOG_MAX));
        if done == due {
            std::hint::spin_loop();
        }
        while done < due {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match update(&cells[random as usize % cells.len()], generation, [random, done]) {
                Ok(()) => updates.inc(),
                Err(WriteError::Fenced(_)) => return,
                Err(e) => panic!("an update: {e}"),
            }
            done += 1;
        }
    }
}
