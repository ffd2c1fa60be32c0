//! What a process keeps of a series that it appends to, and how that is found again in the region.
//!
//! It is good for as long as the row's commit word is the one that it was kept with: within a tag bits only grow, and tags are
//! never used again. So a process that owned, lost and got back the region finds out at its first append to each series, and a
//! new owner takes over without having looked at any.

use super::layout::{BufferRef, CommitWord, SealedRef, arena, row};
use super::record::{Lead, Record};
use super::store::Row;
use super::xor::{Decoder, State};
use super::{Encoding, SeriesId, SeriesStore};
use crate::error::{Corrupt, Incompatible, WriteError};
use crate::sync::Ordering;

/// What is known of the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Last {
    /// There is none, or nothing was looked at.
    #[default]
    None,
    /// Its time; the chunk that held it is gone.
    Time,
    /// All.
    Sample,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// That of the row when the rest was right; [`UNKNOWN`](Self::UNKNOWN) before.
    pub(super) commit: CommitWord,
    pub(super) state: State,
    pub(super) last: Last,
    pub(super) buffer: BufferRef,
    /// The word of the buffer that the next bit goes to, up to that bit.
    pub(super) word: u64,
}

impl Default for Head {
    fn default() -> Self {
        let (state, last, buffer, word) = (State::EMPTY, Last::None, BufferRef::default(), 0);
        Self { commit: Self::UNKNOWN, state, last, buffer, word }
    }
}

impl Head {
    /// No row's: bits without a sample.
    pub(super) const UNKNOWN: CommitWord = CommitWord(0xffff_0000);

    /// Of a head that was just emptied, its last sample being known.
    pub(super) fn emptied(&mut self, commit: CommitWord, buffer: BufferRef) {
        (self.commit, self.buffer, self.word) = (commit, buffer, 0);
    }
}

impl SeriesStore {
    /// So that each execution of a model begins with what the first one knew.
    #[cfg(all(loom, test))]
    pub(crate) fn forget(&self, id: SeriesId) {
        if let Some(head) = self.ready_head(id) {
            *crate::objects::lock(head) = Head::default();
        }
    }

    /// Decodes the head chunk, or the newest sealed one where the head is empty. For the owner, who alone changes them.
    pub(super) fn rebuild(&self, id: SeriesId, row: Row<'_>) -> Result<Head, WriteError> {
        let commit = CommitWord(row.words[row::COMMIT].load(Ordering::Acquire));
        let (buffer, sealed) = side(row, commit);
        let head = Head { commit, buffer, ..Head::default() };
        if !buffer.is_none() {
            // What is written through is the series' own.
            self.check_owner(id, buffer)?;
        }
        if commit.count() == 0 {
            return Ok(self.after_sealed(row, sealed, head)?);
        }
        if buffer.encoding() != Encoding::XOR.0 {
            let (name, readable) = (format!("head chunk at byte {}", row.at), vec![Encoding::XOR.0.into()]);
            return Err(Incompatible::Schema { name, readable, found: buffer.encoding().into() }.into());
        }
        let at = buffer.place(arena(self.mapping()))?;
        let (bits, capacity) = (commit.bits(), buffer.capacity_bits());
        if bits > capacity {
            return Err(
                Corrupt::field("series' commit word", row.at, format!("at most {capacity} bits"), commit.0).into()
            );
        }
        let words = self.mapping().words(at, u64::from(bits.div_ceil(64)))?;
        let bytes = chunk_bytes(commit.count() as u16, bits, words.iter().map(|w| w.load(Ordering::Relaxed)));
        let mut decoder = Decoder::new(&bytes);
        for sample in decoder.by_ref() {
            sample.map_err(|bad| Corrupt::field("series' head chunk", at, bad.to_string(), commit.0))?;
        }
        if decoder.bits_taken() != bits as usize {
            let expected = format!("{} bits for its samples", decoder.bits_taken());
            return Err(Corrupt::field("series' commit word", row.at, expected, commit.0).into());
        }
        let used = bits % 64;
        let word = if used == 0 {
            0
        } else {
            u64::from_be(words[(bits / 64) as usize].load(Ordering::Relaxed)) & (u64::MAX << (64 - used))
        };
        Ok(Head { state: decoder.state(), last: Last::Sample, word, ..head })
    }

    fn after_sealed(&self, row: Row<'_>, sealed: SealedRef, head: Head) -> Result<Head, Corrupt> {
        let last_ms = row.words[row::LAST_MS].load(Ordering::Relaxed) as i64;
        if last_ms == i64::MIN {
            return Ok(head);
        }
        let state = State::after(last_ms, 0);
        let head = Head { state, last: Last::Time, ..head };
        let Some(lead) = Lead::of_row(self.mapping(), sealed) else { return Ok(head) };
        let Some(record) = Record::read(self.mapping(), lead)? else { return Ok(head) };
        if record.encoding != Encoding::XOR {
            return Ok(head);
        }
        let mut last = None;
        for sample in Decoder::new(&record.bytes) {
            last = Some(sample.map_err(|bad| record.bad(&bad))?);
        }
        Ok(match last {
            Some(sample) if sample.timestamp_ms == last_ms => {
                Head { state: State::after(last_ms, sample.value.to_bits()), last: Last::Sample, ..head }
            }
            _ => head,
        })
    }
}

/// Buffer and newest sealed chunk, as this commit word says.
pub(super) fn side(row: Row<'_>, commit: CommitWord) -> (BufferRef, SealedRef) {
    let side = &row.words[commit.side()];
    (BufferRef(side[0].load(Ordering::Relaxed)), SealedRef(side[1].load(Ordering::Relaxed)))
}

/// Prometheus' form of a chunk: the count, and the bits in `words` (as they lie in memory) to the next whole byte, what comes
/// after the last bit being zero.
pub(super) fn chunk_bytes(count: u16, bits: u32, words: impl Iterator<Item = u64>) -> Vec<u8> {
    let len = 2 + bits.div_ceil(8) as usize;
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend(words.flat_map(u64::to_le_bytes));
    bytes.truncate(len);
    if let (false, Some(last)) = (bits.is_multiple_of(8), bytes.last_mut()) {
        *last &= 0xff << (8 - bits % 8);
    }
    bytes
}
