//! Control records: what handovers did, kept in the region so that it outlives the sidecar.
//!
//! A ring of slots, one for each of the newest `history_max` numbers. A slot has two halves, and a put goes into the one that
//! is not the newest valid one:
//!
//! ```text
//! word 0  number, from 1     1  revision     2  {crc:32, length:32}     3..  the record's bytes
//! ```
//!
//! **The last valid record stays until its successor is complete**: a half's word 2 is made invalid first and published
//! last, so a kill in between leaves the other half, and a reader sees a half whole or not at all. The number that a slot
//! holds is that of its newest valid half: a number that was overwritten once does not come back.
//!
//! Only the keeper puts; anyone reads.

use std::sync::Arc;

use crate::error::{Corrupt, Error, Full, Misuse};
use crate::layout::{HISTORY_SLOT, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering, fence};

const HALF: u64 = HISTORY_SLOT / 2;
const HEAD_WORDS: usize = 3;
/// Word 2 of a half while a put is on its way, and after one that was killed.
const BEING_WRITTEN: u64 = u64::MAX;
/// Longest record in bytes.
pub const RECORD_MAX: usize = HALF as usize - 8 * HEAD_WORDS;

/// The region's control records.
#[derive(Clone, Debug)]
pub struct History {
    mapping: Arc<Mapping>,
}

/// A half that is whole.
struct Half {
    number: u64,
    revision: u64,
    index: u64,
    record: Vec<u8>,
}

impl History {
    /// Of this region.
    pub fn new(mapping: &Arc<Mapping>) -> Self {
        Self { mapping: Arc::clone(mapping) }
    }

    /// How many records are kept.
    pub fn capacity(&self) -> u64 {
        self.mapping.limits().history_max.into()
    }

    /// Keeps `record` as number `number`, in place of an earlier one of this number, or of the oldest.
    ///
    /// # Errors
    /// `Full` for a record that is too long or a region that cannot grow, `Misuse` for number 0 or a number that is out of
    /// the ring already.
    pub fn put(&self, number: u64, record: &[u8]) -> Result<(), Error> {
        if record.len() > RECORD_MAX {
            let (len_bytes, limit_bytes) = (record.len() as u64, RECORD_MAX as u64);
            return Err(Full::Value { name: format!("control record {number}"), len_bytes, limit_bytes }.into());
        }
        let refused = |found: String| Error::from(Misuse::Argument { what: "control record number", found });
        if number == 0 {
            return Err(refused("0; numbers start at 1".into()));
        }
        let newest = self.newest_half(number % self.capacity());
        let (index, revision) = match &newest {
            Some(half) if half.number > number => {
                return Err(refused(format!("{number}; its place holds {} already", half.number)));
            }
            Some(half) if half.number == number => (1 - half.index, half.revision.wrapping_add(1)),
            Some(half) => (1 - half.index, 0),
            None => (0, 0),
        };
        let offset = self.half_offset(number % self.capacity(), index);
        self.mapping.ensure(offset, HALF)?;
        let words = self.mapping.words(offset, HALF / 8)?;
        let last = u64::from(crc(number, revision, record)) | (record.len() as u64) << 32;
        words[2].store(BEING_WRITTEN, Ordering::Relaxed);
        // Pairs with the Acquire fence in `read`: who sees a new byte also sees the half invalid.
        fence(Ordering::Release);
        words[0].store(number, Ordering::Relaxed);
        words[1].store(revision, Ordering::Relaxed);
        self.mapping.copy_in(offset + 8 * HEAD_WORDS as u64, record)?;
        // Publishes; pairs with the Acquire load in `read`.
        words[2].store(last, Ordering::Release);
        Ok(())
    }

    /// The record of this number; `None` if it was never put, is out of the ring, or is torn.
    pub fn get(&self, number: u64) -> Option<Vec<u8>> {
        self.newest_half(number % self.capacity())
            .filter(|half| half.number == number && number != 0)
            .map(|half| half.record)
    }

    /// The newest `n` records with their numbers, newest first.
    pub fn newest(&self, n: usize) -> Vec<(u64, Vec<u8>)> {
        let mut numbers = self.numbers();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        // Torn ones drop out, so more are looked at than asked for.
        numbers.into_iter().filter_map(|number| Some((number, self.get(number)?))).take(n).collect()
    }

    /// One more than the highest number kept; 1 in a new region.
    pub fn next_number(&self) -> u64 {
        self.newest(1).first().map_or(1, |(number, _)| number.saturating_add(1))
    }

    /// Numbers that slots claim to hold, unverified but each in its own slot.
    fn numbers(&self) -> Vec<u64> {
        let halves = (0..self.capacity()).flat_map(|slot| [(slot, 0), (slot, 1)]);
        let claimed = halves.filter_map(|(slot, index)| {
            let number = self.mapping.word(self.half_offset(slot, index)).ok()?.load(Ordering::Relaxed);
            (number != 0 && number % self.capacity() == slot).then_some(number)
        });
        let mut numbers: Vec<u64> = claimed.collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn half_offset(&self, slot: u64, index: u64) -> u64 {
        self.mapping.segment(SegmentKind::History).offset + slot * HISTORY_SLOT + index * HALF
    }

    fn newest_half(&self, slot: u64) -> Option<Half> {
        let halves = [self.read(slot, 0), self.read(slot, 1)];
        halves.into_iter().flatten().max_by_key(|half| (half.number, half.revision))
    }

    /// A half that is valid and in its own slot. Not allocated, empty, torn and foreign are all "no".
    fn read(&self, slot: u64, index: u64) -> Option<Half> {
        let words = self.mapping.words(self.half_offset(slot, index), HALF / 8).ok()?;
        // Twice: a put may be on its way, and the half that it replaces is the older one.
        (0..2).find_map(|_| read_half(words, index)).filter(|half| half.number % self.capacity() == slot)
    }

    /// Every half that no writer of this format leaves, also not by being killed.
    pub fn faults(&self) -> Vec<Corrupt> {
        let halves = (0..self.capacity()).flat_map(|slot| [(slot, 0), (slot, 1)]);
        halves.filter_map(|(slot, index)| self.fault(slot, index)).collect()
    }

    fn fault(&self, slot: u64, index: u64) -> Option<Corrupt> {
        let offset = self.half_offset(slot, index);
        let words = self.mapping.words(offset, HALF / 8).ok()?;
        let head = || [0, 1, 2].map(|i: usize| words[i].load(Ordering::Acquire));
        let [number, revision, last] = head();
        let len = last >> 32;
        if last == BEING_WRITTEN || (number == 0 && last == 0) {
            return None;
        }
        let fault = if len > RECORD_MAX as u64 {
            Corrupt::field("control record length", offset + 20, format!("at most {RECORD_MAX}"), len)
        } else if number % self.capacity() != slot || number == 0 {
            Corrupt::field("control record number", offset, format!("{slot} modulo {}", self.capacity()), number)
        } else {
            let mut record = vec![0; len as usize];
            self.mapping.copy_out(offset + 8 * HEAD_WORDS as u64, &mut record).ok()?;
            let (expected, found) = (last as u32, crc(number, revision, &record));
            if expected == found {
                return None;
            }
            Corrupt::Checksum { what: "control record", offset, expected, found }
        };
        // A put that came in between is no fault.
        (head() == [number, revision, last]).then_some(fault)
    }
}

fn read_half(words: &[AtomicU64], index: u64) -> Option<Half> {
    let last = words[2].load(Ordering::Acquire);
    let len = (last >> 32) as usize;
    let (number, revision) = (words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed));
    if number == 0 || len > RECORD_MAX {
        return None;
    }
    let mut record = vec![0; len];
    for (chunk, word) in record.chunks_mut(8).zip(&words[HEAD_WORDS..]) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
    }
    fence(Ordering::Acquire);
    let whole = words[2].load(Ordering::Relaxed) == last && crc(number, revision, &record) == last as u32;
    whole.then_some(Half { number, revision, index, record })
}

fn crc(number: u64, revision: u64, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&revision.to_le_bytes());
    hasher.update(&(record.len() as u64).to_le_bytes());
    hasher.update(record);
    hasher.finalize()
}

const _: () = assert!(HALF.is_multiple_of(8) && RECORD_MAX > 4000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RegionSpec;

    fn history(history_max: u32) -> History {
        History::new(&Mapping::heap(&RegionSpec { history_max, ..RegionSpec::new("r", 4 << 20) }).unwrap())
    }

    #[test]
    fn the_newest_records_stay_and_the_oldest_go() {
        let h = history(4);
        assert_eq!((h.next_number(), h.newest(9), h.get(0), h.get(1)), (1, vec![], None, None));
        for number in 1..=10u64 {
            h.put(number, b"begun").unwrap();
            h.put(number, format!("done {number}").as_bytes()).unwrap();
            assert_eq!(h.next_number(), number + 1);
        }
        let kept: Vec<u64> = h.newest(99).iter().map(|r| r.0).collect();
        assert_eq!(kept, [10, 9, 8, 7]);
        assert_eq!(h.newest(2)[1], (9, b"done 9".to_vec()));
        assert_eq!((h.get(10).unwrap(), h.get(6), h.get(11)), (b"done 10".to_vec(), None, None));
        assert_eq!(h.put(6, b"late").unwrap_err().reason(), "INVALID_FIELD");
        assert_eq!(h.put(0, b"").unwrap_err().reason(), "INVALID_FIELD");
        assert_eq!(h.put(11, &[0; RECORD_MAX + 1]).unwrap_err().reason(), "VALUE_TOO_LARGE");
        h.put(11, &[7; RECORD_MAX]).unwrap();
        assert_eq!(h.get(11).unwrap().len(), RECORD_MAX);
    }

    #[test]
    fn a_put_killed_at_any_word_leaves_the_record_before_it() {
        let h = history(2);
        h.put(1, b"first revision").unwrap();
        h.put(1, b"second revision").unwrap();
        let image = |m: &Mapping| -> Vec<u64> {
            let at = h.half_offset(1, 0);
            m.words(at, HALF / 8).unwrap().iter().map(|w| w.load(Ordering::Relaxed)).collect()
        };
        let before = image(&h.mapping);
        h.put(1, b"third revision, longer").unwrap();
        let after = image(&h.mapping);
        let words = h.mapping.words(h.half_offset(1, 0), HALF / 8).unwrap();
        // The states that a kill can leave: word 2 invalid, and any prefix of the rest stored.
        for stored in 0..8 {
            for (i, word) in words.iter().enumerate() {
                word.store(if i < stored { after[i] } else { before[i] }, Ordering::Relaxed);
            }
            words[2].store(BEING_WRITTEN, Ordering::Relaxed);
            assert_eq!(h.get(1).unwrap(), b"second revision", "{stored}");
            assert_eq!(h.faults(), []);
            assert_eq!(h.next_number(), 2);
        }
        words[2].store(after[2] ^ 1, Ordering::Relaxed);
        assert!(matches!(h.faults()[..], [Corrupt::Checksum { what: "control record", .. }]));
        h.put(1, b"mended").unwrap();
        assert_eq!((h.get(1).unwrap(), h.faults()), (b"mended".to_vec(), vec![]));
    }

    #[test]
    fn an_overwritten_number_does_not_come_back() {
        let h = history(2);
        h.put(1, b"one, begun").unwrap();
        h.put(1, b"one, done").unwrap();
        h.put(3, b"three").unwrap();
        assert_eq!((h.get(1), h.get(3).unwrap()), (None, b"three".to_vec()));
    }

    #[test]
    fn any_content_of_the_segment_is_read_without_a_panic() {
        let h = history(2);
        h.put(1, b"x").unwrap();
        let words = h.mapping.words(h.half_offset(0, 0), HISTORY_SLOT / 4).unwrap();
        for value in [u64::MAX, 1, 2, 3, 1 << 32, u64::MAX << 32] {
            words.iter().for_each(|w| w.store(value, Ordering::Relaxed));
            assert!(h.newest(10).is_empty());
            h.faults();
            assert_eq!(h.next_number(), 1);
        }
    }
}
