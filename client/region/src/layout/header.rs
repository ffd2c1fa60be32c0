//! Page 0: who the region is and where its segments lie. Written once, before the file gets its name; never changed.
//!
//! Trust is a type: bytes are an [`UncheckedHeader`], and [`UncheckedHeader::check`] alone makes a [`Header`] of them, in
//! the order length, magic, byte order, major, page size, fingerprint, CRC, and only then the fields. Magic, minor and
//! major stand at these offsets for ever. A crash cannot be seen here: a file without a whole page 0 has no name yet.

use super::{EXTENT, MAJOR, MINOR, PAGE, RegionSpec, Segment, SegmentKind, crc32, fingerprint};
use crate::error::Error;

mod check;

pub use check::UncheckedHeader;

/// First eight bytes of every region.
pub const MAGIC: [u8; 8] = *b"HEIRLOOM";
const BYTE_ORDER: u32 = 0x0a0b_0c0d;
/// Longest name in bytes.
pub const NAME_MAX: usize = 100;
const SEGMENTS_MAX: usize = 64;

/// Byte offsets of page 0's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const MAJOR: usize = 8;
    pub const MINOR: usize = 10;
    pub const BYTE_ORDER: usize = 12;
    pub const PAGE_SIZE: usize = 16;
    pub const EXTENT_SIZE: usize = 20;
    pub const UUID: usize = 24;
    pub const FINGERPRINT: usize = 40;
    pub const LIMIT_BYTES: usize = 48;
    pub const VIRTUAL_LEN: usize = 56;
    pub const CREATED_UNIX_MS: usize = 64;
    pub const INSTANCES_MAX: usize = 72;
    pub const LANES_MAX: usize = 76;
    pub const SLOTS_MAX: usize = 80;
    pub const SERIES_MAX: usize = 84;
    pub const HISTORY_MAX: usize = 88;
    pub const SEGMENT_COUNT: usize = 92;
    pub const NAME_LEN: usize = 96;
    pub const NAME: usize = 104;
    pub const SEGMENTS: usize = 256;
    pub const SEGMENT_ROW: usize = 48;
    pub const CRC: usize = 4092;
}
const ROW_FIELDS: [usize; 6] = [0, 4, 8, 16, 24, 32];

const _: () = assert!(field::NAME + NAME_MAX <= field::SEGMENTS);
const _: () = assert!(field::SEGMENTS + SEGMENTS_MAX * field::SEGMENT_ROW <= field::CRC);
const _: () = assert!(field::CRC + 4 == PAGE as usize);
const _: () = assert!(field::FINGERPRINT.is_multiple_of(8) && field::SEGMENTS.is_multiple_of(8));

/// A hash of the offsets of page 0's fields; never of the build.
pub const LAYOUT_FINGERPRINT: u64 = fingerprint(&[
    field::UUID as u64,
    field::LIMIT_BYTES as u64,
    field::VIRTUAL_LEN as u64,
    field::CREATED_UNIX_MS as u64,
    field::INSTANCES_MAX as u64,
    field::LANES_MAX as u64,
    field::SLOTS_MAX as u64,
    field::SERIES_MAX as u64,
    field::HISTORY_MAX as u64,
    field::SEGMENT_COUNT as u64,
    field::NAME_LEN as u64,
    field::NAME as u64,
    field::SEGMENTS as u64,
    field::SEGMENT_ROW as u64,
    ROW_FIELDS[5] as u64,
    field::CRC as u64,
    PAGE,
    EXTENT,
]);

/// A row of the segment table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// A [`SegmentKind`]'s number, or one that this build does not know.
    pub kind: u32,
    /// Version of the segment's encoding.
    pub version: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Hash of its sizes.
    pub fingerprint: u64,
    /// Reserved.
    pub flags: u32,
}

/// The numbers of page 0 that bound everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Most bytes that the region may use.
    pub limit_bytes: u64,
    /// Rows of the instance table.
    pub instances_max: u32,
    /// Threads with a lane of their own.
    pub lanes_max: u32,
    /// Gate slots.
    pub slots_max: u32,
    /// Metric series, and time series.
    pub series_max: u32,
    /// Control records kept.
    pub history_max: u32,
}

impl HeaderLimits {
    /// The first field out of range: its name, what was found, what is allowed.
    pub(in crate::layout) fn fault(&self) -> Option<(&'static str, u64, String)> {
        let fields = [
            ("limit_bytes", self.limit_bytes, RegionSpec::LIMIT_BYTES_MIN, RegionSpec::LIMIT_BYTES_MAX),
            ("instances_max", self.instances_max.into(), 1, 4096),
            ("lanes_max", self.lanes_max.into(), 1, 4096),
            ("slots_max", self.slots_max.into(), 1, 1 << 16),
            ("series_max", self.series_max.into(), 1, 1 << 26),
            ("history_max", self.history_max.into(), 1, 1 << 17),
        ];
        let out = fields.into_iter().find(|(_, found, low, high)| !(low..=high).contains(&found));
        if let Some((what, found, low, high)) = out {
            return Some((what, found, format!("{low}..={high}")));
        }
        (!self.limit_bytes.is_multiple_of(PAGE))
            .then(|| ("limit_bytes", self.limit_bytes, format!("a multiple of {PAGE}")))
    }
}

/// Page 0, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Format major.
    pub major: u16,
    /// Format minor.
    pub minor: u16,
    /// Random, never reused.
    pub uuid: [u8; 16],
    /// Bytes of the sparse file.
    pub virtual_len: u64,
    /// When it was created.
    pub created_unix_ms: u64,
    /// What bounds everything else.
    pub limits: HeaderLimits,
    /// The region's name.
    pub name: String,
    /// All segments, those of unknown kinds too.
    pub segments: Vec<SegmentEntry>,
}

impl Header {
    /// The header of a new region.
    ///
    /// # Errors
    /// `Misuse` where the spec asks for what the format cannot hold.
    pub fn new(spec: &RegionSpec, uuid: [u8; 16], created_unix_ms: u64) -> Result<Self, Error> {
        let (segments, virtual_len) = super::plan(spec)?;
        Ok(Self {
            major: MAJOR,
            minor: MINOR,
            uuid,
            virtual_len,
            created_unix_ms,
            limits: spec.limits(),
            name: spec.name.clone(),
            segments,
        })
    }

    /// The page as it stands in the file.
    pub fn encode(&self) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(field::MAGIC, &MAGIC);
        put(field::MAJOR, &self.major.to_le_bytes());
        put(field::MINOR, &self.minor.to_le_bytes());
        put(field::BYTE_ORDER, &BYTE_ORDER.to_le_bytes());
        put(field::PAGE_SIZE, &(PAGE as u32).to_le_bytes());
        put(field::EXTENT_SIZE, &(EXTENT as u32).to_le_bytes());
        put(field::UUID, &self.uuid);
        put(field::FINGERPRINT, &LAYOUT_FINGERPRINT.to_le_bytes());
        put(field::LIMIT_BYTES, &self.limits.limit_bytes.to_le_bytes());
        put(field::VIRTUAL_LEN, &self.virtual_len.to_le_bytes());
        put(field::CREATED_UNIX_MS, &self.created_unix_ms.to_le_bytes());
        put(field::INSTANCES_MAX, &self.limits.instances_max.to_le_bytes());
        put(field::LANES_MAX, &self.limits.lanes_max.to_le_bytes());
        put(field::SLOTS_MAX, &self.limits.slots_max.to_le_bytes());
        put(field::SERIES_MAX, &self.limits.series_max.to_le_bytes());
        put(field::HISTORY_MAX, &self.limits.history_max.to_le_bytes());
        put(field::SEGMENT_COUNT, &(self.segments.len() as u32).to_le_bytes());
        put(field::NAME_LEN, &(self.name.len() as u32).to_le_bytes());
        put(field::NAME, self.name.as_bytes());
        for (i, s) in self.segments.iter().enumerate() {
            let at = field::SEGMENTS + i * field::SEGMENT_ROW;
            put(at + ROW_FIELDS[0], &s.kind.to_le_bytes());
            put(at + ROW_FIELDS[1], &s.version.to_le_bytes());
            put(at + ROW_FIELDS[2], &s.offset.to_le_bytes());
            put(at + ROW_FIELDS[3], &s.len.to_le_bytes());
            put(at + ROW_FIELDS[4], &s.fingerprint.to_le_bytes());
            put(at + ROW_FIELDS[5], &s.flags.to_le_bytes());
        }
        let crc = crc32(&page[..field::CRC]);
        page[field::CRC..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// A known segment's place; every checked header has each of them.
    pub fn segment(&self, kind: SegmentKind) -> Segment {
        match self.segments.iter().find(|s| s.kind == kind as u32) {
            Some(s) => Segment { offset: s.offset, len: s.len },
            None => unreachable!("checked: segment {} is there", kind.name()),
        }
    }
}

#[cfg(test)]
mod tests;
