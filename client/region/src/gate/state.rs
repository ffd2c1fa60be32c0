//! What a process keeps of the gate: where its words are, the word that it has learnt, and since when it sees it frozen.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::page::GatePage;
use super::slots::Slots;
use super::word::GateWord;
use crate::error::{Error, Misuse};
use crate::instances::Seat;
use crate::layout::{PAGE, SUMMARY_PAGES, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How long a write waits at a frozen gate unless the service says otherwise: more than any freeze may last.
const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(2);

/// A process' side of one region's gate. Lives as long as a thread holds one of its slots.
#[derive(Debug)]
pub(crate) struct GateState {
    mapping: Arc<Mapping>,
    id: u64,
    seat: Seat,
    asymmetric: bool,
    // Into `mapping`, which is kept beside them; checked once, ready for ever.
    word: NonNull<AtomicU64>,
    epoch: NonNull<AtomicU64>,
    all_dirty: NonNull<AtomicU64>,
    /// The slot of threads beyond the slots; whoever writes through it holds `shared`. None for an observer.
    shared_slot: Option<usize>,
    shared: Mutex<()>,
    /// The last OPEN word that `learn` has proved to be this process' own; 0 before.
    pub(super) learnt: AtomicU64,
    wait_max_ns: AtomicU64,
    first_seen: Mutex<(GateWord, Instant)>,
    owned: (u64, u64),
}

// SAFETY: the pointers are to atomics in the mapping that the value keeps alive.
unsafe impl Send for GateState {}
// SAFETY: as above.
unsafe impl Sync for GateState {}

impl GateState {
    /// For the process in `seat` (an observer's incarnation is 0), whose slots rely on the freezer's barrier if `asymmetric`.
    pub(crate) fn new(mapping: &Arc<Mapping>, id: u64, seat: Seat, asymmetric: bool) -> Result<Arc<Self>, Error> {
        let page = GatePage::of(mapping)?;
        let shared_slot = match seat.incarnation {
            0 => None,
            incarnation => Some(Slots::of(mapping)?.claim(incarnation)?),
        };
        let owned = mapping.segment(SegmentKind::Owned);
        Ok(Arc::new(Self {
            id,
            seat,
            asymmetric,
            word: NonNull::from(page.word()),
            epoch: NonNull::from(page.epoch()),
            all_dirty: NonNull::from(page.all_dirty()),
            shared_slot,
            shared: Mutex::new(()),
            learnt: AtomicU64::new(0),
            wait_max_ns: AtomicU64::new(WAIT_MAX_DEFAULT.as_nanos() as u64),
            first_seen: Mutex::new((GateWord::DETACHED, Instant::now())),
            owned: (owned.offset, owned.len.min(mapping.limit_bytes())),
            mapping: Arc::clone(mapping),
        }))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }
    pub(super) fn row(&self) -> u32 {
        self.seat.row
    }
    pub(super) fn incarnation(&self) -> u64 {
        self.seat.incarnation
    }
    pub(super) fn asymmetric(&self) -> bool {
        self.asymmetric
    }
    #[inline]
    pub(super) fn word(&self) -> &AtomicU64 {
        // SAFETY: see the field.
        unsafe { self.word.as_ref() }
    }
    #[inline]
    pub(super) fn epoch(&self) -> &AtomicU64 {
        // SAFETY: see the field.
        unsafe { self.epoch.as_ref() }
    }
    pub(super) fn load(&self) -> GateWord {
        GateWord::from_raw(self.word().load(Ordering::Acquire))
    }
    /// The page; `None` never happens to a mapping that had one when this value was made, but is no reason to panic.
    pub(super) fn page(&self) -> Option<GatePage<'_>> {
        GatePage::of(&self.mapping).ok()
    }

    pub(super) fn wait_max(&self) -> Duration {
        Duration::from_nanos(self.wait_max_ns.load(Ordering::Relaxed))
    }
    pub(super) fn set_wait_max(&self, limit: Duration) {
        self.wait_max_ns.store(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago this process first saw this very word. Attempts never repeat, so no earlier freeze is meant.
    pub(super) fn seen_for(&self, word: GateWord) -> Duration {
        let mut first = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if first.0 != word {
            *first = (word, Instant::now());
        }
        first.1.elapsed()
    }

    /// Claims a slot for the calling thread, if one is free.
    pub(super) fn claim_slot(&self) -> Option<(usize, &AtomicU64)> {
        if self.mapping.is_forked_child() || self.incarnation() == 0 {
            return None;
        }
        let slots = Slots::of(&self.mapping).ok()?;
        let slot = slots.claim(self.incarnation()).ok()?;
        Some((slot, slots.active(slot)))
    }
    pub(super) fn release_slot(&self, slot: usize) {
        if let Ok(slots) = Slots::of(&self.mapping) {
            slots.active(slot).store(0, Ordering::Release);
            slots.release(slot, self.incarnation());
        }
    }
    /// The slot for threads that have none, locked: two sections never share it at once.
    pub(super) fn shared_slot(&self) -> Result<(&AtomicU64, MutexGuard<'_, ()>), Misuse> {
        let observer = || Misuse::Argument { what: "process", found: "an observer, which writes nothing".into() };
        let slot = self.shared_slot.ok_or_else(observer)?;
        let guard = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((Slots::of(&self.mapping).map_err(|_| observer())?.active(slot), guard))
    }

    /// Raises the marks of the pages that the bytes lie in; see [`crate::digest::marks`].
    #[inline]
    pub(super) fn mark(&self, offset: u64, len: u64, epoch: u32) {
        let (start, owned_len) = self.owned;
        let Some(relative) = offset.checked_sub(start).filter(|at| *at < owned_len && len > 0) else {
            // Outside OWNED nothing is digested.
            debug_assert!(len == 0, "a mark for byte {offset}, which is not in OWNED");
            return;
        };
        let last = (relative + (len - 1).min(owned_len - relative - 1)) / PAGE;
        for page in relative / PAGE..=last {
            self.mark_page(page, epoch);
        }
    }

    #[inline]
    fn mark_page(&self, page: u64, epoch: u32) {
        let word = |kind, index| self.mapping.words32(self.mapping.segment(kind).offset + 4 * index, 1);
        let Ok([mark]) = word(SegmentKind::Marks, page) else { return self.mark_all(epoch) };
        if mark.load(Ordering::Relaxed) >= epoch {
            return;
        }
        let Ok([summary]) = word(SegmentKind::MarkSummary, page / SUMMARY_PAGES) else { return self.mark_all(epoch) };
        raise(summary, epoch);
        raise(mark, epoch);
    }

    /// Where a page's own mark is not allocated (no writer of this format leaves it so), every page counts as dirty: slow, and
    /// never wrong.
    #[cold]
    fn mark_all(&self, epoch: u32) {
        // SAFETY: see the field.
        unsafe { self.all_dirty.as_ref() }.fetch_max(u64::from(epoch), Ordering::Relaxed);
    }
}

/// Fetch-max, after a look: a plain store could lower a mark that another thread has raised meanwhile.
#[inline]
fn raise(mark: &AtomicU32, epoch: u32) {
    if mark.load(Ordering::Relaxed) < epoch {
        mark.fetch_max(epoch, Ordering::Relaxed);
    }
}

impl Drop for GateState {
    fn drop(&mut self) {
        // Nobody is left who could write through these slots; in a forked child they are the parent's.
        if self.incarnation() != 0
            && !self.mapping.is_forked_child()
            && let Ok(slots) = Slots::of(&self.mapping)
        {
            slots.release_all(self.incarnation());
        }
    }
}
