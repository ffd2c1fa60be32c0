//! After a reboot: what entries refer to is taken, whatever the bump pointers say.
//!
//! The file system wrote pages back in an order of its own, so the page of the bump pointers may be older than entries that
//! are whole. To give out again what they hold would make two counters share a word, and write over living cells. Entries that
//! are not whole hold nothing: they are found corrupt wherever they are read.

use crate::alloc::{self, LANE_WORDS_MAX, OwnedAreas, Used};
use crate::directory::Directory;
use crate::directory::entry::{Decoded, Kind};
use crate::error::Error;
use crate::layout::{Segment, SegmentKind};
use crate::mapping::Mapping;
use crate::objects::cell;
use crate::series;

/// Raises every bump pointer above what whole entries refer to. For a keeper that resets a region, while nobody is attached.
///
/// # Errors
/// `Corrupt` where the bump pointers are outside what is allocated.
pub(crate) fn settle_after_reboot(mapping: &Mapping) -> Result<(), Error> {
    let mut used = Used::default();
    let areas = OwnedAreas::of(mapping);
    let shared = mapping.segment(SegmentKind::SharedArena);
    for (directory, arena) in [(Directory::shared(mapping), shared), (Directory::owned(mapping), areas.arena)] {
        let mut highest = 0;
        for (_, slot) in directory.filled() {
            let Ok((decoded, len_bytes)) = directory.read_with_len(slot) else { continue };
            highest = highest.max(end_in(arena, directory.offset(slot), len_bytes));
            let Decoded::Known(entry) = decoded else { continue };
            match entry.kind {
                Kind::Gauge => used.gauges = used.gauges.max(end_in(areas.gauges, entry.payload, 8)),
                Kind::Cell => cell::taken_by(mapping, &entry)
                    .into_iter()
                    .for_each(|(at, len)| highest = highest.max(end_in(arena, at, len))),
                kind if kind.in_lanes() => {
                    let end = entry.payload.saturating_add(entry.words.into());
                    used.lane_words = used.lane_words.max(if end <= LANE_WORDS_MAX { end } else { 0 });
                }
                _ => {}
            }
            used.series += u64::from(entry.kind == Kind::Gauge || entry.kind.in_lanes());
        }
        if arena == areas.arena {
            let series = series::taken(mapping);
            highest = series.into_iter().fold(highest, |highest, (at, len)| highest.max(end_in(arena, at, len)));
        }
        match arena == shared {
            true => used.shared_arena = highest,
            false => used.owned_arena = highest,
        }
    }
    alloc::raise(mapping, used)
}

/// Where `len` bytes at `offset` end in an area, in whole words; 0 if they are not in it.
fn end_in(area: Segment, offset: u64, len: u64) -> u64 {
    let end = offset.checked_sub(area.offset).and_then(|at| at.checked_add(len));
    end.filter(|end| *end <= area.len).map_or(0, |end| end.next_multiple_of(8))
}
