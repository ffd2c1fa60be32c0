//! Lanes: each thread's private strip of counter words.
//!
//! A lane has one word for each counter of the region, and one writer at a time, so an update is a relaxed load and store.
//! A reader adds the words of all lanes. The lane table says who leases a lane:
//!
//! ```text
//! row of 64 bytes:  lease (incarnation, 0 = free) | claimant (recoverer's incarnation, 0 = none) | zeros
//! ```
//!
//! The first `lanes_max` rows are for threads; row `lanes_max + r` is the *overflow lane* of the instance in row `r`, which
//! all its threads may write, atomically: those beyond the lanes, those whose thread-locals are gone, signal handlers, and
//! those whose lane cannot grow.
//!
//! Invariants:
//! - A lane is leased by a swap 0 → incarnation, and stays with that process until it is proved dead, also after it left in
//!   order: a lane that was leased to a second process while the first still lived went back by a million increments in
//!   the prototype. A thread's exit returns its lane to the process's pool and not to the table.
//! - Words are touched only where the lane was made ready, up to `ready`, a number that each thread keeps for itself.
//! - In a forked child the mapping is private zeros: what it counts is dropped. It makes no system call here and takes no
//!   lock that its parent may have held.
//!
//! [`crate::objects::reclaim`] says what becomes of the lanes of the dead.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

use crate::alloc::{LANE_WORDS_MAX, SelfCounter, count};
use crate::error::{Corrupt, Error, Full};
use crate::layout::{EXTENT, LANE_ROW, LANE_STRIP, SegmentKind};
use crate::mapping::{Mapping, Words};
use crate::objects::Local;
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering};

/// Updates that go to the overflow lane before a thread without lane looks for one again.
const RETRY_EVERY: u32 = 256;

/// A lane that this process leases.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) row: u32,
    /// How many of its words are ready.
    ready: u64,
}

/// The lane that this thread used last, by value, so that the fast path is one look at thread-local memory that needs no
/// destructor.
#[derive(Clone, Copy)]
struct Fast {
    process: u64,
    ready: u64,
    base: *const AtomicU64,
}

const NO_LANE: Fast = Fast { process: 0, ready: 0, base: std::ptr::null() };

crate::sync::thread_local! {
    static FAST: Cell<Fast> = const { Cell::new(NO_LANE) };
    static HELD: RefCell<Held> = const { RefCell::new(Held(Vec::new())) };
}

/// All lanes that this thread has, one for each attached region.
struct Held(Vec<HeldLane>);

struct HeldLane {
    process: u64,
    local: Weak<Local>,
    lane: Option<Lane>,
    /// Updates until the next search for a lane.
    retry_in: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Destructors that run after this one count in the overflow lane: the lane may have its next thread already.
        let _ = FAST.try_with(|fast| fast.set(NO_LANE));
        for held in &mut self.0 {
            if let (Some(lane), Some(local)) = (held.lane.take(), held.local.upgrade()) {
                local.return_lane(lane);
            }
        }
    }
}

/// Some words that an object has in every lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneWords {
    process_id: u64,
    first: u32,
    n: u32,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Arc<Process>,
    /// These words in the instance's overflow lane; none for an observer.
    overflow: Option<Words>,
}

impl LaneWords {
    /// The words `first..first + n`, made ready in this thread's lane and in the instance's overflow lane, so that counting
    /// need not fail later.
    ///
    /// # Errors
    /// [`Full`]; [`Corrupt`] if the entry's words lie outside the lanes.
    pub(crate) fn new(process: &Arc<Process>, first: u64, n: u32) -> Result<Self, Error> {
        check_words(first, n)?;
        let overflow = if process.incarnation() == 0 { None } else { Some(make_ready(process, first, n)?) };
        let inner = Arc::new(Inner { process: Arc::clone(process), overflow });
        Ok(Self { process_id: process.id(), first: first as u32, n, inner })
    }

    /// Updates this thread's words by `plain`, or the overflow lane's by `atomic`.
    #[inline]
    pub(crate) fn update(&self, plain: impl FnOnce(&[AtomicU64]), atomic: impl FnOnce(&[AtomicU64])) {
        let fast = FAST.with(Cell::get);
        if fast.process == self.process_id && u64::from(self.first) + u64::from(self.n) <= fast.ready {
            // SAFETY: `base` is the start of this thread's lane in the mapping of the process with this never-reused id,
            // which `self` keeps alive; `ready` words of it are allocated; the words are atomics.
            let words = unsafe { std::slice::from_raw_parts(fast.base.add(self.first as usize), self.n as usize) };
            plain(words);
        } else {
            self.update_slowly(plain, atomic);
        }
    }

    /// Updates the overflow lane: for signal handlers, which may have interrupted the plain update of the same word.
    pub(crate) fn update_overflow(&self, atomic: impl FnOnce(&[AtomicU64])) {
        match &self.inner.overflow {
            _ if self.inner.process.is_forked_child() => {}
            Some(words) => atomic(words),
            None => self.ignored(),
        }
    }

    #[cold]
    #[inline(never)]
    fn update_slowly(&self, plain: impl FnOnce(&[AtomicU64]), atomic: impl FnOnce(&[AtomicU64])) {
        let process = &self.inner.process;
        if process.is_forked_child() {
            return;
        }
        let end = u64::from(self.first) + u64::from(self.n);
        let own = if process.incarnation() == 0 { None } else { own_lane(process, end).unwrap_or(None) };
        let strip = own.and_then(|row| process.mapping().words(self.at(row), u64::from(self.n)).ok());
        match strip {
            Some(words) => plain(words),
            None => self.update_overflow(atomic),
        }
    }

    /// Counts an update that was dropped.
    pub(crate) fn ignored(&self) {
        if !self.inner.process.is_forked_child() {
            count(self.inner.process.mapping(), SelfCounter::IgnoredUpdates);
        }
    }

    /// These words in every lane that has them, in the order of the lanes; with `living`, without those of the dead.
    pub(crate) fn in_all_lanes(&self, living: bool) -> impl Iterator<Item = &[AtomicU64]> {
        let mapping = self.inner.process.mapping();
        (0..rows(mapping))
            .filter(move |row| !living || !is_claimed(mapping, *row))
            .filter_map(|row| mapping.words(self.at(row), u64::from(self.n)).ok())
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.inner.process
    }

    fn at(&self, row: u32) -> u64 {
        strip(self.inner.process.mapping(), row) + u64::from(self.first) * 8
    }
}

/// Whether an entry may have these words.
pub(crate) fn check_words(first: u64, n: u32) -> Result<(), Corrupt> {
    if first.checked_add(u64::from(n)).is_some_and(|end| end <= LANE_WORDS_MAX) {
        return Ok(());
    }
    Err(Corrupt::field("directory entry's lane word", 0, "words within a lane", first))
}

/// Makes words ready in this thread's lane and in the overflow lane; gives the latter's.
pub(crate) fn make_ready(process: &Arc<Process>, first: u64, n: u32) -> Result<Words, Error> {
    let mapping = process.mapping();
    own_lane(process, first + u64::from(n))?;
    let row = mapping.limits().lanes_max + process.row();
    lease_overflow(mapping, row, process.incarnation())?;
    // From the start, as threads' lanes: readers may stop where a lane ends.
    mapping.ensure(strip(mapping, row), (first + u64::from(n)) * 8)?;
    Ok(Words::new(mapping, strip(mapping, row) + first * 8, u64::from(n))?)
}

/// Gives this thread a lane with `words` ready words; `None` where none is free, or the thread-locals are gone or busy
/// (this is a signal handler).
fn own_lane(process: &Arc<Process>, words: u64) -> Result<Option<u32>, Error> {
    let found = HELD.try_with(|held| match held.try_borrow_mut() {
        Ok(mut held) => own_lane_in(&mut held.0, process, words),
        Err(_) => Ok(None),
    });
    found.unwrap_or(Ok(None))
}

fn own_lane_in(held: &mut Vec<HeldLane>, process: &Arc<Process>, words: u64) -> Result<Option<u32>, Error> {
    let mapping = process.mapping();
    let i = match held.iter().position(|h| h.process == process.id()) {
        Some(i) => i,
        None => {
            // Processes that are gone leave their thread-local rows to the next newcomer.
            held.retain(|h| h.local.strong_count() > 0);
            let local = Arc::downgrade(process.objects());
            held.push(HeldLane { process: process.id(), local, lane: None, retry_in: 0 });
            held.len() - 1
        }
    };
    let mine = &mut held[i];
    if mine.lane.is_none() {
        if mine.retry_in > 0 {
            mine.retry_in -= 1;
            return Ok(None);
        }
        mine.retry_in = RETRY_EVERY;
        mine.lane = process.objects().take_lane().or_else(|| lease(mapping, process.incarnation()));
    }
    let Some(lane) = &mut mine.lane else { return Ok(None) };
    let base = strip(mapping, lane.row);
    if lane.ready < words {
        // By whole extents, as they are allocated.
        let ready = (words * 8).next_multiple_of(EXTENT);
        mapping.ensure(base, ready)?;
        lane.ready = ready / 8;
    }
    let fast = Fast { process: process.id(), ready: lane.ready, base: mapping.words(base, lane.ready)?.as_ptr() };
    FAST.with(|own| own.set(fast));
    Ok(Some(lane.row))
}

/// Leases a free lane.
pub(crate) fn lease(mapping: &Mapping, incarnation: u64) -> Option<Lane> {
    (0..mapping.limits().lanes_max).find_map(|row| {
        let words = row_words(mapping, row).ok()?;
        let free = words[CLAIMANT].load(Ordering::Acquire) == 0;
        // Acquire: pairs with the Release that freed it, so that the zeroed shares are seen.
        let won = free && words[LEASE].compare_exchange(0, incarnation, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        won.then_some(Lane { row, ready: 0 })
    })
}

fn lease_overflow(mapping: &Mapping, row: u32, incarnation: u64) -> Result<(), Error> {
    let lease = &row_words(mapping, row)?[LEASE];
    match lease.compare_exchange(0, incarnation, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(found) if found == incarnation => Ok(()),
        // The row's former instance was not reclaimed: its share may be zeroed at any time.
        Err(_) => Err(Full::Table { table: "overflow lanes", limit: u64::from(mapping.limits().instances_max) }.into()),
    }
}

/// Index of the lease in a row.
pub(crate) const LEASE: usize = 0;
/// Index of the claimant in a row.
pub(crate) const CLAIMANT: usize = 1;

/// Threads' lanes and overflow lanes.
pub(crate) fn rows(mapping: &Mapping) -> u32 {
    mapping.limits().lanes_max + mapping.limits().instances_max
}

/// Where a lane begins.
pub(crate) fn strip(mapping: &Mapping, row: u32) -> u64 {
    mapping.segment(SegmentKind::Lanes).offset + u64::from(row) * LANE_STRIP
}

/// A lane's row in the table.
pub(crate) fn row_words(mapping: &Mapping, row: u32) -> Result<&[AtomicU64], Corrupt> {
    mapping.words(mapping.segment(SegmentKind::LaneTable).offset + u64::from(row) * LANE_ROW, 2)
}

/// Whether a recoverer is at the lane: its shares do not count any more.
pub(crate) fn is_claimed(mapping: &Mapping, row: u32) -> bool {
    row_words(mapping, row).is_ok_and(|words| words[CLAIMANT].load(Ordering::Acquire) != 0)
}

/// How many threads' lanes are leased.
pub fn lanes_used(mapping: &Mapping) -> u32 {
    let leased = |row: &u32| row_words(mapping, *row).is_ok_and(|w| w[LEASE].load(Ordering::Relaxed) != 0);
    (0..mapping.limits().lanes_max).filter(leased).count() as u32
}
