//! Where everything stands in a region file.
//!
//! Page 0 ([`header`]) is immutable and describes the rest: a table of typed segments. Offsets inside a segment belong to
//! the module that owns the segment; its fixed sizes stand here, because the plan and the fingerprints need them.
//!
//! Invariants: every segment starts on a page; segments do not overlap and lie inside the file; segments that grow start
//! on an extent and are touched only where the ready bitmap of [`SegmentKind::Extents`] says so. A reader skips a segment
//! whose kind it does not know and leaves it whole.
//!
//! ```text
//! page 0 | GATE | SUPERBLOCKS | CONTROL | EXTENTS | INSTANCES | SLOTS | LANE_TABLE |   allocated at creation
//! LANES | SHARED_INDEX | SHARED_ARENA | OWNED | MARK_SUMMARY | MARKS | PAGE_CRCS | TOTALS | HISTORY   grown by extents
//! ```

#[cfg(test)]
mod document;
pub mod header;
mod plan;

pub use header::{Header, HeaderLimits, SegmentEntry, UncheckedHeader};
pub use plan::{RegionSpec, plan};

/// Bytes of a page: the unit of marks, of CRCs and of `mmap`.
pub const PAGE: u64 = 4096;
/// Bytes of an extent: the unit in which a region grows.
pub const EXTENT: u64 = 64 * 1024;
/// Pages that share a word of the mark summary.
pub const SUMMARY_PAGES: u64 = 128;
/// Bytes of an instance table row.
pub const INSTANCE_ROW: u64 = 256;
/// Bytes of a gate slot, so that two threads' slots never share a cache line or its prefetched neighbour.
pub const SLOT: u64 = 128;
/// Bytes of a lane table row.
pub const LANE_ROW: u64 = 64;
/// Virtual bytes of a lane: one `u64` word for each counter of the region.
pub const LANE_STRIP: u64 = 8 * 1024 * 1024;
/// Bytes of a history slot: two halves, written in turn.
pub const HISTORY_SLOT: u64 = 8192;
/// Virtual bytes of the shared directory's index levels.
pub const SHARED_INDEX_BYTES: u64 = 256 * 1024 * 1024;
/// Format major: another major is refused.
pub const MAJOR: u16 = 1;
/// Format minor: a newer minor adds only what an older one may skip.
pub const MINOR: u16 = 0;

/// Offsets in the CONTROL segment. Each owner has its own page, so that no two owners' records share a cache line.
pub mod control {
    /// Boot record ([`crate::recover`]).
    pub const BOOT: u64 = 0;
    /// Sidecar's record: epoch, last completed round, working root ([`crate::digest`]).
    pub const KEEPER: u64 = 4096;
    /// Bump pointers and index-level words of the directories and of the lanes ([`crate::alloc`]).
    pub const OBJECTS: u64 = 2 * 4096;
    /// Heirloom's own counters that every process adds to.
    pub const COUNTERS: u64 = 3 * 4096;
    /// Bytes of the segment.
    pub const LEN: u64 = 4 * 4096;
}

/// Bits for each extent in the EXTENTS segment ([`crate::mapping`]): granted, ready.
pub const EXTENT_BITS: u64 = 2;
/// Bytes of EXTENTS before the first bit.
pub(crate) const EXTENT_BITS_AT: u64 = 64;

/// The segments that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum SegmentKind {
    /// Gate word, page epoch, futex sequence, freeze budget.
    Gate = 1,
    /// Two superblocks, each on its own page.
    Superblocks = 2,
    /// Boot record, sidecar's record, bump pointers.
    Control = 3,
    /// Which extents of the file are granted, and which are allocated.
    Extents = 4,
    /// One row for each attached process.
    Instances = 5,
    /// One word for each writing thread.
    Slots = 6,
    /// Who leases which lane.
    LaneTable = 7,
    /// Threads' private strips of counters, then one overflow strip for each instance.
    Lanes = 8,
    /// Index of the shared directory.
    SharedIndex = 9,
    /// Entries of the shared directory.
    SharedArena = 10,
    /// Everything that the owner alone writes, and the only thing that is digested.
    Owned = 11,
    /// One epoch for 128 pages of OWNED.
    MarkSummary = 12,
    /// One epoch for each page of OWNED.
    Marks = 13,
    /// One CRC for each page of OWNED.
    PageCrcs = 14,
    /// Lower bounds of counter totals, one word for each lane word.
    Totals = 15,
    /// Control records.
    History = 16,
}

impl SegmentKind {
    /// All kinds, in the order in which a new region lays them out.
    pub const ALL: [SegmentKind; 16] = [
        SegmentKind::Gate,
        SegmentKind::Superblocks,
        SegmentKind::Control,
        SegmentKind::Extents,
        SegmentKind::Instances,
        SegmentKind::Slots,
        SegmentKind::LaneTable,
        SegmentKind::Lanes,
        SegmentKind::SharedIndex,
        SegmentKind::SharedArena,
        SegmentKind::Owned,
        SegmentKind::MarkSummary,
        SegmentKind::Marks,
        SegmentKind::PageCrcs,
        SegmentKind::Totals,
        SegmentKind::History,
    ];

    /// The kind with this number, if this build knows it.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// The name used in errors and in `dump`.
    pub const fn name(self) -> &'static str {
        match self {
            SegmentKind::Gate => "GATE",
            SegmentKind::Superblocks => "SUPERBLOCKS",
            SegmentKind::Control => "CONTROL",
            SegmentKind::Extents => "EXTENTS",
            SegmentKind::Instances => "INSTANCES",
            SegmentKind::Slots => "SLOTS",
            SegmentKind::LaneTable => "LANE_TABLE",
            SegmentKind::Lanes => "LANES",
            SegmentKind::SharedIndex => "SHARED_INDEX",
            SegmentKind::SharedArena => "SHARED_ARENA",
            SegmentKind::Owned => "OWNED",
            SegmentKind::MarkSummary => "MARK_SUMMARY",
            SegmentKind::Marks => "MARKS",
            SegmentKind::PageCrcs => "PAGE_CRCS",
            SegmentKind::Totals => "TOTALS",
            SegmentKind::History => "HISTORY",
        }
    }

    /// Whether its extents are allocated when the region is created.
    pub const fn is_fixed(self) -> bool {
        (self as u32) <= SegmentKind::LaneTable as u32
    }

    /// A hash of the sizes that a reader of this segment relies on; never of the build.
    pub const fn fingerprint(self) -> u64 {
        let (unit, extra) = match self {
            SegmentKind::Gate | SegmentKind::Superblocks => (PAGE, 0),
            SegmentKind::Control => (control::LEN, control::OBJECTS),
            SegmentKind::Extents => (EXTENT, EXTENT_BITS | EXTENT_BITS_AT << 8),
            SegmentKind::Instances => (INSTANCE_ROW, 0),
            SegmentKind::Slots => (SLOT, 0),
            SegmentKind::LaneTable => (LANE_ROW, 0),
            SegmentKind::Lanes | SegmentKind::Totals => (LANE_STRIP, 8),
            SegmentKind::SharedIndex | SegmentKind::SharedArena | SegmentKind::Owned => (8, 0),
            SegmentKind::MarkSummary => (SUMMARY_PAGES, 4),
            SegmentKind::Marks => (PAGE, 4),
            SegmentKind::PageCrcs => (PAGE, 8),
            SegmentKind::History => (HISTORY_SLOT, 0),
        };
        fingerprint(&[self as u64, unit, extra])
    }
}

/// A segment's place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Segment {
    /// First byte after it.
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }
    /// Whether the file offset lies in it.
    pub const fn contains(self, offset: u64) -> bool {
        offset >= self.offset && offset - self.offset < self.len
    }
}

/// FNV-1a over the little-endian bytes of some numbers.
pub(crate) const fn fingerprint(numbers: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < numbers.len() {
        let bytes = numbers[i].to_le_bytes();
        let mut b = 0;
        while b < 8 {
            hash = (hash ^ bytes[b] as u64).wrapping_mul(0x0100_0000_01b3);
            b += 1;
        }
        i += 1;
    }
    hash
}

/// CRC-32 (IEEE), the one checksum of the format.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

pub(crate) const fn align_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}

const _: () =
    assert!(EXTENT.is_multiple_of(PAGE) && LANE_STRIP.is_multiple_of(EXTENT) && HISTORY_SLOT.is_multiple_of(8));
const _: () = assert!(PAGE.is_multiple_of(INSTANCE_ROW) && PAGE.is_multiple_of(SLOT) && PAGE.is_multiple_of(LANE_ROW));
const _: () = assert!(control::COUNTERS + PAGE == control::LEN);
