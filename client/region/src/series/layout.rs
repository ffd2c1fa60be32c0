//! Where series lie in the owned area, as words; see the parent module for what they mean.

use std::ops::Range;

use crate::alloc::OwnedAreas;
use crate::error::Corrupt;
use crate::layout::Segment;
use crate::mapping::Mapping;

/// First word of a root: `SERIES`, and the version of this layout.
pub(super) const ROOT_MAGIC: u64 = u64::from_le_bytes(*b"SERIES\0\x02");
/// Words of a root before the table of row blocks.
pub(super) const ROOT_WORDS: u64 = 32;
/// Words of a root, by number.
pub(super) mod root {
    pub(in crate::series) const MAGIC: usize = 0;
    /// How many series there are.
    pub(in crate::series) const COUNT: usize = 1;
    /// What is older is not kept, in milliseconds.
    pub(in crate::series) const OLDEST_MS: usize = 2;
    /// The log's oldest block.
    pub(in crate::series) const LOG_OLDEST: usize = 3;
    /// The block that is written.
    pub(in crate::series) const LOG_CURRENT: usize = 4;
    /// The block that is about to be the current one.
    pub(in crate::series) const LOG_MOVING: usize = 5;
    /// The newest slab of each class.
    pub(in crate::series) const SLABS: usize = 8;
}

/// Bytes of a row.
pub(crate) const ROW: u64 = 64;
/// Rows of a block.
pub(crate) const ROWS: u64 = 1024;
/// Words of a row, by number.
pub(super) mod row {
    pub(in crate::series) const COMMIT: usize = 0;
    /// Buffer and newest sealed chunk for even tags, then for odd ones.
    pub(in crate::series) const SIDES: usize = 1;
    /// The directory's slot word.
    pub(in crate::series) const ENTRY: usize = 5;
    /// Time of the last sample that is not in the head; `i64::MIN` if there is none.
    pub(in crate::series) const LAST_MS: usize = 6;
    pub(in crate::series) const WORDS: usize = 8;
}

/// Bytes of a slab of head buffers.
pub(crate) const SLAB: u64 = 16 * 1024;
/// Bytes of its header, before the owners.
pub(super) const SLAB_HEADER: u64 = 16;
/// Bytes of a head buffer, by class.
pub(crate) const CLASSES: [u64; 9] = [64, 96, 128, 192, 256, 384, 512, 768, 1024];

/// Bytes of a block of the log.
pub(crate) const BLOCK: u64 = 64 * 1024;
/// Blocks start at multiples of this in the arena.
pub(super) const BLOCK_ALIGN: u64 = 256;
/// Bytes of a block's header.
pub(crate) const BLOCK_HEADER: u64 = 64;
/// Words of a block's header, by number.
pub(super) mod block {
    pub(in crate::series) const TAG: usize = 0;
    /// Bytes written, the header's too.
    pub(in crate::series) const USED: usize = 1;
    /// Newest sample in it; `i64::MIN` if there is none.
    pub(in crate::series) const MAX_MS: usize = 2;
    /// The next newer block.
    pub(in crate::series) const NEXT: usize = 3;
    /// One more than that of the block before it.
    pub(in crate::series) const SEQUENCE: usize = 4;
    pub(in crate::series) const WORDS: u64 = 8;
}

/// Samples of a whole chunk, as in Prometheus' head.
pub(super) const CHUNK_SAMPLES: u32 = 120;
/// A chunk with more bytes takes no further sample: Prometheus' 1024, less its largest sample.
pub(super) const CHUNK_BYTES: u32 = 1024 - 19;
/// Most bytes of a record before the chunk's bits.
pub(crate) const RECORD_HEADER: u64 = 10;

/// `{count:16, bits:16, tag:32}`, lowest bits first: how much of a head's bits is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitWord(pub(super) u64);

impl CommitWord {
    pub(super) fn new(count: u32, bits: u32, tag: u32) -> Self {
        debug_assert!(count <= 0xffff && bits <= 0xffff);
        Self(u64::from(count) | u64::from(bits) << 16 | u64::from(tag) << 32)
    }
    pub(super) fn count(self) -> u32 {
        (self.0 & 0xffff) as u32
    }
    pub(super) fn bits(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32
    }
    pub(super) fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// The words of the side that this tag selects.
    pub(super) fn side(self) -> Range<usize> {
        let first = row::SIDES + 2 * (self.tag() & 1) as usize;
        first..first + 2
    }
    /// As this one, on the other side.
    pub(super) fn turned(self, count: u32, bits: u32) -> Self {
        Self::new(count, bits, self.tag().wrapping_add(1))
    }
}

/// A head buffer: `{slab:34, index:8, class:8, encoding:7}`, the slab in units of 64 bytes from the arena; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct BufferRef(pub(super) u64);

impl BufferRef {
    pub(super) fn new(arena: Segment, slab: u64, index: u64, class: usize, encoding: u8) -> Self {
        debug_assert!((slab - arena.offset).is_multiple_of(64) && index < 256 && encoding < 128);
        Self(((slab - arena.offset) / 64) | (index << 34) | ((class as u64) << 42) | (u64::from(encoding) << 50))
    }
    /// The same buffer, for bits of another encoding.
    pub(super) fn with_encoding(self, encoding: u8) -> Self {
        debug_assert!(encoding < 128);
        Self(self.0 & ((1 << 50) - 1) | u64::from(encoding) << 50)
    }
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
    pub(super) fn encoding(self) -> u8 {
        (self.0 >> 50 & 0x7f) as u8
    }
    pub(super) fn class(self) -> usize {
        (self.0 >> 42 & 0xff) as usize
    }
    /// Bits that it holds; 0 for none.
    pub(super) fn capacity_bits(self) -> u32 {
        if self.is_none() { 0 } else { CLASSES.get(self.class()).map_or(0, |bytes| *bytes as u32 * 8) }
    }
    fn index(self) -> u64 {
        self.0 >> 34 & 0xff
    }
    fn slab(self, arena: Segment) -> u64 {
        arena.offset + (self.0 & ((1 << 34) - 1)) * 64
    }
    /// Where its owner is written.
    pub(super) fn owner_at(self, arena: Segment) -> u64 {
        self.slab(arena) + SLAB_HEADER + 4 * self.index()
    }
    /// Its first byte in the region, if it is one that a slab of its class has.
    pub(super) fn place(self, arena: Segment) -> Result<u64, Corrupt> {
        let (slab, class) = (self.slab(arena), self.class());
        if class < CLASSES.len() && self.index() < slab_buffers(class) && arena.contains(slab) {
            return Ok(slab + slab_data(class) + self.index() * CLASSES[class]);
        }
        Err(Corrupt::field("series' head buffer", slab, "a buffer of a slab", self.0))
    }
}

/// Buffers in a slab.
pub(super) const fn slab_buffers(class: usize) -> u64 {
    (SLAB - SLAB_HEADER - 64) / (CLASSES[class] + 4)
}

/// Where they begin.
pub(super) const fn slab_data(class: usize) -> u64 {
    (SLAB_HEADER + 4 * slab_buffers(class)).next_multiple_of(64)
}

const _: () = {
    let mut class = 0;
    while class < CLASSES.len() {
        assert!(slab_buffers(class) < 256 && CLASSES[class].is_multiple_of(8));
        assert!(slab_data(class) + slab_buffers(class) * CLASSES[class] <= SLAB);
        class += 1;
    }
    assert!(root::SLABS + CLASSES.len() <= ROOT_WORDS as usize && row::WORDS as u64 * 8 == ROW);
    assert!(CLASSES[CLASSES.len() - 1] >= CHUNK_BYTES as u64 + 19 && CHUNK_SAMPLES < 128);
};

/// A sealed chunk: `{block:32, offset:16, tag:16}`, the block in units of 256 bytes from the arena; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct SealedRef(pub(super) u64);

impl SealedRef {
    pub(super) fn new(arena: Segment, block: u64, offset: u64, tag: u64) -> Self {
        Self(((block - arena.offset) / BLOCK_ALIGN) | (offset << 32) | ((tag & TAG_MASK) << 48))
    }
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
    pub(super) fn block(self, arena: Segment) -> u64 {
        arena.offset + (self.0 & 0xffff_ffff) * BLOCK_ALIGN
    }
    pub(super) fn offset(self) -> u64 {
        self.0 >> 32 & 0xffff
    }
    pub(super) fn tag(self) -> u64 {
        self.0 >> 48
    }
}

/// Bits of a block's tag that a reference repeats.
pub(super) const TAG_MASK: u64 = (1 << 16) - 1;

/// The arena that all of this lies in.
pub(super) fn arena(mapping: &Mapping) -> Segment {
    OwnedAreas::of(mapping).arena
}

/// Words of the table of row blocks.
pub(super) fn row_blocks(mapping: &Mapping) -> u64 {
    u64::from(mapping.limits().series_max).div_ceil(ROWS)
}
