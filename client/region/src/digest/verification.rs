//! Looking at everything in a region that has a checksum or a bound, in slices, so that who looks can do other things between.
//!
//! **Order.** Superblocks with epochs and slots, pages with their marks, counters' bounds, rows, entries and cells, control records. A slice is some hundred pages, or
//! some entries with their cells, or one of the others, which are bounded by their tables; the longest is the one over all
//! lanes, which each freeze does too. Switches may happen between two slices: what is written meanwhile counts as dirty.
//!
//! **After a reboot** pages that differ from what was digested are *unverifiable*, and no fault: nobody can tell rot from what
//! the kernel had not written back. They are told apart ([`Verified::unverifiable`]). Counters' bounds prove nothing then.

use std::ops::Range;
use std::sync::Arc;

use super::fault::{Fault, fault_of, page_fault};
use super::keeper::Keeper;
use super::marks::Tables;
use super::verify::{Look, PageState, push_run};
use super::{Superblock, announced, is_of_this_boot, offline, superblock, totals};
use crate::error::Error;
use crate::history::History;
use crate::inspect::{self, Place};
use crate::instances;
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;

/// Faults that are kept; a region with more is not repaired by a longer list.
const FAULTS_MAX: usize = 1000;
/// Pages read in a slice: some hundred microseconds.
const PAGES_PER_STEP: u64 = 512;
/// Pages that are not allocated, passed over in a slice.
const HOLES_PER_STEP: u64 = 64 * 1024;
/// Entries, with the bytes of their cells, in a slice. A single cell is never cut.
const PLACES_PER_STEP: usize = 64;

/// What a look at a whole region found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// What is wrong, the first thousand.
    pub faults: Vec<Fault>,
    /// Byte ranges of owned pages of which a reboot left something else than was digested: no fault, and no proof.
    pub unverifiable: Vec<Range<u64>>,
    /// Bytes of owned pages that were read.
    pub checked_bytes: u64,
}

/// A page's CRC in the table, if it has one, and that of its bytes.
type Mismatch = (Option<u32>, u32);

/// A look at a whole region, under way.
#[derive(Debug)]
pub struct Verification {
    mapping: Arc<Mapping>,
    same_boot: bool,
    step: Step,
    done: Verified,
    corrupt: Vec<(Range<u64>, Mismatch)>,
    unverifiable: Vec<(Range<u64>, ())>,
    total_bytes: u64,
}

#[derive(Debug)]
enum Step {
    Superblocks,
    Pages { look: Look, next: u64 },
    Totals,
    Rows,
    Objects { places: Vec<Place>, next: usize },
    History,
    Done,
}

impl Keeper {
    /// Begins to look at everything that has a checksum or a bound, and at what this keeper knows of its superblock.
    pub fn verification(&self) -> Verification {
        let mut begun = Verification::new(Arc::clone(&self.mapping));
        // Now, because the keeper may switch to another one before the first slice.
        begun.known_superblock(&self.superblock);
        begun.announced();
        begun.step = begun.first_page();
        begun
    }

    /// As [`Keeper::verification`], at one go. `progress` gets bytes checked and bytes in all.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Vec<Fault> {
        self.verification().run(progress).faults
    }
}

impl Verification {
    /// Begins, without a keeper's hold: beside a keeper, or on a file that nobody has open.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let mut done = Verified::default();
        let same_boot = is_of_this_boot(&mapping).unwrap_or_else(|why| {
            done.faults.push(fault_of(why));
            true
        });
        let tables = Tables::of(&mapping);
        let total_bytes = (0..tables.pages).filter(|page| tables.is_ready(*page)).count() as u64 * PAGE;
        Self {
            mapping,
            same_boot,
            step: Step::Superblocks,
            done,
            corrupt: Vec::new(),
            unverifiable: Vec::new(),
            total_bytes,
        }
    }

    /// Bytes of owned pages that were read, and that are to be read in all.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.checked_bytes, self.total_bytes.max(self.done.checked_bytes))
    }

    /// Looks at the next slice. False once there is nothing left.
    pub fn step(&mut self) -> bool {
        self.step = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Superblocks => {
                let found = offline::superblocks(&self.mapping, self.same_boot).err().map(Fault::from);
                self.add(found);
                self.announced();
                self.first_page()
            }
            Step::Pages { look, next } => self.pages(look, next),
            Step::Totals => {
                if self.same_boot {
                    self.add(totals::below_bound(&self.mapping));
                }
                Step::Rows
            }
            Step::Rows => {
                let rows: Vec<Fault> =
                    instances::rows(&self.mapping).filter_map(|row| row.err().map(Fault::from)).collect();
                self.add(rows);
                Step::Objects { places: inspect::places(&self.mapping), next: 0 }
            }
            Step::Objects { places, next } => {
                let end = places.len().min(next + PLACES_PER_STEP);
                let found = places[next..end].iter().filter_map(|place| inspect::fault_at(&self.mapping, *place));
                let found: Vec<Fault> = found.map(Fault::from).collect();
                self.add(found);
                if end == places.len() { Step::History } else { Step::Objects { places, next: end } }
            }
            Step::History => {
                self.add(History::new(&self.mapping).faults().into_iter().map(Fault::from));
                // Last: a page that vanished on the way made what was read there zeroes.
                self.done.faults.extend(self.mapping.poisoned().map(Fault::from));
                Step::Done
            }
            Step::Done => Step::Done,
        };
        !matches!(self.step, Step::Done)
    }

    /// What was found so far.
    pub fn finish(self) -> Verified {
        self.done
    }

    /// All slices one after the other.
    pub fn run(mut self, progress: &mut dyn FnMut(u64, u64)) -> Verified {
        while self.step() {
            let (checked, total) = self.progress();
            progress(checked, total);
        }
        self.finish()
    }

    fn add(&mut self, faults: impl IntoIterator<Item = Fault>) {
        let room = FAULTS_MAX.saturating_sub(self.done.faults.len());
        self.done.faults.extend(faults.into_iter().take(room));
    }

    fn first_page(&mut self) -> Step {
        match Look::new(&self.mapping, self.same_boot) {
            Ok(look) => Step::Pages { look, next: 0 },
            Err(why) => self.no_pages(why),
        }
    }

    /// Epochs and slots; a reset after a reboot forgets them.
    fn announced(&mut self) {
        if self.same_boot {
            self.add(announced::faults(&self.mapping));
        }
    }

    fn known_superblock(&mut self, known: &Superblock) {
        match superblock::read(&self.mapping).and_then(|pair| pair.current(known.generation)) {
            Ok(found) if found != *known => self.add([Fault {
                structure: "superblock".into(),
                offset_bytes: self.mapping.segment(SegmentKind::Superblocks).offset + PAGE * found.slot() as u64,
                expected: format!("{known:?}"),
                found: format!("{found:?}"),
            }]),
            Ok(_) => {}
            Err(why) => self.add([why.into()]),
        }
    }

    fn pages(&mut self, mut look: Look, from: u64) -> Step {
        let mapping = Arc::clone(&self.mapping);
        let tables = Tables::of(&mapping);
        let (mut next, mut read) = (from, 0);
        while next < tables.pages && read < PAGES_PER_STEP && next - from < HOLES_PER_STEP {
            let (page, is_ready) = (next, tables.is_ready(next));
            next += 1;
            if !is_ready {
                continue;
            }
            read += 1;
            if self.same_boot {
                self.add(announced::mark(&mapping, tables, page));
            }
            match look.page(&mapping, page) {
                Ok(PageState::Corrupt { expected, found }) => push_run(&mut self.corrupt, page, (expected, found)),
                Ok(PageState::Unverifiable) => push_run(&mut self.unverifiable, page, ()),
                Ok(_) => {}
                Err(why) => return self.no_pages(why),
            }
        }
        self.done.checked_bytes += read * PAGE;
        if next < tables.pages { Step::Pages { look, next } } else { self.end_of_pages() }
    }

    fn no_pages(&mut self, why: Error) -> Step {
        self.add([fault_of(why)]);
        self.end_of_pages()
    }

    fn end_of_pages(&mut self) -> Step {
        let mapping = Arc::clone(&self.mapping);
        let corrupt = std::mem::take(&mut self.corrupt);
        self.add(corrupt.iter().map(|(run, (expected, found))| page_fault(&mapping, run, *expected, *found)));
        let tables = Tables::of(&mapping);
        let bytes = |run: &Range<u64>| tables.offset(run.start)..tables.offset(run.end);
        self.done.unverifiable = std::mem::take(&mut self.unverifiable).iter().map(|(run, ())| bytes(run)).collect();
        Step::Totals
    }
}
