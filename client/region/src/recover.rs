//! What a region is when it is new, and what is done for those who died.

use crate::error::Error;
use crate::layout::SegmentKind;
use crate::mapping::Mapping;
use crate::sync::Ordering;

/// Fills a new region: gate OPEN(1,0).
pub(crate) fn format(mapping: &Mapping) -> Result<(), Error> {
    let gate = mapping.segment(SegmentKind::Gate);
    mapping.word(gate.offset)?.store(1 << 32 | 1, Ordering::Release);
    Ok(())
}
