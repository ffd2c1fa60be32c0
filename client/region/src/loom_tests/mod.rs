//! The memory orders of the region's primitives, model-checked by loom over the code that runs.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p heirloom-region --release --target-dir target/loom --lib loom_ -- --nocapture
//! ```
//!
//! Each scene is set up outside of the model, in a region on the heap: [`crate::sync::modelled`] says why the model's stores do
//! not reach it. Each has a line in `tests/mutants.toml`: an order that is weaker, or a fence that is not there, which it finds.
//! `HEIRLOOM_LOOM_PREEMPTIONS` explores further than the bound that a scene has by itself.

mod cell;
mod directory;
mod epochs;
mod extents;
mod gate;
mod lanes;
mod series;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use loom::thread;

use crate::alloc;
use crate::digest::Keeper;
use crate::digest::tests::{attach, region, switch_to};
use crate::error::Generation;
use crate::mapping::Mapping;
use crate::os::membarrier;
use crate::process::Process;
use crate::sync::modelled::{Bounds, Memory};
use crate::sync::{AtomicU64, Ordering};

fn bounds(memory: Memory, preemptions: usize) -> Bounds {
    let more = std::env::var("HEIRLOOM_LOOM_PREEMPTIONS").ok().and_then(|n| n.parse().ok());
    Bounds { memory, preemptions: Some(more.unwrap_or(preemptions)) }
}

/// An owner, its region, and a word of it that it may write.
#[derive(Clone)]
struct Scene {
    mapping: Arc<Mapping>,
    owner: Arc<Process>,
    generation: Generation,
    /// Where the word is.
    at: u64,
}

impl Scene {
    fn new(asymmetric: bool) -> (Self, Keeper) {
        let (mapping, mut keeper) = region(4);
        let owner = one(&mut keeper, asymmetric);
        switch_to(&mut keeper, owner.incarnation());
        let generation = owner.learn().unwrap();
        // It fails instead of waiting at a frozen gate: time does not pass in a model.
        owner.set_freeze_wait_max(Duration::ZERO);
        let at = alloc::owned_aligned(&mapping, 4096, 4096).unwrap();
        (Self { mapping, owner, generation, at }, keeper)
    }
    fn word(&self) -> &AtomicU64 {
        self.mapping.word(self.at).unwrap()
    }
    /// What an owned write of a word is.
    fn write(&self, value: u64) -> bool {
        let Ok(section) = self.owner.enter(self.generation) else { return false };
        section.mark(self.at, 8);
        self.word().store(value, Ordering::Relaxed);
        true
    }
}

/// A process whose slots rely on the barrier, or announce themselves.
fn one(keeper: &mut Keeper, asymmetric: bool) -> Arc<Process> {
    // The switch is the process' own, and tests run side by side.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    membarrier::set_available(asymmetric);
    let process = attach(keeper, "v1");
    membarrier::set_available(true);
    assert_eq!(process.is_asymmetric(), asymmetric);
    process
}

fn spawn<R: 'static>(scene: &Scene, what: impl FnOnce(Scene) -> R + 'static) -> thread::JoinHandle<R> {
    let scene = scene.clone();
    thread::spawn(move || what(scene))
}
