//! The machine's transitions. See the parent for the invariants that they keep.

use super::super::message::Hook;
use super::super::reason::Reason;
use super::super::record::{Cause, Kind, Outcome, Phase};
use super::{Effect, Event, Id, Machine, Member, Owner, Step, Switch, Timer};

impl Machine {
    /// Takes one event in; appends what is to be done.
    pub fn step(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Attached(id, order, owned) => {
                self.members.insert(id, Member { order, owned, ..Member::default() });
            }
            Event::Eligible(id, eligible, again) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.eligible = eligible;
                    member.shunned &= !again;
                }
            }
            Event::Died(id, crash_loop) => self.died(id, crash_loop, out),
            Event::Leave(id) => self.leave(id, out),
            Event::Drained(id) => self.drained(id, out),
            Event::Begin(kind, cause, target, force) => self.begin(kind, cause, target, force, out),
            Event::Deadline(Timer::Retry) => self.cooling = false,
            event => {
                if let Some(switch) = self.switch {
                    self.advance(switch, event, out);
                }
            }
        }
        self.consider(out);
    }

    /// Starts what nobody has to ask for: a vacant region's next owner, a leaving owner's switch or departure.
    fn consider(&mut self, out: &mut Vec<Effect>) {
        if self.switch.is_some() {
            return;
        }
        let (kind, cause) = match self.owner {
            Owner::Alive(id) if self.members.get(&id).is_some_and(|m| m.leaving) => (Kind::Handover, Cause::OwnerLeft),
            Owner::Alive(_) => return,
            _ if self.quarantined || self.cooling => return,
            Owner::Dead(_) if !self.promote => return,
            Owner::Dead(_) => (Kind::Promotion, Cause::OwnerDied),
            Owner::Nobody if self.generation <= 1 => (Kind::Succession, Cause::First),
            Owner::Nobody => (Kind::Succession, Cause::Succession),
        };
        match self.next_owner() {
            Some(id) => self.begin(kind, cause, Some(id), false, out),
            None if cause == Cause::OwnerLeft => self.begin(Kind::Departure, cause, None, false, out),
            None => {}
        }
    }

    /// Who would own if nobody were named: who has never owned, attached the longest; else who owned last.
    pub fn next_owner(&self) -> Option<Id> {
        let fit = |(id, m): &(&Id, &Member)| m.eligible && !m.leaving && !m.shunned && self.living() != Some(**id);
        let rank = |m: &Member| if m.owned == 0 { (0, m.order) } else { (1, u64::MAX - m.owned) };
        self.members.iter().filter(fit).min_by_key(|(_, m)| rank(m)).map(|(&id, _)| id)
    }

    fn begin(&mut self, kind: Kind, cause: Cause, target: Option<Id>, force: bool, out: &mut Vec<Effect>) {
        let source = self.living();
        let known = target.is_none_or(|id| self.members.contains_key(&id) && source != Some(id));
        if self.switch.is_some() || !known {
            return;
        }
        let step = if target.is_none() && kind != Kind::Departure { Step::Await } else { Step::Prepare };
        let mut switch = Switch { kind, cause, source, target, step, force, flushed: false, blocked: false };
        out.extend([Effect::Begun, Effect::Enter(Phase::Prepare)]);
        match target {
            Some(id) => out.extend([Effect::Arm(Timer::Prepare), Effect::Hook(Hook::Prepare, id)]),
            None if step == Step::Await => out.push(Effect::Arm(Timer::Ready)),
            None => precopy(&mut switch, out),
        }
        self.switch = Some(switch);
    }

    /// An event of the running switch.
    fn advance(&mut self, mut switch: Switch, event: Event, out: &mut Vec<Effect>) {
        use Step::*;
        match (switch.step, event) {
            (Await, Event::Target(id)) if self.members.contains_key(&id) && switch.source != Some(id) => {
                (switch.step, switch.target) = (Prepare, Some(id));
                out.extend([Effect::Arm(Timer::Prepare), Effect::Hook(Hook::Prepare, id)]);
            }
            (Await, Event::Deadline(Timer::Ready)) => return self.abort(Reason::TargetNotReady, out),
            (Prepare, Event::HookOk) => precopy(&mut switch, out),
            (Prepare, Event::Deadline(Timer::Prepare)) => return self.abort(Reason::PrepareTimeout, out),
            (Prepare | Flush, Event::HookVetoed) => return self.abort(Reason::Vetoed, out),
            (Precopy, Event::Round(true)) => match switch.source {
                Some(owner) => {
                    (switch.step, switch.flushed) = (Flush, true);
                    let flush = Effect::Hook(Hook::Flush, owner);
                    out.extend([Effect::Enter(Phase::Flush), Effect::Arm(Timer::Flush), flush]);
                }
                None => settle(&mut switch, out),
            },
            (Precopy | Settle, Event::Round(false)) => out.push(Effect::Round),
            (Precopy | Settle, Event::Blocked(blocked)) => switch.blocked = blocked,
            (Precopy | Settle, Event::Deadline(Timer::Precopy)) if switch.blocked => {
                return self.stuck(switch, Reason::FreezeTimeout, out);
            }
            (Precopy | Settle, Event::Deadline(Timer::Precopy)) => {
                return self.abort(Reason::PrecopyNotConverging, out);
            }
            (Flush, Event::HookOk) => settle(&mut switch, out),
            (Flush, Event::Deadline(Timer::Flush)) => return self.stuck(switch, Reason::FlushTimeout, out),
            (Settle, Event::Round(true)) => {
                switch.step = Freeze;
                out.extend([Effect::Enter(Phase::Freeze), Effect::Freeze]);
            }
            (Freeze, Event::Frozen) => {
                switch.step = Seal;
                out.extend([Effect::Enter(Phase::Seal), Effect::Seal(switch.target.unwrap_or(0))]);
            }
            (Freeze | Seal | Commit, Event::NotFrozen) => return self.stuck(switch, Reason::FreezeTimeout, out),
            (Freeze | Seal | Commit, Event::TooLate) => return self.abort(Reason::FreezeTimeout, out),
            (Seal, Event::Sealed) => {
                switch.step = Commit;
                out.extend([Effect::Enter(Phase::Commit), Effect::Commit]);
            }
            (Commit, Event::Committed) => return self.committed(switch, out),
            (Kill(_), Event::KillRefused | Event::Deadline(Timer::Kill)) => {
                return self.abort(Reason::ForceUnavailable, out);
            }
            (Await | Prepare | Precopy | Flush | Settle, Event::Unfit(reason)) => return self.abort(reason, out),
            // A killed owner cannot go on: from there the switch ends by its death alone.
            (Kill(_) | Freeze | Seal | Commit, Event::Abort) => {}
            (_, Event::Abort) => return self.abort(Reason::AbortRequested, out),
            (_, Event::Failed(reason)) => return self.abort(reason, out),
            _ => return,
        }
        self.switch = Some(switch);
    }

    /// The owner does not quiesce: kill it if that was allowed, else take everything back.
    fn stuck(&mut self, mut switch: Switch, reason: Reason, out: &mut Vec<Effect>) {
        match switch.source {
            Some(owner) if switch.force => {
                switch.step = Step::Kill(reason);
                self.switch = Some(switch);
                out.extend([Effect::Arm(Timer::Kill), Effect::Kill(owner)]);
            }
            _ => self.abort(reason, out),
        }
    }

    fn abort(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        let Some(switch) = self.switch.take() else { return };
        out.push(Effect::Decided(switch, Outcome::Aborted, Some(reason)));
        let source = switch.source.filter(|id| self.members.contains_key(id));
        if let Some(owner) = source.filter(|_| switch.flushed) {
            out.push(Effect::Hook(Hook::Resume, owner));
        }
        if matches!(switch.cause, Cause::Handover | Cause::Rollback) {
            return;
        }
        // Nobody asked for it, so it would begin again at once: whose fault it was is left out of the next try.
        let the_targets = match reason {
            Reason::OwnerDied => false,
            Reason::TargetDied | Reason::TargetNotReady | Reason::SchemaUnreadable | Reason::KindMismatch => true,
            _ => switch.step == Step::Prepare,
        };
        match switch.target.filter(|_| the_targets) {
            Some(target) => {
                if let Some(member) = self.members.get_mut(&target) {
                    member.shunned = true;
                }
            }
            None if reason == Reason::OwnerDied => {}
            None => match source.and_then(|id| self.members.get_mut(&id)) {
                Some(leaver) => leaver.leaving = false,
                None => {
                    self.cooling = true;
                    out.push(Effect::Arm(Timer::Retry));
                }
            },
        }
    }

    fn committed(&mut self, switch: Switch, out: &mut Vec<Effect>) {
        self.generation += 1;
        self.owner = switch.target.map_or(Owner::Nobody, Owner::Alive);
        (self.switch, self.quarantined) = (None, false);
        for (id, member) in &mut self.members {
            member.shunned = false;
            if switch.target == Some(*id) {
                member.owned = self.generation;
            }
        }
        out.push(Effect::Decided(switch, Outcome::Committed, None));
    }

    fn died(&mut self, id: Id, crash_loop: bool, out: &mut Vec<Effect>) {
        self.members.remove(&id);
        out.push(Effect::Reclaim(id));
        let owned = self.owner == Owner::Alive(id);
        if owned {
            self.owner = Owner::Dead(id);
        }
        if let Some(mut switch) = self.switch {
            match switch.step {
                Step::Kill(_) if switch.source == Some(id) => {
                    switch.source = None;
                    settle(&mut switch, out);
                    self.switch = Some(switch);
                    return;
                }
                _ if switch.source == Some(id) => self.abort(Reason::OwnerDied, out),
                _ if switch.target == Some(id) => self.abort(Reason::TargetDied, out),
                _ => {}
            }
        }
        if owned && crash_loop && !self.quarantined {
            self.quarantined = true;
            out.push(Effect::Quarantined);
        }
    }

    fn leave(&mut self, id: Id, out: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.leaving = true;
        let Some(switch) = self.switch else { return };
        let before_freeze = !matches!(switch.step, Step::Freeze | Step::Seal | Step::Commit | Step::Kill(_));
        let waits_for_others = switch.step == Step::Await && switch.source == Some(id);
        if before_freeze && (switch.target == Some(id) || waits_for_others) {
            self.abort(Reason::TargetNotReady, out);
        }
    }

    fn drained(&mut self, id: Id, out: &mut Vec<Effect>) {
        let busy = self.switch.is_some_and(|s| s.target == Some(id) || s.source == Some(id));
        let leaving = self.members.get(&id).is_some_and(|m| m.leaving);
        if leaving && !busy && self.living() != Some(id) {
            self.members.remove(&id);
            out.push(Effect::Left(id));
        }
    }
}

fn precopy(switch: &mut Switch, out: &mut Vec<Effect>) {
    switch.step = Step::Precopy;
    out.extend([Effect::Enter(Phase::Precopy), Effect::Arm(Timer::Precopy), Effect::Round]);
}

/// Totals before the last rounds, so that noting them does not lengthen the blackout.
fn settle(switch: &mut Switch, out: &mut Vec<Effect>) {
    (switch.step, switch.blocked) = (Step::Settle, false);
    out.extend([Effect::Totals, Effect::Arm(Timer::Precopy), Effect::Round]);
}
