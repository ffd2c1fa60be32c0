//! The gate's page: the word that every writer compares, the epoch that it marks pages with, and what waiting needs.
//!
//! ```text
//! byte   0  gate word          u64  see `word`
//!        8  page epoch         u64  from 1; only the keeper raises it
//!       16  change sequence    u32  futex; bumped after each change of the gate
//!      128  freeze budget      u64  nanoseconds that a frozen word may stand; stored before the freeze
//!      136  frozen at          u64  CLOCK_MONOTONIC of the last freeze, nanoseconds
//!      144  slots used         u64  no slot at or above this number was ever claimed
//!      256  all-dirty epoch    u64  a mark for every page of OWNED, for writes that could not reach their own mark
//! ```
//!
//! **Invariant:** whoever changes the gate word bumps the sequence after it. One killed between the two leaves sleepers to
//! find out for themselves, so no wait on the sequence is longer than a bound.

use std::time::Duration;

use super::word::GateWord;
use crate::error::Corrupt;
use crate::layout::{SegmentKind, control};
use crate::mapping::Mapping;
use crate::os::futex;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Byte offsets in the GATE segment.
pub(crate) mod field {
    pub(crate) const WORD: u64 = 0;
    pub(crate) const EPOCH: u64 = 8;
    pub(crate) const SEQUENCE: u64 = 16;
    pub(crate) const BUDGET: u64 = 128;
    pub(crate) const FROZEN_AT: u64 = 136;
    pub(crate) const SLOTS_USED: u64 = 144;
    pub(crate) const ALL_DIRTY: u64 = 256;
    pub(crate) const END: u64 = 264;
}
/// Offset of the count of fenced writes in [`control::COUNTERS`], behind those of [`crate::alloc::SelfCounter`].
pub(crate) const FENCED_WRITES: u64 = 1024;

const _: () = assert!(field::END <= crate::layout::PAGE);
const _: () = assert!(field::WORD == 0 && field::EPOCH == 8);
const _: () = assert!(field::SEQUENCE < 64 && field::BUDGET >= 128 && field::ALL_DIRTY.is_multiple_of(128));

/// The longest that a frozen gate may stand, whatever the page says.
pub const FREEZE_BUDGET_MAX: Duration = Duration::from_millis(500);
/// The shortest: a page that says less would let nobody finish a freeze.
pub const FREEZE_BUDGET_MIN: Duration = Duration::from_millis(1);

/// The page of one mapping.
#[derive(Clone, Copy)]
pub(crate) struct GatePage<'m> {
    words: &'m [AtomicU64],
    sequence: &'m AtomicU32,
    fenced: &'m AtomicU64,
}

impl<'m> GatePage<'m> {
    pub(crate) fn of(mapping: &'m Mapping) -> Result<Self, Corrupt> {
        let at = mapping.segment(SegmentKind::Gate).offset;
        let counters = mapping.segment(SegmentKind::Control).offset + control::COUNTERS;
        Ok(Self {
            words: mapping.words(at, field::END / 8)?,
            sequence: &mapping.words32(at + field::SEQUENCE, 1)?[0],
            fenced: &mapping.words(counters + FENCED_WRITES, 1)?[0],
        })
    }

    pub(crate) fn word(self) -> &'m AtomicU64 {
        &self.words[(field::WORD / 8) as usize]
    }
    pub(crate) fn epoch(self) -> &'m AtomicU64 {
        &self.words[(field::EPOCH / 8) as usize]
    }
    pub(crate) fn slots_used(self) -> &'m AtomicU64 {
        &self.words[(field::SLOTS_USED / 8) as usize]
    }
    pub(crate) fn all_dirty(self) -> &'m AtomicU64 {
        &self.words[(field::ALL_DIRTY / 8) as usize]
    }
    pub(crate) fn frozen_at(self) -> &'m AtomicU64 {
        &self.words[(field::FROZEN_AT / 8) as usize]
    }
    /// The words that every write loads, adjacent.
    pub(crate) fn word_and_epoch(self) -> &'m [AtomicU64; 2] {
        &self.words.as_chunks::<2>().0[0]
    }
    fn budget_word(self) -> &'m AtomicU64 {
        &self.words[(field::BUDGET / 8) as usize]
    }
    /// Writes refused because their generation was sealed, by all processes.
    pub(crate) fn fenced_writes(self) -> &'m AtomicU64 {
        self.fenced
    }

    /// The gate now. Acquire: what the one who opened it wrote before is visible.
    pub(crate) fn load(self) -> GateWord {
        GateWord::from_raw(self.word().load(Ordering::Acquire))
    }

    /// Changes the gate from `from` to `to`, whole; `Err` is what it was instead. The caller says when to [`wake`](Self::wake).
    pub(crate) fn swap(self, from: GateWord, to: GateWord) -> Result<(), GateWord> {
        // SeqCst: symmetric writers store their slot and load the gate the same way, so that one of the two sees the other.
        match self.word().compare_exchange(from.raw(), to.raw(), Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => {
                // Pairs with the Acquire load in `wait`.
                self.sequence.fetch_add(1, Ordering::Release);
                Ok(())
            }
            Err(found) => Err(GateWord::from_raw(found)),
        }
    }

    /// Wakes everyone who waits for a change.
    pub(crate) fn wake(self) {
        futex::wake_all(self.sequence);
    }

    /// Sleeps until the gate changes from `seen`, or for `limit`, whichever is first. May return early.
    pub(crate) fn wait(self, seen: GateWord, limit: Duration) {
        let sequence = self.sequence.load(Ordering::Acquire);
        // A change after this load bumps the sequence after it too, and the kernel compares that before it sleeps.
        if self.load() == seen {
            futex::wait(self.sequence, sequence, limit);
        }
    }

    /// `FROZEN(g,a) → OPEN(g,a)`, if `frozen` still stands. The only thing that a recoverer may do to a gate: it aborts, and
    /// never completes a commit.
    pub(crate) fn thaw(self, frozen: GateWord) -> bool {
        let thawed = frozen.is_frozen() && self.swap(frozen, frozen.thawed()).is_ok();
        if thawed {
            self.wake();
        }
        thawed
    }

    /// How long a frozen word may stand. What the page says is input: it is clamped to what the design allows.
    pub(crate) fn budget(self) -> Duration {
        let stored = Duration::from_nanos(self.budget_word().load(Ordering::Relaxed));
        if stored.is_zero() { FREEZE_BUDGET_MAX } else { stored.clamp(FREEZE_BUDGET_MIN, FREEZE_BUDGET_MAX) }
    }

    /// Stores how long the next frozen word may stand; to be done before the freeze.
    pub(crate) fn set_budget(self, budget: Duration) {
        let budget = budget.clamp(FREEZE_BUDGET_MIN, FREEZE_BUDGET_MAX);
        self.budget_word().store(budget.as_nanos() as u64, Ordering::Release);
    }
}
