//! Leaving in order, with an arbiter and without.

use std::time::{Duration, Instant};

use heirloom_region::arbiter::FromInstance;
use heirloom_region::instances;

use super::{Driver, FAREWELL};
use crate::hooks::{Call, Flush};
use crate::role::Role;
use crate::serving::Left;
use crate::session::Leaving;

/// An owner that wants to leave waits so long for a lost sidecar to come back before it goes without.
const GRACE: Duration = Duration::from_secs(1);
/// For the flush of one that leaves without an arbiter.
const FLUSH: Duration = Duration::from_secs(10);

impl Driver {
    /// Takes the next step of leaving; `true` once there is none.
    pub(super) fn has_gone(&mut self) -> bool {
        let Some(leaving) = self.session.state().leaving else { return false };
        match self.session.role() {
            Role::Owner(generation) => {
                self.farewell = None;
                self.leave_as_owner(generation.get(), leaving);
                false
            }
            _ => self.leave_drained(leaving),
        }
    }

    fn leave_as_owner(&mut self, generation: u64, leaving: Leaving) {
        let again = self.leave_again.is_some_and(|at| Instant::now() >= at);
        if self.live.is_some() && (self.said.leave != Some(generation) || again) {
            self.leave_again = None;
            if self.say(FromInstance::Leave { drain_timeout: Some(leaving.timeout) }) {
                self.said.leave = Some(generation);
            }
        }
        let alone = match self.lost {
            Some(since) => self.redial.is_none() || since.elapsed() > GRACE,
            None => false,
        };
        match self.own_flush {
            None if alone || Instant::now() > leaving.deadline => {
                self.own_flush = Some(Instant::now());
                if let Ok(term) = self.session.term() {
                    let deadline = Instant::now() + FLUSH;
                    self.run_hook(None, Call::Flush(Flush { term, target: None, deadline }));
                }
            }
            Some(since) if since.elapsed() > FLUSH => self.session.give_up(),
            _ => {}
        }
    }

    fn leave_drained(&mut self, leaving: Leaving) -> bool {
        if self.live.is_some() && self.said.leave.is_none() {
            let said = self.say(FromInstance::Leave { drain_timeout: Some(leaving.timeout) });
            self.said.leave = said.then_some(0);
        }
        let undrained = self.session.work.total();
        let after = leaving.since.elapsed();
        let awaited = self.session.work.awaited(&self.session.state().drain_within, after);
        if awaited > 0 && Instant::now() < leaving.deadline {
            return false;
        }
        // A switch to this instance may be past the point where it can be taken back: it is over when the arbiter has let
        // us go, which it says by the row or by ending the stream. Then nobody will make us owner.
        let since = *self.farewell.get_or_insert_with(Instant::now);
        let process = &self.session.process;
        let row = instances::read(process.mapping(), process.row());
        let released = !matches!(row, Ok(Some(row)) if row.seat.incarnation == process.incarnation());
        if self.live.is_some() && undrained == 0 && !released && since.elapsed() < FAREWELL {
            return false;
        }
        self.session.finish(Left { owner: None, undrained, why: None });
        true
    }
}
