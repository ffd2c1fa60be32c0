//! Opening a region, which is recovering it.
//!
//! In this order: the hold; thaw; after another boot, the reset, else grants of dead growers, if nobody lives; the current superblock; the working root, summed anew from
//! the page table. Each step may be done twice, so a keeper killed while it opens is no special case. The reset opens its
//! generation and adopts the boot last, so one that is killed on the way is done again and only skips a generation.

use std::sync::Arc;
use std::time::Instant;

use super::keeper::{Keeper, table_entry};
use super::marks::Tables;
use super::pages::{PAGE_WORDS, PageCopy, PageCrc, Root};
use super::superblock::{self, Superblock};
use super::{EPOCH_FIRST, KeeperRecord, totals};
use crate::error::{Corrupt, Error, Full};
use crate::gate::GateWord;
use crate::gate::page::GatePage;
use crate::gate::word::GENERATION_MAX;
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::objects::settle::settle_after_reboot;
use crate::os::clock;
use crate::recover::{self, Boot, KeeperHold};
use crate::sync::{AtomicU64, Ordering};

/// What opening a region found, and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The generation that is open now.
    pub generation: u64,
    /// The frozen word that was thawed: a freezer had died on the way.
    pub thawed: Option<GateWord>,
    /// A superblock above the gate: the candidate of a switch that never committed.
    pub candidate: bool,
    /// The host has booted since: all instances are gone, and the generation is a new one.
    pub rebooted: bool,
    /// Pages of which a reboot left something that cannot be verified.
    pub unverified_pages: u64,
}

impl Keeper {
    /// Takes the region and recovers it.
    ///
    /// # Errors
    /// `NotReady` while another keeper lives; `Corrupt` where gate and superblocks do not fit together; `Denied`, `Io`.
    pub fn open(mapping: Arc<Mapping>) -> Result<(Keeper, Recovery), Error> {
        let hold = KeeperHold::take(&mapping)?;
        let page = GatePage::of(&mapping)?;
        let mut recovery = Recovery::default();
        let found = page.load();
        if page.thaw(found) {
            recovery.thawed = Some(found);
        }
        let page_ns = measure_page_ns();
        let last_round = KeeperRecord::of(&mapping)?.last_round().load(Ordering::Relaxed);
        let mut keeper = Keeper {
            hold,
            mapping,
            superblock: Superblock::default(),
            root: Root::default(),
            last_round,
            round: None,
            last: None,
            page_ns,
            copy: PageCopy::new(),
            catalog: Default::default(),
            cells: Default::default(),
            looked: 0,
        };
        if Boot::of(&keeper.hold)? == Boot::Other {
            recovery.rebooted = true;
            recovery.unverified_pages = keeper.reset_after_boot()?;
        } else if recover::nobody_lives(&keeper.mapping)? {
            // Nobody is about to make ready what it was granted, and nobody can come before this keeper seats it.
            keeper.mapping.drop_unused_grants();
        }
        keeper.adopt_current(&mut recovery)?;
        keeper.recompute_root()?;
        Ok((keeper, recovery))
    }

    fn adopt_current(&mut self, recovery: &mut Recovery) -> Result<(), Error> {
        let at = self.mapping.segment(SegmentKind::Gate).offset;
        let word = GatePage::of(&self.mapping)?.load();
        if word.phase().is_none() {
            return Err(Corrupt::field("gate phase", at, "1 (open) or 2 (frozen)", word.raw() & 15).into());
        }
        let pair = superblock::read(&self.mapping)?;
        self.superblock = pair.current(word.generation().get())?;
        recovery.generation = self.superblock.generation;
        recovery.candidate = pair.highest_generation() > self.superblock.generation;
        let epoch = GatePage::of(&self.mapping)?.epoch().load(Ordering::Relaxed);
        if epoch < EPOCH_FIRST || epoch > u64::from(u32::MAX) {
            let expected = format!("{EPOCH_FIRST}..={}", u32::MAX);
            return Err(Corrupt::field("page epoch", at + 8, expected, epoch).into());
        }
        if self.last_round >= epoch {
            // With it the next write's mark would count as digested.
            let expected = format!("below the page epoch {epoch}");
            return Err(Corrupt::field("last completed round", 0, expected, self.last_round).into());
        }
        Ok(())
    }

    /// After a reboot: nobody lives, and the file is whatever the kernel wrote back. Opens a generation above all that can be
    /// found, owned by nobody. Returns the number of pages that cannot be verified.
    fn reset_after_boot(&mut self) -> Result<u64, Error> {
        let mapping = Arc::clone(&self.mapping);
        Boot::forget_former(&self.hold)?;
        settle_after_reboot(&mapping)?;
        let page = GatePage::of(&mapping)?;
        let pair = superblock::read(&mapping)?;
        let gate = page.load();
        let Some(newest) = pair.newest() else {
            // Without any record there is no telling what the region was.
            return Err(pair
                .current(gate.generation().get())
                .map_or_else(Error::from, |_| unreachable!("none is valid")));
        };
        let generation = pair.highest_generation().max(gate.generation().get()) + 1;
        check_generation(&mapping, generation, pair.highest_generation())?;
        let unverified = self.redigest()?;
        let tables = Tables::of(&mapping);
        tables.clear();
        page.all_dirty().store(0, Ordering::Relaxed);
        page.slots_used().store(0, Ordering::Relaxed);
        page.epoch().store(EPOCH_FIRST, Ordering::Relaxed);
        self.complete_round(0)?;
        totals::forget(&mapping)?;
        self.recompute_root()?;
        let opened = Superblock {
            sequence: newest.sequence + 1,
            generation,
            root_digest: self.root.value(),
            schema_fingerprint: newest.schema_fingerprint,
            sealed_unix_ms: clock::unix_ms(),
            former_generation: former_generation(&newest, gate.generation().get()),
            ..Superblock::default()
        };
        superblock::write(&mapping, &opened)?;
        page.word().store(GateWord::open(generation, 0).raw(), Ordering::SeqCst);
        Boot::adopt(&mapping)?;
        Ok(unverified)
    }

    /// Takes the CRC of what every ready page holds; flags those that are not what was digested. Returns how many.
    fn redigest(&mut self) -> Result<u64, Error> {
        let mapping = Arc::clone(&self.mapping);
        let tables = Tables::of(&mapping);
        let mut unverified = 0;
        for page in 0..tables.pages {
            if !tables.is_ready(page) {
                continue;
            }
            let words = mapping.words(tables.offset(page), PAGE_WORDS as u64)?;
            let entry = table_entry(&mapping, page)?;
            let old = PageCrc::from_raw(entry.load(Ordering::Relaxed));
            let crc = self.copy.crc(words, None);
            let digested = old.crc() == Some(crc) && !old.is_unverified() && tables.mark(page) <= self.last_round;
            if digested || old == PageCrc::ABSENT && PageCopy::is_zero(words) {
                continue;
            }
            entry.store(PageCrc::unverified(crc).raw(), Ordering::Relaxed);
            unverified += 1;
        }
        Ok(unverified)
    }
}

/// The newest generation that is known to have been open before the reboot: a reset that was itself cut short, or that no
/// switch followed, keeps what it found; a switch's record was written while the generation before it was open.
fn former_generation(newest: &Superblock, gate: u64) -> u64 {
    match newest.opened_by_reset() && gate <= newest.generation {
        true => newest.former_generation,
        false => gate.max(newest.generation - 1),
    }
}

/// Whether there is such a generation as the next one.
fn check_generation(mapping: &Mapping, next: u64, highest: u64) -> Result<(), Error> {
    if next <= GENERATION_MAX {
        return Ok(());
    }
    if highest == GENERATION_MAX {
        return Err(Full::Generations { limit: GENERATION_MAX }.into());
    }
    // The gate alone says so: no record of a generation is near it.
    let at = mapping.segment(SegmentKind::Gate).offset;
    let expected = format!("a generation near {highest}, the highest that a superblock names");
    Err(Corrupt::field("gate generation", at, expected, next - 1).into())
}

/// What a page costs here and now; doubled, for pages that are in no cache.
fn measure_page_ns() -> u64 {
    const PAGES: u64 = 64;
    let words: Vec<AtomicU64> = (0..PAGE_WORDS as u64).map(AtomicU64::new).collect();
    let mut copy = PageCopy::new();
    let start = Instant::now();
    let sum = (0..PAGES).fold(0, |sum, _| sum ^ copy.crc(std::hint::black_box(&words), None));
    std::hint::black_box(sum);
    let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    (2 * ns / PAGES).max(PAGE / 64)
}
