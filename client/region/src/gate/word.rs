//! The gate word: which generation is open, whether a freezer holds it, and the number of the freezer's attempt.
//!
//! One `u64`, `{generation:32, attempt:28, phase:4}`, always compared whole. **Invariant:** within one generation no word
//! that has been left comes back, except that `FROZEN(g,a)` may return to `OPEN(g,a)`, and that ends attempt `a`. A stopped
//! freezer that wakes up late therefore never finds its own `FROZEN(g,a)` again, and its commit fails.
//!
//! Attempts run on over generations and wrap; a generation remembers (in its superblock) the attempt that opened it, and
//! refuses to go round to it again.

use std::fmt;

use crate::error::Generation;

/// Bits of the attempt number.
const ATTEMPT_BITS: u32 = 28;
/// The highest attempt number; the one after it is 0.
pub const ATTEMPT_MAX: u32 = (1 << ATTEMPT_BITS) - 1;
/// The highest generation that a gate word can carry.
pub const GENERATION_MAX: u64 = u32::MAX as u64;

/// What a gate's phase bits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The owner may write.
    Open,
    /// A freezer holds the gate; nobody may write.
    Frozen,
}

/// One value of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GateWord(u64);

impl GateWord {
    /// What a forked child reads where its parent's gate was.
    pub const DETACHED: GateWord = GateWord(0);

    const OPEN: u64 = 1;
    const FROZEN: u64 = 2;

    /// The word as it stands in the region.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    /// The bits that stand in the region.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// `OPEN(generation, attempt)`. The attempt is taken modulo 2^28, the generation modulo 2^32.
    pub const fn open(generation: u64, attempt: u32) -> Self {
        Self::pack(generation, attempt, Self::OPEN)
    }
    /// `FROZEN(generation, attempt)`.
    pub const fn frozen(generation: u64, attempt: u32) -> Self {
        Self::pack(generation, attempt, Self::FROZEN)
    }
    const fn pack(generation: u64, attempt: u32, phase: u64) -> Self {
        Self(generation << 32 | ((attempt & ATTEMPT_MAX) as u64) << 4 | phase)
    }
    /// The generation.
    pub const fn generation(self) -> Generation {
        Generation::new(self.0 >> 32)
    }
    /// The number of the last freeze attempt.
    pub const fn attempt(self) -> u32 {
        (self.0 >> 4) as u32 & ATTEMPT_MAX
    }
    /// The phase; `None` for bits that no build of this format writes, and for [`GateWord::DETACHED`].
    pub const fn phase(self) -> Option<Phase> {
        match self.0 & 15 {
            Self::OPEN => Some(Phase::Open),
            Self::FROZEN => Some(Phase::Frozen),
            _ => None,
        }
    }
    /// Whether the owner may write.
    pub fn is_open(self) -> bool {
        self.phase() == Some(Phase::Open)
    }
    /// Whether a freezer holds the gate.
    pub fn is_frozen(self) -> bool {
        self.phase() == Some(Phase::Frozen)
    }
    /// Whether this is what a forked child sees.
    pub fn is_detached(self) -> bool {
        self == Self::DETACHED
    }
    /// The same generation and attempt, open: what a thaw makes of a frozen word.
    pub const fn thawed(self) -> Self {
        Self(self.0 & !15 | Self::OPEN)
    }
    /// The word that freezes this open one, or `None` when the generation, opened at attempt `opened_at`, has used up its
    /// attempts.
    pub fn next_attempt(self, opened_at: u32) -> Option<Self> {
        let attempt = (self.attempt() + 1) & ATTEMPT_MAX;
        (attempt != opened_at & ATTEMPT_MAX).then(|| Self::pack(self.0 >> 32, attempt, Self::FROZEN))
    }
    /// The word that commits the next generation, or `None` when generations are used up.
    pub fn committed(self) -> Option<Self> {
        let next = (self.0 >> 32) + 1;
        (next <= GENERATION_MAX).then(|| Self::pack(next, self.attempt(), Self::OPEN))
    }
}

impl fmt::Debug for GateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generation, attempt) = (self.generation(), self.attempt());
        match self.phase() {
            Some(Phase::Open) => write!(f, "OPEN({generation},{attempt})"),
            Some(Phase::Frozen) => write!(f, "FROZEN({generation},{attempt})"),
            None if self.is_detached() => f.write_str("DETACHED"),
            None => write!(f, "UNKNOWN({:#018x})", self.0),
        }
    }
}

impl fmt::Display for GateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_phases_differ_and_zero_is_neither() {
        assert!(GateWord::open(1, 0).is_open() && !GateWord::open(1, 0).is_frozen());
        assert!(GateWord::frozen(1, 0).is_frozen());
        assert!(GateWord::DETACHED.is_detached() && GateWord::DETACHED.phase().is_none());
        assert_eq!(GateWord::open(7, 3).to_string(), "OPEN(7,3)");
        assert_eq!(GateWord::from_raw(5).phase(), None);
    }

    #[test]
    fn a_switch_is_freeze_then_open_the_next_generation_with_the_same_attempt() {
        let frozen = GateWord::open(4, 9).next_attempt(9).unwrap();
        assert_eq!(frozen, GateWord::frozen(4, 10));
        assert_eq!(frozen.thawed(), GateWord::open(4, 10));
        assert_eq!(frozen.committed(), Some(GateWord::open(5, 10)));
    }

    #[test]
    fn attempts_wrap_but_never_come_back_to_the_one_that_opened_the_generation() {
        assert_eq!(GateWord::open(4, ATTEMPT_MAX).next_attempt(7), Some(GateWord::frozen(4, 0)));
        assert_eq!(GateWord::open(4, 6).next_attempt(7), None);
        assert_eq!(GateWord::open(4, ATTEMPT_MAX).next_attempt(0), None);
        assert_eq!(GateWord::frozen(GENERATION_MAX, 1).committed(), None);
    }

    proptest! {
        #[test]
        fn any_word_decodes_and_keeps_its_parts(raw: u64, generation in 0..=GENERATION_MAX, attempt in 0..=ATTEMPT_MAX) {
            let any = GateWord::from_raw(raw);
            let _ = (any.phase(), any.to_string(), any.next_attempt(0), any.committed());
            let open = GateWord::open(generation, attempt);
            prop_assert_eq!((open.generation().get(), open.attempt(), open.is_open()), (generation, attempt, true));
            prop_assert_ne!(open, GateWord::frozen(generation, attempt));
        }
    }
}
