//! Rounds: digesting dirty pages while the owner works, so that the freeze finds few.
//!
//! A round raises the page epoch, issues the barrier, and waits a *grace period*: each section of the open generation has
//! ended or marks with the new epoch. Then every page marked before is digested. A writer that changes such a page while it is
//! read marks it with the new epoch, so a torn CRC is never trusted; one that marked it before has left, so nothing that it
//! wrote is missed. When all are in the table the round is *completed*: marks up to the old epoch count as clean.
//!
//! **Crash.** The last completed round advances last. A raised epoch without a round is harmless: the next one raises it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keeper::Keeper;
use super::marks::DirtyPages;
use crate::error::{Error, Full, Misuse};
use crate::gate::freezer::{self, Blocked};
use crate::gate::page::GatePage;
use crate::sync::Ordering;

/// How long one step waits for the grace period.
const GRACE_STEP: Duration = Duration::from_millis(2);
/// Pages looked up, then digested, together.
const BATCH_PAGES: usize = 64;
/// Pages that make a measurement of their cost worth having.
const MEASURED_PAGES_MIN: u64 = 16;

/// A round under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    epoch: u64,
    began: Instant,
    graced: bool,
    next: u64,
    pages: u64,
    /// Seen dirty, and marked anew already: left for the next round.
    skipped: u64,
}

/// What a completed round was.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastRound {
    pub(super) pages: u64,
    /// See [`Round::skipped`].
    pub(super) skipped: u64,
    pub(super) began: Instant,
    /// How long after the completed round before it.
    pub(super) after: Option<Duration>,
}

/// How far a round came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundStep {
    /// It is completed; so many pages were digested in it.
    Done {
        /// Pages digested.
        pages: u64,
    },
    /// There is more to do.
    More,
    /// Threads of these rows are still in sections that began before the round; try again.
    GraceBlocked {
        /// Rows of the instance table.
        rows: Vec<u32>,
    },
}

impl Keeper {
    /// Begins a round: raises the page epoch and issues the barrier. A round already under way is given up.
    ///
    /// # Errors
    /// `Io` where the barrier is refused and some instance relies on it, `Full` when epochs are used up.
    pub fn begin_round(&mut self) -> Result<(), Error> {
        self.round = None;
        let (began, epoch) = (Instant::now(), raise_epoch(GatePage::of(&self.mapping)?)?);
        freezer::barrier(&self.mapping)?;
        self.round = Some(Round { epoch, began, graced: false, next: 0, pages: 0, skipped: 0 });
        Ok(())
    }

    /// Goes on with the round for at most `pages_max` pages.
    ///
    /// # Errors
    /// `Misuse` without a round under way, `Full` if the CRC table cannot grow, `Corrupt`.
    pub fn round_step(&mut self, pages_max: u32) -> Result<RoundStep, Error> {
        let Some(mut round) = self.round else {
            return Err(Misuse::Argument { what: "round", found: "a step without a round begun".into() }.into());
        };
        if !round.graced {
            let deadline = Instant::now() + GRACE_STEP;
            let epoch = round.epoch as u32;
            match freezer::wait_grace(&self.mapping, self.superblock.generation, epoch, deadline) {
                Ok(()) => round.graced = true,
                Err(Blocked::Rows(rows)) => return Ok(RoundStep::GraceBlocked { rows }),
                Err(Blocked::Corrupt(why)) => return Err(why.into()),
            }
        }
        let mapping = Arc::clone(&self.mapping);
        let began = Instant::now();
        let (mut digested, mut more) = (0, false);
        let mut batch = Vec::with_capacity(BATCH_PAGES);
        for (page, mark) in DirtyPages::new(&mapping, self.last_round, round.next) {
            if digested == u64::from(pages_max.max(1)) {
                (more, round.next) = (true, page);
                break;
            }
            // Marked anew already: it will be read again, so once is enough.
            if mark < round.epoch {
                batch.push(page);
                digested += 1;
            } else {
                round.skipped += 1;
            }
            if batch.len() == BATCH_PAGES {
                self.digest_pages(&batch)?;
                batch.clear();
            }
        }
        self.digest_pages(&batch)?;
        self.measured(digested, began.elapsed());
        round.pages += digested;
        if more {
            self.round = Some(round);
            return Ok(RoundStep::More);
        }
        let Round { began, pages, skipped, .. } = round;
        let after = self.last.map(|last| began.saturating_duration_since(last.began));
        (self.round, self.last) = (None, Some(LastRound { pages, skipped, began, after }));
        self.complete_round(round.epoch - 1)?;
        Ok(RoundStep::Done { pages: round.pages })
    }

    /// Learns what a page costs from `pages` that took `time`.
    pub(super) fn measured(&mut self, pages: u64, time: Duration) {
        if pages >= MEASURED_PAGES_MIN {
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / pages;
            self.page_ns = (3 * self.page_ns.min(u64::MAX / 4) + ns) / 4;
        }
    }
}

/// Raises the page epoch by one and returns it.
pub(crate) fn raise_epoch(page: GatePage<'_>) -> Result<u64, Error> {
    let epoch = page.epoch().load(Ordering::Relaxed) + 1;
    if epoch > u64::from(u32::MAX) {
        return Err(Full::Table { table: "page epochs", limit: u64::from(u32::MAX) }.into());
    }
    // SeqCst: symmetric writers announce themselves and read the epoch the same way.
    page.epoch().store(epoch, Ordering::SeqCst);
    Ok(epoch)
}
