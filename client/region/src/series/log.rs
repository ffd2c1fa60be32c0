//! Sealed chunks: a log of blocks, written at one end and recycled at the other.
//!
//! Records lie byte by byte behind one another, and a block's header says how far. A word that two records share is stored again
//! with the first one's bytes unchanged.
//!
//! ```text
//! record  prev: SealedRef, 8 bytes | count:7 | len_bytes:10 | encoding:7 | the chunk's bits, to the next whole byte
//! ```
//!
//! Blocks hang from the oldest to the current one. **Recycling:** the oldest block's tag is raised, which ends every reference
//! into it; then, after a Release fence, its words are used again. A reader copies a record, and after an Acquire fence looks at
//! the tag again: if the copy has any byte of the next use, the tag differs.
//!
//! **Crash.** A record that nobody refers to yet is space lost until its block is recycled. A block on its way to become the
//! current one stands in the root as *moving*; whoever owns next does that step again, each part of which may be done twice.

use super::layout::{
    BLOCK, BLOCK_ALIGN, BLOCK_HEADER, CommitWord, RECORD_HEADER, SealedRef, TAG_MASK, arena, block, root,
};
use super::root::{Root, take};
use super::xor::{BadChunk, Sink, Writer};
use super::{Encoding, SeriesStore};
use crate::error::{Corrupt, Generation, WriteError};
use crate::gate::Section;
use crate::mapping::Mapping;
use crate::objects::lock;
use crate::sync::{AtomicU64, Ordering, fence};

/// A sealed chunk, copied.
#[derive(Debug)]
pub(super) struct Record {
    /// Where it lies, for errors.
    pub(super) at: u64,
    /// Its block's number in the log and its place there: a newer record's is higher.
    pub(super) place: (u64, u64),
    pub(super) prev: SealedRef,
    pub(super) count: u16,
    pub(super) encoding: Encoding,
    /// Prometheus' form.
    pub(super) bytes: Vec<u8>,
}

/// What is to be sealed.
pub(super) struct Sealing<'a> {
    pub(super) prev: SealedRef,
    pub(super) commit: CommitWord,
    pub(super) encoding: u8,
    pub(super) words: &'a [AtomicU64],
    pub(super) max_ms: i64,
}

impl Record {
    /// Copies the record; `None` if there is none, or its block was recycled.
    pub(super) fn read(mapping: &Mapping, sealed: SealedRef) -> Result<Option<Self>, Corrupt> {
        if sealed.is_none() {
            return Ok(None);
        }
        let at = sealed.block(arena(mapping));
        let header = header(mapping, at)?;
        let is_valid = |order| header[block::TAG].load(order) & TAG_MASK == sealed.tag();
        // Acquire: pairs with the Release store of what led here; the fence in `recycle` does the rest.
        if !is_valid(Ordering::Acquire) {
            return Ok(None);
        }
        let place = (header[block::SEQUENCE].load(Ordering::Relaxed), sealed.offset());
        let record = Self::copy(mapping, at, place);
        // Pairs with the Release fence after the tag was raised.
        fence(Ordering::Acquire);
        if is_valid(Ordering::Relaxed) { record.map(Some) } else { Ok(None) }
    }

    fn copy(mapping: &Mapping, block: u64, place: (u64, u64)) -> Result<Self, Corrupt> {
        let offset = place.1;
        let at = block + offset;
        if offset < BLOCK_HEADER || offset + RECORD_HEADER > BLOCK {
            return Err(Corrupt::field("series' sealed chunk", block, "an offset within its block", offset));
        }
        let mut head = [0; RECORD_HEADER as usize];
        copy_bytes(mapping, at, &mut head)?;
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (prev, rest) = (SealedRef(word(&head[..8])), word(&head[8..]));
        let (count, len, encoding) = ((rest >> 17) as u16, rest >> 7 & 0x3ff, Encoding((rest & 0x7f) as u8));
        if offset + RECORD_HEADER + len > BLOCK {
            return Err(Corrupt::field("series' sealed chunk's length", at, "an end within its block", len));
        }
        let mut bytes = vec![0; 2 + len as usize];
        bytes[..2].copy_from_slice(&count.to_be_bytes());
        copy_bytes(mapping, at + RECORD_HEADER, &mut bytes[2..])?;
        Ok(Self { at, place, prev, count, encoding, bytes })
    }

    /// What decoding found wrong with it.
    pub(super) fn bad(&self, bad: &BadChunk) -> Corrupt {
        Corrupt::field("series' sealed chunk", self.at, bad.to_string(), self.count.into())
    }
}

/// Whether a reference leads to a record that is still there.
pub(super) fn is_there(mapping: &Mapping, sealed: SealedRef) -> Result<bool, Corrupt> {
    let header = header(mapping, sealed.block(arena(mapping)))?;
    Ok(header[block::TAG].load(Ordering::Acquire) & TAG_MASK == sealed.tag())
}

/// A block's header, of a place where one may be.
pub(super) fn header(mapping: &Mapping, at: u64) -> Result<&[AtomicU64], Corrupt> {
    let arena = arena(mapping);
    if !arena.contains(at) || !(at - arena.offset).is_multiple_of(BLOCK_ALIGN) || at + BLOCK > arena.end() {
        return Err(Corrupt::field("series' block of chunks", arena.offset, "a place in the owned area", at));
    }
    mapping.words(at, block::WORDS)
}

/// Copies bytes at any offset.
fn copy_bytes(mapping: &Mapping, at: u64, to: &mut [u8]) -> Result<(), Corrupt> {
    let skip = (at % 8) as usize;
    let words = mapping.words(at - skip as u64, (skip + to.len()).div_ceil(8) as u64)?;
    let mut left = to;
    for (i, word) in words.iter().enumerate() {
        let bytes = word.load(Ordering::Relaxed).to_le_bytes();
        let from = if i == 0 { &bytes[skip..] } else { &bytes[..] };
        let (now, rest) = left.split_at_mut(from.len().min(left.len()));
        now.copy_from_slice(&from[..now.len()]);
        left = rest;
    }
    Ok(())
}

impl SeriesStore {
    /// Writes a record and lets `publish` refer to it, in one section.
    pub(super) fn seal_with(
        &self,
        generation: Generation,
        chunk: Sealing<'_>,
        publish: impl FnOnce(&Section<'_>, SealedRef),
    ) -> Result<(), WriteError> {
        let _one = lock(&self.shared.log);
        let (mapping, len) = (self.mapping(), u64::from(chunk.commit.bits().div_ceil(8)));
        let (at, used) = self.block_for(generation, RECORD_HEADER + len)?;
        let header = header(mapping, at)?;
        let words = mapping.words(at, BLOCK / 8)?;
        let sealed = SealedRef::new(arena(mapping), at, used, header[block::TAG].load(Ordering::Relaxed));
        self.process.write(generation, |section| {
            section.mark(at, 8 * block::WORDS);
            section.mark(at + used, RECORD_HEADER + len);
            let shared = used % 8;
            let kept = u64::from_be(words[(used / 8) as usize % words.len()].load(Ordering::Relaxed));
            let kept = if shared == 0 { 0 } else { kept & (u64::MAX << (64 - 8 * shared)) };
            let mut writer = Writer::resume(words, used as u32 * 8, kept);
            chunk.write(len, &mut writer);
            writer.flush();
            header[block::MAX_MS].store(
                (header[block::MAX_MS].load(Ordering::Relaxed) as i64).max(chunk.max_ms) as u64,
                Ordering::Relaxed,
            );
            header[block::USED].store(used + RECORD_HEADER + len, Ordering::Relaxed);
            publish(section, sealed);
        })
    }

    /// A block with room for `bytes`, and how much of it is used.
    fn block_for(&self, generation: Generation, bytes: u64) -> Result<(u64, u64), WriteError> {
        let root = self.rooted()?;
        if root.word(root::LOG_MOVING).load(Ordering::Relaxed) != 0 {
            self.finish_move(generation, root)?;
        }
        for _ in 0..2 {
            let current = root.word(root::LOG_CURRENT).load(Ordering::Relaxed);
            if current != 0 {
                let used = header(self.mapping(), current)?[block::USED].load(Ordering::Relaxed);
                if !(BLOCK_HEADER..=BLOCK).contains(&used) {
                    return Err(Corrupt::field("series' block's used bytes", current, "64 to 65536", used).into());
                }
                if used + bytes <= BLOCK {
                    return Ok((current, used));
                }
            }
            self.next_block(generation, root, current)?;
        }
        Err(Corrupt::field("series' block", root.at, "one with room for a chunk", bytes).into())
    }

    /// Makes another block the current one: the oldest, if it may be recycled, or a new one.
    fn next_block(&self, generation: Generation, root: &Root, current: u64) -> Result<(), WriteError> {
        let mapping = self.mapping();
        let oldest = root.word(root::LOG_OLDEST).load(Ordering::Relaxed);
        let sequence = |at| match at {
            0 => Ok(0),
            at => Ok::<_, Corrupt>(header(mapping, at)?[block::SEQUENCE].load(Ordering::Relaxed)),
        };
        let blocks = sequence(current)?.wrapping_sub(sequence(oldest)?).wrapping_add(1);
        let limit = (self.shared.retention_bytes.load(Ordering::Relaxed) / BLOCK).max(2);
        let is_dead =
            |at| Ok::<_, Corrupt>(header(mapping, at)?[block::MAX_MS].load(Ordering::Relaxed) as i64 == i64::MIN);
        let recycle = oldest != 0 && oldest != current && (blocks >= limit || is_dead(oldest)?);
        let next = if recycle { oldest } else { take(mapping, BLOCK, BLOCK_ALIGN)? };
        // Seen ready before the section.
        header(mapping, next)?;
        self.process.write(generation, |section| {
            section.mark(root.word_at(root::LOG_MOVING), 8);
            root.word(root::LOG_MOVING).store(next, Ordering::Release);
        })?;
        self.finish_move(generation, root)
    }

    /// Does what is left to do for the moving block; may be done twice.
    fn finish_move(&self, generation: Generation, root: &Root) -> Result<(), WriteError> {
        let mapping = self.mapping();
        let moving = root.word(root::LOG_MOVING).load(Ordering::Relaxed);
        let (oldest, current) = (root.word(root::LOG_OLDEST), root.word(root::LOG_CURRENT));
        let block_words = header(mapping, moving)?;
        let was_current = current.load(Ordering::Relaxed);
        let before = if was_current == 0 || was_current == moving { None } else { Some(header(mapping, was_current)?) };
        self.process.write(generation, |section| {
            section.mark(root.at, 8 * root::SLABS as u64);
            section.mark(moving, 8 * block::WORDS);
            if before.is_some() {
                section.mark(was_current, 8 * block::WORDS);
            }
            if was_current != moving {
                if oldest.load(Ordering::Relaxed) == moving {
                    kill(block_words);
                    oldest.store(block_words[block::NEXT].load(Ordering::Relaxed), Ordering::Release);
                }
                // Release: a kill in between must find the list as it is here, step by step.
                block_words[block::NEXT].store(0, Ordering::Release);
                block_words[block::USED].store(BLOCK_HEADER, Ordering::Relaxed);
                block_words[block::MAX_MS].store(i64::MIN as u64, Ordering::Relaxed);
                if let Some(before) = before {
                    let sequence = before[block::SEQUENCE].load(Ordering::Relaxed).wrapping_add(1);
                    block_words[block::SEQUENCE].store(sequence, Ordering::Relaxed);
                    before[block::NEXT].store(moving, Ordering::Release);
                }
                if oldest.load(Ordering::Relaxed) == 0 {
                    oldest.store(moving, Ordering::Relaxed);
                }
                // Last, so that the step is not taken for done before.
                current.store(moving, Ordering::Release);
            }
            root.word(root::LOG_MOVING).store(0, Ordering::Release);
        })
    }

    /// Kills the blocks at the log's old end whose newest sample is older than `cutoff_ms`; gives their number.
    pub(super) fn expire_blocks(&self, generation: Generation, cutoff_ms: i64) -> Result<u64, WriteError> {
        let _one = lock(&self.shared.log);
        let (root, mapping) = (self.rooted()?, self.mapping());
        if root.word(root::LOG_MOVING).load(Ordering::Relaxed) != 0 {
            self.finish_move(generation, root)?;
        }
        let current = root.word(root::LOG_CURRENT).load(Ordering::Relaxed);
        let (mut at, mut killed) = (root.word(root::LOG_OLDEST).load(Ordering::Relaxed), 0);
        // No more blocks than the arena can hold.
        for _ in 0..arena(mapping).len / BLOCK {
            if at == 0 || at == current {
                break;
            }
            let words = header(mapping, at)?;
            let max_ms = words[block::MAX_MS].load(Ordering::Relaxed) as i64;
            if max_ms >= cutoff_ms {
                break;
            }
            if max_ms != i64::MIN {
                self.process.write(generation, |section| {
                    section.mark(at, 8 * block::WORDS);
                    kill(words);
                })?;
                killed += 1;
            }
            at = words[block::NEXT].load(Ordering::Relaxed);
        }
        Ok(killed)
    }
}

/// Ends all references into a block. In a section, after its mark.
fn kill(words: &[AtomicU64]) {
    words[block::TAG].store(words[block::TAG].load(Ordering::Relaxed).wrapping_add(1) & TAG_MASK, Ordering::Relaxed);
    // Pairs with the Acquire fence of a reader that copied a byte of the block's next use.
    fence(Ordering::Release);
    words[block::USED].store(BLOCK_HEADER, Ordering::Relaxed);
    words[block::MAX_MS].store(i64::MIN as u64, Ordering::Relaxed);
}

impl Sealing<'_> {
    fn write(&self, len: u64, to: &mut impl Sink) {
        to.put(self.prev.0, 64);
        to.put(u64::from(self.commit.count()) << 17 | len << 7 | u64::from(self.encoding), 24);
        let bits = self.commit.bits();
        for (i, word) in self.words.iter().enumerate() {
            let word = u64::from_be(word.load(Ordering::Relaxed));
            let left = bits - 64 * i as u32;
            if left >= 64 {
                to.put(word, 64);
            } else {
                // What comes after the last bit is zero, in whole bytes.
                let bytes = left.next_multiple_of(8);
                to.put((word & (u64::MAX << (64 - left))) >> (64 - bytes), bytes);
            }
        }
    }
}
