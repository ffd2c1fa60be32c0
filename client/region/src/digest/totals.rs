//! Lower bounds of counters, recorded before each freeze.
//!
//! Counters never go back: a counter's lanes only grow, whoever writes them, so a sum taken at any time bounds every later sum
//! from below. Lanes never stop and stand outside the page digest; these bounds are what a seal says about them, and a
//! total below its bound is corruption. Only words that cannot fall are recorded (`inspect::monotone_totals`): counters and
//! buckets, not up-down gauges and not the sums of histograms, whose observations may be negative. Counters stay at `u64::MAX`,
//! and float counters at infinity.
//!
//! **Format.** TOTALS holds one word for each lane word: the bits of a `u64`, or of an `f64` that is not negative, whose bits
//! are in the same order. Zero bounds nothing.
//!
//! **Crash.** Each bound is one word, old or new, and both are true.

use super::KeeperRecord;
use super::fault::Fault;
use super::keeper::Keeper;
use crate::error::Error;
use crate::inspect;
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};

/// Words of a page, the unit in which the table is looked at.
const WORDS: usize = (PAGE / 8) as usize;

impl Keeper {
    /// Records every counter's total as the lower bound that the next seal vouches for. To be done before the freeze; a bound
    /// is never lowered.
    ///
    /// # Errors
    /// `Full` if the table cannot grow, `Corrupt`.
    pub fn record_totals(&mut self) -> Result<(), Error> {
        let totals = inspect::monotone_totals(&self.mapping, &mut self.catalog);
        record(&self.mapping, &totals)
    }
}

fn record(mapping: &Mapping, totals: &[u64]) -> Result<(), Error> {
    let table = mapping.segment(SegmentKind::Totals);
    let totals = &totals[..totals.len().min((table.len / 8) as usize)];
    for (i, totals) in totals.chunks(WORDS).enumerate() {
        let at = table.offset + i as u64 * PAGE;
        mapping.ensure(at, 8 * totals.len() as u64)?;
        for (bound, total) in mapping.words(at, totals.len() as u64)?.iter().zip(totals) {
            if bound.load(Ordering::Relaxed) < *total {
                bound.store(*total, Ordering::Relaxed);
            }
        }
    }
    KeeperRecord::of(mapping)?.totals_words().store(totals.len() as u64, Ordering::Release);
    Ok(())
}

/// The counters whose total is below its bound.
pub(super) fn below_bound(mapping: &Mapping) -> Vec<Fault> {
    let table = mapping.segment(SegmentKind::Totals);
    let bounds: Vec<u64> = (table.offset..table.end())
        .step_by(PAGE as usize)
        // What was never allocated was never recorded, and nothing follows it.
        .map_while(|at| mapping.words(at, PAGE / 8).ok())
        .flat_map(|words| words.iter().map(|word| word.load(Ordering::Relaxed)))
        .collect();
    // Bounds first: what is counted, or recorded, meanwhile can only make this check less strict.
    fence(Ordering::Acquire);
    let totals = inspect::monotone_totals(mapping, &mut inspect::Catalog::default());
    let total = |word: usize| totals.get(word).copied().unwrap_or(0);
    let below = bounds.into_iter().enumerate().filter(|(word, bound)| total(*word) < *bound);
    below
        .map(|(word, bound)| Fault {
            structure: format!("counter word {word}"),
            offset_bytes: table.offset + 8 * word as u64,
            expected: format!("a total of at least {bound}, as recorded before a freeze"),
            found: total(word).to_string(),
        })
        .collect()
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
