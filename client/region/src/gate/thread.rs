//! What a thread keeps: its slot, and whether it is in a section.
//!
//! Two thread-locals. [`FAST`] has no destructor, so reading it costs a register-relative load and works until the thread's
//! very end. `HELD` has one, and returns the thread's slots; it empties `FAST` first, so that a later destructor's write
//! takes the instance's shared slot.
//!
//! **Invariant:** `FAST.slot` is dereferenced only after `FAST.process` was compared with the id of a living process, and
//! ids are never reused: a slot of an unmapped region is never touched.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, Weak};

use super::state::GateState;
use crate::sync::AtomicU64;

/// The thread's last used slot.
pub(super) struct Fast {
    /// Whose slot it is; 0 for nobody's.
    pub(super) process: Cell<u64>,
    pub(super) slot: Cell<*const AtomicU64>,
    /// The page epoch that the thread read last: never newer than what it will read next.
    pub(super) epoch: Cell<u32>,
    pub(super) in_section: Cell<bool>,
    /// The thread is ending and holds no slots any more.
    ended: Cell<bool>,
}

struct Slot {
    process: u64,
    state: Weak<GateState>,
    index: usize,
    active: *const AtomicU64,
}

/// The thread's slots, one for each region that it has written to.
struct Held(RefCell<Vec<Slot>>);

thread_local! {
    pub(super) static FAST: Fast = const {
        Fast {
            process: Cell::new(0),
            slot: Cell::new(ptr::null()),
            epoch: Cell::new(1),
            in_section: Cell::new(false),
            ended: Cell::new(false),
        }
    };
    static HELD: Held = const { Held(RefCell::new(Vec::new())) };
}

impl Drop for Held {
    fn drop(&mut self) {
        FAST.with(|fast| {
            fast.process.set(0);
            fast.ended.set(true);
        });
        for slot in self.0.get_mut().drain(..) {
            if let Some(state) = slot.state.upgrade() {
                state.release_slot(slot.index);
            }
        }
    }
}

/// Points [`FAST`] at the thread's own slot of this process, claiming one if need be. False if there is none to have.
pub(super) fn take_slot(state: &Arc<GateState>) -> bool {
    if FAST.with(|fast| fast.ended.get()) {
        return false;
    }
    let found = HELD.try_with(|held| {
        // Claimed again only by this thread, and no code of others runs in between.
        let mut held = held.0.borrow_mut();
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
    FAST.with(|fast| {
        if fast.process.get() != state.id() {
            // Another region's epoch says nothing about this one's; 1 is never newer than the truth.
            fast.epoch.set(1);
        }
        fast.slot.set(active);
        fast.process.set(state.id());
    });
    true
}
