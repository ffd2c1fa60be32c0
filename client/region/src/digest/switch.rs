//! The switch, as types: `Keeper → Frozen → Sealed → Committed`. An illegal order does not compile, and whatever is dropped on
//! the way opens the gate again under the old generation.
//!
//! Freeze to commit runs on one thread ([`Frozen`] and [`Sealed`] cannot be sent) and obeys its time-out; half of the budget
//! that writers grant it is slack. A freezer that was kept from its processor for longer takes everything back, also where
//! nobody has thawed the gate: writers have waited too long already.
//!
//! **The last completed round.** The seal digests every page marked up to epoch e and raises the epoch to e+1 while the gate is
//! frozen. If the commit succeeds, the gate was frozen all the while, so no section marked with e after its page was read:
//! marks up to e are clean. If it fails, the last round stays where it was, and all that was marked is digested again.
//!
//! **Crash.** Killed after the freeze: FROZEN(g,a), thawed by anyone. After the seal: the same, with a candidate that the next
//! one overwrites. After the commit: g+1 stands; the record's last round is older than it could be, which costs reads only.

mod error;

pub use error::FreezeError;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keeper::{Keeper, table_root};
use super::marks::DirtyPages;
use super::rounds::raise_epoch;
use super::superblock::{self, Superblock};
use crate::error::Generation;
use crate::gate::GateWord;
use crate::gate::freezer::{self, Blocked};
use crate::gate::page::{FREEZE_BUDGET_MAX, GatePage};
use crate::gate::word::{ATTEMPT_MAX, GENERATION_MAX};
use crate::mapping::Mapping;
use crate::os::clock;
use crate::sync::Ordering;

/// Pages digested between two looks at the clock.
const PAGES_PER_LOOK: usize = 64;

/// Who is to own the next generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Its incarnation; 0 for nobody (a departure).
    pub owner_incarnation: u64,
    /// Fingerprint of the schemas that it declared.
    pub schema_fingerprint: u64,
}

/// What a committed switch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The generation that is open now.
    pub generation: Generation,
    /// The freeze attempt, for [`Keeper::read_blackout`].
    pub attempt: u32,
    /// The digest that was sealed.
    pub root_digest: u64,
    /// Pages read while the gate was frozen.
    pub frozen_pages: u64,
    /// From the gate's freezing to its opening, as the keeper measured.
    pub closed: Duration,
    /// The digest recomputed from all bytes while frozen; only in builds that verify seals.
    pub recomputed_root: Option<u64>,
}

/// Opens the gate again unless the commit has.
struct Thaw {
    mapping: Arc<Mapping>,
    frozen: GateWord,
}

impl Drop for Thaw {
    fn drop(&mut self) {
        // After a commit, or another's thaw, the word is not there any more, and nothing happens.
        if let Ok(page) = GatePage::of(&self.mapping) {
            page.thaw(self.frozen);
        }
    }
}

/// What both steps carry.
struct Closed<'k> {
    keeper: &'k mut Keeper,
    thaw: Thaw,
    began: Instant,
    budget: Duration,
    // A freeze belongs to its thread: nobody may park it in a queue.
    _thread: PhantomData<*const ()>,
}

/// A frozen gate: no section of the generation is under way, and none begins.
#[must_use = "dropping it opens the gate again"]
pub struct Frozen<'k>(Closed<'k>);

/// A frozen gate with the next generation's superblock complete.
#[must_use = "dropping it opens the gate again"]
pub struct Sealed<'k> {
    closed: Closed<'k>,
    candidate: Superblock,
    epoch: u64,
    recomputed_root: Option<u64>,
}

impl fmt::Debug for Frozen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Frozen").field(&self.0.thaw.frozen).finish()
    }
}

impl fmt::Debug for Sealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("word", &self.closed.thaw.frozen).field("candidate", &self.candidate).finish()
    }
}

impl Keeper {
    /// Freezes the gate: afterwards nobody writes. Takes at most `budget` (and at most 250 ms) up to the commit; writers grant
    /// twice that.
    ///
    /// # Errors
    /// [`FreezeError`]; the gate is open again.
    pub fn freeze(&mut self, budget: Duration) -> Result<Frozen<'_>, FreezeError> {
        let budget = budget.min(FREEZE_BUDGET_MAX / 2);
        self.set_freeze_budget(budget);
        (self.round, self.last) = (None, None);
        let mapping = Arc::clone(&self.mapping);
        let page = GatePage::of(&mapping)?;
        let open = page.load();
        let generation = self.superblock.generation;
        if !open.is_open() || open.generation().get() != generation {
            let expected = GateWord::open(generation, open.attempt());
            return Err(FreezeError::Lost { expected, found: open });
        }
        let Some(frozen) = open.next_attempt(self.superblock.attempt) else {
            return Err(FreezeError::Exhausted { what: "freeze attempts", limit: u64::from(ATTEMPT_MAX) });
        };
        let began = Instant::now();
        // Nobody is woken here: who sleeps waits for an open gate, and the switch needs the processors.
        page.swap(open, frozen).map_err(|found| FreezeError::Lost { expected: open, found })?;
        let thaw = Thaw { mapping: Arc::clone(&mapping), frozen };
        page.frozen_at().store(clock::monotonic_ns(), Ordering::Relaxed);
        freezer::barrier(&mapping).map_err(FreezeError::BarrierFailed)?;
        freezer::wait_idle(&mapping, generation, began + budget).map_err(|blocked| match blocked {
            // Thawed meanwhile: the sections that are seen now are new ones, of an owner that goes on.
            Blocked::Rows(_) if page.load() != frozen => FreezeError::Lost { expected: frozen, found: page.load() },
            Blocked::Rows(rows) => FreezeError::Stuck { rows, budget },
            Blocked::Corrupt(why) => why.into(),
        })?;
        Ok(Frozen(Closed { keeper: self, thaw, began, budget, _thread: PhantomData }))
    }
}

impl<'k> Frozen<'k> {
    /// The frozen word.
    pub fn word(&self) -> GateWord {
        self.0.thaw.frozen
    }

    /// Digests what is dirty and completes the candidate superblock.
    ///
    /// # Errors
    /// [`FreezeError`]; the gate is open again.
    pub fn seal(self, next: Next) -> Result<Sealed<'k>, FreezeError> {
        let mut closed = self.0;
        let mapping = Arc::clone(&closed.keeper.mapping);
        let current = closed.keeper.superblock;
        if current.generation >= GENERATION_MAX {
            return Err(FreezeError::Exhausted { what: "generations", limit: GENERATION_MAX });
        }
        let epoch = raise_epoch(GatePage::of(&mapping)?)? - 1;
        let frozen_pages = closed.digest(&mapping)?;
        let checking = Instant::now();
        let recomputed_root = recompute(&mapping)?;
        if recomputed_root.is_some() {
            // What a build that verifies seals does beside its work is not charged to it.
            closed.budget += checking.elapsed();
        }
        let candidate = Superblock {
            sequence: current.sequence + 1,
            generation: current.generation + 1,
            owner_incarnation: next.owner_incarnation,
            root_digest: closed.keeper.root.value(),
            schema_fingerprint: next.schema_fingerprint,
            sealed_unix_ms: clock::unix_ms(),
            attempt: closed.thaw.frozen.attempt(),
            frozen_pages,
            totals_words: super::KeeperRecord::of(&mapping)?.totals_words().load(Ordering::Relaxed),
            former_generation: 0,
        };
        superblock::write(&mapping, &candidate)?;
        Ok(Sealed { closed, candidate, epoch, recomputed_root })
    }
}

impl Closed<'_> {
    /// Reads every page that is dirty since the last completed round, within the budget.
    fn digest(&mut self, mapping: &Mapping) -> Result<u64, FreezeError> {
        let mut pages = 0;
        let mut dirty = DirtyPages::new(mapping, self.keeper.last_round, 0).map(|(page, _)| page);
        let mut batch = Vec::with_capacity(PAGES_PER_LOOK);
        loop {
            batch.clear();
            batch.extend(dirty.by_ref().take(PAGES_PER_LOOK));
            if batch.is_empty() {
                return Ok(pages);
            }
            if self.began.elapsed() > self.budget {
                return Err(FreezeError::Overrun { pages, budget: self.budget });
            }
            self.keeper.digest_pages(&batch)?;
            pages += batch.len() as u64;
        }
    }
}

impl Sealed<'_> {
    /// The superblock that the commit would make current.
    pub fn candidate(&self) -> Superblock {
        self.candidate
    }

    /// The commit point: `FROZEN(g,a) → OPEN(g+1,a)`.
    ///
    /// # Errors
    /// [`FreezeError::Late`] after the freezer's budget, [`FreezeError::Lost`] if somebody has thawed the gate; generation g
    /// stands.
    pub fn commit(self) -> Result<Committed, FreezeError> {
        let Sealed { closed, candidate, epoch, recomputed_root } = self;
        let Closed { keeper, thaw, began, budget, .. } = closed;
        let frozen = thaw.frozen;
        let open = GateWord::open(candidate.generation, frozen.attempt());
        let took = began.elapsed();
        let swapped = match GatePage::of(&keeper.mapping) {
            Ok(page) if took > budget => Err(page.load()),
            Ok(page) => page.swap(frozen, open).map(|()| {
                // The gate is open already; waking those who sleep takes another while.
                let closed = began.elapsed();
                page.wake();
                closed
            }),
            Err(_) => Err(GateWord::DETACHED),
        };
        let closed = match swapped {
            Ok(closed) => closed,
            Err(found) => {
                // Pages may have changed while they were read; what the table holds is what counts. The last round stays.
                keeper.root = table_root(&keeper.mapping);
                return Err(match found == frozen {
                    true => FreezeError::Late { took, budget },
                    false => FreezeError::Lost { expected: frozen, found },
                });
            }
        };
        let switched = Committed {
            generation: Generation::new(candidate.generation),
            attempt: candidate.attempt,
            root_digest: candidate.root_digest,
            frozen_pages: candidate.frozen_pages,
            closed,
            recomputed_root,
        };
        keeper.superblock = candidate;
        // Where the record cannot be written the round was, for the next keeper, not completed: it reads more.
        let _ = keeper.complete_round(epoch);
        Ok(switched)
    }
}

/// The digest of all bytes, table or not: what the sealed root must be equal to. Costs O(region) while frozen.
#[cfg(any(test, feature = "verify-seal"))]
fn recompute(mapping: &Mapping) -> Result<Option<u64>, FreezeError> {
    Ok(Some(super::verify::recompute(mapping)?))
}

#[cfg(not(any(test, feature = "verify-seal")))]
fn recompute(_: &Mapping) -> Result<Option<u64>, FreezeError> {
    Ok(None)
}
