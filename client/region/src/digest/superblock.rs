//! The twin superblocks: who owns a generation, and what the region's digest was when the one before it was sealed.
//!
//! **Format.** Sixteen little-endian words at the start of a page; the last holds the CRC of the others. The slot of a
//! superblock is its sequence's parity, so two adjacent sequences never share a page and *the last valid one stays until
//! its successor is complete*.
//!
//! **Which is current.** The highest valid one whose generation is not above the gate's: a superblock above the gate is a
//! candidate whose commit never happened, and is overwritten by the next one with the same sequence. Valid means: CRC and
//! magic right, parity equal to the slot, and, if both CRCs are right, sequences that are adjacent. Within one boot, a current
//! superblock below the gate's generation is corruption, for the gate only reaches g+1 after g+1's superblock is complete.
//!
//! **Crash.** A writer invalidates the CRC first and publishes it last. Killed in between, it leaves the slot without a valid
//! superblock, and that slot was not the current one.

use crate::error::Corrupt;
use crate::gate::word::{ATTEMPT_MAX, GENERATION_MAX};
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering, fence};

/// Words of an encoded superblock.
pub const SUPERBLOCK_WORDS: usize = 16;
const MAGIC: u64 = u64::from_le_bytes(*b"HLSUPER1");
const CRC_WORD: usize = SUPERBLOCK_WORDS - 1;

/// One generation's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Superblock {
    /// Number of this record; its parity is its slot.
    pub sequence: u64,
    /// The generation that this record opens.
    pub generation: u64,
    /// Who owns it; 0 names nobody (a departure, or a new region).
    pub owner_incarnation: u64,
    /// Digest of the owned area when the generation before was sealed.
    pub root_digest: u64,
    /// Fingerprint of the schemas that the owner declared.
    pub schema_fingerprint: u64,
    /// When it was sealed, by the wall clock.
    pub sealed_unix_ms: u64,
    /// The freeze attempt that opened the generation; attempts within it never come back to this number.
    pub attempt: u32,
    /// Pages that had to be read while the gate was frozen.
    pub frozen_pages: u64,
    /// Counter words whose totals were recorded before the freeze.
    pub totals_words: u64,
    /// Of a generation that the reset after a reboot opened: the newest one that is known to have been open before. Others
    /// may have been sealed. 0 in all other records.
    pub former_generation: u64,
}

impl Superblock {
    /// The slot that this record belongs into.
    pub fn slot(&self) -> usize {
        (self.sequence & 1) as usize
    }

    /// Whether the reset after a reboot opened this generation: the only one, but the first, that no freeze attempt opened.
    pub fn opened_by_reset(&self) -> bool {
        self.generation > 1 && self.attempt == 0 && self.owner_incarnation == 0
    }

    /// The words of a page that holds this record.
    pub fn encode(&self) -> [u64; SUPERBLOCK_WORDS] {
        let mut words = [0; SUPERBLOCK_WORDS];
        words[..11].copy_from_slice(&[
            MAGIC,
            self.sequence,
            self.generation,
            self.owner_incarnation,
            self.root_digest,
            self.schema_fingerprint,
            self.sealed_unix_ms,
            u64::from(self.attempt),
            self.frozen_pages,
            self.totals_words,
            self.former_generation,
        ]);
        words[CRC_WORD] = u64::from(crc_of(&words[..CRC_WORD]));
        words
    }

    /// What `words`, found in `slot` at byte `offset`, say.
    ///
    /// # Errors
    /// The first thing about them that no writer of this format makes.
    pub fn decode(slot: usize, offset: u64, words: &[u64; SUPERBLOCK_WORDS]) -> Result<Self, Corrupt> {
        let at = |word: usize| offset + 8 * word as u64;
        let (expected, found) = (words[CRC_WORD], crc_of(&words[..CRC_WORD]));
        if expected != u64::from(found) {
            let expected = expected as u32;
            return Err(Corrupt::Checksum { what: "superblock", offset: at(CRC_WORD), expected, found });
        }
        if words[0] != MAGIC {
            return Err(Corrupt::field("superblock magic", offset, format!("{MAGIC:#x}"), words[0]));
        }
        if words[1] == 0 || words[1] & 1 != slot as u64 {
            let expected = if slot == 0 { "an even number above 0" } else { "an odd number" };
            return Err(Corrupt::field("superblock sequence", at(1), expected, words[1]));
        }
        if words[2] == 0 || words[2] > GENERATION_MAX {
            return Err(Corrupt::field("superblock generation", at(2), format!("1..={GENERATION_MAX}"), words[2]));
        }
        if words[7] > u64::from(ATTEMPT_MAX) {
            return Err(Corrupt::field("superblock attempt", at(7), format!("0..={ATTEMPT_MAX}"), words[7]));
        }
        Ok(Self {
            sequence: words[1],
            generation: words[2],
            owner_incarnation: words[3],
            root_digest: words[4],
            schema_fingerprint: words[5],
            sealed_unix_ms: words[6],
            attempt: words[7] as u32,
            frozen_pages: words[8],
            totals_words: words[9],
            former_generation: words[10],
        })
    }
}

/// What both slots hold, as far as it is valid by itself.
#[derive(Clone, Debug)]
pub struct Pair {
    slots: [Result<Superblock, Corrupt>; 2],
    offset: u64,
}

impl Pair {
    /// Decodes both slots; `offset` is where the first begins and `stride` the distance to the second, for errors.
    pub fn decode(offset: u64, stride: u64, words: &[[u64; SUPERBLOCK_WORDS]; 2]) -> Self {
        let slots = [0, 1].map(|slot| Superblock::decode(slot, offset + stride * slot as u64, &words[slot]));
        Self { slots, offset }
    }

    /// Both slots, for people to read.
    pub fn slots(&self) -> &[Result<Superblock, Corrupt>; 2] {
        &self.slots
    }

    /// The record with the highest sequence, of whatever generation: a successor's sequence follows it.
    pub fn newest(&self) -> Option<Superblock> {
        self.slots.iter().flatten().copied().max_by_key(|s| s.sequence)
    }

    /// The highest generation that any valid record names.
    pub fn highest_generation(&self) -> u64 {
        self.slots.iter().flatten().map(|s| s.generation).max().unwrap_or(0)
    }

    /// The record of the gate's generation.
    ///
    /// # Errors
    /// `Corrupt` when the slots are not adjacent, or neither holds a record of exactly the gate's generation as its highest
    /// one not above it. Only for a region of this boot: after another, the gate and the slots may be of different ages.
    pub fn current(&self, gate_generation: u64) -> Result<Superblock, Corrupt> {
        if let [Ok(a), Ok(b)] = &self.slots
            && a.sequence.abs_diff(b.sequence) != 1
        {
            let expected = format!("a neighbour of {}", a.sequence);
            return Err(Corrupt::field("superblock sequence", self.offset, expected, b.sequence));
        }
        let current = self.slots.iter().flatten().filter(|s| s.generation <= gate_generation);
        match current.max_by_key(|s| s.sequence) {
            Some(found) if found.generation == gate_generation => Ok(*found),
            Some(found) => {
                let expected = format!("{gate_generation}, as the gate says");
                Err(Corrupt::field("superblock generation", self.offset, expected, found.generation))
            }
            None => match &self.slots {
                [Err(why), _] | [_, Err(why)] => Err(why.clone()),
                [Ok(a), Ok(_)] => {
                    let expected = format!("at most {gate_generation}, as the gate says");
                    Err(Corrupt::field("superblock generation", self.offset, expected, a.generation))
                }
            },
        }
    }
}

/// What both slots of a region hold now. Which of them is current, the gate says: read it before and after.
///
/// # Errors
/// `Corrupt` if they are outside what is allocated.
pub fn read(mapping: &Mapping) -> Result<Pair, Corrupt> {
    let offset = mapping.segment(SegmentKind::Superblocks).offset;
    let words = [page(mapping, 0)?, page(mapping, 1)?].map(load);
    Ok(Pair::decode(offset, PAGE, &words))
}

/// Writes a superblock into its slot.
pub(crate) fn write(mapping: &Mapping, block: &Superblock) -> Result<(), Corrupt> {
    store(page(mapping, block.slot())?, &block.encode());
    Ok(())
}

fn page(mapping: &Mapping, slot: usize) -> Result<&[AtomicU64], Corrupt> {
    mapping.words(mapping.segment(SegmentKind::Superblocks).offset + PAGE * slot as u64, SUPERBLOCK_WORDS as u64)
}

/// Writes `words` into the slot that starts at `page`: CRC invalid first, valid last.
fn store(page: &[AtomicU64], words: &[u64; SUPERBLOCK_WORDS]) {
    let crc = words[CRC_WORD];
    page[CRC_WORD].store(!crc, Ordering::Relaxed);
    // Pairs with the Acquire fence in `load`: who sees a new field also sees the CRC gone.
    fence(Ordering::Release);
    for (word, value) in page.iter().zip(words).take(CRC_WORD) {
        word.store(*value, Ordering::Relaxed);
    }
    // Publishes; pairs with the Acquire load in `load`.
    page[CRC_WORD].store(crc, Ordering::Release);
}

/// Copies a slot once; whether the copy is whole, its CRC tells.
fn load(page: &[AtomicU64]) -> [u64; SUPERBLOCK_WORDS] {
    let mut words = [0; SUPERBLOCK_WORDS];
    words[CRC_WORD] = page[CRC_WORD].load(Ordering::Acquire);
    for (value, word) in words.iter_mut().zip(page).take(CRC_WORD) {
        *value = word.load(Ordering::Relaxed);
    }
    // Pairs with the Release fence in `store`: if a field was new, this load sees the invalid (or a later) CRC.
    fence(Ordering::Acquire);
    if page[CRC_WORD].load(Ordering::Relaxed) != words[CRC_WORD] {
        words = [0; SUPERBLOCK_WORDS];
        words[CRC_WORD] = u64::MAX;
    }
    words
}

fn crc_of(words: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    words.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
    hasher.finalize()
}

#[cfg(test)]
mod tests;
