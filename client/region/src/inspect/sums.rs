//! Adding up the lanes.

use std::ops::Range;

use super::{Catalog, Kind, lane_words_used};
use crate::layout::EXTENT;
use crate::mapping::Mapping;
use crate::objects::lane::{is_claimed, rows, strip};
use crate::sync::Ordering;

/// Which words are not plain `u64` sums; each list ascending.
#[derive(Debug, Default)]
pub(super) struct Special {
    /// Sums of `f64`.
    pub(super) floats: Vec<u32>,
    /// Shares, which count for the living alone.
    pub(super) shares: Vec<u32>,
}

/// Totals over all lanes, by word.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) ints: Vec<u64>,
    /// The float words alone, in the order of [`Special::floats`].
    pub(super) floats: Vec<f64>,
}

impl Sums {
    /// One pass, lane by lane and forwards; only the few words of other types are looked at a second time, while their
    /// extent is still in the cache.
    pub(super) fn read(mapping: &Mapping, special: &Special) -> Self {
        let used = lane_words_used(mapping) as usize;
        let mut ints = vec![0u64; used];
        let mut floats = vec![0f64; special.floats.len()];
        let mut shares = vec![0u64; special.shares.len()];
        let extent = EXTENT as usize / 8;
        for row in 0..rows(mapping) {
            let living = !is_claimed(mapping, row);
            for (i, sums) in ints.chunks_mut(extent).enumerate() {
                let first = i * extent;
                // What is not ready was never written.
                let Ok(words) = mapping.words(strip(mapping, row) + first as u64 * 8, sums.len() as u64) else {
                    continue;
                };
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
                }
                for at in within(&special.floats, first, words.len()) {
                    floats[at] += f64::from_bits(words[special.floats[at] as usize - first].load(Ordering::Relaxed));
                }
                if living {
                    for at in within(&special.shares, first, words.len()) {
                        let share = words[special.shares[at] as usize - first].load(Ordering::Relaxed);
                        shares[at] = shares[at].wrapping_add(share);
                    }
                }
            }
        }
        for (word, share) in special.shares.iter().zip(shares) {
            if let Some(sum) = ints.get_mut(*word as usize) {
                *sum = share;
            }
        }
        Self { ints, floats }
    }

    pub(super) fn int(&self, word: u64) -> u64 {
        usize::try_from(word).ok().and_then(|w| self.ints.get(w)).copied().unwrap_or(0)
    }
}

/// The positions in an ascending list whose values lie in `first..first + n`.
fn within(list: &[u32], first: usize, n: usize) -> Range<usize> {
    list.partition_point(|w| (*w as usize) < first)..list.partition_point(|w| (*w as usize) < first + n)
}

/// Adjacent lane words whose totals only grow: counters, and the buckets of histograms (their sums may fall).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrowingWords {
    pub(crate) words: Range<u64>,
    /// Whether they hold `f64`.
    pub(crate) float: bool,
}

/// All lane words whose totals only grow, ascending, in runs as long as they are.
pub(crate) fn growing_words(mapping: &Mapping) -> Vec<GrowingWords> {
    let mut catalog = Catalog::default();
    catalog.refresh(mapping);
    let mut runs = Vec::new();
    catalog.for_each_series(|kind, words| match kind {
        Kind::Counter | Kind::FloatCounter => runs.push(GrowingWords { words, float: kind == Kind::FloatCounter }),
        Kind::Histogram => runs.push(GrowingWords { words: words.start..words.end - 1, float: false }),
        _ => {}
    });
    runs.sort_by_key(|run| run.words.start);
    runs.dedup_by(|next, run| {
        let joins = run.words.end == next.words.start && run.float == next.float;
        if joins {
            run.words.end = next.words.end;
        }
        joins
    });
    runs
}
