//! The four buffers of a cell: no reader takes a torn value.

use std::sync::Arc;

use super::{Scene, bounds, spawn};
use crate::error::Error;
use crate::objects::{Cell, CellSpec, Part, open_cell};
use crate::process::Process;
use crate::sync::modelled::{Memory, explore};

fn open(process: &Arc<Process>) -> Cell {
    open_cell(process, &CellSpec { name: "basket", labels: &[], bytes_max: 64 }).unwrap()
}

fn write(cell: &Cell, scene: &Scene, n: u8) {
    let part = Part { schema: n.into(), codec: 0, bytes: vec![n; 8] };
    cell.write(scene.generation, &[part], None).unwrap().unwrap();
}

#[test]
fn loom_cell() {
    const BEFORE: u8 = 4;
    const WRITES: u8 = 5;
    let (scene, _keeper) = Scene::new(false);
    let (cell, reader) = (open(&scene.owner), open(&Process::observer(Arc::clone(&scene.mapping)).unwrap()));
    // All four buffers have their places.
    (1..=BEFORE).for_each(|n| write(&cell, &scene, n));
    reader.read().unwrap().unwrap();
    explore("cell", bounds(Memory::C11, 1), move || {
        let cell = cell.clone();
        let writer = spawn(&scene, move |scene| {
            (BEFORE + 1..=BEFORE + WRITES).for_each(|n| write(&cell, &scene, n));
        });
        match reader.read() {
            Ok(value) => {
                let part = value.expect("it was born").parts.remove(0);
                assert!((u32::from(BEFORE)..=u32::from(BEFORE + WRITES)).contains(&part.schema));
                assert_eq!(part.bytes, [part.schema as u8; 8]);
            }
            Err(Error::NotReady(_)) => {}
            Err(e) => panic!("a torn value: {e}"),
        }
        writer.join().unwrap();
    });
}
