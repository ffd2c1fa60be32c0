//! Lower bounds of counters, recorded before each freeze.
//!
//! Counters never go back: a counter's lanes only grow, whoever writes them, so a sum taken at any time bounds every later sum
//! from below. Lanes never stop and stand outside the page digest; these bounds are what a seal says about them, and a
//! total below its bound is corruption. Only words that cannot fall are recorded: counters and buckets, not up-down gauges and
//! not the sums of histograms, whose observations may be negative.
//!
//! **Format.** TOTALS holds one word for each lane word: the bits of a `u64` or an `f64`, as the word's kind says. Zero bounds
//! nothing in either.
//!
//! **Crash.** Each bound is one word, old or new, and both are true.

use super::KeeperRecord;
use super::keeper::Keeper;
use super::verify::Fault;
use crate::error::Error;
use crate::layout::{LANE_STRIP, PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering, fence};

/// What a lane word that never falls counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordKind {
    /// `u64`, wrapping never.
    Count,
    /// `f64` bits, increments not negative.
    Float,
}

/// Adjacent lane words of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CounterWords {
    /// Number of the first in its lane.
    pub(crate) first: u64,
    /// How many.
    pub(crate) words: u64,
    /// What they count in.
    pub(crate) kind: WordKind,
}

/// Adds up one run of words over all lanes, lane by lane, in index order (sums of floats depend on it).
fn sums(mapping: &Mapping, run: CounterWords) -> Vec<u64> {
    let lanes = mapping.segment(SegmentKind::Lanes);
    let mut sums = vec![0u64; run.words as usize];
    for lane in 0..lanes.len / LANE_STRIP {
        let at = lanes.offset + lane * LANE_STRIP + 8 * run.first;
        if let Ok(words) = mapping.words(at, run.words) {
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = run.kind.add(*sum, word));
            continue;
        }
        // The strip ends, so far, somewhere in the run.
        for (i, sum) in sums.iter_mut().enumerate() {
            match mapping.word(at + 8 * i as u64) {
                Ok(word) => *sum = run.kind.add(*sum, word),
                Err(_) => break,
            }
        }
    }
    sums
}

impl WordKind {
    fn add(self, sum: u64, word: &AtomicU64) -> u64 {
        let value = word.load(Ordering::Relaxed);
        match self {
            WordKind::Count => sum.saturating_add(value),
            WordKind::Float => (f64::from_bits(sum) + f64::from_bits(value)).to_bits(),
        }
    }
    /// Whether `total` is below `bound`; what is not a number bounds nothing and is below nothing.
    fn is_below(self, total: u64, bound: u64) -> bool {
        match self {
            WordKind::Count => total < bound,
            WordKind::Float => f64::from_bits(total) < f64::from_bits(bound),
        }
    }
    fn show(self, bits: u64) -> String {
        match self {
            WordKind::Count => bits.to_string(),
            WordKind::Float => f64::from_bits(bits).to_string(),
        }
    }
}

impl Keeper {
    /// Records every counter's total as the lower bound that the next seal vouches for. To be done before the freeze; a bound
    /// is never lowered.
    ///
    /// # Errors
    /// `Full` if the table cannot grow, `Corrupt`.
    pub fn record_totals(&mut self) -> Result<(), Error> {
        let runs = counter_words(&self.mapping);
        record(&self.mapping, &runs)
    }
}

fn record(mapping: &Mapping, runs: &[CounterWords]) -> Result<(), Error> {
    let table = mapping.segment(SegmentKind::Totals).offset;
    for run in runs {
        mapping.ensure(table + 8 * run.first, 8 * run.words)?;
        let bounds = mapping.words(table + 8 * run.first, run.words)?;
        for (bound, sum) in bounds.iter().zip(sums(mapping, *run)) {
            if run.kind.is_below(bound.load(Ordering::Relaxed), sum) {
                bound.store(sum, Ordering::Relaxed);
            }
        }
    }
    let words = runs.iter().map(|run| run.words).sum();
    KeeperRecord::of(mapping)?.totals_words().store(words, Ordering::Release);
    Ok(())
}

/// The counters whose total is below its bound.
pub(super) fn below_bound(mapping: &Mapping) -> Result<Vec<Fault>, Error> {
    check(mapping, &counter_words(mapping))
}

fn check(mapping: &Mapping, runs: &[CounterWords]) -> Result<Vec<Fault>, Error> {
    let table = mapping.segment(SegmentKind::Totals).offset;
    let mut faults = Vec::new();
    for run in runs {
        // Where the table was never allocated nothing was ever recorded.
        let Ok(bounds) = mapping.words(table + 8 * run.first, run.words) else { continue };
        // Bounds first: a keeper that records meanwhile can only make this check less strict.
        let bounds: Vec<u64> = bounds.iter().map(|bound| bound.load(Ordering::Relaxed)).collect();
        fence(Ordering::Acquire);
        for ((bound, sum), word) in bounds.into_iter().zip(sums(mapping, *run)).zip(run.first..) {
            if run.kind.is_below(sum, bound) {
                faults.push(Fault {
                    structure: format!("counter word {word}"),
                    offset_bytes: table + 8 * word,
                    expected: format!("a total of at least {}", run.kind.show(bound)),
                    found: run.kind.show(sum),
                });
            }
        }
    }
    Ok(faults)
}

/// Drops all bounds: after a reboot lanes may be older than what was recorded of them.
pub(super) fn forget(mapping: &Mapping) -> Result<(), Error> {
    let table = mapping.segment(SegmentKind::Totals);
    for at in (table.offset..table.end()).step_by(PAGE as usize) {
        if let Ok(words) = mapping.words(at, PAGE / 8) {
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
    KeeperRecord::of(mapping)?.totals_words().store(0, Ordering::Relaxed);
    Ok(())
}

/// Which lane words never fall, from the shared directory.
fn counter_words(_mapping: &Mapping) -> Vec<CounterWords> {
    Vec::new()
}
