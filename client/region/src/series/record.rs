//! One sealed chunk in a block of the log: what stands before its bits, and how it is read.
//!
//! ```text
//! len_bytes:10 | prev:3 | usual:1 | 0:2                    how many bytes of bits follow the header
//! count:7 | encoding:7 | 0:2                               unless `usual`: 120 samples, XOR
//! offset:16 | distance: 0 to 4 bytes, signed               unless `prev` is 0; `prev` is one more than the distance's bytes
//! the chunk's bits, to the next whole byte
//! ```
//!
//! `offset` and `distance` lead to the series' chunk before: its place in its block, and how many units of 256 bytes that block
//! lies before this one. Most headers are 6 or 7 bytes, which is what a chunk takes here beyond its bits; Prometheus' own form
//! begins with a count of 2.
//!
//! **A reference without a tag** is good if the block that it leads to has a sequence no higher than this one's, as that block
//! gets a higher one before it is used again. The writer leads to no chunk whose block was recycled before: it knows the row's
//! reference, which has the tag. Sequence and tag are looked at again after the copy, as the log's head says.
//!
//! Bytes are input: a place outside of a block, a length beyond its end and bits that mean nothing are [`Corrupt`].

use super::Encoding;
use super::layout::{
    BLOCK, BLOCK_ALIGN, BLOCK_HEADER, CHUNK_SAMPLES, CommitWord, RECORD_HEADER, SealedRef, TAG_MASK, arena, block,
};
use super::log::header;
use super::xor::{BadChunk, Sink};
use crate::error::Corrupt;
use crate::layout::Segment;
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering, fence};

/// A sealed chunk, copied.
#[derive(Debug)]
pub(super) struct Record {
    /// Where it lies, for errors.
    pub(super) at: u64,
    /// Its block's number in the log and its place there: a newer record's is higher.
    pub(super) place: (u64, u64),
    /// The series' chunk before this one.
    pub(super) prev: Option<Lead>,
    pub(super) count: u16,
    pub(super) encoding: Encoding,
    /// Prometheus' form.
    pub(super) bytes: Vec<u8>,
}

/// Where a record is said to lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    block: u64,
    offset: u64,
    is_good: Good,
}

/// What proves that a block was not recycled since something led to it.
#[derive(Clone, Copy, Debug)]
enum Good {
    /// It has this tag.
    Tag(u64),
    /// Its sequence is no higher.
    Sequence(u64),
}

/// What is to be sealed.
pub(super) struct Sealing<'a> {
    pub(super) prev: SealedRef,
    pub(super) commit: CommitWord,
    pub(super) encoding: u8,
    pub(super) words: &'a [AtomicU64],
    pub(super) max_ms: i64,
}

/// A record's header, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    len: u64,
    count: u32,
    encoding: u8,
    prev: Option<Prev>,
}

/// Where the chunk before is: its offset in a block, and that block's distance from this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prev {
    offset: u64,
    distance: i32,
}

impl Lead {
    /// To where a row leads; `None` if it leads nowhere.
    pub(super) fn of_row(mapping: &Mapping, sealed: SealedRef) -> Option<Self> {
        let is_good = Good::Tag(sealed.tag());
        let lead = Self { block: sealed.block(arena(mapping)), offset: sealed.offset(), is_good };
        Some(lead).filter(|_| !sealed.is_none())
    }
}

impl Record {
    /// Copies the record; `None` if its block was recycled.
    pub(super) fn read(mapping: &Mapping, lead: Lead) -> Result<Option<Self>, Corrupt> {
        let words = header(mapping, lead.block)?;
        // Acquire: pairs with the Release store of what led here; the fence in `kill` does the rest.
        let tag = words[block::TAG].load(Ordering::Acquire) & TAG_MASK;
        let sequence = words[block::SEQUENCE].load(Ordering::Relaxed);
        let is_good = match lead.is_good {
            Good::Tag(expected) => tag == expected,
            // A block that was emptied and not yet used again has the sequence that it had.
            Good::Sequence(bound) => sequence <= bound && lead.offset < words[block::USED].load(Ordering::Relaxed),
        };
        if !is_good {
            return Ok(None);
        }
        let record = Self::copy(mapping, lead.block, (sequence, lead.offset));
        // Pairs with the Release fences after the tag was raised, and of the marks after the sequence was.
        fence(Ordering::Acquire);
        let is_same = words[block::TAG].load(Ordering::Relaxed) & TAG_MASK == tag
            && words[block::SEQUENCE].load(Ordering::Relaxed) == sequence;
        if is_same { record.map(Some) } else { Ok(None) }
    }

    fn copy(mapping: &Mapping, block: u64, place: (u64, u64)) -> Result<Self, Corrupt> {
        let offset = place.1;
        let at = block + offset;
        if !(BLOCK_HEADER..BLOCK).contains(&offset) {
            return Err(Corrupt::field("series' sealed chunk", block, "an offset within its block", offset));
        }
        let mut bytes = [0; RECORD_HEADER as usize];
        let bytes = &mut bytes[..RECORD_HEADER.min(BLOCK - offset) as usize];
        copy_bytes(mapping, at, bytes)?;
        let bits = u64::from_be_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)));
        let head = Head::read(bytes);
        let head =
            head.ok_or_else(|| Corrupt::field("series' sealed chunk's header", at, "one that is whole", bits))?;
        let (start, len) = (head.bytes(), head.len);
        if offset + start + len > BLOCK {
            return Err(Corrupt::field("series' sealed chunk's length", at, "an end within its block", len));
        }
        let mut bytes = vec![0; 2 + len as usize];
        bytes[..2].copy_from_slice(&(head.count as u16).to_be_bytes());
        copy_bytes(mapping, at + start, &mut bytes[2..])?;
        let prev = head.prev.map(|prev| prev.lead(arena(mapping), block, place.0));
        Ok(Self { at, place, prev, count: head.count as u16, encoding: Encoding(head.encoding), bytes })
    }

    /// What decoding found wrong with it.
    pub(super) fn bad(&self, bad: &BadChunk) -> Corrupt {
        Corrupt::field("series' sealed chunk", self.at, bad.to_string(), self.count.into())
    }
}

impl Prev {
    fn lead(self, arena: Segment, from: u64, sequence: u64) -> Lead {
        let unit = (((from - arena.offset) / BLOCK_ALIGN) as u32).wrapping_sub(self.distance as u32);
        let block = arena.offset + u64::from(unit) * BLOCK_ALIGN;
        Lead { block, offset: self.offset, is_good: Good::Sequence(sequence) }
    }

    /// Bytes that the distance takes.
    fn width(self) -> u64 {
        (0..4).find(|bytes| sign_extended(self.distance as u64, *bytes) == self.distance).unwrap_or(4)
    }
}

/// The number that the low `bytes` of a word are.
fn sign_extended(word: u64, bytes: u64) -> i32 {
    match bytes {
        0 => 0,
        bytes => {
            let unused = 32 - 8 * bytes as u32;
            ((word as u32) << unused) as i32 >> unused
        }
    }
}

impl Head {
    /// Of a chunk in the block at `block`, with the reference to the one before as it is to be written.
    pub(super) fn of(chunk: &Sealing<'_>, prev: SealedRef, arena: Segment, block: u64) -> Self {
        let unit = |at: u64| ((at - arena.offset) / BLOCK_ALIGN) as u32;
        let distance = |to| unit(block).wrapping_sub(unit(to)) as i32;
        let prev = (!prev.is_none()).then(|| Prev { offset: prev.offset(), distance: distance(prev.block(arena)) });
        let (count, bits) = (chunk.commit.count(), chunk.commit.bits());
        Self { len: bits.div_ceil(8).into(), count, encoding: chunk.encoding, prev }
    }

    fn is_usual(self) -> bool {
        (self.count, self.encoding) == (CHUNK_SAMPLES, Encoding::XOR.0)
    }

    /// Bytes that it takes.
    pub(super) fn bytes(self) -> u64 {
        2 + if self.is_usual() { 0 } else { 2 } + self.prev.map_or(0, |prev| 2 + prev.width())
    }

    pub(super) fn write(self, to: &mut impl Sink) {
        let prev = self.prev.map_or(0, |prev| 1 + prev.width());
        to.put(self.len << 6 | prev << 3 | u64::from(self.is_usual()) << 2, 16);
        if !self.is_usual() {
            to.put(u64::from(self.count) << 9 | u64::from(self.encoding) << 2, 16);
        }
        if let Some(prev) = self.prev {
            to.put(prev.offset, 16);
            let bits = 8 * prev.width() as u32;
            if bits > 0 {
                to.put(u64::from(prev.distance as u32) & (u64::MAX >> (64 - bits)), bits);
            }
        }
    }

    /// `None` if the bytes end before it does, or are not what [`write`](Self::write) writes.
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut take = |n: u64| {
            let (now, rest) = bytes.split_at_checked(n as usize)?;
            bytes = rest;
            Some(now.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
        };
        let first = take(2)?;
        let (len, prev, is_usual) = (first >> 6, first >> 3 & 7, first & 4 != 0);
        let rest = if is_usual { 0 } else { take(2)? };
        if first & 3 != 0 || rest & 3 != 0 || prev > 5 {
            return None;
        }
        let (count, encoding) =
            if is_usual { (CHUNK_SAMPLES, Encoding::XOR.0) } else { ((rest >> 9) as u32, (rest >> 2 & 0x7f) as u8) };
        let prev = match prev {
            0 => None,
            prev => Some(Prev { offset: take(2)?, distance: sign_extended(take(prev - 1)?, prev - 1) }),
        };
        Some(Self { len, count, encoding, prev }).filter(|head| head.is_usual() == is_usual)
    }
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

impl Sealing<'_> {
    pub(super) fn write(&self, to: &mut impl Sink) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::xor::Writer;

    fn written(head: Head) -> Vec<u8> {
        let words: Vec<_> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let mut writer = Writer::resume(&words[..], 0, 0);
        head.write(&mut writer);
        assert_eq!(u64::from(writer.bits()), 8 * head.bytes());
        writer.flush();
        let bytes = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        bytes.take(head.bytes() as usize).collect()
    }

    #[test]
    fn headers_are_read_as_they_were_written_and_cut_ones_are_none() {
        let distances =
            [0, 1, -1, 127, -128, 128, -129, 32_767, -32_768, 32_768, 8_388_607, 8_388_608, i32::MIN, i32::MAX];
        let mut sizes = Vec::new();
        for prev in [None].into_iter().chain(distances.map(|distance| Some(Prev { offset: 0xfedc, distance }))) {
            for (count, encoding) in [(120, 1), (120, 2), (1, 1), (127, 127)] {
                let head = Head { len: 1023, count, encoding, prev };
                let bytes = written(head);
                assert_eq!(Head::read(&bytes), Some(head));
                assert!((0..bytes.len()).all(|end| Head::read(&bytes[..end]).is_none()), "{head:?}");
                sizes.push(bytes.len());
            }
        }
        assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&2), Some(&(RECORD_HEADER as usize))));
    }

    #[test]
    fn bits_that_mean_nothing_are_no_header() {
        let good = written(Head { len: 5, count: 120, encoding: 1, prev: None });
        assert!(Head::read(&good).is_some());
        // Each of the spare bits, a distance of 6 bytes, and 120 samples of XOR the long way.
        for (byte, bit) in [(1, 1), (1, 2), (1, 6 << 3)] {
            let mut bad = [good.clone(), vec![0; 8]].concat();
            bad[byte] |= bit;
            assert_eq!(Head::read(&bad), None, "{byte} {bit}");
        }
        let long = (5_u32 << 6 << 16 | 120 << 9 | 1 << 2).to_be_bytes();
        assert_eq!(Head::read(&long), None);
    }
}
