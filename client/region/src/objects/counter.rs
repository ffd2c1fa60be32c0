//! Counters: they only go up, over all instances, generations and deaths.

use std::sync::Arc;

use crate::error::Error;
use crate::objects::lane::LaneWords;
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering};

/// Counts up in `u64`; see [`open_counter`](crate::objects::open_counter). Infallible, never blocks, needs no owner.
#[derive(Clone, Debug)]
pub struct Counter {
    words: LaneWords,
}

impl Counter {
    pub(super) fn new(process: &Arc<Process>, word: u64) -> Result<Self, Error> {
        Ok(Self { words: LaneWords::new(process, word, 1)? })
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. At `u64::MAX` it stays: a counter never goes back.
    #[inline]
    pub fn add(&self, n: u64) {
        self.words.update(
            |w| w[0].store(w[0].load(Ordering::Relaxed).saturating_add(n), Ordering::Relaxed),
            |w| add_atomically(&w[0], n),
        );
    }

    /// Adds `n` atomically: for signal handlers, which may have interrupted [`add`](Self::add). Async-signal-safe.
    pub fn add_in_signal_handler(&self, n: u64) {
        self.words.update_overflow(|w| add_atomically(&w[0], n));
    }

    /// The total over all instances and generations. O(lanes).
    pub fn total(&self) -> u64 {
        self.words.in_all_lanes(false).fold(0, |sum: u64, w| sum.saturating_add(w[0].load(Ordering::Relaxed)))
    }

    /// The process through which it was opened.
    pub fn process(&self) -> &Arc<Process> {
        self.words.process()
    }
}

/// Counts up in `f64`; see [`open_float_counter`](crate::objects::open_float_counter).
#[derive(Clone, Debug)]
pub struct FloatCounter {
    words: LaneWords,
}

impl FloatCounter {
    pub(super) fn new(process: &Arc<Process>, word: u64) -> Result<Self, Error> {
        Ok(Self { words: LaneWords::new(process, word, 1)? })
    }

    /// Adds `v`. A negative, infinite or NaN `v` is ignored, and counted in
    /// [`SelfCounter::IgnoredUpdates`](crate::alloc::SelfCounter::IgnoredUpdates).
    #[inline]
    pub fn add(&self, v: f64) {
        if !(v >= 0.0 && v.is_finite()) {
            return self.words.ignored();
        }
        self.words.update(|w| add_f64(&w[0], v), |w| add_f64_atomically(&w[0], v));
    }

    /// The total over all instances and generations, added in the order of the lanes.
    pub fn total(&self) -> f64 {
        sum_f64(&self.words, 0)
    }
}

/// Adds to a word of the overflow lane, up to `u64::MAX`.
fn add_atomically(word: &AtomicU64, n: u64) {
    // Lock-free: a lost swap is another thread's success.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.saturating_add(n)));
}

/// Adds to a word that this thread alone writes.
#[inline]
pub(super) fn add_f64(word: &AtomicU64, v: f64) {
    word.store((f64::from_bits(word.load(Ordering::Relaxed)) + v).to_bits(), Ordering::Relaxed);
}

/// Adds to a word of the overflow lane.
pub(super) fn add_f64_atomically(word: &AtomicU64, v: f64) {
    // Lock-free: a lost swap is another thread's success.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some((f64::from_bits(bits) + v).to_bits()));
}

/// The sum of one `f64` word over all lanes. A lane that never added holds 0.0, whose bits are 0.
pub(super) fn sum_f64(words: &LaneWords, i: usize) -> f64 {
    words.in_all_lanes(false).fold(0.0, |sum, w| sum + f64::from_bits(w[i].load(Ordering::Relaxed)))
}
