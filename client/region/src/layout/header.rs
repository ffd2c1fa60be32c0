//! Page 0: who the region is and where its segments lie. Written once, before the file gets its name; never changed.
//!
//! Trust is a type: bytes are an [`UncheckedHeader`], and [`UncheckedHeader::check`] alone makes a [`Header`] of them, in
//! the order length, magic, byte order, major, page size, fingerprint, CRC, and only then the fields. Magic, minor and
//! major stand at these offsets for ever. A crash cannot be seen here: a file without a whole page 0 has no name yet.

use super::plan::segment_len_min;
use super::{EXTENT, MAJOR, MINOR, PAGE, RegionSpec, Segment, SegmentKind, crc32, extents, fingerprint};
use crate::error::{Corrupt, Error, Incompatible};

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
    /// Metric series.
    pub series_max: u32,
    /// Control records kept.
    pub history_max: u32,
}

impl HeaderLimits {
    /// The first field out of range: its name, what was found, what is allowed.
    pub(super) fn fault(&self) -> Option<(&'static str, u64, String)> {
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

/// The first page of something that may be a region.
pub struct UncheckedHeader {
    page: [u8; PAGE as usize],
    file_len: u64,
}

impl UncheckedHeader {
    /// From the first bytes of a file (at most a page of them is looked at) and the file's length.
    pub fn new(first_bytes: &[u8], file_len: u64) -> Self {
        let mut page = [0; PAGE as usize];
        let n = first_bytes.len().min(page.len());
        page[..n].copy_from_slice(&first_bytes[..n]);
        Self { page, file_len: file_len.min(if n < page.len() { n as u64 } else { u64::MAX }) }
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.page[at], self.page[at + 1]])
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.page[at], self.page[at + 1], self.page[at + 2], self.page[at + 3]])
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Verifies everything.
    ///
    /// # Errors
    /// `Corrupt` for a foreign, truncated or damaged file, `Incompatible` for another format.
    pub fn check(&self) -> Result<Header, Error> {
        self.check_envelope()?;
        let limits = HeaderLimits {
            limit_bytes: self.u64(field::LIMIT_BYTES),
            instances_max: self.u32(field::INSTANCES_MAX),
            lanes_max: self.u32(field::LANES_MAX),
            slots_max: self.u32(field::SLOTS_MAX),
            series_max: self.u32(field::SERIES_MAX),
            history_max: self.u32(field::HISTORY_MAX),
        };
        if let Some((what, found, allowed)) = limits.fault() {
            return Err(Corrupt::field(what, 0, allowed, found).into());
        }
        let virtual_len = self.u64(field::VIRTUAL_LEN);
        if virtual_len > 1 << 46 || !virtual_len.is_multiple_of(EXTENT) {
            let allowed = "a multiple of 65536, at most 2^46";
            return Err(Corrupt::field("virtual_len", field::VIRTUAL_LEN as u64, allowed, virtual_len).into());
        }
        if self.file_len < virtual_len {
            let (expected_bytes, found_bytes) = (virtual_len, self.file_len);
            return Err(Corrupt::Truncated { what: "region file", expected_bytes, found_bytes }.into());
        }
        let segments = self.check_segments(&limits, virtual_len)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.page[field::UUID..field::UUID + 16]);
        Ok(Header {
            major: self.u16(field::MAJOR),
            minor: self.u16(field::MINOR),
            uuid,
            virtual_len,
            created_unix_ms: self.u64(field::CREATED_UNIX_MS),
            limits,
            name: self.check_name()?,
            segments,
        })
    }

    fn check_envelope(&self) -> Result<(), Error> {
        if self.file_len >= 8 && self.page[..8] != MAGIC {
            let found = self.page[..8].escape_ascii().to_string();
            return Err(Corrupt::Foreign { expected: "HEIRLOOM", found }.into());
        }
        if self.file_len < PAGE {
            let (expected_bytes, found_bytes) = (PAGE, self.file_len);
            return Err(Corrupt::Truncated { what: "region header", expected_bytes, found_bytes }.into());
        }
        let format = |expected: String, found: String| Error::from(Incompatible::Format { expected, found });
        if self.u32(field::BYTE_ORDER) != BYTE_ORDER {
            let found = format!("byte order mark {:#010x}", self.u32(field::BYTE_ORDER));
            return Err(format(format!("byte order mark {BYTE_ORDER:#010x}"), found));
        }
        let major = self.u16(field::MAJOR);
        if major != MAJOR {
            return Err(format(format!("{MAJOR}.x"), format!("{major}.{}", self.u16(field::MINOR))));
        }
        let units = (self.u32(field::PAGE_SIZE), self.u32(field::EXTENT_SIZE));
        if units != (PAGE as u32, EXTENT as u32) {
            let found = format!("pages of {} and extents of {}", units.0, units.1);
            return Err(format(format!("pages of {PAGE} and extents of {EXTENT}"), found));
        }
        let layout = self.u64(field::FINGERPRINT);
        if layout != LAYOUT_FINGERPRINT {
            return Err(format(format!("layout {LAYOUT_FINGERPRINT:#018x}"), format!("layout {layout:#018x}")));
        }
        let (expected, found) = (self.u32(field::CRC), crc32(&self.page[..field::CRC]));
        if expected != found {
            return Err(Corrupt::Checksum { what: "region header", offset: 0, expected, found }.into());
        }
        Ok(())
    }

    fn check_name(&self) -> Result<String, Error> {
        let len = self.u32(field::NAME_LEN) as usize;
        if len == 0 || len > NAME_MAX {
            return Err(Corrupt::field("name_len", field::NAME_LEN as u64, "1..=100", len as u64).into());
        }
        let bytes = &self.page[field::NAME..field::NAME + len];
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(e) => {
                let at = e.valid_up_to();
                Err(Corrupt::field("name", (field::NAME + at) as u64, "UTF-8", bytes[at].into()).into())
            }
        }
    }

    fn check_segments(&self, limits: &HeaderLimits, virtual_len: u64) -> Result<Vec<SegmentEntry>, Error> {
        let count = self.u32(field::SEGMENT_COUNT) as usize;
        if count > SEGMENTS_MAX {
            return Err(Corrupt::field("segment_count", field::SEGMENT_COUNT as u64, "0..=64", count as u64).into());
        }
        let rows: Vec<SegmentEntry> = (0..count).map(|i| self.segment_row(i)).collect();
        let mut places = vec![(0, PAGE)];
        for (i, s) in rows.iter().enumerate() {
            let at = (field::SEGMENTS + i * field::SEGMENT_ROW) as u64;
            let known = SegmentKind::from_number(s.kind);
            let unit = if known.is_some_and(|k| !k.is_fixed()) { EXTENT } else { PAGE };
            if !s.offset.is_multiple_of(unit) || !s.len.is_multiple_of(PAGE) {
                return Err(Corrupt::field("segment offset", at + 8, "aligned", s.offset).into());
            }
            if s.offset > virtual_len || s.len > virtual_len - s.offset {
                let (offset, len) = (s.offset, s.len);
                return Err(Corrupt::OutOfBounds { what: "segment table", offset, len, bound: virtual_len }.into());
            }
            places.push((s.offset, s.offset + s.len));
            if let Some(kind) = known {
                check_known(kind, s, at, limits, virtual_len)?;
            }
        }
        places.sort_unstable();
        if let Some(w) = places.windows(2).find(|w| w[0].1 > w[1].0) {
            let expected = format!("at least {}", w[0].1);
            return Err(Corrupt::field("segment offset", field::SEGMENTS as u64, expected, w[1].0).into());
        }
        for kind in SegmentKind::ALL {
            let found = rows.iter().filter(|s| s.kind == kind as u32).count();
            if found != 1 {
                return Err(Corrupt::field(kind.name(), field::SEGMENTS as u64, "one segment", found as u64).into());
            }
        }
        Ok(rows)
    }

    fn segment_row(&self, index: usize) -> SegmentEntry {
        let at = field::SEGMENTS + index * field::SEGMENT_ROW;
        SegmentEntry {
            kind: self.u32(at + ROW_FIELDS[0]),
            version: self.u32(at + ROW_FIELDS[1]),
            offset: self.u64(at + ROW_FIELDS[2]),
            len: self.u64(at + ROW_FIELDS[3]),
            fingerprint: self.u64(at + ROW_FIELDS[4]),
            flags: self.u32(at + ROW_FIELDS[5]),
        }
    }
}

fn check_known(
    kind: SegmentKind,
    s: &SegmentEntry,
    at: u64,
    limits: &HeaderLimits,
    virtual_len: u64,
) -> Result<(), Error> {
    if (s.version, s.fingerprint) != (1, kind.fingerprint()) {
        let show = |version: u32, print: u64| format!("segment {} version {version} layout {print:#018x}", kind.name());
        let (expected, found) = (show(1, kind.fingerprint()), show(s.version, s.fingerprint));
        return Err(Incompatible::Format { expected, found }.into());
    }
    let min = match kind {
        SegmentKind::Extents => extents::BITMAP + (virtual_len / EXTENT).div_ceil(64) * 8,
        kind => segment_len_min(kind, limits),
    };
    if s.len < min {
        return Err(Corrupt::field("segment len", at + 16, format!("at least {min}"), s.len).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
