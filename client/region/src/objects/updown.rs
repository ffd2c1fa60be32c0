//! Up-down gauges: the sum of the living instances' shares, such as open connections.
//!
//! Each thread adds to its own lane, in two's complement; one thread may take away what another added, so only the sum
//! means something. When an instance dies, its lanes' shares are left out from the moment a recoverer claims them.

use std::sync::Arc;

use crate::error::Error;
use crate::objects::lane::LaneWords;
use crate::process::Process;
use crate::sync::Ordering;

/// The sum of the living instances' shares; see [`open_updown`](crate::objects::open_updown).
#[derive(Clone, Debug)]
pub struct UpDownGauge {
    words: LaneWords,
}

impl UpDownGauge {
    pub(super) fn new(process: &Arc<Process>, word: u64) -> Result<Self, Error> {
        Ok(Self { words: LaneWords::new(process, word, 1)? })
    }

    /// Adds one to this instance's share.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one from it.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, or takes away.
    #[inline]
    pub fn add(&self, n: i64) {
        let n = n.cast_unsigned();
        self.words.update(
            |w| w[0].store(w[0].load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed),
            |w| _ = w[0].fetch_add(n, Ordering::Relaxed),
        );
    }

    /// One, until dropped.
    pub fn share(&self) -> Share {
        self.inc();
        Share { gauge: self.clone() }
    }

    /// The sum over the living.
    pub fn total(&self) -> i64 {
        let sum = self.words.in_all_lanes(true).fold(0u64, |sum, w| sum.wrapping_add(w[0].load(Ordering::Relaxed)));
        sum.cast_signed()
    }
}

/// See [`UpDownGauge::share`].
#[must_use = "it counts until dropped"]
#[derive(Debug)]
pub struct Share {
    gauge: UpDownGauge,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
