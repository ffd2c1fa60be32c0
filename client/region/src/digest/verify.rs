//! What can be said about a page, beside the living region.
//!
//! A page is corrupt only if its CRC mismatches while its mark, read before and after, is not newer than the last completed
//! round: else the owner may have written since, or be writing now. A sealed root is never compared with later CRCs. After a
//! reboot, pages of which the file holds something else than was digested are *unverifiable*: nobody can tell rot from what
//! the kernel had not written back.

use std::ops::Range;

use super::KeeperRecord;
use super::marks::Tables;
use super::offline::is_of_this_boot;
use super::pages::{PAGE_WORDS, PageCopy, PageCrc};
#[cfg(any(test, feature = "verify-seal"))]
use crate::error::Corrupt;
use crate::error::Error;
use crate::gate::page::GatePage;
use crate::layout::SegmentKind;
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};

/// What can be said about a page of OWNED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Not allocated, or allocated and never written.
    Empty,
    /// Its bytes are those that were digested.
    Verified,
    /// Written since it was digested.
    Dirty,
    /// Its bytes are what a reboot left.
    Unverifiable,
    /// Its bytes are not those that were digested, and nobody has written them since.
    Corrupt {
        /// CRC in the table; `None` for a page that was never digested, and has to be zero.
        expected: Option<u32>,
        /// CRC of the bytes.
        found: u32,
    },
}

/// The state of every page of OWNED, as runs of equal state. Works beside a living owner, and on a file that nobody has open.
///
/// # Errors
/// `Corrupt` if the tables themselves are outside what is allocated.
pub fn page_states(mapping: &Mapping) -> Result<Vec<(Range<u64>, PageState)>, Error> {
    let mut look = Look::new(mapping, is_of_this_boot(mapping)?)?;
    let mut runs: Vec<(Range<u64>, PageState)> = Vec::new();
    for page in 0..Tables::of(mapping).pages {
        push_run(&mut runs, page, look.page(mapping, page)?);
    }
    Ok(runs)
}

/// Adds the next page to runs of equal state.
pub(super) fn push_run<S: PartialEq>(runs: &mut Vec<(Range<u64>, S)>, page: u64, state: S) {
    match runs.last_mut() {
        Some((run, same)) if *same == state && run.end == page => run.end = page + 1,
        _ => runs.push((page..page + 1, state)),
    }
}

/// One look at pages, one after the other; it may take a while, and goes on where it was.
#[derive(Debug)]
pub(super) struct Look {
    /// Read first: an older round only makes more pages count as dirty.
    last_round: u64,
    same_boot: bool,
    copy: PageCopy,
}

impl Look {
    pub(super) fn new(mapping: &Mapping, same_boot: bool) -> Result<Self, Error> {
        let last_round = KeeperRecord::of(mapping)?.last_round().load(Ordering::Acquire);
        Ok(Self { last_round, same_boot, copy: PageCopy::new() })
    }

    pub(super) fn page(&mut self, mapping: &Mapping, page: u64) -> Result<PageState, Error> {
        let tables = Tables::of(mapping);
        if !tables.is_ready(page) {
            return Ok(PageState::Empty);
        }
        match page_state(mapping, tables, self.last_round, page, &mut self.copy)? {
            // What differs, and what was not digested yet, is whatever the kernel had written back.
            PageState::Corrupt { .. } | PageState::Dirty if !self.same_boot => Ok(PageState::Unverifiable),
            state => Ok(state),
        }
    }
}

pub(crate) fn page_state(
    mapping: &Mapping,
    tables: Tables<'_>,
    last_round: u64,
    page: u64,
    copy: &mut PageCopy,
) -> Result<PageState, Error> {
    let gate = GatePage::of(mapping)?;
    let mark = || tables.mark(page).max(gate.all_dirty().load(Ordering::Relaxed));
    if mark() > last_round {
        return Ok(PageState::Dirty);
    }
    let entry = mapping.word(mapping.segment(SegmentKind::PageCrcs).offset + 8 * page);
    let entry = entry.map_or(PageCrc::ABSENT, |word| PageCrc::from_raw(word.load(Ordering::Acquire)));
    if entry.is_unverified() {
        return Ok(PageState::Unverifiable);
    }
    let words = mapping.words(tables.offset(page), PAGE_WORDS as u64)?;
    let found = copy.crc(words, None);
    let as_digested = match entry.crc() {
        Some(crc) => crc == found,
        None => PageCopy::is_zero(words),
    };
    // Pairs with the writer's Release fence between the mark and the data: who saw new data sees the mark.
    fence(Ordering::Acquire);
    Ok(match (as_digested, entry.crc()) {
        (true, None) => PageState::Empty,
        (true, Some(_)) => PageState::Verified,
        (false, _) if mark() > last_round => PageState::Dirty,
        (false, expected) => PageState::Corrupt { expected, found },
    })
}

/// The root of all bytes of OWNED: every ready page's CRC, whether the table has it or not. A page that was never digested
/// counts only if it is not zero, so a write without a mark shows.
#[cfg(any(test, feature = "verify-seal"))]
pub(super) fn recompute(mapping: &Mapping) -> Result<u64, Corrupt> {
    let tables = Tables::of(mapping);
    let mut copy = PageCopy::new();
    let mut root = super::pages::Root::default();
    for page in (0..tables.pages).filter(|page| tables.is_ready(*page)) {
        let words = mapping.words(tables.offset(page), PAGE_WORDS as u64)?;
        let entry = mapping.word(mapping.segment(SegmentKind::PageCrcs).offset + 8 * page)?.load(Ordering::Relaxed);
        if PageCrc::from_raw(entry) != PageCrc::ABSENT || !PageCopy::is_zero(words) {
            root = root.replace(page, PageCrc::ABSENT, PageCrc::of(copy.crc(words, None)));
        }
    }
    Ok(root.value())
}
