//! Retention: what is too old goes, and what it held can be used again.
//!
//! By time: the root says what is too old, blocks whose newest sample is too old are killed, and heads whose last sample is too
//! old are emptied and give back their buffer. By size: the log takes its oldest block instead of a new one. A row that leads
//! to a recycled block is made to lead nowhere, long before the block's tag could come round again.

use super::append::turn;
use super::head::{Last, side};
use super::layout::{BufferRef, CommitWord, ROW, ROWS, SealedRef, arena, root, row};
use super::log::is_there;
use super::store::Row;
use super::xor::Decoder;
use super::{SeriesId, SeriesStore};
use crate::error::{Corrupt, Generation, WriteError};
use crate::objects::lock;
use crate::sync::Ordering;

/// Rows that one call looks at.
const ROWS_PER_CALL: u32 = 16 * ROWS as u32;
/// Slabs of each class that one call looks at.
const SLABS_PER_CALL: u32 = 16;
/// Words that hold a chunk's first sample.
const FIRST_WORDS: u64 = 3;

/// What one call of [`SeriesStore::expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Blocks of sealed chunks that can be used again.
    pub blocks: u64,
    /// Series whose last samples went.
    pub heads: u64,
    /// Buffers that a killed owner had left, and that can be used again.
    pub buffers: u64,
}

impl SeriesStore {
    /// Lets go what is older than the retention, seen from `now_ms`, and clears up. One call looks at a bounded number of
    /// series (16 384) and goes on where the last one ended; a service calls it every few seconds. For the owner.
    ///
    /// # Errors
    /// [`WriteError`]; what was done before stays done.
    pub fn expire(&self, generation: Generation, now_ms: i64) -> Result<Expired, WriteError> {
        let Some(root) = self.root()? else { return Ok(Expired::default()) };
        let retention_ms = self.shared.retention_ms.load(Ordering::Relaxed);
        let cutoff_ms = if retention_ms == i64::MAX { i64::MIN } else { now_ms.saturating_sub(retention_ms) };
        if cutoff_ms > root.oldest_ms() {
            self.process.write(generation, |section| {
                section.mark(root.word_at(root::OLDEST_MS), 8);
                root.word(root::OLDEST_MS).store(cutoff_ms as u64, Ordering::Release);
            })?;
        }
        let oldest_ms = root.oldest_ms();
        let blocks = self.expire_blocks(generation, oldest_ms)?;
        let count = self.count()?;
        let first = self.shared.sweep.load(Ordering::Relaxed) as u32;
        let first = if first < count { first } else { 0 };
        let end = count.min(first + ROWS_PER_CALL);
        let mut heads = 0;
        for id in (first..end).map(SeriesId) {
            heads += u64::from(self.expire_row(generation, id, oldest_ms)?);
        }
        self.shared.sweep.store(end as usize, Ordering::Relaxed);
        Ok(Expired { blocks, heads, buffers: self.sweep_slabs(generation, SLABS_PER_CALL)? })
    }

    /// Whether the series' head went.
    fn expire_row(&self, generation: Generation, id: SeriesId, oldest_ms: i64) -> Result<bool, WriteError> {
        let row = self.row(id)?;
        let commit = CommitWord(row.words[row::COMMIT].load(Ordering::Acquire));
        let dangles = |sealed: SealedRef| Ok::<_, Corrupt>(!sealed.is_none() && !is_there(self.mapping(), sealed)?);
        let is_old = commit.count() > 0 && self.first_ms(row, commit)? < oldest_ms;
        if !is_old && !dangles(side(row, commit).1)? {
            return Ok(false);
        }
        let Some(head) = self.head(id) else { return Ok(false) };
        let mut head = lock(head);
        // With the lock held nobody else of this owner changes the row.
        if row.words[row::COMMIT].load(Ordering::Acquire) != head.commit.0 {
            *head = self.rebuild(id, row)?;
        }
        let (commit, last_ms) = (head.commit, head.state.timestamp_ms);
        let (mut buffer, mut sealed) = side(row, commit);
        let drops = commit.count() > 0 && head.last == Last::Sample && last_ms < oldest_ms;
        if dangles(sealed)? {
            sealed = SealedRef::default();
        }
        let next = if drops { commit.turned(0, 0) } else { commit.turned(commit.count(), commit.bits()) };
        let old = if drops { std::mem::take(&mut buffer) } else { BufferRef::default() };
        let owner_at = old.owner_at(arena(self.mapping()));
        let owner = if old.is_none() { None } else { Some(&self.mapping().words32(owner_at, 1)?[0]) };
        self.process.write(generation, |section| {
            section.mark(row.at, ROW);
            if let Some(owner) = owner {
                section.mark(owner_at, 4);
                row.words[row::LAST_MS].store(last_ms as u64, Ordering::Relaxed);
                turn(row, next, buffer.0, sealed.0);
                owner.store(0, Ordering::Release);
            } else {
                turn(row, next, buffer.0, sealed.0);
            }
        })?;
        self.give_buffer(old);
        if drops {
            (head.commit, head.buffer, head.word, head.last) = (next, buffer, 0, Last::Time);
        } else {
            head.commit = next;
        }
        Ok(drops)
    }

    /// Time of the head's first sample.
    fn first_ms(&self, row: Row<'_>, commit: CommitWord) -> Result<i64, Corrupt> {
        let at = side(row, commit).0.place(arena(self.mapping()))?;
        let words = self.mapping().words(at, FIRST_WORDS)?;
        let words = words.iter().map(|word| word.load(Ordering::Relaxed));
        let bytes = super::head::chunk_bytes(1, 64 * FIRST_WORDS as u32, words);
        match Decoder::new(&bytes).next() {
            Some(Ok(sample)) => Ok(sample.timestamp_ms),
            Some(Err(bad)) => Err(Corrupt::field("series' head chunk", at, bad.to_string(), commit.0)),
            None => Ok(i64::MAX),
        }
    }
}
