//! Space for objects: areas that only grow, each with one bump pointer in CONTROL.
//!
//! Nothing is ever given back: entries are never retired, and a cell's outgrown buffers together are smaller than its
//! living one. So an area is one word, advanced by compare-and-swap, after the bytes behind it were made ready.
//!
//! Crash argument: a process killed before the swap has taken nothing (making ready is idempotent); killed after it, it
//! leaks what it took, a few hundred bytes that nobody refers to. A bump pointer that is not what a writer of this format
//! leaves (beyond its area) reads as a full area, never as an address.

use crate::error::{Error, Full, NotReady};
use crate::layout::{EXTENT, LANE_STRIP, Segment, SegmentKind, control};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// Words of a lane.
pub(crate) const LANE_WORDS_MAX: u64 = LANE_STRIP / 8;
/// Swaps lost to others before an allocation gives up: progress of the others is certain, of this one it is not.
const TRIES_MAX: u32 = 10_000;

/// A word of CONTROL's page for objects, each on a cache line of its own.
#[derive(Clone, Copy, Debug)]
enum Word {
    SharedArena = 0,
    LaneWords = 64,
    GaugeWords = 128,
    OwnedArena = 192,
    Series = 256,
}

impl Word {
    const fn area(self) -> &'static str {
        match self {
            Word::SharedArena => "bytes of the shared directory's entries",
            Word::LaneWords => "words of a lane",
            Word::GaugeWords => "bytes of gauges' values",
            Word::OwnedArena => "bytes of owned values",
            Word::Series => "series",
        }
    }
}

/// A word of CONTROL's page for Heirloom's own counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfCounter {
    /// Updates that an infallible handle ignored: NaN, negative, no word left to count in.
    IgnoredUpdates = 0,
    /// Objects that could not be opened.
    FailedRegistrations = 128,
}

/// How OWNED is divided. A function of its length alone, so part of the format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnedAreas {
    /// Index of the owned directory.
    pub(crate) index: Segment,
    /// One word for each gauge.
    pub(crate) gauges: Segment,
    /// Entries and buffers.
    pub(crate) arena: Segment,
}

impl OwnedAreas {
    pub(crate) fn of(mapping: &Mapping) -> Self {
        let owned = mapping.segment(SegmentKind::Owned);
        let part = |share: u64| (owned.len / share).min(64 << 20) / EXTENT * EXTENT;
        let index = Segment { offset: owned.offset, len: part(8) };
        let gauges = Segment { offset: index.end(), len: part(16).min(LANE_STRIP) };
        let arena = Segment { offset: gauges.end(), len: owned.end().saturating_sub(gauges.end()) };
        Self { index, gauges, arena }
    }
}

/// Takes `bytes` from the shared arena; gives their offset in the region, zeroed and ready.
pub(crate) fn shared(mapping: &Mapping, bytes: u64) -> Result<u64, Error> {
    take(mapping, Word::SharedArena, mapping.segment(SegmentKind::SharedArena), bytes, 8)
}

/// Takes `bytes` from the owned arena, as [`shared`]. Only the owner writes what it gets; taking needs no gate.
pub(crate) fn owned(mapping: &Mapping, bytes: u64) -> Result<u64, Error> {
    owned_aligned(mapping, bytes, 8)
}

/// As [`owned`], at a multiple of `align`, a power of two, from the arena's start. What is taken one after the other and fills its
/// alignment leaves no gaps.
pub(crate) fn owned_aligned(mapping: &Mapping, bytes: u64, align: u64) -> Result<u64, Error> {
    take(mapping, Word::OwnedArena, OwnedAreas::of(mapping).arena, bytes, align)
}

/// Takes a gauge's word; gives its offset in the region.
pub(crate) fn gauge_word(mapping: &Mapping) -> Result<u64, Error> {
    take(mapping, Word::GaugeWords, OwnedAreas::of(mapping).gauges, 8, 8)
}

/// Takes `n` consecutive words of every lane; gives the first one's index. The lanes make them ready one by one.
pub(crate) fn lane_words(mapping: &Mapping, n: u64) -> Result<u64, Error> {
    let full = || Full::Table { table: Word::LaneWords.area(), limit: LANE_WORDS_MAX }.into();
    advance(word(mapping, Word::LaneWords)?, n, 1, LANE_WORDS_MAX, full, |_| Ok(()))
}

/// How many words of each lane are taken: the bound of what a reader sums.
pub(crate) fn lane_words_used(mapping: &Mapping) -> u64 {
    word(mapping, Word::LaneWords).map_or(0, |w| w.load(Ordering::Acquire).min(LANE_WORDS_MAX))
}

/// Puts a bump pointer above what is referred to, `end` from the start of its area; only while nobody is attached. After a
/// reboot the word may be older than the entries: it would give out again what they hold.
pub(crate) fn raise(mapping: &Mapping, used: Used) -> Result<(), Error> {
    let raise = |which, end: u64| word(mapping, which).map(|w| _ = w.fetch_max(end, Ordering::Relaxed));
    raise(Word::SharedArena, used.shared_arena)?;
    raise(Word::LaneWords, used.lane_words)?;
    raise(Word::GaugeWords, used.gauges)?;
    raise(Word::OwnedArena, used.owned_arena)?;
    raise(Word::Series, used.series)
}

/// How far each area is referred to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) shared_arena: u64,
    pub(crate) lane_words: u64,
    pub(crate) gauges: u64,
    pub(crate) owned_arena: u64,
    pub(crate) series: u64,
}

/// How many series there are. May be short by those whose creators were killed in the act.
pub(crate) fn series(mapping: &Mapping) -> Result<&AtomicU64, Error> {
    word(mapping, Word::Series)
}

/// Adds to one of Heirloom's own counters; drops the update where the region cannot take it (it is read only).
pub(crate) fn count(mapping: &Mapping, counter: SelfCounter) {
    let at = mapping.segment(SegmentKind::Control).offset + control::COUNTERS + counter as u64;
    if let (true, Ok(words)) = (!mapping.is_read_only(), mapping.words(at, 1)) {
        words[0].fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads one of Heirloom's own counters.
pub fn counted(mapping: &Mapping, counter: SelfCounter) -> u64 {
    let at = mapping.segment(SegmentKind::Control).offset + control::COUNTERS + counter as u64;
    mapping.words(at, 1).map_or(0, |w| w[0].load(Ordering::Relaxed))
}

fn word(mapping: &Mapping, which: Word) -> Result<&AtomicU64, Error> {
    let at = mapping.segment(SegmentKind::Control).offset + control::OBJECTS + which as u64;
    Ok(&mapping.words(at, 1)?[0])
}

fn take(mapping: &Mapping, which: Word, area: Segment, bytes: u64, align: u64) -> Result<u64, Error> {
    let bytes = bytes.next_multiple_of(8);
    let used = word(mapping, which)?.load(Ordering::Relaxed).max(64);
    // A caller is told of a full region whichever of its areas is the first to be full.
    let full = || match which {
        Word::SharedArena | Word::OwnedArena => {
            let free_bytes = area.len.saturating_sub(used);
            Full::Region { needed_bytes: bytes, free_bytes, limit_bytes: area.len }.into()
        }
        _ => Full::Table { table: which.area(), limit: area.len }.into(),
    };
    let ready = |at| mapping.ensure(area.offset + at, bytes);
    advance(word(mapping, which)?, bytes, align, area.len, full, ready).map(|at| area.offset + at)
}

/// Advances a bump pointer by `n` from a multiple of `align` up to `limit`, after `ready` let the bytes pass. Gives where they
/// begin. Offset 0 is never given out: the first 64 units stay free, so that 0 can mean nothing.
fn advance(
    bump: &AtomicU64,
    n: u64,
    align: u64,
    limit: u64,
    full: impl Fn() -> Error,
    ready: impl Fn(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut old = bump.load(Ordering::Relaxed);
    for _ in 0..TRIES_MAX {
        let start = old.max(64).checked_next_multiple_of(align).ok_or_else(&full)?;
        let end = start.checked_add(n).filter(|end| *end <= limit).ok_or_else(&full)?;
        ready(start)?;
        // AcqRel: whoever sees the new bound (lane_words_used) may also see what was made ready before it.
        match bump.compare_exchange_weak(old, end, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(start),
            Err(now) => old = now,
        }
    }
    Err(NotReady::Contended { attempts: TRIES_MAX }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Error {
        Full::Table { table: "test", limit: 100 }.into()
    }

    #[test]
    fn a_full_area_stays_usable_for_what_fits() {
        let bump = AtomicU64::new(0);
        assert_eq!(advance(&bump, 16, 8, 100, full, |_| Ok(())).unwrap(), 64);
        assert!(matches!(advance(&bump, 21, 8, 100, full, |_| Ok(())), Err(Error::Full(_))));
        assert_eq!(advance(&bump, 20, 8, 100, full, |_| Ok(())).unwrap(), 80);
    }

    #[test]
    fn aligned_space_leaves_no_gap_behind_aligned_space() {
        let bump = AtomicU64::new(72);
        let take = |n| advance(&bump, n, 256, 4096, full, |_| Ok(())).unwrap();
        assert_eq!([take(512), take(256), take(8), take(8)], [256, 768, 1024, 1280]);
        assert!(advance(&bump, 8, 1 << 63, u64::MAX, full, |_| Ok(())).is_ok());
        assert!(matches!(advance(&bump, 8, 1 << 63, u64::MAX, full, |_| Ok(())), Err(Error::Full(_))));
    }

    #[test]
    fn a_wild_pointer_is_full_not_an_address() {
        let bump = AtomicU64::new(u64::MAX - 3);
        assert!(matches!(advance(&bump, 8, 8, 100, full, |_| Ok(())), Err(Error::Full(_))));
    }

    #[test]
    fn space_that_is_not_ready_is_not_taken() {
        let bump = AtomicU64::new(0);
        assert!(advance(&bump, 8, 8, 100, full, |_| Err(full())).is_err());
        assert_eq!(bump.load(Ordering::Relaxed), 0);
    }
}
