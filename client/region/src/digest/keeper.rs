//! The keeper: the arbiter's exclusive hold on a region, the only one who raises epochs, digests pages and commits.
//!
//! **Opening is recovery**, in this order: the hold; thaw; after another boot, the reset; the current superblock; the working
//! root, summed anew from the page table. Each step may be done twice, so a keeper killed while it opens is no special case.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::marks::{DirtyPages, Tables};
use super::pages::{self, PAGE_WORDS, PageCopy, PageCrc, Root};
use super::rounds::Round;
use super::superblock::{self, Superblock};
use super::{EPOCH_FIRST, KeeperRecord, totals};
use crate::error::{Corrupt, Error, Full, Generation};
use crate::gate::GateWord;
use crate::gate::page::GatePage;
use crate::gate::word::GENERATION_MAX;
use crate::history::History;
use crate::instances::{self, NewInstance, Row, Seat};
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::os::clock;
use crate::recover::{self, Boot, DeathProof, KeeperHold};
use crate::sync::{AtomicU64, Ordering};
use std::os::fd::OwnedFd;

/// How long [`Keeper::read_blackout`] lets writers finish their measurement.
const BLACKOUT_WAIT_MAX: Duration = Duration::from_millis(5);

/// The exclusive right to arbitrate over a region, with all that switching generations needs.
#[derive(Debug)]
pub struct Keeper {
    hold: KeeperHold,
    pub(super) mapping: Arc<Mapping>,
    pub(super) superblock: Superblock,
    pub(super) root: Root,
    /// Marks not above this belong to pages whose CRC is in the table.
    pub(super) last_round: u64,
    pub(super) round: Option<Round>,
    /// Pages that the last two rounds digested.
    pub(super) round_pages: [u64; 2],
    /// What one page costs to digest, nanoseconds; a moving average.
    pub(super) page_ns: u64,
    copy: PageCopy,
}

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
            round_pages: [u64::MAX; 2],
            page_ns,
            copy: PageCopy::new(),
        };
        if Boot::of(&keeper.hold)? == Boot::Other {
            recovery.rebooted = true;
            recovery.unverified_pages = keeper.reset_after_boot()?;
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
        if generation > GENERATION_MAX {
            return Err(Full::Table { table: "generations", limit: GENERATION_MAX }.into());
        }
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

    /// Digests ready pages: CRCs into the table, differences into the root. Dirty pages lie anywhere, so what the next ones
    /// need is fetched while one is worked on.
    pub(super) fn digest_pages(&mut self, pages: &[u64]) -> Result<(), Error> {
        let mapping = &*self.mapping;
        let words = |page| mapping.words(mapping.segment(SegmentKind::Owned).offset + page * PAGE, PAGE_WORDS as u64);
        if let Some(first) = pages.first() {
            words(*first)?.iter().step_by(pages::LINE / 8).for_each(pages::prefetch);
        }
        for page in pages {
            pages::prefetch(table_entry(mapping, *page)?);
        }
        for (i, page) in pages.iter().enumerate() {
            let next = pages.get(i + 1).and_then(|next| words(*next).ok());
            let new = PageCrc::of(self.copy.crc(words(*page)?, next));
            // Nobody else writes the table.
            let entry = table_entry(mapping, *page)?;
            let old = PageCrc::from_raw(entry.load(Ordering::Relaxed));
            // Release, for a check from outside: who reads the new entry sees the mark that made the page dirty.
            entry.store(new.raw(), Ordering::Release);
            self.root = self.root.replace(*page, old, new);
        }
        Ok(())
    }

    /// Sums the root anew: what is in the table counts, whatever this process believed.
    pub(super) fn recompute_root(&mut self) -> Result<(), Error> {
        self.root = table_root(&self.mapping);
        KeeperRecord::of(&self.mapping)?.root().store(self.root.value(), Ordering::Relaxed);
        Ok(())
    }

    /// Pages with marks up to `epoch` are in the table.
    pub(super) fn complete_round(&mut self, epoch: u64) -> Result<(), Error> {
        let record = KeeperRecord::of(&self.mapping)?;
        record.root().store(self.root.value(), Ordering::Relaxed);
        // After the table's entries, for a reader of the record (a dump) that believes it.
        record.last_round().store(epoch, Ordering::Release);
        self.last_round = epoch;
        Ok(())
    }

    /// The region.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
    /// The open generation.
    pub fn generation(&self) -> Generation {
        Generation::new(self.superblock.generation)
    }
    /// The open generation's record.
    pub fn superblock(&self) -> Superblock {
        self.superblock
    }
    /// The digest of what is in the page table.
    pub fn working_root(&self) -> u64 {
        self.root.value()
    }
    /// Pages that a freeze would have to read now.
    pub fn dirty_pages(&self) -> u64 {
        DirtyPages::new(&self.mapping, self.last_round, 0).count() as u64
    }
    /// As [`dirty_pages`](Self::dirty_pages), right after a round, for deciding whether to freeze. After a round of few pages,
    /// which was over in a fraction of a millisecond, it is taken to have shrunk as that round did, without looking: the owner
    /// writes meanwhile, and a look takes as long as half a round.
    pub fn left_pages(&self) -> u64 {
        const FEW_PAGES: u64 = 256;
        match self.round_pages {
            [before, last] if last <= FEW_PAGES => last * last.min(before) / before.max(1),
            _ => self.dirty_pages(),
        }
    }
    /// Pages that can be digested in half of `budget`; the other half is the barrier's and the writers'.
    pub fn freeze_fits(&self, budget: Duration) -> u64 {
        let ns = u64::try_from(budget.as_nanos() / 2).unwrap_or(u64::MAX);
        (ns / self.page_ns.max(1)).max(1)
    }
    /// Stores how long a frozen gate may stand: twice the time-out that a freeze is going to have.
    pub fn set_freeze_budget(&self, freeze_timeout: Duration) {
        if let Ok(page) = GatePage::of(&self.mapping) {
            page.set_budget(freeze_timeout.saturating_mul(2));
        }
    }

    /// The longest wait that a writer measured at this freeze attempt. Gives writers that still wait 5 ms to finish.
    pub fn read_blackout(&self, attempt: u32) -> Option<Duration> {
        let rows = || (0..self.mapping.limits().instances_max).filter_map(|row| Row::of(&self.mapping, row).ok());
        let waiting = |row: &Row<'_>| {
            row.incarnation().load(Ordering::Acquire) != 0 && row.waiting().load(Ordering::Acquire) != 0
        };
        let deadline = Instant::now() + BLACKOUT_WAIT_MAX;
        while rows().any(|row| waiting(&row)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
        rows().filter_map(|row| crate::gate::blackout_of(row.blackout().load(Ordering::Acquire), attempt)).max()
    }

    /// Seats a new instance; with it the descriptor that proves its life, locked, to be passed to it.
    ///
    /// # Errors
    /// `Full` without a free row, `Misuse` for a version label that is too long, `Io`.
    pub fn seat(&mut self, new: &NewInstance) -> Result<(Seat, Option<OwnedFd>), Error> {
        instances::seat(&self.mapping, new)
    }
    /// Whether the lock of this row proves its instance's death.
    pub fn instance_dead(&self, row: u32) -> bool {
        matches!(DeathProof::by_lock(&self.mapping, row), Ok(Some(_)))
    }
    /// Frees what the instance in this row held, if its death is proved by its lock.
    ///
    /// # Errors
    /// `NotReady` while its death is not proved, `Corrupt`, `Io`.
    pub fn reclaim(&mut self, row: u32) -> Result<(), Error> {
        match DeathProof::by_lock(&self.mapping, row)? {
            Some(proof) => self.reclaim_proved(proof),
            None if Row::of(&self.mapping, row)?.incarnation().load(Ordering::Acquire) == 0 => Ok(()),
            None => Err(crate::error::NotReady::Contended { attempts: 1 }.into()),
        }
    }
    /// Frees what a proved-dead instance held.
    ///
    /// # Errors
    /// `Misuse` if the row is another's by now, `Corrupt`, `Io`.
    pub fn reclaim_proved(&mut self, proof: DeathProof) -> Result<(), Error> {
        recover::reclaim(&self.hold, proof)
    }
    /// The control records.
    pub fn history(&self) -> History {
        History::new(&self.mapping)
    }
}

/// The word of the CRC table that belongs to `page`, made ready if it is not.
fn table_entry(mapping: &Mapping, page: u64) -> Result<&AtomicU64, Error> {
    let at = mapping.segment(SegmentKind::PageCrcs).offset + 8 * page;
    mapping.ensure(at, 8)?;
    Ok(mapping.word(at)?)
}

/// The root of what the page table holds.
pub(super) fn table_root(mapping: &Mapping) -> Root {
    let table = mapping.segment(SegmentKind::PageCrcs);
    let pages = Tables::of(mapping).pages;
    let mut root = Root::default();
    for first in (0..pages).step_by(PAGE_WORDS) {
        let n = (PAGE_WORDS as u64).min(pages - first);
        if let Ok(words) = mapping.words(table.offset + 8 * first, n) {
            root = root.add_all(first, words.iter().map(|word| PageCrc::from_raw(word.load(Ordering::Relaxed))));
        }
    }
    root
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
