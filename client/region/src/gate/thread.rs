//! What a thread keeps: its slot, and whether it is in a section.
//!
//! Two thread-locals. `FAST` has no destructor, so reading it costs a register-relative load and works until the thread's
//! very end. `HELD` has one, and returns the thread's slots; it empties `FAST` first, so that a later destructor's write
//! takes the instance's shared slot.
//!
//! A thread is in a section exactly while one of its slots is busy, so nothing more has to be kept on the way in and out.
//!
//! **Invariant:** `FAST.slot` is dereferenced only after `FAST.process` or `FAST.direct` was compared with the id of a living
//! process, and `FAST.gate` after `FAST.direct` was; ids are never reused: nothing of an unmapped region is ever touched.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, Weak};

use super::state::GateState;
use super::word::GateWord;
use crate::sync::{AtomicU64, Ordering};

/// The thread's last used slot, and with it all that the short way in needs: each load less is a fifth of a nanosecond.
pub(super) struct Fast {
    /// As `process`, once `gate`, `learnt` and `announced` are that process' too and its slots rely on the freezer's barrier;
    /// else 0.
    pub(super) direct: Cell<u64>,
    /// The gate word and the page epoch.
    pub(super) gate: Cell<*const [AtomicU64; 2]>,
    /// An OPEN word that was proved to be the process' own. No word comes back, so equal to the gate it is a proof still.
    pub(super) learnt: Cell<u64>,
    /// What the slot said last: `learnt`'s generation, and `epoch`.
    pub(super) announced: Cell<u64>,
    /// Whose slot it is; 0 for nobody's.
    pub(super) process: Cell<u64>,
    pub(super) slot: Cell<*const AtomicU64>,
    /// The page epoch that the thread read last: never newer than what it will read next.
    pub(super) epoch: Cell<u32>,
    /// A page of the region (counted from its start) that this thread has marked for `process`, and with which epoch.
    pub(super) marked_page: Cell<u64>,
    pub(super) marked_epoch: Cell<u32>,
    /// The thread is in a section through an instance's shared slot.
    pub(super) in_shared: Cell<bool>,
    /// The thread is ending and holds no slots any more.
    ended: Cell<bool>,
}

impl Fast {
    const fn new() -> Self {
        Self {
            direct: Cell::new(0),
            gate: Cell::new(ptr::null()),
            learnt: Cell::new(0),
            announced: Cell::new(0),
            process: Cell::new(0),
            slot: Cell::new(ptr::null()),
            epoch: Cell::new(1),
            marked_page: Cell::new(0),
            marked_epoch: Cell::new(0),
            in_shared: Cell::new(false),
            ended: Cell::new(false),
        }
    }

    /// Remembers the last mark made for `process`; others' pages have the same numbers.
    #[inline(always)]
    pub(super) fn remember_mark(&self, process: u64, page: u64, epoch: u32) {
        if self.process.get() == process {
            self.marked_page.set(page);
            self.marked_epoch.set(epoch);
        }
    }

    /// Opens the short way, after the slot that `process` names has announced `announced` and found the gate at `learnt`.
    pub(super) fn shorten(&self, state: &GateState, learnt: GateWord, announced: u64) {
        self.gate.set(state.word_and_epoch());
        self.learnt.set(learnt.raw());
        self.announced.set(announced);
        self.direct.set(if state.asymmetric() { state.id() } else { 0 });
    }

    /// Closes the short way, of whatever region.
    pub(super) fn close(&self) {
        self.direct.set(0);
        self.process.set(0);
    }
}

struct Slot {
    process: u64,
    state: Weak<GateState>,
    index: usize,
    active: *const AtomicU64,
}

/// The thread's slots, one for each region that it has written to.
struct Held(RefCell<Vec<Slot>>);

crate::sync::thread_local! {
    static FAST: Fast = const { Fast::new() };
    static HELD: Held = const { Held(RefCell::new(Vec::new())) };
}

/// The calling thread's own. Not to be kept: it is good for as long as the thread runs.
#[inline(always)]
pub(super) fn fast<'a>() -> &'a Fast {
    // A closure that does the work itself is not inlined, and costs ten times what the work does.
    #[cfg(not(all(loom, test)))]
    let fast = FAST.with(ptr::from_ref);
    // loom ends all of a thread's values before it drops them.
    #[cfg(all(loom, test))]
    let fast = FAST.try_with(ptr::from_ref).unwrap_or_else(|_| Box::leak(Box::new(Fast::new())));
    // SAFETY: the thread-local has no destructor and lives until the thread's end; `Fast` is neither Send nor Sync, so the
    // reference stays in its thread.
    unsafe { &*fast }
}

impl Drop for Held {
    fn drop(&mut self) {
        fast().close();
        fast().ended.set(true);
        for slot in self.0.get_mut().drain(..) {
            if let Some(state) = slot.state.upgrade() {
                state.release_slot(slot.index);
            }
        }
    }
}

/// Whether the thread is in a section, of whatever region: one of its slots is busy, or it has locked a shared one.
pub(super) fn in_section() -> bool {
    let in_own = HELD.try_with(|held| {
        // Busy only in a signal handler that interrupts `take_slot`, which no section does.
        let Ok(held) = held.0.try_borrow() else { return false };
        held.iter().any(|slot| {
            // Where life was given up the slot may be another's by now.
            let Some(_alive) = slot.state.upgrade().filter(|state| !state.is_over()) else { return false };
            // SAFETY: the state is alive, so its mapping is, and the slot lies in it.
            unsafe { &*slot.active }.load(Ordering::Relaxed) != 0
        })
    });
    // After the thread's slots were returned there is only the shared one.
    in_own.unwrap_or(false) || fast().in_shared.get()
}

/// Points [`fast`] at the thread's own slot of this process, claiming one if need be. False if there is none to have.
pub(super) fn take_slot(state: &Arc<GateState>) -> bool {
    let fast = fast();
    if fast.ended.get() {
        return false;
    }
    let found = HELD.try_with(|held| {
        // A signal handler that interrupts this very look-up takes the shared slot.
        let mut held = held.0.try_borrow_mut().ok()?;
        held.retain(|slot| slot.state.strong_count() > 0);
        if let Some(slot) = held.iter().find(|slot| slot.process == state.id()) {
            return Some(slot.active);
        }
        let (index, active) = state.claim_slot()?;
        let active = ptr::from_ref(active);
        held.push(Slot { process: state.id(), state: Arc::downgrade(state), index, active });
        Some(active)
    });
    let Ok(Some(active)) = found else { return false };
    if fast.process.get() != state.id() {
        // Another region's epoch and marks say nothing about this one's; 1 is never newer than the truth, page 0 is no
        // page of OWNED.
        fast.direct.set(0);
        fast.epoch.set(1);
        fast.marked_page.set(0);
    }
    fast.slot.set(active);
    fast.process.set(state.id());
    true
}
