//! Whether parcels of one protocol flow on a link, or one at a time tries.
//!
//! What the receiver says of one connection concerns that one. What it would say of every other (its table is full, it knows
//! no such protocol, it does not answer) makes the protocol wait: one connection at a time tries, after pauses that double up
//! to [`PAUSE_MAX`], until one is taken. So thousands of connections are not offered in vain again and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After the first refusal; doubled with each.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The pause after so many refusals.
pub(super) fn pause(tries: u32) -> Duration {
    (PAUSE * 2_u32.pow(tries.saturating_sub(1).min(10))).min(PAUSE_MAX)
}

/// Of one protocol, on one link.
#[derive(Default)]
pub(super) struct Flow {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Refusals since one was taken.
    refused: u32,
    /// What for, the last time.
    reason: &'static str,
    next: Option<Instant>,
    trying: bool,
}

/// What a connection that would depart is told.
pub(super) enum May {
    Go(Option<Trying>),
    /// Others were refused, for this reason.
    Wait(Duration, &'static str),
}

/// The one that tries.
pub(super) struct Trying(Arc<Flow>);

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.lock().trying = false;
    }
}

impl Flow {
    pub(super) fn may_offer(self: &Arc<Flow>) -> May {
        let mut state = self.lock();
        let Some(next) = state.next else { return May::Go(None) };
        let now = Instant::now();
        if now < next {
            return May::Wait(next - now, state.reason);
        }
        match std::mem::replace(&mut state.trying, true) {
            true => May::Wait(PAUSE, state.reason),
            false => May::Go(Some(Trying(self.clone()))),
        }
    }

    /// Whether all is well; one that waited for room looks again.
    pub(super) fn flows(&self) -> bool {
        self.lock().next.is_none()
    }

    /// One was taken.
    pub(super) fn taken(&self) {
        let mut state = self.lock();
        (state.refused, state.next) = (0, None);
    }

    /// One was refused for what others would be refused for; true if that is news. Several at once count once.
    pub(super) fn refused(&self, reason: &'static str) -> bool {
        let mut state = self.lock();
        state.reason = reason;
        let now = Instant::now();
        if state.next.is_some_and(|next| now < next) {
            return false;
        }
        state.refused = state.refused.saturating_add(1);
        state.next = Some(now + pause(state.refused));
        state.refused == 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_tries_after_a_refusal_until_one_is_taken() {
        let flow = Arc::new(Flow::default());
        assert!(matches!(flow.may_offer(), May::Go(None)));
        assert!(flow.refused("TABLE_FULL"), "news");
        assert!(!flow.refused("TABLE_FULL"), "those that were on their way count once");
        assert!(matches!(flow.may_offer(), May::Wait(_, "TABLE_FULL")));
        std::thread::sleep(pause(1));
        let May::Go(Some(trying)) = flow.may_offer() else { panic!("somebody may try") };
        assert!(matches!(flow.may_offer(), May::Wait(..)), "not two at once");
        drop(trying);
        assert!(matches!(flow.may_offer(), May::Go(Some(_))));
        flow.taken();
        assert!(flow.flows() && matches!(flow.may_offer(), May::Go(None)));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
