//! What a process keeps of the gate: where its words are, the word that it has learnt, since when it sees it frozen, and the
//! proof of life that its slots hang on.
//!
//! **Invariant:** nobody touches a slot of this process after its proof of life is given up: from then on a keeper may clear
//! the slot and another instance claim it, and a late `active = 0` would hide that instance's section from a freezer. So the
//! liveness page lies here, beside the slots; it goes after them, and whoever claims or returns a slot holds its lock.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::marker::Marker;
use super::page::GatePage;
use super::slots::Slots;
use super::word::GateWord;
use crate::error::{Error, Misuse};
use crate::instances::{Row, Seat, flag};
use crate::mapping::Mapping;
use crate::os::liveness::LivenessPage;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// How long a write waits at a frozen gate unless the service says otherwise: more than any freeze may last.
const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(2);

/// How long the slot that threads share is waited for: far more than any section takes.
const SHARED_WAIT_MAX: Duration = Duration::from_secs(1);
/// Of the time between two looks at it so much counts: in a longer one the process was stopped, say, and with it the thread
/// that is waited for.
const SHARED_LOOK_MAX: Duration = Duration::from_millis(10);

/// Equals no gate: its phase is none.
const NOTHING_LEARNT: u64 = u64::MAX;
const _: () = assert!(GateWord::from_raw(NOTHING_LEARNT).phase().is_none());

/// A process' side of one region's gate. Lives as long as a thread holds one of its slots.
#[derive(Debug)]
pub(crate) struct GateState {
    mapping: Arc<Mapping>,
    id: u64,
    seat: Seat,
    asymmetric: bool,
    /// The gate word, and the page epoch in the word after it; in `mapping`, checked once and ready for ever.
    gate: NonNull<[AtomicU64; 2]>,
    /// The slot of threads beyond the slots; whoever writes through it holds `shared`. None for an observer.
    shared_slot: Option<usize>,
    shared: AtomicBool,
    /// The last OPEN word that `learn` has proved to be this process' own; [`NOTHING_LEARNT`] before.
    pub(super) learnt: AtomicU64,
    wait_max_ns: AtomicU64,
    first_seen: Mutex<(GateWord, Instant)>,
    marker: Marker,
    life: Mutex<Life>,
}

/// The proof of life, until it is given up.
#[derive(Debug)]
struct Life {
    page: Option<LivenessPage>,
    over: bool,
    /// What this value has claimed and not returned: another one of the same instance may have its own.
    claimed: Vec<usize>,
}

// SAFETY: the pointers are to atomics in the mapping that the value keeps alive.
unsafe impl Send for GateState {}
// SAFETY: as above.
unsafe impl Sync for GateState {}

/// The time that a thread waited for the shared slot and both were running.
#[derive(Debug, Default)]
struct SharedWait {
    waited: Duration,
    last: Option<Instant>,
}

impl SharedWait {
    fn is_over(&mut self, now: Instant) -> bool {
        let since = self.last.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.waited += since.min(SHARED_LOOK_MAX);
        self.waited > SHARED_WAIT_MAX
    }
}

impl GateState {
    /// For the process in `seat` (an observer's incarnation is 0), whose slots rely on the freezer's barrier if `asymmetric`.
    pub(crate) fn new(
        mapping: &Arc<Mapping>,
        id: u64,
        seat: Seat,
        asymmetric: bool,
        page: Option<LivenessPage>,
    ) -> Result<Arc<Self>, Error> {
        let gate = GatePage::of(mapping)?;
        let shared_slot = match seat.incarnation {
            0 => None,
            incarnation => Some(Slots::of(mapping)?.claim(incarnation)?),
        };
        Ok(Arc::new(Self {
            id,
            seat,
            asymmetric,
            gate: NonNull::from(gate.word_and_epoch()),
            shared_slot,
            shared: AtomicBool::new(false),
            learnt: AtomicU64::new(NOTHING_LEARNT),
            wait_max_ns: AtomicU64::new(WAIT_MAX_DEFAULT.as_nanos() as u64),
            first_seen: Mutex::new((GateWord::DETACHED, Instant::now())),
            marker: Marker::new(mapping),
            life: Mutex::new(Life { page, over: false, claimed: shared_slot.into_iter().collect() }),
            mapping: Arc::clone(mapping),
        }))
    }

    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn asymmetric(&self) -> bool {
        self.asymmetric
    }
    #[inline(always)]
    pub(super) fn word(&self) -> &AtomicU64 {
        // SAFETY: see the field.
        let words = unsafe { self.gate.as_ref() };
        &words[0]
    }
    #[inline(always)]
    pub(super) fn epoch(&self) -> &AtomicU64 {
        // SAFETY: see the field.
        let words = unsafe { self.gate.as_ref() };
        &words[1]
    }
    pub(super) fn word_and_epoch(&self) -> *const [AtomicU64; 2] {
        self.gate.as_ptr()
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

    /// Gives up the proof of life, once; `slots_too` if nobody can be in a section any more.
    pub(crate) fn give_up(&self, slots_too: bool) {
        // In a forked child slots and life are the parent's, and the lock may be held for ever.
        if self.incarnation() == 0 || self.mapping.is_forked_child() {
            return;
        }
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut life.over, true) {
            return;
        }
        if let (true, Ok(slots)) = (slots_too, Slots::of(&self.mapping)) {
            for slot in std::mem::take(&mut life.claimed) {
                slots.active(slot).store(0, Ordering::Release);
                slots.release(slot, self.incarnation());
            }
        }
        drop(life.page.take());
        // On the heap there is no lock; a flag says the same.
        if self.mapping.fd().is_none()
            && let Ok(row) = Row::of(&self.mapping, self.seat.row)
            && row.incarnation().load(Ordering::Acquire) == self.seat.incarnation
        {
            row.flags().fetch_or(flag::GONE, Ordering::Release);
        }
    }

    /// Claims a slot for the calling thread, if one is free.
    pub(super) fn claim_slot(&self) -> Option<(usize, &AtomicU64)> {
        if self.mapping.is_forked_child() || self.incarnation() == 0 {
            return None;
        }
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.over {
            return None;
        }
        let slots = Slots::of(&self.mapping).ok()?;
        let slot = slots.claim(self.incarnation()).ok()?;
        // A free slot is idle; whatever else stands in it would be taken for a section of this thread.
        slots.active(slot).store(0, Ordering::Release);
        life.claimed.push(slot);
        Some((slot, slots.active(slot)))
    }
    /// Returns the slot of a thread that ends.
    pub(super) fn release_slot(&self, slot: usize) {
        if self.mapping.is_forked_child() {
            return;
        }
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let (false, Ok(slots)) = (life.over, Slots::of(&self.mapping))
            // A section that somebody keeps in a thread-local of their own, or has forgotten, is open: its slot goes to nobody.
            && slots.active(slot).load(Ordering::Relaxed) == 0
        {
            life.claimed.retain(|claimed| *claimed != slot);
            slots.release(slot, self.incarnation());
        }
    }
    /// Whether the proof of life was given up. "No" while somebody is about to.
    pub(super) fn is_over(&self) -> bool {
        self.life.try_lock().is_ok_and(|life| life.over)
    }
    /// The slot for threads that have none. Only for one who has [`lock_shared`](Self::lock_shared)ed it.
    pub(super) fn shared_slot(&self) -> Result<&AtomicU64, Misuse> {
        let observer = || Misuse::Argument { what: "process", found: "an observer, which writes nothing".into() };
        let slot = self.shared_slot.ok_or_else(observer)?;
        Ok(Slots::of(&self.mapping).map_err(|_| observer())?.active(slot))
    }
    /// Waits until no other thread of this process is in a section through the shared slot. Sections are short and take no
    /// lock; a thread that was put to sleep in one needs this one's processor. One that was forgotten never ends.
    pub(super) fn lock_shared(&self) -> Result<(), Misuse> {
        let mut wait = SharedWait::default();
        while self.shared.swap(true, Ordering::Acquire) {
            if wait.is_over(Instant::now()) {
                let found = format!("another thread's section is open for {SHARED_WAIT_MAX:?}: was it forgotten?");
                return Err(Misuse::Argument { what: "owned write", found });
            }
            std::thread::yield_now();
        }
        Ok(())
    }
    pub(super) fn unlock_shared(&self) {
        self.shared.store(false, Ordering::Release);
    }

    #[inline(always)]
    pub(super) fn marker(&self) -> &Marker {
        &self.marker
    }
}

impl Drop for GateState {
    fn drop(&mut self) {
        // Nobody is left who could write through these slots. They go first: see the module.
        self.give_up(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let (mut wait, start) = (SharedWait::default(), Instant::now());
        let stopped = Duration::from_secs(3600);
        assert!(!wait.is_over(start) && !wait.is_over(start + stopped), "who is waited for was stopped, too");
        assert!((0..3000).any(|n| wait.is_over(start + 2 * stopped + n * SHARED_LOOK_MAX / 10)), "but not for ever");
    }
}
