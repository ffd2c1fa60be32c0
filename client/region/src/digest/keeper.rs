//! The keeper: the arbiter's exclusive hold on a region, the only one who raises epochs, digests pages and commits.
//!
//! There is one at a time ([`KeeperHold`]); how it comes to be stands in `open`. What it keeps in its own memory is a copy of what
//! the region says, so a keeper that dies takes nothing with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::KeeperRecord;
use super::marks::{DirtyPages, Tables};
use super::pages::{PAGE_WORDS, PageCopy, PageCrc, Root};
use super::rounds::{LastRound, Round};
use super::superblock::Superblock;
use crate::cache::{LINE, prefetch};
use crate::error::{Error, Generation, NotReady};
use crate::gate::page::GatePage;
use crate::history::History;
use crate::inspect;
use crate::instances::{self, NewInstance, Row, Seat};
use crate::layout::{PAGE, SegmentKind};
use crate::mapping::Mapping;
use crate::recover::{self, DeathProof, KeeperHold};
use crate::sync::{AtomicU64, Ordering};
use std::os::fd::OwnedFd;

/// How long [`Keeper::read_blackout`] lets writers finish their measurement.
const BLACKOUT_WAIT_MAX: Duration = Duration::from_millis(5);

/// The exclusive right to arbitrate over a region, with all that switching generations needs.
#[derive(Debug)]
pub struct Keeper {
    pub(super) hold: KeeperHold,
    pub(super) mapping: Arc<Mapping>,
    pub(super) superblock: Superblock,
    pub(super) root: Root,
    /// Marks not above this belong to pages whose CRC is in the table.
    pub(super) last_round: u64,
    pub(super) round: Option<Round>,
    /// The last completed round, and how long after the one before it began.
    pub(super) last: Option<LastRound>,
    /// What one page costs to digest, nanoseconds; a moving average.
    pub(super) page_ns: u64,
    pub(super) copy: PageCopy,
    /// What was decoded of the shared directory: entries never change, so each handover decodes only new ones.
    pub(super) catalog: inspect::Catalog,
    /// The same of the owned directory, with the schemas that the last look found.
    pub(super) cells: inspect::Cells,
    /// The last completed round at that look; 0 before it, when there is nothing to be read again.
    pub(super) looked: u64,
}

impl Keeper {
    /// Digests ready pages: CRCs into the table, differences into the root. Dirty pages lie anywhere, so what the next ones
    /// need is fetched while one is worked on.
    pub(super) fn digest_pages(&mut self, pages: &[u64]) -> Result<(), Error> {
        let mapping = &*self.mapping;
        let words = |page| mapping.words(mapping.segment(SegmentKind::Owned).offset + page * PAGE, PAGE_WORDS as u64);
        if let Some(first) = pages.first() {
            words(*first)?.iter().step_by(LINE / 8).for_each(prefetch);
        }
        for page in pages {
            prefetch(table_entry(mapping, *page)?);
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
    /// As [`dirty_pages`](Self::dirty_pages), right after a round, for deciding whether to freeze. After a round of few pages
    /// it is reckoned without looking, as the owner writes meanwhile: the round's pages became dirty since the one before
    /// began, and at that pace others have since it began itself, however long it was kept from its work. What the round
    /// passed over is dirty, and counts: an owner that rewrites its pages faster than they are read leaves rounds with little
    /// to do, and much to freeze for.
    pub fn left_pages(&self) -> u64 {
        const FEW_PAGES: u64 = 1024;
        /// A pace over a longer time than this many times what it is reckoned for says little about now.
        const TIMES_MAX: u32 = 16;
        if let Some(LastRound { pages, skipped, began, after: Some(after) }) = self.last
            && pages.max(skipped) <= FEW_PAGES
        {
            let since = began.elapsed();
            if after <= since * TIMES_MAX {
                let grown = u128::from(pages) * since.as_nanos() / after.as_nanos().max(1);
                return u64::try_from(grown).unwrap_or(u64::MAX).max(skipped);
            }
        }
        self.dirty_pages()
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
            None => Err(NotReady::Contended { attempts: 1 }.into()),
        }
    }
    /// Frees what a proved-dead instance held.
    ///
    /// # Errors
    /// `Misuse` if the row is another's by now, `Corrupt`, `Io`.
    pub fn reclaim_proved(&mut self, proof: DeathProof) -> Result<(), Error> {
        recover::reclaim(&self.hold, proof)
    }
    /// Every name of cells with each list of schemas that values under it have.
    ///
    /// What the last look read stays true where no page is dirty since the round that it began with: sections that marked with
    /// epochs up to that round's had left before the round ended, so the look read what they wrote; a later one marks with a
    /// newer epoch, and marks only grow.
    pub(crate) fn cell_schemas(&mut self) -> impl Iterator<Item = (&str, &[u32])> {
        let since = std::mem::replace(&mut self.looked, self.last_round);
        let owned = self.mapping.segment(SegmentKind::Owned).offset;
        let bytes = move |(page, _)| owned + page * PAGE..owned + (page + 1) * PAGE;
        self.cells.look(&self.mapping, DirtyPages::new(&self.mapping, since, 0).map(bytes))
    }
    /// The control records.
    pub fn history(&self) -> History {
        History::new(&self.mapping)
    }
}

/// The word of the CRC table that belongs to `page`, made ready if it is not.
pub(super) fn table_entry(mapping: &Mapping, page: u64) -> Result<&AtomicU64, Error> {
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
