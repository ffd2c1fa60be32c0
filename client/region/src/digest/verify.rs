//! Looking for rot, beside the living region.
//!
//! A page is corrupt only if its CRC mismatches while its mark, read before and after, is not newer than the last completed
//! round: else the owner may have written since, or be writing now. A sealed root is never compared with later CRCs. After a
//! reboot, pages of which the file holds something else than was digested are *unverifiable*: nobody can tell rot from what
//! the kernel had not written back.

use std::ops::Range;
use std::sync::Arc;

use super::keeper::Keeper;
use super::marks::Tables;
use super::pages::{PAGE_WORDS, PageCopy, PageCrc};
use super::{KeeperRecord, superblock, totals};
use crate::error::{Corrupt, Error};
use crate::gate::page::GatePage;
use crate::history::History;
use crate::inspect::{self, ObjectFault};
use crate::instances;
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};

/// Faults that are reported one by one; a region with more is not repaired by a longer list.
const FAULTS_MAX: usize = 1000;
/// Pages between two reports of progress.
const PAGES_PER_REPORT: u64 = 1024;

/// Something in a region that is not as its writer left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which structure, or object.
    pub structure: String,
    /// Where, in the region.
    pub offset_bytes: u64,
    /// What had to be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl From<Corrupt> for Fault {
    fn from(why: Corrupt) -> Self {
        let (structure, offset_bytes, expected, found) = match &why {
            Corrupt::Checksum { what, offset, expected, found } => {
                (*what, *offset, format!("crc {expected:#010x}"), format!("crc {found:#010x}"))
            }
            Corrupt::Field { what, offset, expected, found } => {
                (*what, *offset, expected.to_string(), format!("{found:#x}"))
            }
            Corrupt::OutOfBounds { what, offset, len, bound } => (
                *what,
                *offset,
                format!("at most byte {bound}"),
                format!("bytes {offset}..{}", offset.saturating_add(*len)),
            ),
            Corrupt::PageLost { offset } => {
                ("page", *offset, "mapped bytes".into(), "nothing: the page is gone".into())
            }
            other => ("region", 0, "a whole region".into(), other.to_string()),
        };
        Self { structure: structure.into(), offset_bytes, expected, found }
    }
}

impl From<ObjectFault> for Fault {
    fn from(fault: ObjectFault) -> Self {
        let ObjectFault { structure, offset, error } = fault;
        let of_its_bytes = Fault::from(error);
        let structure = format!("{structure}: {}", of_its_bytes.structure);
        Self { structure, offset_bytes: of_its_bytes.offset_bytes.max(offset), ..of_its_bytes }
    }
}

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
pub fn page_states(
    mapping: &Mapping,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(Range<u64>, PageState)>, Error> {
    let tables = Tables::of(mapping);
    // Read first: an older round only makes more pages count as dirty.
    let last_round = KeeperRecord::of(mapping)?.last_round().load(Ordering::Acquire);
    let mut copy = PageCopy::new();
    let mut runs: Vec<(Range<u64>, PageState)> = Vec::new();
    for page in 0..tables.pages {
        if page % PAGES_PER_REPORT == 0 {
            progress(page, tables.pages);
        }
        let state = page_state(mapping, tables, last_round, page, &mut copy)?;
        match runs.last_mut() {
            Some((run, same)) if *same == state => run.end = page + 1,
            _ => runs.push((page..page + 1, state)),
        }
    }
    progress(tables.pages, tables.pages);
    Ok(runs)
}

fn page_state(
    mapping: &Mapping,
    tables: Tables<'_>,
    last_round: u64,
    page: u64,
    copy: &mut PageCopy,
) -> Result<PageState, Error> {
    if !tables.is_ready(page) {
        return Ok(PageState::Empty);
    }
    let gate = GatePage::of(mapping)?;
    let mark = || tables.mark(page).max(gate.all_dirty().load(Ordering::Relaxed));
    if mark() > last_round {
        return Ok(PageState::Dirty);
    }
    let entry = mapping.word(mapping.segment(SegmentKind::PageCrcs).offset + 8 * page);
    let entry = entry.map_or(PageCrc::ABSENT, |word| PageCrc::from_raw(word.load(Ordering::Relaxed)));
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

impl Keeper {
    /// Looks at everything that has a checksum or a bound: superblocks, pages, totals, rows, entries, cells and records.
    /// `progress` gets pages done and pages in all. Pages of which a reboot left something else than was digested are
    /// unverifiable, and no fault.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Vec<Fault> {
        let mut faults = Vec::new();
        match superblock::read(&self.mapping).and_then(|pair| pair.current(self.superblock.generation)) {
            Ok(found) if found != self.superblock => faults.push(Fault {
                structure: "superblock".into(),
                offset_bytes: self.mapping.segment(SegmentKind::Superblocks).offset + PAGE * found.slot() as u64,
                expected: format!("{:?}", self.superblock),
                found: format!("{found:?}"),
            }),
            Ok(_) => {}
            Err(why) => faults.push(why.into()),
        }
        find_rot(&self.mapping, true, progress, &mut faults);
        faults
    }
}

/// Everything but the superblocks. After a reboot (`same_boot` is false) neither pages nor totals prove anything.
pub(super) fn find_rot(
    mapping: &Arc<Mapping>,
    same_boot: bool,
    progress: &mut dyn FnMut(u64, u64),
    faults: &mut Vec<Fault>,
) {
    match page_states(mapping, progress) {
        Ok(runs) if same_boot => faults.extend(runs.iter().filter_map(|(run, state)| page_fault(mapping, run, *state))),
        Ok(_) => {}
        Err(why) => faults.push(fault_of(why)),
    }
    if same_boot {
        faults.extend(totals::below_bound(mapping));
    }
    faults.extend(instances::rows(mapping).filter_map(|row| row.err().map(Fault::from)));
    faults.extend(inspect::faults(mapping).into_iter().map(Fault::from));
    faults.extend(History::new(mapping).faults().into_iter().map(Fault::from));
    faults.truncate(FAULTS_MAX);
    // Last: a page that vanished on the way made what was read there zeroes.
    faults.extend(mapping.poisoned().map(Fault::from));
}

fn page_fault(mapping: &Mapping, run: &Range<u64>, state: PageState) -> Option<Fault> {
    let PageState::Corrupt { expected, found } = state else { return None };
    let structure = match run.end - run.start {
        1 => format!("owned page {}", run.start),
        _ => format!("owned pages {}..{}", run.start, run.end),
    };
    Some(Fault {
        structure,
        offset_bytes: Tables::of(mapping).offset(run.start),
        expected: expected.map_or_else(|| "zeroes: never digested".into(), |crc| format!("crc {crc:#010x}")),
        found: format!("crc {found:#010x}"),
    })
}

pub(super) fn fault_of(why: Error) -> Fault {
    match why {
        Error::Corrupt(why) => why.into(),
        why => {
            Fault { structure: "region".into(), offset_bytes: 0, expected: "readable".into(), found: why.to_string() }
        }
    }
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
