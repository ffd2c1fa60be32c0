//! Gate slots: one word for each writing thread, which says "a section of generation g, begun at epoch e, is under way".
//!
//! ```text
//! byte 0  active  u64  {generation:32, epoch:32}, 0 while idle
//!      8  claim   u64  incarnation of the instance that the slot belongs to, 0 while free
//! ```
//!
//! **Invariants.** `active` is written by the claimant alone. A slot is claimed by CAS from 0 with the incarnation, and its
//! number is below the page's `slots used` before its first announcement, so that a freezer which looks at that many looks at
//! all. A thread's end returns its slot; an instance keeps one for its threads beyond the slots.
//!
//! **Crash.** A claimant killed inside a section leaves `active` set: that stops the next freeze until the keeper, which alone
//! may do so and only after proof of death, clears the word and then frees the claim. In this order, so a free slot is idle.

use std::time::Instant;

use super::page::GatePage;
use crate::error::{Corrupt, Error, Full};
use crate::layout::{SLOT, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

const SLOT_WORDS: usize = (SLOT / 8) as usize;
const ACTIVE: usize = 0;
const CLAIM: usize = 1;
/// Looks at one busy slot before the waiter gives its processor away: the writer may need it to leave.
const SPINS: u32 = if cfg!(all(loom, test)) { 2 } else { 128 };

/// What a writer announces.
pub(crate) const fn announcement(generation: u64, epoch: u32) -> u64 {
    generation << 32 | epoch as u64
}

/// The slot table of one mapping.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'m> {
    words: &'m [AtomicU64],
    used: &'m AtomicU64,
}

impl<'m> Slots<'m> {
    pub(crate) fn of(mapping: &'m Mapping) -> Result<Self, Corrupt> {
        let segment = mapping.segment(SegmentKind::Slots);
        let count = u64::from(mapping.header().limits.slots_max);
        let words = mapping.words(segment.offset, count * SLOT_WORDS as u64)?;
        Ok(Self { words, used: GatePage::of(mapping)?.slots_used() })
    }

    pub(crate) fn len(self) -> usize {
        self.words.len() / SLOT_WORDS
    }
    /// Slots that were ever claimed; the page's number is input.
    fn used(self) -> usize {
        usize::try_from(self.used.load(Ordering::SeqCst)).unwrap_or(usize::MAX).min(self.len())
    }
    pub(crate) fn active(self, slot: usize) -> &'m AtomicU64 {
        &self.words[slot * SLOT_WORDS + ACTIVE]
    }
    fn claim_word(self, slot: usize) -> &'m AtomicU64 {
        &self.words[slot * SLOT_WORDS + CLAIM]
    }

    /// Who has claimed the slot; 0 for nobody.
    pub(crate) fn claimant(self, slot: usize) -> u64 {
        self.claim_word(slot).load(Ordering::Acquire)
    }
    /// Where the slot lies in the region.
    pub(crate) fn offset(self, mapping: &Mapping, slot: usize) -> u64 {
        mapping.segment(SegmentKind::Slots).offset + slot as u64 * SLOT
    }

    /// Takes a free slot for `incarnation`.
    pub(crate) fn claim(self, incarnation: u64) -> Result<usize, Error> {
        for slot in 0..self.len() {
            let word = self.claim_word(slot);
            if word.load(Ordering::Relaxed) == 0
                && word.compare_exchange(0, incarnation, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.used.fetch_max(slot as u64 + 1, Ordering::SeqCst);
                return Ok(slot);
            }
        }
        Err(Full::Table { table: "gate slots", limit: self.len() as u64 }.into())
    }

    /// Gives back a slot that the caller's own, living instance claimed and is idle in.
    pub(crate) fn release(self, slot: usize, incarnation: u64) {
        let _ = self.claim_word(slot).compare_exchange(incarnation, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Clears and frees all slots of an instance that is proved dead. Only the keeper may: two recoverers could clear what a
    /// new claimant has just announced.
    pub(crate) fn release_all(self, incarnation: u64) {
        // All of them: one killed right after its claim has not raised `used`, and nobody else would find that claim.
        for slot in 0..self.len() {
            if self.claim_word(slot).load(Ordering::Acquire) == incarnation {
                self.active(slot).store(0, Ordering::Release);
                self.release(slot, incarnation);
            }
        }
    }

    /// How many slots are claimed.
    pub(crate) fn claimed(self) -> u64 {
        (0..self.len()).filter(|slot| self.claim_word(*slot).load(Ordering::Relaxed) != 0).count() as u64
    }

    /// Waits until no slot is in a section that `blocks`, or `deadline` is over; `Err` holds the incarnations that are.
    ///
    /// The caller has changed what entering threads look at (the gate, the epoch) and issued the barrier: each slot either
    /// shows its section here, or its thread sees the change. Pairs with the Release store that ends a section.
    pub(crate) fn wait_until_none(self, deadline: Instant, blocks: impl Fn(u64) -> bool) -> Result<(), Vec<u64>> {
        for slot in 0..self.used() {
            let mut spins = 0;
            while blocks(self.active(slot).load(Ordering::SeqCst)) {
                spins += 1;
                if spins % SPINS != 0 {
                    std::hint::spin_loop();
                } else if Instant::now() < deadline {
                    std::thread::yield_now();
                } else {
                    return Err(self.blockers(blocks));
                }
            }
        }
        Ok(())
    }

    fn blockers(self, blocks: impl Fn(u64) -> bool) -> Vec<u64> {
        let busy = (0..self.used()).filter(|slot| blocks(self.active(*slot).load(Ordering::SeqCst)));
        let mut owners: Vec<u64> = busy.map(|slot| self.claim_word(slot).load(Ordering::Relaxed)).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

/// A section of generation `generation`, whatever its epoch.
pub(crate) fn of_generation(generation: u64) -> impl Fn(u64) -> bool {
    move |active| active != 0 && active >> 32 == generation
}

/// A section of generation `generation` that may have read an epoch before `epoch`.
pub(crate) fn before_epoch(generation: u64, epoch: u32) -> impl Fn(u64) -> bool {
    move |active| active != 0 && active >> 32 == generation && (active as u32) < epoch
}
