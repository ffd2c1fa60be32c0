//! A cell's four buffers: where each is, and whether what lies there is whole.

use super::value;
use crate::alloc::OwnedAreas;
use crate::error::Corrupt;
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// A buffer's descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) capacity: u32,
    pub(super) generation: u32,
    pub(super) value_crc: u32,
    pub(super) place_crc: u32,
}

impl Buffer {
    fn first_word(version: u64) -> usize {
        8 + 4 * (version & 3) as usize
    }

    pub(super) fn load(header: &[AtomicU64], version: u64) -> Self {
        let i = Self::first_word(version);
        let [a, b, c, d] = std::array::from_fn(|k| header[i + k].load(Ordering::Relaxed));
        let (len, capacity) = (b as u32, (b >> 32) as u32);
        Self { offset: a, len, capacity, generation: c as u32, value_crc: (c >> 32) as u32, place_crc: d as u32 }
    }

    pub(super) fn store(self, header: &[AtomicU64], version: u64) {
        let words = [
            self.offset,
            u64::from(self.len) | u64::from(self.capacity) << 32,
            u64::from(self.generation) | u64::from(self.value_crc) << 32,
            u64::from(self.place_crc),
        ];
        for (to, word) in header[Self::first_word(version)..].iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
    }

    /// One that holds nothing yet.
    pub(super) fn empty(at: u64, version: u64, offset: u64, capacity: u32) -> Self {
        let place_crc = Self::place_crc(at, version, offset, capacity);
        Self { offset, len: 0, capacity, generation: 0, value_crc: 0, place_crc }
    }

    /// Binds offset and capacity to this buffer of this cell.
    pub(super) fn place_crc(at: u64, version: u64, offset: u64, capacity: u32) -> u32 {
        value::crc(&[at, version & 3, offset, u64::from(capacity)])
    }

    /// Whether it leads to a buffer of this cell.
    pub(super) fn is_placed(&self, mapping: &Mapping, at: u64, version: u64) -> bool {
        let arena = OwnedAreas::of(mapping).arena;
        self.place_crc == Self::place_crc(at, version, self.offset, self.capacity)
            && self.offset.is_multiple_of(8)
            && arena.contains(self.offset)
            && mapping.is_ready(self.offset, u64::from(self.capacity))
    }

    /// The schemas of the value's parts. Neither copies the value nor checks its CRC, so it costs the same for all lengths.
    pub(super) fn schemas(self, mapping: &Mapping, at: u64, version: u64) -> Result<Vec<u32>, Corrupt> {
        if !self.is_placed(mapping, at, version) || self.len > self.capacity || !self.len.is_multiple_of(8) {
            return Err(Corrupt::field("cell's buffer", at, "a descriptor with its CRC", self.offset));
        }
        let words = mapping.words(self.offset, u64::from(self.len / 8))?;
        let word = |i: u64| words.get(usize::try_from(i).ok()?).map(|word| word.load(Ordering::Relaxed));
        value::schemas(words.len() as u64, at, word)
    }

    /// Copies the value and checks it.
    pub(super) fn copy(self, mapping: &Mapping, at: u64, version: u64) -> Result<(Vec<u64>, Self), Corrupt> {
        if !self.is_placed(mapping, at, version) || self.len > self.capacity {
            return Err(Corrupt::field("cell's buffer", at, "a descriptor with its CRC", self.offset));
        }
        let from = mapping.words(self.offset, u64::from(self.len).div_ceil(8))?;
        let words: Vec<u64> = from.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let found = value::value_crc(version, self.generation, self.len, &words);
        if found != self.value_crc {
            return Err(Corrupt::Checksum { what: "cell", offset: self.offset, expected: self.value_crc, found });
        }
        Ok((words, self))
    }
}
