//! Reading: what any process may do at any time, without a lock.
//!
//! **A head** is copied between two loads of its commit word (Acquire; an Acquire fence, then Relaxed). Within a tag the counted
//! bits never change, and whoever turns to the next tag stores that commit word before anything that the copy could have torn:
//! the other side's words, the buffer's next bits. So an equal tag proves the copy, and otherwise the reader tries again.
//!
//! **Sealed chunks** are found from the newest to the oldest; each is older than the one before by its place in the log, so any
//! bytes end the walk. A block that was recycled ends it too: what it held is beyond the retention.

use std::ops::RangeInclusive;

use super::head::{chunk_bytes, side};
use super::layout::{CommitWord, ROOT_WORDS, ROW, ROWS, SealedRef, arena, root, row, row_blocks};
use super::record::{Lead, Record};
use super::root::Root;
use super::store::Row;
use super::xor::Decoder;
use super::{Chunk, Chunks, Encoding, LabelSet, SeriesId};
use crate::directory::Directory;
use crate::directory::entry::{Decoded, Kind};
use crate::error::{Corrupt, Error, NotReady};
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};

/// How often a head is copied until it stands still: a writer turns it after dozens of samples, a copy takes less than one.
const TRIES: u32 = 10_000;

/// The series of a mapped region, as one who only reads sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'m> {
    mapping: &'m Mapping,
    root: u64,
}

/// A chunk with its bytes, whatever their encoding.
struct Copied {
    at: u64,
    count: u16,
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl<'m> View<'m> {
    /// `None` before there is any series.
    pub(crate) fn of(mapping: &'m Mapping) -> Result<Option<Self>, Corrupt> {
        Ok(Root::place(mapping)?.map(|root| Self { mapping, root }))
    }

    pub(super) fn with_root(mapping: &'m Mapping, root: u64) -> Self {
        Self { mapping, root }
    }

    fn root_word(&self, number: u64, order: Ordering) -> Result<u64, Corrupt> {
        Ok(self.mapping.word(self.root + 8 * number)?.load(order))
    }

    /// Series that there are.
    pub(crate) fn count(&self) -> Result<u32, Corrupt> {
        // Acquire: rows and entries below it are whole.
        let count = self.root_word(root::COUNT as u64, Ordering::Acquire)?;
        Ok(count.min(self.mapping.limits().series_max.into()) as u32)
    }

    /// The end of the retention.
    pub(crate) fn oldest_ms(&self) -> Result<i64, Corrupt> {
        Ok(self.root_word(root::OLDEST_MS as u64, Ordering::Relaxed)? as i64)
    }

    /// Where the row of a series lies.
    pub(super) fn row(&self, id: SeriesId) -> Result<Row<'m>, Corrupt> {
        let (count, block) = (self.count()?, u64::from(id.0) / ROWS);
        if id.0 >= count || block >= row_blocks(self.mapping) {
            return Err(Corrupt::field("series' number", self.root, format!("below {count}"), id.0.into()));
        }
        let at = self.root_word(ROOT_WORDS + block, Ordering::Acquire)?;
        if !arena(self.mapping).contains(at) || !at.is_multiple_of(ROW) {
            return Err(Corrupt::field("series' block of rows", self.root, "a place in the owned area", at));
        }
        let at = at + u64::from(id.0) % ROWS * ROW;
        Ok(Row { words: self.mapping.words(at, row::WORDS as u64)?, at })
    }

    /// A series' labels.
    pub(crate) fn labels(&self, id: SeriesId) -> Result<LabelSet, Corrupt> {
        let row = self.row(id)?;
        // Relaxed: written before the count that was seen.
        let slot = row.words[row::ENTRY].load(Ordering::Relaxed);
        match Directory::owned(self.mapping).read(slot)? {
            (Decoded::Known(entry), _) if entry.kind == Kind::Series && entry.payload == u64::from(id.0) => {
                Ok(entry.labels)
            }
            _ => Err(Corrupt::field("series' entry", row.at, format!("that of series {id}"), slot)),
        }
    }

    /// See [`SeriesStore::chunks`](super::SeriesStore::chunks).
    pub(crate) fn chunks(&self, id: SeriesId, range_ms: &RangeInclusive<i64>) -> Result<Chunks, Error> {
        let row = self.row(id)?;
        let head = self.head_of(row)?;
        // Afterwards: what ends meanwhile is not given.
        let start_ms = (*range_ms.start()).max(self.oldest_ms()?);
        Ok(self.walk_from(head, start_ms..=*range_ms.end(), usize::MAX)?.chunks)
    }

    /// The oldest `keep` chunks with samples in a range of time, whatever the retention.
    pub(super) fn walk(&self, row: Row<'_>, range_ms: RangeInclusive<i64>, keep: usize) -> Result<Walked, Error> {
        let head = self.head_of(row)?;
        self.walk_from(head, range_ms, keep)
    }

    fn walk_from(
        &self,
        (head, sealed): (Option<Copied>, SealedRef),
        range_ms: RangeInclusive<i64>,
        keep: usize,
    ) -> Result<Walked, Error> {
        let has_head = head.is_some();
        let mut found = Walked { chunks: Chunks::default(), is_whole: true, read: 0, has_head, oldest_ms: i64::MAX };
        if let Some(head) = head {
            found.take(head, &range_ms, keep)?;
        }
        let (mut place, mut lead) = ((u64::MAX, u64::MAX), Lead::of_row(self.mapping, sealed));
        // All that is older than the first chunk before the range is before it too.
        while found.oldest_ms >= *range_ms.start() {
            let Some(found_at) = lead else { break };
            let Some(record) = Record::read(self.mapping, found_at)? else { break };
            if record.place >= place {
                let found = record.place.1;
                let e = Corrupt::field("series' sealed chunk", record.at, "a place before the newer one's", found);
                return Err(e.into());
            }
            (place, lead) = (record.place, record.prev);
            let Record { at, count, encoding, bytes, .. } = record;
            found.take(Copied { at, count, encoding, bytes }, &range_ms, keep)?;
        }
        found.forget_newest(keep);
        found.chunks.chunks.reverse();
        found.chunks.skipped.reverse();
        Ok(found)
    }

    /// The head chunk, and where the newest sealed one is.
    fn head_of(&self, row: Row<'_>) -> Result<(Option<Copied>, SealedRef), Error> {
        for _ in 0..TRIES {
            // Acquire: pairs with the Release store of the commit word; the bits that it counts are there.
            let commit = CommitWord(row.words[row::COMMIT].load(Ordering::Acquire));
            let (buffer, sealed) = side(row, commit);
            let copied = self.copy(row, commit);
            // Pairs with the Release fence of whoever wrote over what was copied; see the module.
            fence(Ordering::Acquire);
            if CommitWord(row.words[row::COMMIT].load(Ordering::Relaxed)).tag() != commit.tag() {
                std::hint::spin_loop();
                continue;
            }
            let Some((at, bytes)) = copied? else { return Ok((None, sealed)) };
            let (count, encoding) = (commit.count() as u16, Encoding(buffer.encoding()));
            return Ok((Some(Copied { at, count, encoding, bytes }), sealed));
        }
        Err(NotReady::Contended { attempts: TRIES }.into())
    }

    fn copy(&self, row: Row<'_>, commit: CommitWord) -> Result<Option<(u64, Vec<u8>)>, Corrupt> {
        if commit.count() == 0 {
            return Ok(None);
        }
        let (buffer, bits) = (side(row, commit).0, commit.bits());
        let at = buffer.place(arena(self.mapping))?;
        if bits > buffer.capacity_bits() {
            let expected = format!("at most {} bits", buffer.capacity_bits());
            return Err(Corrupt::field("series' commit word", row.at, expected, commit.0));
        }
        let words = self.mapping.words(at, u64::from(bits.div_ceil(64)))?;
        let words = words.iter().map(|word| word.load(Ordering::Relaxed));
        Ok(Some((at, chunk_bytes(commit.count() as u16, bits, words))))
    }

    /// Checks a series from its entry to its oldest chunk; a number that is not counted yet is nobody's fault.
    pub(crate) fn check(&self, slot: u64, payload: u64) -> Result<(), Error> {
        let count = self.count()?;
        if payload == u64::from(count) {
            return Ok(());
        }
        let id = SeriesId(u32::try_from(payload).unwrap_or(u32::MAX));
        let row = self.row(id)?;
        let found = row.words[row::ENTRY].load(Ordering::Relaxed);
        if found != slot {
            return Err(Corrupt::field("series' row", row.at, format!("the entry {slot:#x}"), found).into());
        }
        self.chunks(id, &(i64::MIN..=i64::MAX)).map(drop)
    }
}

/// Chunks read from the newest to the oldest.
pub(super) struct Walked {
    pub(super) chunks: Chunks,
    /// False: newer ones were let go, because there were more than were to be kept.
    pub(super) is_whole: bool,
    /// How many were looked at.
    pub(super) read: u64,
    pub(super) has_head: bool,
    /// The first sample's time of the oldest that was looked at and can be decoded.
    pub(super) oldest_ms: i64,
}

impl Walked {
    fn take(&mut self, copied: Copied, range_ms: &RangeInclusive<i64>, keep: usize) -> Result<(), Corrupt> {
        self.oldest_ms = self.chunks.take(copied, range_ms, self.oldest_ms, self.read == 0)?;
        self.read += 1;
        // Each is moved once at most, however many come.
        if self.chunks.chunks.len() / 2 >= keep {
            self.forget_newest(keep);
        }
        Ok(())
    }

    fn forget_newest(&mut self, keep: usize) {
        let surplus = self.chunks.chunks.len().saturating_sub(keep);
        self.is_whole &= surplus == 0;
        self.chunks.chunks.drain(..surplus);
    }
}

impl Chunks {
    /// Adds a chunk if it is in the range and can be decoded; gives the time of its first sample.
    fn take(
        &mut self,
        copied: Copied,
        range_ms: &RangeInclusive<i64>,
        newer_ms: i64,
        is_newest: bool,
    ) -> Result<i64, Corrupt> {
        let Copied { at, count, encoding, bytes } = copied;
        if encoding != Encoding::XOR {
            self.skipped.push(encoding);
            return Ok(newer_ms);
        }
        let wrong = |expected: String, found| Corrupt::field("series' chunk", at, expected, found);
        let (mut min_ms, mut max_ms) = (None, i64::MIN);
        for sample in Decoder::new(&bytes) {
            let t = sample.map_err(|bad| wrong(bad.to_string(), count.into()))?.timestamp_ms;
            if min_ms.is_some() && t <= max_ms {
                return Err(wrong(format!("a time after {max_ms} ms"), t as u64));
            }
            (min_ms, max_ms) = (min_ms.or(Some(t)), t);
        }
        let Some(min_ms) = min_ms else { return Err(wrong("samples".into(), 0)) };
        if max_ms >= newer_ms && !is_newest {
            return Err(wrong(format!("times before {newer_ms} ms"), max_ms as u64));
        }
        if max_ms >= *range_ms.start() && min_ms <= *range_ms.end() {
            self.chunks.push(Chunk { min_ms, max_ms, count, encoding, bytes });
        }
        Ok(min_ms)
    }
}
