//! A chunk's commit word: what it counts is there.

use std::sync::Arc;

use super::{Scene, bounds, spawn};
use crate::process::Process;
use crate::series::xor::Decoder;
use crate::series::{Sample, SeriesStore};
use crate::sync::modelled::{Memory, explore};

fn sample(n: i64) -> Sample {
    Sample { timestamp_ms: n * 1000, value: n as f64 * 1.1 }
}

#[test]
fn loom_chunk_commit_word() {
    const BEFORE: i64 = 2;
    const APPENDS: i64 = 2;
    let (scene, _keeper) = Scene::new(false);
    let store = SeriesStore::open(&scene.owner).unwrap();
    let id = store.open_series(scene.generation, &[("__name__", "up")]).unwrap();
    (1..=BEFORE).for_each(|n| _ = store.append(scene.generation, id, sample(n)).unwrap());
    let reader = SeriesStore::open(&Process::observer(Arc::clone(&scene.mapping)).unwrap()).unwrap();
    reader.chunks(id, i64::MIN..=i64::MAX).unwrap();
    explore("chunk commit word", bounds(Memory::C11, 2), move || {
        store.forget(id);
        let store = store.clone();
        let writer = spawn(&scene, move |scene| {
            (BEFORE + 1..=BEFORE + APPENDS).for_each(|n| _ = store.append(scene.generation, id, sample(n)).unwrap());
        });
        let read = || {
            let chunks = reader.chunks(id, i64::MIN..=i64::MAX).unwrap().chunks;
            let found: Vec<Sample> = chunks.iter().flat_map(|c| Decoder::new(&c.bytes)).map(Result::unwrap).collect();
            let expected: Vec<Sample> = (1..=found.len() as i64).map(sample).collect();
            assert_eq!(found, expected);
            found.len() as i64
        };
        assert!((BEFORE..=BEFORE + APPENDS).contains(&read()));
        writer.join().unwrap();
        assert_eq!(read(), BEFORE + APPENDS);
    });
}
