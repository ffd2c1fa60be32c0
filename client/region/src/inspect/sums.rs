//! Adding up the lanes.

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
                    // As counters themselves: they stay at the highest number, and never go back.
                    *sum = sum.saturating_add(word.load(Ordering::Relaxed));
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
fn within(list: &[u32], first: usize, n: usize) -> std::ops::Range<usize> {
    list.partition_point(|w| (*w as usize) < first)..list.partition_point(|w| (*w as usize) < first + n)
}

/// For each lane word that only grows its total, as a number that only grows too (an `f64`'s bits do, as long as it is not
/// negative); 0 for the others. A total below an earlier one is corruption.
pub(crate) fn monotone_totals(mapping: &Mapping, catalog: &mut Catalog) -> Vec<u64> {
    catalog.refresh(mapping);
    let sums = Sums::read(mapping, &catalog.special);
    let mut totals = vec![0; sums.ints.len()];
    catalog.for_each_series(|kind, words, float_at| {
        // A histogram's sum may fall, by negative observations; its buckets do not.
        let counts = match kind {
            Kind::Counter => words,
            Kind::Histogram => words.start..words.end.saturating_sub(1),
            Kind::FloatCounter => {
                if let (Some(total), Some(sum)) = (totals.get_mut(words.start), sums.floats.get(float_at)) {
                    *total = sum.to_bits();
                }
                return;
            }
            _ => return,
        };
        if let (Some(totals), Some(ints)) = (totals.get_mut(counts.clone()), sums.ints.get(counts)) {
            totals.copy_from_slice(ints);
        }
    });
    totals
}
