//! From bytes to a [`Header`]: every check, in order, before the first use of what was checked.

use super::{
    BYTE_ORDER, Header, HeaderLimits, LAYOUT_FINGERPRINT, MAGIC, NAME_MAX, ROW_FIELDS, SEGMENTS_MAX, SegmentEntry,
    field,
};
use crate::error::{Corrupt, Error, Incompatible};
use crate::layout::plan::segment_len_min;
use crate::layout::{EXTENT, MAJOR, PAGE, SegmentKind, crc32};
use crate::mapping::extents;

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
        SegmentKind::Extents => extents::len_bytes(virtual_len / EXTENT),
        kind => segment_len_min(kind, limits),
    };
    if s.len < min {
        return Err(Corrupt::field("segment len", at + 16, format!("at least {min}"), s.len).into());
    }
    Ok(())
}
