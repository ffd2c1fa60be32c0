//! The checksummed switch: dirty pages, the digest of the owned area, superblocks, and the one who may change generations.
//!
//! - [`keeper`] the arbiter's exclusive hold, and `open` how it recovers
//! - [`switch`] its linear way through a switch, freeze → seal → commit
//! - [`rounds`] digesting while the owner works; `marks` which pages are dirty; [`pages`] their CRCs and the root
//! - [`superblock`] the record of a generation; [`totals`] lower bounds of counters; [`Verification`] looking for rot
//!
//! **Invariants.**
//! 1. A page that changed since it was digested has a mark newer than the last completed round, or a section that will mark
//!    it is under way. So what a freeze has to read is what is marked, and the seal equals a full recomputation.
//! 2. The commit point is the compare-and-swap `FROZEN(g,a) → OPEN(g+1,a)`. Before it, generation g stands; the candidate
//!    superblock is nothing. After it, g+1 stands, and its superblock is complete.
//! 3. The last completed round advances after the pages that it covers are in the table, never before.
//!
//! **Crash.** At any instruction: the gate is as it was, or frozen until somebody thaws it, or committed. The page table may be
//! newer than the last completed round; those pages are still marked and are digested again.

mod announced;
mod fault;
pub mod keeper;
pub(crate) mod marks;
mod offline;
mod open;
pub mod pages;
pub mod rounds;
pub mod superblock;
pub mod switch;
pub mod totals;
mod verification;
pub mod verify;

#[cfg(test)]
pub(crate) mod tests;

pub use fault::Fault;
pub use keeper::Keeper;
pub use offline::{is_of_this_boot, verify_file};
pub use open::Recovery;
pub use pages::PageCrc;
pub use rounds::RoundStep;
pub use superblock::Superblock;
pub use switch::{Committed, FreezeError, Frozen, Next, Sealed};
pub use verification::{Verification, Verified};
pub use verify::{PageState, page_states};

use crate::error::Error;
use crate::gate::GateWord;
use crate::gate::page::GatePage;
use crate::layout::control;
use crate::mapping::Mapping;
use crate::os::clock;
use crate::sync::{AtomicU64, Ordering};

/// Pages of OWNED that are marked newer than the last completed round, as anybody who maps the region sees them.
///
/// # Errors
/// `Corrupt` if the keeper's record is not where it belongs.
pub fn dirty_pages(mapping: &Mapping) -> Result<u64, Error> {
    let last_round = KeeperRecord::of(mapping)?.last_round().load(Ordering::Acquire);
    Ok(marks::DirtyPages::new(mapping, last_round, 0).count() as u64)
}

/// The first page epoch; a mark of 0 is no mark.
const EPOCH_FIRST: u64 = 1;

/// The keeper's record in [`control::KEEPER`].
#[derive(Clone, Copy)]
pub(crate) struct KeeperRecord<'m>(&'m [AtomicU64]);

impl<'m> KeeperRecord<'m> {
    pub(crate) fn of(mapping: &'m Mapping) -> Result<Self, Error> {
        Ok(Self(mapping.words(mapping.control(control::KEEPER), 3)?))
    }
    /// Marks not above this belong to pages whose CRC is in the table.
    pub(crate) fn last_round(self) -> &'m AtomicU64 {
        &self.0[0]
    }
    /// The working root, for people who read a dump; whoever recovers sums it anew.
    pub(crate) fn root(self) -> &'m AtomicU64 {
        &self.0[1]
    }
    /// How many counter words have a recorded total.
    pub(crate) fn totals_words(self) -> &'m AtomicU64 {
        &self.0[2]
    }
}

/// What this module needs in a new region, before the region has a name: epoch 1, superblock 1 that names nobody, and
/// then the gate, OPEN(1,0).
pub(crate) fn format(mapping: &Mapping) -> Result<(), Error> {
    let page = GatePage::of(mapping)?;
    page.epoch().store(EPOCH_FIRST, Ordering::Relaxed);
    let first = Superblock { sequence: 1, generation: 1, sealed_unix_ms: clock::unix_ms(), ..Superblock::default() };
    superblock::write(mapping, &first)?;
    page.word().store(GateWord::open(1, 0).raw(), Ordering::Release);
    Ok(())
}
