//! Learning from the region who owns, and showing it.

use std::sync::atomic::Ordering;

use heirloom_region::error::{Generation, Peer};
use heirloom_region::process::Process;

use super::{Session, State, TERMS_MAX};
use crate::role::{Role, RoleChange};

impl Session {
    /// Brings role, generation and terms up to what the region says. Cheap, and safe to call from any thread.
    pub(crate) fn refresh(&self) {
        let gate = self.process.gate();
        let mine = self.owned.load(Ordering::Acquire) == gate.generation().get();
        // Learning may wait at a frozen gate, so it is done before the lock is taken, and not at all while frozen: whoever
        // follows the gate calls again when it opens.
        let learned = if mine || !gate.is_open() { None } else { self.process.learn().ok() };
        let mut state = self.state();
        let open = match learned {
            _ if state.left || gate.is_detached() => return,
            Some(learned) => learned,
            None => self.generation(),
        };
        let before = self.owned.load(Ordering::Relaxed);
        if open < self.roles.borrow().generation || open.get() < before {
            return; // somebody looked later than we did
        }
        let mut owned = before;
        if before != 0 && before != open.get() {
            state.draining = Some(Generation::new(before));
            owned = 0;
        }
        if owned == 0
            && open.get() > state.given_up
            && let Some(learned) = learned
        {
            owned = learned.get();
            state.draining = None;
            state.terms.push_back(learned);
            if state.terms.len() > TERMS_MAX {
                state.terms.pop_front();
            }
        }
        self.publish(&state, owned, open);
        self.owned.store(owned, Ordering::Release);
        drop(state);
        if owned != before {
            self.terms.notify_one();
            self.poke.notify_one();
        }
    }

    pub(super) fn publish(&self, state: &State, owned: u64, open: Generation) {
        let role = match (state.left, owned, state.draining) {
            (true, ..) => Role::Left,
            (_, 0, Some(drains)) => Role::Draining(drains),
            (_, 0, None) => Role::Standby { ready: state.ready && state.leaving.is_none() },
            (_, owned, _) => Role::Owner(Generation::new(owned)),
        };
        let drains = state.draining.is_some() || state.leaving.is_some();
        self.waits_for_work.store(drains && !state.left, Ordering::Release);
        self.roles.send_if_modified(|now| {
            let owner = match now.generation == open && now.owner.is_some() {
                true => now.owner.clone(),
                false => owner_peer(&self.process),
            };
            let next = RoleChange { role, generation: open, owner };
            let changed = *now != next;
            *now = next;
            changed
        });
    }
}

/// Who owns, as the region says; `None` while vacant, or if its row is gone.
pub(crate) fn owner_peer(process: &Process) -> Option<Peer> {
    process.owner().ok().and_then(|(_, owner)| owner).and_then(|owner| owner.peer)
}
