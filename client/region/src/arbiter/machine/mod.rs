//! The handover machine: `(state, event) → state, effects`. Pure: no clock, no IO, no chance, no names.
//!
//! Invariants, of every reachable state:
//! - one switch at a time, and its target is not its source;
//! - the generation grows by one in [`Event::Committed`] and nowhere else;
//! - an owner changes only there, or becomes [`Owner::Dead`] by [`Event::Died`], which is proof and no time-out;
//! - every effect that asks for something is answered by an event, bounded by a timer that was armed before it; answers
//!   that come late or twice are ignored in every state that did not ask.
//!
//! Freeze, seal and commit are separate effects and events, so that a checker can end the world between any two of them.
//! The gate's own rules make that safe: before the commit the old generation goes on, after it the new one is open.

use std::collections::BTreeMap;

mod step;
#[cfg(test)]
mod tests;

use super::message::Hook;
use super::reason::Reason;
use super::record::{Cause, Kind, Outcome, Phase};

/// An incarnation.
pub type Id = u64;

/// Who owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The generation names nobody: a new region, or its owner left.
    Nobody,
    /// The generation names one whose death is proved.
    Dead(Id),
    /// The generation names one who lives, as far as is known.
    Alive(Id),
}

/// An attached instance, as far as ownership is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// Counts attaching: the lowest has been attached the longest.
    pub order: u64,
    /// The generation it owned last; 0: never.
    pub owned: u64,
    /// It may own now.
    pub eligible: bool,
    /// It drains in order to leave.
    pub leaving: bool,
    /// A switch that nobody asked for failed because of it; it is not tried again until it says that it is ready.
    pub shunned: bool,
}

/// How far a switch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// No target is eligible yet.
    Await,
    /// The target's hook runs.
    Prepare,
    /// Rounds.
    Precopy,
    /// The owner's hook runs.
    Flush,
    /// Rounds after it.
    Settle,
    /// The gate is to be closed.
    Freeze,
    /// The gate is closed.
    Seal,
    /// The candidate is complete.
    Commit,
    /// The owner was sent SIGKILL because of this; its death is awaited.
    Kill(Reason),
}

/// A switch under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Switch {
    /// What kind.
    pub kind: Kind,
    /// What the new owner will be told.
    pub cause: Cause,
    /// Who owns and has to quiesce; none if nobody living does.
    pub source: Option<Id>,
    /// Who is to own; none in [`Step::Await`] and for a departure.
    pub target: Option<Id>,
    /// How far.
    pub step: Step,
    /// The owner may be killed.
    pub force: bool,
    /// The flush hook was called: an abort owes the owner a resume.
    pub flushed: bool,
    /// The last round could not pass the owner's writers.
    pub blocked: bool,
}

/// The timer of the current step; arming one replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// For a target to become eligible.
    Ready,
    /// For the target's hook.
    Prepare,
    /// For rounds to converge.
    Precopy,
    /// For the owner's hook.
    Flush,
    /// For the kernel to prove a death.
    Kill,
    /// Until a switch that nobody asked for is tried again.
    Retry,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An instance attached, or was found attached; with its place and the generation it owned last.
    Attached(Id, u64, u64),
    /// Whether it may own; and whether it has just said so itself.
    Eligible(Id, bool, bool),
    /// Its death is proved; and whether owners have died too often.
    Died(Id, bool),
    /// It wants to leave.
    Leave(Id),
    /// It owns nothing and has nothing in flight.
    Drained(Id),
    /// A switch was asked for, and every verdict was in its favour; without a target one is awaited.
    Begin(Kind, Cause, Option<Id>, bool),
    /// The awaited target is there.
    Target(Id),
    /// The target of the running switch may own no more.
    Unfit(Reason),
    /// The hook that was called agreed.
    HookOk,
    /// The hook that was called said no.
    HookVetoed,
    /// A round is over: whether the rest fits the freeze.
    Round(bool),
    /// A round cannot pass the owner's writers (`true`), or now could.
    Blocked(bool),
    /// The gate is frozen, writers have left.
    Frozen,
    /// Writers did not leave: the gate is open under the old generation.
    NotFrozen,
    /// The freezer was too slow, or somebody thawed: the same, and no fault of the owner's.
    TooLate,
    /// The candidate is complete.
    Sealed,
    /// The compare-and-swap was done.
    Committed,
    /// Something that the runner tried failed: the gate is open under the old generation.
    Failed(Reason),
    /// The kernel does not let the owner be killed.
    KillRefused,
    /// The armed timer went off.
    Deadline(Timer),
    /// Somebody wants the running switch aborted.
    Abort,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A switch began: open its record.
    Begun,
    /// The record reached this phase.
    Enter(Phase),
    /// Arm this timer instead of any other.
    Arm(Timer),
    /// Call a hook of an instance.
    Hook(Hook, Id),
    /// Run a round, in slices; answer with [`Event::Round`].
    Round,
    /// Note the counters' lower bounds.
    Totals,
    /// Close the gate; answer with [`Event::Frozen`] or [`Event::NotFrozen`].
    Freeze,
    /// Complete the candidate, naming this owner (0: nobody); answer with [`Event::Sealed`].
    Seal(Id),
    /// Compare and swap; answer with [`Event::Committed`].
    Commit,
    /// SIGKILL by pidfd; answer with [`Event::KillRefused`], or [`Event::Died`] in its time.
    Kill(Id),
    /// Free what the dead held.
    Reclaim(Id),
    /// The switch is over, here is how. `Switch` is as it was before.
    Decided(Switch, Outcome, Option<Reason>),
    /// It has left; its row stays until its death.
    Left(Id),
    /// Owners die one after the other: the region is held back.
    Quarantined,
}

/// The state of one region's ownership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    pub(crate) generation: u64,
    pub(crate) owner: Owner,
    pub(crate) members: BTreeMap<Id, Member>,
    pub(crate) switch: Option<Switch>,
    pub(crate) quarantined: bool,
    pub(crate) cooling: bool,
    pub(crate) promote: bool,
}

impl Machine {
    /// At the start, before anyone is known to be attached. `promote`: take over after an unplanned death.
    pub fn new(generation: u64, owner: Owner, promote: bool, quarantined: bool) -> Self {
        Self { generation, owner, members: BTreeMap::new(), switch: None, quarantined, cooling: false, promote }
    }
    /// Open now.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// Who owns.
    pub fn owner(&self) -> Owner {
        self.owner
    }
    /// The switch under way.
    pub fn switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }
    /// An attached instance.
    pub fn member(&self, id: Id) -> Option<&Member> {
        self.members.get(&id)
    }
    /// Whether the region is held back.
    pub fn quarantined(&self) -> bool {
        self.quarantined
    }

    /// The living owner.
    pub fn living(&self) -> Option<Id> {
        match self.owner {
            Owner::Alive(id) => Some(id),
            _ => None,
        }
    }
}
