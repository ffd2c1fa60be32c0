//! Rounds over dirty pages, and the one chain from freeze to commit.
//!
//! A round goes slice by slice. The chain has no pause, stores nothing and tells nobody: all that waits until the gate is open.

use std::time::Instant;

use super::ground::{Closing, NotClosed, Slice};
use super::machine::{Effect, Event, Step};
use super::policy::Rounds;
use super::reason::Reason;
use super::record::Phase;
use super::runner::Runner;
use super::switch::{BLOCKED_WAIT, Round, micros};
use crate::os::clock::unix_ms;

/// Pages checked between two looks at commands and deaths.
const SLICE_PAGES: u32 = 1024;
/// Looks in a row, each [`BLOCKED_WAIT`] after the one before, at which writers are still in sections of the round before: then
/// they are the same ones.
const BLOCKED_LOOKS: u32 = 3;

/// Whether a round is blocked. One look proves nothing of the owner, who may be in another section at the next one; nor do many
/// within a moment, as commands wake the thread to look again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    /// In a row.
    blocked: u32,
    last: Option<Instant>,
}

impl Looks {
    /// A look, and what it is news of, if it is.
    fn look(&mut self, is_blocked: bool, now: Instant) -> Option<bool> {
        if !is_blocked {
            let was = std::mem::take(self).blocked >= BLOCKED_LOOKS;
            return was.then_some(false);
        }
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < BLOCKED_WAIT) {
            return None;
        }
        (self.blocked, self.last) = (self.blocked.saturating_add(1), Some(now));
        (self.blocked == BLOCKED_LOOKS).then_some(true)
    }
}

impl Runner {
    /// Before the last rounds: the totals, and once more whether the target reads what the owner has written by now.
    pub(super) fn last_look(&mut self) {
        let target = self.machine.switch().and_then(|s| s.target);
        let schemas = match self.look(target) {
            Ok(schemas) => schemas,
            Err((reason, words)) => return self.fail(reason, words),
        };
        if let Err(fault) = self.ground.note_totals() {
            return self.fail(fault.reason, fault.message);
        }
        let budget = self.freeze_budget();
        self.ground.set_budget(budget);
        if let Some(active) = &mut self.active {
            (active.schemas, active.rounds) = (schemas, Rounds::default());
        }
    }

    fn fail(&mut self, reason: Reason, words: String) {
        if let Some(active) = &mut self.active {
            active.words = words;
        }
        self.inbox.push_back(Event::Failed(reason));
    }

    /// One slice of the running round.
    pub(super) fn work(&mut self) {
        let Some(active) = self.active.as_mut().filter(|a| a.round != Round::Idle) else { return };
        let slice = match active.round {
            Round::Begin => self.ground.begin_round().map(|()| Slice::More),
            _ => self.ground.round_slice(SLICE_PAGES),
        };
        match slice {
            Ok(Slice::More) => active.round = Round::Slices,
            Ok(Slice::Blocked) => active.round = Round::Blocked,
            Ok(Slice::Done(pages)) => {
                self.looked(false);
                return self.round_done(pages);
            }
            Err(fault) => {
                active.round = Round::Idle;
                active.words = fault.message;
                return self.feed(Event::Failed(fault.reason));
            }
        }
        let is_blocked = active.round == Round::Blocked;
        self.looked(is_blocked);
    }

    /// A look at the round was blocked, or was not.
    fn looked(&mut self, is_blocked: bool) {
        let Some(active) = &mut self.active else { return };
        if let Some(blocked) = active.looks.look(is_blocked, Instant::now()) {
            self.feed(Event::Blocked(blocked));
        }
    }

    fn round_done(&mut self, pages: u64) {
        let (left, fits) = (self.ground.left_pages(), self.ground.pages_within(self.freeze_budget()));
        let Some(active) = &mut self.active else { return };
        active.round = Round::Idle;
        let (number, done) = (active.number, active.rounds.converged(left, fits));
        self.journal.edit(number, |record| {
            record.figures.precopy_rounds += 1;
            record.figures.precopy_pages += pages;
        });
        let last = done && self.machine.switch().is_some_and(|s| s.step == Step::Settle);
        if let Some(record) = self.journal.get(number).filter(|_| !last) {
            self.feed.observe(record, unix_ms(), left, fits);
        }
        self.feed(Event::Round(done));
    }

    /// Freeze, seal and commit: one chain, in which the machine says at each step whether to go on.
    pub(super) fn close(&mut self) {
        let budget = self.freeze_budget();
        let owner = self.machine.switch().and_then(|s| s.target).unwrap_or(0);
        let Some(active) = &mut self.active else { return };
        let (machine, mut effects) = (&mut self.machine, Vec::with_capacity(4));
        let mut marks = [Instant::now(); 3];
        let mut go = |closing: Closing| {
            effects.clear();
            let (event, wanted) = match closing {
                Closing::Frozen => (Event::Frozen, Effect::Seal(owner)),
                Closing::Sealed => (Event::Sealed, Effect::Commit),
            };
            machine.step(event, &mut effects);
            marks[1 + usize::from(closing == Closing::Sealed)] = Instant::now();
            effects.contains(&wanted)
        };
        let closed = self.ground.close(budget, owner, active.schemas, &mut go);
        let end = Instant::now();
        let [froze, sealing, committing] = marks;
        let (freeze, seal, commit) = (sealing.max(froze) - froze, committing.max(sealing) - sealing, end - committing);
        let event = match closed {
            Ok(closed) => {
                (active.closed, active.phase, active.phase_since) = (Some(closed), Phase::Commit, end);
                self.journal.edit(active.number, |record| {
                    let us = &mut record.figures.phase_us;
                    us.insert(Phase::Freeze.as_str().into(), micros(freeze));
                    us.insert(Phase::Seal.as_str().into(), micros(seal));
                    us.insert(Phase::Commit.as_str().into(), micros(commit));
                });
                Event::Committed
            }
            Err(NotClosed::Stuck(words)) => {
                active.words = words;
                Event::NotFrozen
            }
            Err(NotClosed::Late(words)) => {
                active.words = words;
                Event::TooLate
            }
            Err(NotClosed::Stopped) => Event::TooLate,
            Err(NotClosed::Failed(fault)) => {
                active.words = fault.message;
                Event::Failed(fault.reason)
            }
        };
        self.inbox.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_looks_within_a_moment_prove_nothing() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        assert!((0..100).all(|_| looks.look(true, start).is_none()));
        assert_eq!(looks.look(true, start + BLOCKED_WAIT), None);
        assert_eq!(looks.look(true, start + 2 * BLOCKED_WAIT), Some(true));
        assert_eq!(looks.look(true, start + 3 * BLOCKED_WAIT), None, "said once");
        assert_eq!(looks.look(false, start + 3 * BLOCKED_WAIT), Some(false));
        assert_eq!(looks.look(false, start + 3 * BLOCKED_WAIT), None);
        assert_eq!(looks.look(true, start + 4 * BLOCKED_WAIT), None, "from the beginning");
    }
}
