//! The machine's behaviour, told as stories of events, and a bounded random walk over its invariants.

use super::*;

struct Story {
    machine: Machine,
    seen: Vec<Effect>,
}

impl Story {
    fn new(generation: u64, owner: Owner) -> Self {
        Self { machine: Machine::new(generation, owner, true, false), seen: vec![] }
    }
    fn on(&mut self, event: Event) -> &[Effect] {
        self.seen.clear();
        self.machine.step(event, &mut self.seen);
        &self.seen
    }
    fn join(&mut self, id: Id) {
        self.on(Event::Attached(id, id, 0));
        self.on(Event::Eligible(id, true, true));
    }
    fn run(&mut self, events: &[Event]) {
        for &event in events {
            self.on(event);
        }
    }
    fn commit(&mut self) {
        self.run(&[Event::HookOk, Event::Round(true)]);
        if self.machine.switch.is_some_and(|s| s.step == Step::Flush) {
            self.on(Event::HookOk);
        }
        self.run(&[Event::Round(true), Event::Frozen, Event::Sealed, Event::Committed]);
    }
    fn decided(&self) -> Option<(Outcome, Option<Reason>)> {
        self.seen.iter().rev().find_map(|e| match e {
            Effect::Decided(_, outcome, reason) => Some((*outcome, *reason)),
            _ => None,
        })
    }
    fn step(&self) -> Option<Step> {
        self.machine.switch.map(|s| s.step)
    }
}

/// Instance 1 owns in generation 2, instance 2 is an eligible standby.
fn two() -> Story {
    let mut story = Story::new(1, Owner::Nobody);
    story.join(1);
    story.commit();
    story.join(2);
    story
}
fn asked() -> Event {
    Event::Begin(Kind::Handover, Cause::Handover, Some(2), false)
}

#[test]
fn the_first_eligible_instance_succeeds() {
    let mut story = Story::new(1, Owner::Nobody);
    story.on(Event::Attached(1, 1, 0));
    assert_eq!(story.step(), None);
    assert_eq!(story.on(Event::Eligible(1, true, true))[0], Effect::Begun);
    let switch = story.machine.switch.expect("a switch");
    assert_eq!((switch.kind, switch.cause, switch.source), (Kind::Succession, Cause::First, None));
    story.commit();
    assert_eq!((story.machine.generation, story.machine.owner), (2, Owner::Alive(1)));
}

#[test]
fn a_handover_takes_every_phase() {
    let mut story = two();
    let prepare = Effect::Hook(Hook::Prepare, 2);
    assert_eq!(story.on(asked()), [Effect::Begun, Effect::Enter(Phase::Prepare), Effect::Arm(Timer::Prepare), prepare]);
    assert_eq!(story.on(Event::HookOk), [Effect::Enter(Phase::Precopy), Effect::Arm(Timer::Precopy), Effect::Round]);
    assert_eq!(story.on(Event::Round(false)), [Effect::Round]);
    let flush = Effect::Hook(Hook::Flush, 1);
    assert_eq!(story.on(Event::Round(true)), [Effect::Enter(Phase::Flush), Effect::Arm(Timer::Flush), flush]);
    assert_eq!(story.on(Event::HookOk), [Effect::Totals, Effect::Arm(Timer::Precopy), Effect::Round]);
    assert_eq!(story.on(Event::Round(true)), [Effect::Enter(Phase::Freeze), Effect::Freeze]);
    assert_eq!(story.on(Event::Frozen), [Effect::Enter(Phase::Seal), Effect::Seal(2)]);
    assert_eq!(story.on(Event::Sealed), [Effect::Enter(Phase::Commit), Effect::Commit]);
    story.on(Event::Committed);
    assert_eq!(story.decided(), Some((Outcome::Committed, None)));
    assert_eq!((story.machine.generation, story.machine.owner), (3, Owner::Alive(2)));
}

#[test]
fn an_abort_after_the_flush_resumes_the_owner() {
    for (event, reason) in [
        (Event::Deadline(Timer::Flush), Reason::FlushTimeout),
        (Event::HookVetoed, Reason::Vetoed),
        (Event::Abort, Reason::AbortRequested),
        (Event::Died(2, false), Reason::TargetDied),
        (Event::Unfit(Reason::SchemaUnreadable), Reason::SchemaUnreadable),
    ] {
        let mut story = two();
        story.run(&[asked(), Event::HookOk, Event::Round(true)]);
        story.on(event);
        assert_eq!(story.decided(), Some((Outcome::Aborted, Some(reason))));
        assert!(story.seen.contains(&Effect::Hook(Hook::Resume, 1)), "{:?}", story.seen);
        assert_eq!((story.machine.generation, story.machine.owner, story.step()), (2, Owner::Alive(1), None));
    }
}

#[test]
fn late_answers_change_nothing() {
    let mut story = two();
    story.run(&[asked(), Event::Abort]);
    let before = story.machine.clone();
    for event in [Event::HookOk, Event::Round(true), Event::Frozen, Event::Sealed, Event::Committed] {
        assert_eq!(story.on(event), []);
    }
    assert_eq!(story.machine, before);
}

#[test]
fn the_owners_death_aborts_then_promotes() {
    let mut story = two();
    story.run(&[asked(), Event::HookOk]);
    story.on(Event::Died(1, false));
    assert_eq!(story.seen[0], Effect::Reclaim(1));
    assert_eq!(story.decided(), Some((Outcome::Aborted, Some(Reason::OwnerDied))));
    let switch = story.machine.switch.expect("a promotion");
    assert_eq!((switch.kind, switch.target, switch.source), (Kind::Promotion, Some(2), None));
    story.commit();
    assert_eq!(story.machine.owner, Owner::Alive(2));
}

#[test]
fn promotion_prefers_the_longest_attached_then_the_newest_owner() {
    let mut story = two();
    story.join(3);
    story.on(Event::Died(1, false));
    assert_eq!(story.machine.switch.and_then(|s| s.target), Some(2));
    story.commit();
    story.on(Event::Begin(Kind::Handover, Cause::Handover, Some(3), false));
    story.commit();
    assert_eq!(story.machine.owner, Owner::Alive(3));
    story.on(Event::Died(3, false));
    assert_eq!(story.machine.switch.and_then(|s| s.target), Some(2), "it drains, and nobody else is there");
}

#[test]
fn a_target_that_refuses_its_promotion_is_passed_over() {
    let mut story = two();
    story.join(3);
    story.run(&[Event::Died(1, false), Event::HookVetoed]);
    assert_eq!(story.machine.switch.and_then(|s| s.target), Some(3));
    story.on(Event::Deadline(Timer::Prepare));
    assert_eq!(story.step(), None, "nobody is left to try");
    story.on(Event::Eligible(2, true, true));
    assert_eq!(story.machine.switch.and_then(|s| s.target), Some(2), "it says again that it is ready");
}

#[test]
fn hold_stays_vacant_until_asked() {
    let mut story = two();
    story.machine.promote = false;
    story.on(Event::Died(1, false));
    assert_eq!((story.step(), story.machine.owner), (None, Owner::Dead(1)));
    story.on(asked());
    assert_eq!(story.step(), Some(Step::Prepare));
}

#[test]
fn a_crash_loop_is_held_until_an_explicit_handover() {
    let mut story = two();
    assert_eq!(story.on(Event::Died(1, true)), [Effect::Reclaim(1), Effect::Quarantined]);
    story.join(3);
    assert_eq!(story.step(), None);
    story.on(asked());
    story.commit();
    assert!(!story.machine.quarantined);
    assert_eq!(story.machine.owner, Owner::Alive(2));
}

#[test]
fn a_leaving_owner_passes_on_or_departs() {
    let mut story = two();
    story.on(Event::Leave(1));
    let switch = story.machine.switch.expect("a switch");
    assert_eq!((switch.kind, switch.cause, switch.target), (Kind::Handover, Cause::OwnerLeft, Some(2)));
    story.on(Event::HookVetoed);
    let switch = story.machine.switch.expect("a departure");
    assert_eq!((switch.kind, switch.target, switch.step), (Kind::Departure, None, Step::Precopy));
    story.run(&[Event::Round(true), Event::HookOk, Event::Round(true)]);
    assert!(story.on(Event::Frozen).contains(&Effect::Seal(0)));
    story.run(&[Event::Sealed, Event::Committed]);
    assert_eq!((story.machine.generation, story.machine.owner), (3, Owner::Nobody));
    assert_eq!(story.on(Event::Drained(1)), [Effect::Left(1)]);
    story.on(Event::Eligible(2, true, true));
    assert_eq!(story.machine.switch.map(|s| (s.kind, s.cause)), Some((Kind::Succession, Cause::Succession)));
}

#[test]
fn a_leave_that_fails_is_not_tried_for_ever() {
    let mut story = Story::new(2, Owner::Alive(1));
    story.join(1);
    story.run(&[Event::Leave(1), Event::Round(true)]);
    story.on(Event::Deadline(Timer::Flush));
    assert_eq!(story.decided(), Some((Outcome::Aborted, Some(Reason::FlushTimeout))));
    assert_eq!((story.step(), story.machine.owner), (None, Owner::Alive(1)));
}

#[test]
fn force_kills_and_waits_for_proof() {
    let begin = Event::Begin(Kind::Handover, Cause::Handover, Some(2), true);
    let mut story = two();
    story.run(&[begin, Event::HookOk, Event::Round(true), Event::HookOk, Event::Round(true)]);
    assert_eq!(story.on(Event::NotFrozen), [Effect::Arm(Timer::Kill), Effect::Kill(1)]);
    assert_eq!(story.on(Event::Abort), [], "too late: it cannot be given life again");
    assert_eq!(
        story.on(Event::Died(1, false)),
        [Effect::Reclaim(1), Effect::Totals, Effect::Arm(Timer::Precopy), Effect::Round]
    );
    story.run(&[Event::Round(true), Event::Frozen, Event::Sealed, Event::Committed]);
    assert_eq!(story.machine.owner, Owner::Alive(2));

    // A slow freezer is no reason to kill anybody.
    let mut story = two();
    story.run(&[begin, Event::HookOk, Event::Round(true), Event::HookOk, Event::Round(true)]);
    story.on(Event::TooLate);
    assert_eq!(story.decided(), Some((Outcome::Aborted, Some(Reason::FreezeTimeout))));
    assert_eq!(story.machine.owner, Owner::Alive(1));

    let mut story = two();
    story.run(&[begin, Event::HookOk, Event::Round(true), Event::Deadline(Timer::Flush)]);
    story.on(Event::KillRefused);
    assert_eq!(story.decided(), Some((Outcome::Aborted, Some(Reason::ForceUnavailable))));
    assert!(story.seen.contains(&Effect::Hook(Hook::Resume, 1)));
}

#[test]
fn a_target_is_awaited() {
    let mut story = two();
    story.on(Event::Begin(Kind::Handover, Cause::Handover, None, false));
    assert_eq!(story.step(), Some(Step::Await));
    story.on(Event::Target(2));
    assert_eq!(story.step(), Some(Step::Prepare));
    let mut story = two();
    story.on(Event::Begin(Kind::Handover, Cause::Handover, None, false));
    story.on(Event::Deadline(Timer::Ready));
    assert_eq!(story.decided(), Some((Outcome::Aborted, Some(Reason::TargetNotReady))));
}

/// Any order of events, also senseless ones: the generation moves only in a commit, and the invariants hold.
#[test]
fn any_order_of_events_keeps_the_invariants() {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for _ in 0..300 {
        let mut story = Story::new(1, Owner::Nobody);
        for order in 0..200 {
            let id = 1 + next(4);
            let before = story.machine.clone();
            let event = match next(25) {
                0 if before.members.contains_key(&id) => Event::Drained(id),
                0 | 1 => Event::Attached(id + 4 * order, order, 0),
                2..=4 => match before.members.keys().nth(next(8) as usize) {
                    Some(&id) => Event::Eligible(id, next(4) > 0, next(2) > 0),
                    None => Event::Abort,
                },
                5 => before.members.keys().next().map_or(Event::Abort, |&id| Event::Died(id, next(9) == 0)),
                6 => before.members.keys().last().map_or(Event::Abort, |&id| Event::Leave(id)),
                7 => Event::Abort,
                8 => {
                    let target = before.members.keys().nth(next(5) as usize).copied();
                    Event::Begin(Kind::Handover, Cause::Handover, target, next(2) == 0)
                }
                9 => Event::NotFrozen,
                10 => Event::HookVetoed,
                11 => Event::Deadline([Timer::Flush, Timer::Precopy, Timer::Kill, Timer::Retry][next(4) as usize]),
                12 => before.members.keys().nth(next(5) as usize).map_or(Event::Abort, |&id| Event::Target(id)),
                13 => Event::Failed(Reason::Io),
                14 | 15 => Event::HookOk,
                16..=19 => Event::Round(next(4) > 0),
                20 => Event::Frozen,
                21 => Event::Sealed,
                22 => Event::TooLate,
                _ => Event::Committed,
            };
            story.on(event);
            let after = &story.machine;
            let committed = matches!((event, before.switch), (Event::Committed, Some(s)) if s.step == Step::Commit);
            assert_eq!(after.generation, before.generation + u64::from(committed), "{event:?} in {before:?}");
            if let Owner::Alive(id) = after.owner {
                assert!(after.members.contains_key(&id), "{event:?} in {before:?}");
                assert!(committed || before.owner == after.owner, "{event:?} in {before:?}");
            }
            if let Some(switch) = after.switch {
                assert!(switch.target.is_none() || switch.target != switch.source, "{switch:?}");
                let held = [switch.source, switch.target].into_iter().flatten();
                for id in held {
                    assert!(after.members.contains_key(&id), "{event:?}: {id} of {switch:?}");
                }
            }
        }
    }
}
