//! Exploring a model, again and again until all of its words are known.

use core::sync::atomic as raw;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Execution, Known, Memory, NOW, Ordering, Word};

/// Thrown by an execution that has found new words.
struct FoundWords;

/// How far a model is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) memory: Memory,
    /// Times that a thread is stopped for another while it could go on; `None`: any number.
    pub(crate) preemptions: Option<usize>,
}

/// Runs `scenario` in every order of its threads, and with every value that each load may see.
pub(crate) fn explore(name: &str, bounds: Bounds, scenario: impl Fn() + Send + Sync + 'static) {
    let (began, scenario, known) = (std::time::Instant::now(), Arc::new(scenario), Arc::new(Mutex::new(Known::new())));
    loop {
        let executions = Arc::new(raw::AtomicU64::new(0));
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 100_000;
        builder.preemption_bound = bounds.preemptions;
        let before = lock(&known).clone();
        let run = {
            let (scenario, known, executions) = (Arc::clone(&scenario), Arc::clone(&known), Arc::clone(&executions));
            move || {
                begin(bounds.memory, &lock(&known));
                scenario();
                executions.fetch_add(1, Ordering::Relaxed);
                if end(&mut lock(&known)) {
                    std::panic::resume_unwind(Box::new(FoundWords));
                }
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.check(run)));
        // What a panic in the midst of an execution has left.
        end(&mut lock(&known));
        let words = lock(&known).len();
        if *lock(&known) != before {
            continue;
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        let executions = executions.load(Ordering::Relaxed);
        println!("{name}: {executions} interleavings over {words} words, {:?}, {:.1?}", bounds, began.elapsed());
        return;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(memory: Memory, known: &Known) {
    let words = known.iter().map(|(at, about)| (*at, Word::new(*about))).collect();
    let (fresh, loaded, aside, buffers) = (Known::new(), HashSet::new(), HashMap::new(), Vec::new());
    let execution = Execution { memory, words, fresh, loaded, threads: 0, aside, buffers };
    NOW.with(|now| *now.borrow_mut() = Some(execution));
}

/// Whether new words were found.
fn end(known: &mut Known) -> bool {
    let Some(execution) = NOW.with(|now| now.borrow_mut().take()) else { return false };
    let found = !execution.fresh.is_empty();
    for (at, about) in execution.fresh {
        let known = known.entry(at).or_insert(about);
        known.has_turns |= about.has_turns;
    }
    found
}
