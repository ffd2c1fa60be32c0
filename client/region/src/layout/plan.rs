//! The plan of a new region: which segments, where, how long.

use super::header::{HeaderLimits, NAME_MAX};
use super::{
    EXTENT, HISTORY_SLOT, INSTANCE_ROW, LANE_ROW, LANE_STRIP, PAGE, SHARED_INDEX_BYTES, SLOT, SUMMARY_PAGES,
    SegmentEntry, SegmentKind, align_up, control,
};
use crate::error::{Error, Misuse};
use crate::mapping::extents;

/// What a new region is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Its name, also that of its file.
    pub name: String,
    /// Most bytes that it may ever use.
    pub limit_bytes: u64,
    /// Most processes attached at once.
    pub instances_max: u32,
    /// Most threads with a lane of their own.
    pub lanes_max: u32,
    /// Most threads with a gate slot.
    pub slots_max: u32,
    /// Most metric series, and most time series.
    pub series_max: u32,
    /// Control records that are kept.
    pub history_max: u32,
}

impl RegionSpec {
    /// Smallest limit: the fixed segments and one extent of each that grows.
    pub const LIMIT_BYTES_MIN: u64 = 2 * 1024 * 1024;
    /// Largest limit.
    pub const LIMIT_BYTES_MAX: u64 = 1 << 40;

    /// A region of this name and limit, everything else by default.
    pub fn new(name: impl Into<String>, limit_bytes: u64) -> Self {
        Self {
            name: name.into(),
            limit_bytes,
            instances_max: 64,
            lanes_max: 64,
            slots_max: 1024,
            series_max: 100_000,
            history_max: 1000,
        }
    }

    pub(crate) fn limits(&self) -> HeaderLimits {
        HeaderLimits {
            limit_bytes: self.limit_bytes,
            instances_max: self.instances_max,
            lanes_max: self.lanes_max,
            slots_max: self.slots_max,
            series_max: self.series_max,
            history_max: self.history_max,
        }
    }

    /// Checks that a region can be made from this.
    ///
    /// # Errors
    /// `Misuse`, naming the field, what was found and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let name_ok = !self.name.is_empty()
            && self.name.len() <= NAME_MAX
            && !self.name.starts_with('.')
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !name_ok {
            let rule = "1 to 100 letters, digits, '-', '_' or '.', not starting with '.'";
            return Err(Misuse::Name { what: "region", found: self.name.clone(), rule }.into());
        }
        match self.limits().fault() {
            None => Ok(()),
            Some((what, found, allowed)) => {
                Err(Misuse::Argument { what, found: format!("{found}, allowed {allowed}") }.into())
            }
        }
    }
}

/// Least bytes that a segment must have for these limits.
pub(super) fn segment_len_min(kind: SegmentKind, limits: &HeaderLimits) -> u64 {
    let owned_pages = limits.limit_bytes / PAGE;
    let lanes = u64::from(limits.lanes_max) + u64::from(limits.instances_max);
    match kind {
        SegmentKind::Gate => PAGE,
        SegmentKind::Superblocks => 2 * PAGE,
        SegmentKind::Control => control::LEN,
        SegmentKind::Extents => PAGE,
        SegmentKind::Instances => u64::from(limits.instances_max) * INSTANCE_ROW,
        SegmentKind::Slots => u64::from(limits.slots_max) * SLOT,
        SegmentKind::LaneTable => lanes * LANE_ROW,
        SegmentKind::Lanes => lanes * LANE_STRIP,
        SegmentKind::SharedIndex => SHARED_INDEX_BYTES,
        SegmentKind::SharedArena | SegmentKind::Owned => limits.limit_bytes,
        SegmentKind::MarkSummary => owned_pages.div_ceil(SUMMARY_PAGES) * 4,
        SegmentKind::Marks => owned_pages * 4,
        SegmentKind::PageCrcs => owned_pages * 8,
        SegmentKind::Totals => LANE_STRIP,
        SegmentKind::History => u64::from(limits.history_max) * HISTORY_SLOT,
    }
}

/// The segments of a new region and its virtual length.
///
/// # Errors
/// `Misuse` where the spec asks for what the format cannot hold.
pub fn plan(spec: &RegionSpec) -> Result<(Vec<SegmentEntry>, u64), Error> {
    spec.check()?;
    let limits = spec.limits();
    // The bits cover the file and lie in it: an upper bound of the rest, and room for the bits themselves, settle it.
    let rest: u64 = SegmentKind::ALL.iter().map(|kind| segment_len_min(*kind, &limits) + EXTENT).sum();
    let bits = extents::len_bytes(rest / EXTENT);
    let extents_len = align_up(bits + bits / (4 * 1024) + 64, PAGE);
    let mut offset = PAGE;
    let mut segments = Vec::with_capacity(SegmentKind::ALL.len());
    for kind in SegmentKind::ALL {
        let unit = if kind.is_fixed() { PAGE } else { EXTENT };
        offset = align_up(offset, unit);
        let len = match kind {
            SegmentKind::Extents => extents_len,
            kind => align_up(segment_len_min(kind, &limits), unit),
        };
        segments.push(SegmentEntry {
            kind: kind as u32,
            version: 1,
            offset,
            len,
            fingerprint: kind.fingerprint(),
            flags: 0,
        });
        offset += len;
    }
    Ok((segments, align_up(offset, EXTENT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_cover_the_file_at_every_limit() {
        for shift in 21..=40 {
            for odd in [0, PAGE] {
                let spec = RegionSpec::new("r", ((1u64 << shift) + odd).min(RegionSpec::LIMIT_BYTES_MAX));
                let (segments, len) = plan(&spec).unwrap();
                let segment = segments.iter().find(|s| s.kind == SegmentKind::Extents as u32).unwrap();
                assert!(segment.len >= extents::len_bytes(len / EXTENT), "limit {}", spec.limit_bytes);
                assert!(segments.windows(2).all(|w| w[0].offset + w[0].len <= w[1].offset));
            }
        }
    }

    #[test]
    fn a_name_that_would_leave_the_directory_is_refused() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", &"x".repeat(101)] {
            let e = RegionSpec::new(name, 4 << 20).check().unwrap_err();
            assert_eq!(e.reason(), "INVALID_NAME", "{name:?}");
        }
        let e = RegionSpec::new("r", 4096).check().unwrap_err();
        assert_eq!(e.to_string(), "limit_bytes: 4096, allowed 2097152..=1099511627776");
    }
}
