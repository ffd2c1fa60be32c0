//! Histograms: observations in fixed buckets.
//!
//! A histogram has a word for each bucket (`+Inf` last) and one for the sum. Its count is the sum of its buckets and not a
//! word of its own, so it cannot differ from them. A writer killed within an observation leaves it in a bucket without the
//! sum: at most the one observation in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::objects::counter::{add_f64, add_f64_atomically, sum_f64};
use crate::objects::lane::LaneWords;
use crate::process::Process;
use crate::sync::Ordering;

/// Bounds that are compared at once. A fixed number, so that the compiler makes a few vector instructions of it, without a
/// branch to mispredict; Prometheus' default has 11.
const AT_ONCE: usize = 16;

/// Upper bounds, arranged for the search.
#[derive(Debug)]
struct Bounds {
    /// The first ones, filled up with `+Inf`.
    first: [f64; AT_ONCE],
    /// The others, searched by bisection.
    rest: Vec<f64>,
    all: Vec<f64>,
}

impl Bounds {
    fn new(bounds: &[f64]) -> Self {
        let mut first = [f64::INFINITY; AT_ONCE];
        first.iter_mut().zip(bounds).for_each(|(to, bound)| *to = *bound);
        let rest = bounds.get(AT_ONCE..).unwrap_or(&[]).to_vec();
        Self { first, rest, all: bounds.to_vec() }
    }

    /// The first bucket whose bound is not below `v`: the number of bounds below it.
    #[inline]
    fn bucket(&self, v: f64) -> usize {
        let below: u8 = self.first.iter().map(|bound| u8::from(*bound < v)).sum();
        match usize::from(below) {
            AT_ONCE => AT_ONCE + self.rest.partition_point(|bound| *bound < v),
            bucket => bucket,
        }
    }
}

/// Observations in fixed buckets; see [`open_histogram`](crate::objects::open_histogram).
#[derive(Clone, Debug)]
pub struct Histogram {
    words: LaneWords,
    bounds: Arc<Bounds>,
}

impl Histogram {
    pub(super) fn new(process: &Arc<Process>, word: u64, bounds: &[f64]) -> Result<Self, Error> {
        Ok(Self { words: LaneWords::new(process, word, words_of(bounds))?, bounds: Arc::new(Bounds::new(bounds)) })
    }

    /// Records `v`. NaN is ignored, and counted in
    /// [`SelfCounter::IgnoredUpdates`](crate::alloc::SelfCounter::IgnoredUpdates).
    #[inline]
    pub fn observe(&self, v: f64) {
        if v.is_nan() {
            return self.words.ignored();
        }
        let bucket = self.bounds.bucket(v);
        self.words.update(
            |w| {
                let [buckets @ .., sum] = w else { return };
                if let Some(b) = buckets.get(bucket) {
                    b.store(b.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
                }
                add_f64(sum, v);
            },
            |w| {
                let [buckets @ .., sum] = w else { return };
                if let Some(b) = buckets.get(bucket) {
                    b.fetch_add(1, Ordering::Relaxed);
                }
                add_f64_atomically(sum, v);
            },
        );
    }

    /// Records seconds.
    #[inline]
    pub fn observe_duration(&self, d: Duration) {
        self.observe(d.as_secs_f64());
    }

    /// Records the seconds since `start`, and gives them.
    pub fn observe_since(&self, start: Instant) -> Duration {
        let d = start.elapsed();
        self.observe_duration(d);
        d
    }

    /// Upper bounds, without `+Inf`.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds.all
    }

    /// Observations in each bucket (not cumulated; `+Inf` last), over all instances and generations.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0u64; self.bounds().len() + 1];
        for words in self.words.in_all_lanes(false) {
            for (count, word) in counts.iter_mut().zip(words) {
                *count = count.wrapping_add(word.load(Ordering::Relaxed));
            }
        }
        counts
    }

    /// All observations.
    pub fn count(&self) -> u64 {
        self.counts().iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// The sum of what was observed, added in the order of the lanes.
    pub fn sum(&self) -> f64 {
        sum_f64(&self.words, self.bounds().len() + 1)
    }
}

/// Words of a histogram with these bounds: its buckets, `+Inf`, and the sum.
pub(crate) fn words_of(bounds: &[f64]) -> u32 {
    bounds.len() as u32 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_at_every_size() {
        for n in [0, 1, 3, 11, 15, 16, 17, 100] {
            let bounds = Bounds::new(&(0..n).map(|i| i as f64).collect::<Vec<_>>());
            for i in 0..n {
                assert_eq!(bounds.bucket(i as f64), i, "{n} bounds");
                assert_eq!(bounds.bucket(i as f64 + 0.5), i + 1, "{n} bounds");
            }
            assert_eq!(bounds.bucket(f64::NEG_INFINITY), 0);
            assert_eq!(bounds.bucket(f64::INFINITY), n);
            assert_eq!(bounds.bucket(f64::MAX), n);
        }
    }
}
