//! What the store promises, tried hard.

use std::sync::Arc;

use super::xor::{Decoder, Encoder};
use super::*;
use crate::digest::Keeper;
use crate::error::{Generation, WriteError};
use crate::inspect;
use crate::instances::{self, NewInstance};
use crate::layout::RegionSpec;
use crate::mapping::Mapping;
use crate::process::Process;

mod appending;
mod damage;
mod processes;
mod readers;
mod retention;
mod tail;

fn spec() -> RegionSpec {
    RegionSpec::new("r", 64 << 20)
}

fn attach(mapping: &Arc<Mapping>) -> Arc<Process> {
    let new = NewInstance { version: "v1".into(), pid: 1, uid: 1, start_ticks: 1, resume_token: [0; 16] };
    let (seat, liveness) = instances::seat(mapping, &new).unwrap();
    Process::attach(Arc::clone(mapping), seat, liveness).unwrap()
}

/// A region, whoever keeps it, and one who owns it.
struct Ground {
    mapping: Arc<Mapping>,
    keeper: Keeper,
}

impl Ground {
    fn new() -> Self {
        Self::of(&spec())
    }

    fn of(spec: &RegionSpec) -> Self {
        let mapping = Mapping::heap(spec).unwrap();
        let keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
        Self { mapping, keeper }
    }

    /// Another process' store, which does not own.
    fn store(&self) -> SeriesStore {
        SeriesStore::open(&attach(&self.mapping)).unwrap()
    }

    /// Gives the region to a store's process. The commit compares the root with a full recomputation, so no page was left
    /// unmarked.
    fn own(&mut self, store: &SeriesStore) -> Generation {
        crate::digest::tests::switch_to(&mut self.keeper, store.process().incarnation());
        store.process().learn().unwrap()
    }

    fn owned(&mut self) -> (SeriesStore, Generation) {
        let store = self.store();
        let generation = self.own(&store);
        (store, generation)
    }
}

fn at(timestamp_ms: i64, value: f64) -> Sample {
    Sample { timestamp_ms, value }
}

/// Deterministic noise.
fn noise(n: u64) -> u64 {
    crate::directory::entry::mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1)
}

/// The `n`th sample of series `id`: a counter, a constant, noise, specials, with jitter.
fn nth(id: u32, n: u64) -> Sample {
    let t = 1_790_000_000_000 + n as i64 * 15_000 + (noise(n) % 7) as i64 * i64::from(id % 3);
    let value = match id % 4 {
        0 => (n * 13 + noise(n) % 5) as f64,
        1 => 1.5,
        2 => f64::from_bits(noise(n ^ u64::from(id))),
        _ => [f64::NAN, f64::INFINITY, f64::from_bits(0x7ff0_0000_0000_0002), -0.0, 7.0][noise(n) as usize % 5],
    };
    at(t, value)
}

fn all(store: &SeriesStore, id: SeriesId) -> Vec<Sample> {
    samples(&store.chunks(id, i64::MIN..=i64::MAX).unwrap())
}

fn samples(chunks: &Chunks) -> Vec<Sample> {
    chunks.chunks.iter().flat_map(|chunk| Decoder::new(&chunk.bytes).map(Result::unwrap)).collect()
}

fn open(store: &SeriesStore, generation: Generation, n: u32) -> SeriesId {
    let n = n.to_string();
    store.open_series(generation, &[("__name__", "requests"), ("instance", "a:9090"), ("n", &n)]).unwrap()
}
