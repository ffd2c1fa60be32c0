//! The same atomics, for loom: each word of memory that a model stores to has a loom atomic beside it, found by its address.
//!
//! Memory itself is only what a model begins with, and stays so: outside of a model (setting up, ordinary tests) words are what
//! they always are; inside, what is stored goes to loom's words and is gone after the execution. A word that no execution stores
//! to is a constant, and costs no loom operation. Which words are stored to is found out by running: an execution that stores to
//! one for the first time keeps that store to itself and ends the exploration, which begins anew with the word known
//! ([`explore`]).
//!
//! Two memory models:
//!
//! - [`Memory::C11`]: loom's own. loom takes sequentially consistent accesses as acquire and release, so each gets a
//!   `fence(SeqCst)` before it, as compilers map them for machines that have nothing stronger.
//! - [`Memory::Tso`]: what x86 does, and what `membarrier` is made for. Every access sees the newest store, except that stores of
//!   a thread that called [`buffer_stores`] wait, in order, in its store buffer: until it fences, swaps or ends, until
//!   `membarrier` empties all buffers, or until a [`drain_some`] thread lets them out one by one.
//!
//! All threads of a model run on one thread of the system, one at a time, so what is kept here needs no lock; it is never
//! borrowed over a loom operation, at which another one may go on.

use core::sync::atomic as raw;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use loom::sync::atomic as checked;

mod buffer;
mod explore;
mod local;
mod types;

pub use core::sync::atomic::Ordering;

use buffer::my_buffer;
pub(crate) use buffer::{Buffer, buffer_stores, membarrier};
pub(crate) use explore::{Bounds, explore};
pub(crate) use local::{Local, thread_local};
pub use types::{AtomicBool, AtomicU32, AtomicU64};

/// Words by their address.
type Known = BTreeMap<usize, About>;

/// What is known of a word that is stored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    /// What memory holds there.
    initial: u64,
    /// Some thread stores to it after it has loaded it itself. loom compares an access with the last one alone, so that load
    /// would hide those of others from the store: each load has its turn, which is a store of its own that nobody reads.
    has_turns: bool,
}

/// What stands for a word.
struct Word {
    value: checked::AtomicU64,
    turn: Option<checked::AtomicU64>,
}

impl Word {
    fn new(about: About) -> Rc<Self> {
        let turn = about.has_turns.then(|| checked::AtomicU64::new(0));
        Rc::new(Self { value: checked::AtomicU64::new(about.initial), turn })
    }
}

/// How memory behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    C11,
    Tso,
}

struct Execution {
    memory: Memory,
    words: HashMap<usize, Rc<Word>>,
    /// Stored to for the first time, or after a load for the first time: known to the next exploration.
    fresh: Known,
    /// Which thread has loaded which word.
    loaded: HashSet<(u64, usize)>,
    threads: u64,
    /// What was stored there.
    aside: HashMap<usize, u64>,
    buffers: Vec<Rc<Buffer>>,
}

std::thread_local! {
    static NOW: RefCell<Option<Execution>> = const { RefCell::new(None) };
}

/// Something within the execution under way; `None` outside of a model.
fn now<R>(what: impl FnOnce(&mut Execution) -> R) -> Option<R> {
    NOW.with(|now| now.borrow_mut().as_mut().map(what))
}

fn is_model() -> bool {
    now(|_| ()).is_some()
}

/// What stands for one word here and now.
enum Place {
    /// Memory itself: no model runs.
    Memory,
    /// A word that was not stored to, as far as is known; its value.
    Constant(u64),
    Word(Rc<Word>, Memory),
}

fn place(at: usize, initial: impl Fn() -> u64) -> Place {
    let found = now(|execution| match execution.words.get(&at) {
        // What unwinds has nothing more to say.
        Some(word) if !std::thread::panicking() => Place::Word(Rc::clone(word), execution.memory),
        _ => Place::Constant(execution.aside.get(&at).copied().unwrap_or_else(&initial)),
    });
    found.unwrap_or(Place::Memory)
}

fn set_aside(at: usize, initial: u64, value: u64) {
    now(|execution| {
        if !std::thread::panicking() {
            execution.fresh.entry(at).or_insert(About { initial, has_turns: false });
            execution.aside.insert(at, value);
        }
    });
}

/// The ordering without its sequential consistency, which is a fence before the access.
fn fenced(order: Ordering, without: Ordering) -> Ordering {
    if order == Ordering::SeqCst {
        checked::fence(Ordering::SeqCst);
        return without;
    }
    order
}

loom::thread_local! {
    static ME: u64 = now(|execution| {
        execution.threads += 1;
        execution.threads
    })
    .unwrap_or(0);
}

fn me() -> u64 {
    ME.try_with(|me| *me).unwrap_or(0)
}

fn load_word(at: usize, word: &Word, memory: Memory, order: Ordering) -> u64 {
    let Word { value: word, turn } = word;
    match memory {
        Memory::C11 => {
            let me = me();
            now(|execution| execution.loaded.insert((me, at)));
            turn.iter().for_each(|turn| turn.store(0, Ordering::Relaxed));
            word.load(fenced(order, Ordering::Acquire))
        }
        Memory::Tso => {
            let own = my_buffer().and_then(|b| b.waiting.borrow().iter().rev().find(|w| w.0 == at).map(|w| w.1));
            // Swaps see the newest store.
            own.unwrap_or_else(|| word.fetch_add(0, Ordering::AcqRel))
        }
    }
}

/// The calling thread is about to store.
fn note_store(at: usize, word: &Word) {
    let me = me();
    now(|execution| {
        if word.turn.is_none() && execution.loaded.contains(&(me, at)) {
            // Its initial value stays what is known of it.
            execution.fresh.insert(at, About { initial: 0, has_turns: true });
        }
    });
}

fn store_word(at: usize, word: &Word, memory: Memory, value: u64, order: Ordering) {
    note_store(at, word);
    let word = &word.value;
    match (memory, my_buffer()) {
        (Memory::C11, _) => word.store(value, fenced(order, Ordering::Release)),
        (Memory::Tso, Some(buffer)) if order != Ordering::SeqCst => {
            buffer.turn.fetch_add(1, Ordering::AcqRel);
            buffer.waiting.borrow_mut().push_back((at, value));
        }
        (Memory::Tso, buffer) => {
            buffer.iter().for_each(|buffer| buffer.drain());
            word.swap(value, Ordering::AcqRel);
        }
    }
}

/// What one atomic operation makes of a word; `None`: it leaves it.
fn change_word(
    at: usize,
    word: &Word,
    memory: Memory,
    order: Ordering,
    failure: Ordering,
    change: &Change,
) -> Result<u64, u64> {
    note_store(at, word);
    let word = &word.value;
    let order = match memory {
        Memory::C11 => fenced(order, Ordering::AcqRel),
        Memory::Tso => {
            my_buffer().iter().for_each(|buffer| buffer.drain());
            Ordering::AcqRel
        }
    };
    let failure = if failure == Ordering::SeqCst { Ordering::Acquire } else { failure };
    Ok(match *change {
        Change::Swap(new) => word.swap(new, order),
        Change::Exchange(old, new) => return word.compare_exchange(old, new, order, failure),
        Change::Add(n) => word.fetch_add(n, order),
        Change::Sub(n) => word.fetch_sub(n, order),
        Change::Or(n) => word.fetch_or(n, order),
        Change::And(n) => word.fetch_and(n, order),
        Change::Xor(n) => word.fetch_xor(n, order),
        Change::Max(n) => word.fetch_max(n, order),
    })
}

/// A read-modify-write.
enum Change {
    Swap(u64),
    Exchange(u64, u64),
    Add(u64),
    Sub(u64),
    Or(u64),
    And(u64),
    Xor(u64),
    Max(u64),
}

impl Change {
    fn of(&self, old: u64) -> Option<u64> {
        Some(match *self {
            Change::Swap(new) => new,
            Change::Exchange(expected, new) => return (old == expected).then_some(new),
            Change::Add(n) => old.wrapping_add(n),
            Change::Sub(n) => old.wrapping_sub(n),
            Change::Or(n) => old | n,
            Change::And(n) => old & n,
            Change::Xor(n) => old ^ n,
            Change::Max(n) => old.max(n),
        })
    }
}

/// See [`core::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    match now(|execution| execution.memory) {
        None => raw::fence(order),
        Some(_) if std::thread::panicking() => {}
        Some(Memory::C11) => checked::fence(order),
        Some(Memory::Tso) if order == Ordering::SeqCst => my_buffer().iter().for_each(|buffer| buffer.drain()),
        Some(Memory::Tso) => {}
    }
}

/// loom reorders nothing that a compiler would.
pub fn compiler_fence(order: Ordering) {
    if !is_model() {
        raw::compiler_fence(order);
    }
}
