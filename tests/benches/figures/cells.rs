//! Loading and storing 64 bytes: a cell of the region, a mutex of one process, and mmap-sync.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Duration;

use heirloom_region::objects::{CellSpec, Part, open_cell};
use mmap_sync::synchronizer::Synchronizer;

use crate::ground::{Ground, tmpfs};
use crate::measure::{Effort, Medians, in_turns, repeated};
use crate::mmap;
use crate::table::{Row, Table, time};

/// How long a write to mmap-sync may wait for readers.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) fn cell(table: &mut Table, effort: Effort) {
    let mut ground = Ground::new(64 << 20);
    let (process, generation) = ground.own();
    let cell = open_cell(&process, &CellSpec { name: "bench", labels: &[], bytes_max: 128 }).expect("a cell");
    let parts = [Part { schema: 1, codec: 1, bytes: vec![7; 64] }];
    cell.write(generation, &parts, None).expect("written");
    let mutex = Mutex::new([7u64; 8]);
    let dir = tmpfs();
    let mut sync = Synchronizer::new(dir.path().join("sync").as_os_str());
    sync.write(&[7u64; 8], GRACE).expect("written");
    let value = [7u64; 8];

    let loads = in_turns(
        effort,
        vec![
            repeated(|| cell.read().expect("read")),
            repeated(|| *black_box(&mutex).lock().expect("whole")),
            repeated(|| mmap::read(&mut sync)),
        ],
    );
    add(table, "cell load, 64 bytes (bytes of a region's cell)", &loads);
    let stores = in_turns(
        effort,
        vec![
            repeated(|| cell.write(generation, black_box(&parts), None).is_ok()),
            repeated(|| *black_box(&mutex).lock().expect("whole") = black_box(value)),
            repeated(|| sync.write(black_box(&value), GRACE).is_ok()),
        ],
    );
    add(table, "cell store, 64 bytes (bytes of a region's cell)", &stores);
}

fn add(table: &mut Table, what: &str, medians: &Medians) {
    for (i, against) in [(1, "Mutex<[u64; 8]>, one process"), (2, "mmap-sync")] {
        table.add(Row {
            what: what.into(),
            ours: time(medians.ns[0]),
            against: format!("{against} {}", time(medians.ns[i])),
            ratio: format!("{:.2}", medians.ratio[i]),
            asked: "report".into(),
            met: None,
        });
    }
}
