//! Sealed chunks: a log of blocks, written at one end and recycled at the other.
//!
//! Records ([`record`](super::record)) lie byte by byte behind one another, and a block's header says how far. A word that two
//! records share is stored again with the first one's bytes unchanged.
//!
//! Blocks hang from the oldest to the current one. **Recycling:** the oldest block's tag is raised, which ends every reference
//! into it; then, after a Release fence, its words are used again. A reader copies a record, and after an Acquire fence looks at
//! the tag again: if the copy has any byte of the next use, the tag differs. A record's own reference to the one before it has no
//! tag: the sequence of the block that it leads to says as much, since a recycled block gets a higher one than any that is there.
//!
//! **Crash.** A record that nobody refers to yet is space lost until its block is recycled. A block on its way to become the
//! current one stands in the root as *moving*; whoever owns next does that step again, each part of which may be done twice.

use super::SeriesStore;
use super::layout::{BLOCK, BLOCK_ALIGN, BLOCK_HEADER, RECORD_HEADER, SealedRef, TAG_MASK, arena, block, root};
use super::record::{Head, Sealing};
use super::root::{Root, take};
use super::xor::Writer;
use crate::error::{Corrupt, Generation, WriteError};
use crate::gate::Section;
use crate::mapping::Mapping;
use crate::objects::lock;
use crate::sync::{AtomicU64, Ordering, fence};

/// Whether a reference leads to a record that is still there.
pub(super) fn is_there(mapping: &Mapping, sealed: SealedRef) -> Result<bool, Corrupt> {
    if sealed.is_none() {
        return Ok(false);
    }
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
        // After that: the block may be the one that the chunk before lies in.
        let prev = if is_there(mapping, chunk.prev)? { chunk.prev } else { SealedRef::default() };
        let head = Head::of(&chunk, prev, arena(mapping), at);
        let bytes = head.bytes() + len;
        let header = header(mapping, at)?;
        let words = mapping.words(at, BLOCK / 8)?;
        let sealed = SealedRef::new(arena(mapping), at, used, header[block::TAG].load(Ordering::Relaxed));
        self.process.write(generation, |section| {
            section.mark(at, 8 * block::WORDS);
            section.mark(at + used, bytes);
            let shared = used % 8;
            let kept = u64::from_be(words[(used / 8) as usize % words.len()].load(Ordering::Relaxed));
            let kept = if shared == 0 { 0 } else { kept & (u64::MAX << (64 - 8 * shared)) };
            let mut writer = Writer::resume(words, used as u32 * 8, kept);
            head.write(&mut writer);
            chunk.write(&mut writer);
            writer.flush();
            header[block::MAX_MS].store(
                (header[block::MAX_MS].load(Ordering::Relaxed) as i64).max(chunk.max_ms) as u64,
                Ordering::Relaxed,
            );
            header[block::USED].store(used + bytes, Ordering::Relaxed);
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
