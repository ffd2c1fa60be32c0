//! Which extents are granted and which are ready: two bits each, side by side in one word, and a bound of how many are granted.
//!
//! - *granted*: the extent counts against the region's limit. Whoever comes for it may allocate it and make it ready; so a
//!   grant whose taker was killed is not lost, it waits for the next one who needs that extent.
//! - *ready*: it is allocated, and never ceases to be. Only what is granted becomes ready, by one compare-and-swap that sees
//!   both bits.
//!
//! **Invariant: no more extents become ready than the limit allows.** A taker sets the bit first and counts then; if that is
//! too many it takes the bit back. All of it is sequentially consistent, so of those who go on the last to set its bit has seen
//! the bits of all others.
//!
//! Counting reads the bits of the whole file, which takes milliseconds where it is large. So it is done only near the limit: the
//! *bound* is raised before a bit is set, and lowered after one is taken back, so it is never less than there are bits. Whoever
//! finds it within the limit after its bit was set need not count, for the others' bits are in it.
//!
//! One course of events exceeds the limit, by the one extent that it is about: of two who were granted the same extent one gives
//! it back, another extent is granted in its place, and the second publishes just while a third, who is about to find the region
//! full, has set the first extent's bit anew. It harms nothing: who comes then finds the region full.
//!
//! Crash argument: killed after its bit was set within the limit, a taker leaves what is said above. Killed while it finds the
//! region full, it leaves one bit more than the limit allows: the region's last extent may then stay unused, until a keeper
//! opens the region while nobody is attached ([`Extents::forget_unused`]). Killed between bound and bit, it leaves a bound that is
//! too high by one until then, and counting begins an extent earlier.

use crate::layout::EXTENT_BITS_AT;
use crate::sync::{AtomicU64, Ordering};

/// Extents whose bits share a word.
const IN_WORD: u64 = 32;
/// The granted bit of each; its ready bit is the one above.
const GRANTED: u64 = 0x5555_5555_5555_5555;

/// Words before the bits: the bound, on a cache line of its own.
const BITS: usize = (EXTENT_BITS_AT / 8) as usize;

/// Bytes that the bound and the bits of so many extents take.
pub(crate) const fn len_bytes(extents: u64) -> u64 {
    8 * BITS as u64 + extents.div_ceil(IN_WORD) * 8
}

/// The bits of all extents of a region.
#[derive(Clone, Copy)]
pub(super) struct Extents<'m> {
    bound: &'m AtomicU64,
    bits: &'m [AtomicU64],
}

/// What came of asking for an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// To be allocated and made ready, or given back.
    Taken,
    /// Somebody has made it ready.
    Ready,
    /// The limit is reached.
    Full,
}

impl<'m> Extents<'m> {
    /// All of the segment's words that are in use.
    pub(super) fn of(words: &'m [AtomicU64]) -> Self {
        let (head, bits) = words.split_at(BITS);
        Self { bound: &head[0], bits }
    }

    #[cfg(test)]
    pub(super) fn words(self) -> &'m [AtomicU64] {
        self.bits
    }

    #[cfg(test)]
    pub(super) fn bound(self) -> &'m AtomicU64 {
        self.bound
    }

    fn place(self, extent: u64) -> (&'m AtomicU64, u64) {
        (&self.bits[(extent / IN_WORD) as usize], 1 << (2 * (extent % IN_WORD)))
    }

    #[inline]
    pub(super) fn is_ready(self, extent: u64) -> bool {
        let (word, granted) = self.place(extent);
        // Pairs with the swap in `make_ready`.
        word.load(Ordering::Acquire) & (granted << 1) != 0
    }

    /// How many are ready.
    pub(super) fn ready(self) -> u64 {
        self.bits.iter().map(|w| u64::from((w.load(Ordering::Relaxed) & !GRANTED).count_ones())).sum()
    }

    /// How many count against the limit. Of damaged bits each that says so counts.
    pub(super) fn granted(self) -> u64 {
        let count = |word: u64| u64::from(((word | word >> 1) & GRANTED).count_ones());
        self.bits.iter().map(|w| count(w.load(Ordering::SeqCst))).sum()
    }

    /// Asks for an extent.
    pub(super) fn grant(self, extent: u64, limit: u64) -> Grant {
        let (word, granted) = self.place(extent);
        self.bound.fetch_add(1, Ordering::SeqCst);
        let before = word.fetch_or(granted, Ordering::SeqCst);
        if before & (granted | granted << 1) != 0 {
            // Its bit is in the bound already.
            self.bound.fetch_sub(1, Ordering::SeqCst);
        }
        if before & (granted << 1) != 0 {
            return Grant::Ready;
        }
        if self.bound.load(Ordering::SeqCst) <= limit || self.granted() <= limit {
            return Grant::Taken;
        }
        if before & granted == 0 {
            self.give_back(extent);
        }
        Grant::Full
    }

    /// Takes a grant back, unless the extent is ready. Another who relies on it finds out in [`make_ready`](Self::make_ready).
    pub(super) fn give_back(self, extent: u64) {
        let (word, granted) = self.place(extent);
        // Nothing to give back where it is ready, or where another was first.
        let back = |bits: u64| (bits & (granted | granted << 1) == granted).then_some(bits & !granted);
        if word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, back).is_ok() {
            self.bound.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Publishes an extent that is granted and allocated; false if its grant was given back by another who had it, too.
    pub(super) fn make_ready(self, extent: u64) -> bool {
        let (word, granted) = self.place(extent);
        let both = granted | granted << 1;
        let ready = |bits: u64| (bits & both != 0).then_some(bits | both);
        // Release: pairs with the Acquire in `is_ready`.
        word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, ready).is_ok()
    }

    /// With nobody attached: what was granted and never made ready was taken by somebody who was killed.
    pub(super) fn forget_unused(self) {
        for word in self.bits {
            let ready = word.load(Ordering::Relaxed) & !GRANTED;
            word.store(ready | ready >> 1, Ordering::Relaxed);
        }
        self.bound.store(self.ready(), Ordering::Relaxed);
    }
}
