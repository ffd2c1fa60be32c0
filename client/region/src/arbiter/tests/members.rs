//! Instances that come back, leave and die.

use std::time::Duration;

use super::Region;
use crate::arbiter::*;

fn hello(version: &str) -> Hello {
    Hello { version: version.into(), ..Hello::default() }
}

#[test]
fn coming_back_needs_the_token() {
    let region = Region::new();
    let one = region.owner("1.0.0");
    region.arbiter.disconnected(one.id());
    let status = region.instance(&one);
    assert_eq!((status.role, status.connected), (Role::Owner, false), "silence changes no role");
    let resume = |token| Hello { resume: Some((one.name().to_owned(), token)), ..hello("1.0.0") };
    let denied = region.attach_as(resume([9; 16])).err().expect("refused");
    assert_eq!(denied.reason, Reason::CallerDenied);
    let stranger = Hello { uid: 5, ..resume(one.welcome.resume_token) };
    assert_eq!(region.attach_as(stranger).err().expect("refused").reason, Reason::CallerDenied);
    let unknown = Hello { resume: Some(("i-gone".into(), [0; 16])), ..hello("1.0.0") };
    assert_eq!(region.attach_as(unknown).err().expect("refused").reason, Reason::InstanceNotFound);
    let back = region.attach_as(resume(one.welcome.resume_token)).expect("resumed");
    assert_eq!((back.id(), back.welcome.row), (one.id(), one.welcome.row));
    assert!(region.instance(&one).connected);
    assert_eq!(region.status().instances.len(), 1);
}

#[test]
fn labels_are_checked_and_observers_only_read() {
    let region = Region::new();
    assert_eq!(region.attach_as(hello("")).err().expect("refused").reason, Reason::InvalidName);
    assert_eq!(region.attach_as(hello(&"v".repeat(64))).err().expect("refused").reason, Reason::InvalidName);
    let observer = region.attach_as(Hello { read_only: true, ..hello("1.0.0") }).expect("attached");
    assert_eq!(observer.welcome.row, None);
    observer.ready();
    let status = region.instance(&observer);
    assert_eq!((status.role, status.eligible), (Role::Observer, false));
    assert_eq!(region.status().state, State::Vacant);
    region.arbiter.disconnected(observer.id());
    assert!(region.status().instances.is_empty());
}

#[test]
fn a_leaving_owner_passes_on() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    old.leave();
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == new.id()));
    let record = &region.history()[0];
    assert_eq!((record.kind, record.cause, record.outcome), (Kind::Handover, Cause::OwnerLeft, Outcome::Committed));
    assert_eq!(region.instance(&old).role, Role::Draining);
    old.in_flight(0, true);
    region.until(|s| s.instances.iter().any(|i| i.incarnation == old.id() && i.role == Role::Left));
    region.kill(&old);
    region.until(|s| s.instances.len() == 1);
    assert_eq!(region.ground.world().reclaimed, [old.id()]);
    let refused = region.rollback(None, SwitchOptions::default()).refusal();
    assert_eq!(refused.reason, Reason::InstanceNotFound);
}

#[test]
fn a_departure_leaves_a_vacancy_that_the_next_one_fills() {
    let region = Region::with(Policy { vacancy: Vacancy::Hold, ..Policy::default() });
    let old = region.owner("1.0.0");
    let unready = region.attach("2.0.0");
    old.leave();
    old.agree(Hook::Flush);
    let status = region.until(|s| s.state == State::Vacant);
    assert_eq!((status.generation, status.owner), (3, None));
    let record = region.record(2);
    assert_eq!((record.kind, record.target, record.outcome), (Kind::Departure, None, Outcome::Committed));
    assert_eq!(region.ground.world().sealed.owner, 0);
    unready.ready();
    assert_eq!(unready.agree(Hook::Prepare).cause, Cause::Succession);
    let status = region.until(|s| s.state == State::Owned);
    assert_eq!((status.generation, status.owner.expect("one").incarnation), (4, unready.id()));
    assert_eq!(region.record(3).kind, Kind::Succession);
}

#[test]
fn a_standby_leaves_without_any_switch() {
    let region = Region::new();
    let owner = region.owner("1.0.0");
    let standby = region.standby("2.0.0");
    standby.in_flight(1, false);
    standby.leave();
    let status = region.instance(&standby);
    assert!(status.leaving && !status.eligible);
    standby.in_flight(0, true);
    region.until(|s| s.instances.iter().any(|i| i.role == Role::Left));
    assert_eq!(region.status().owner.expect("an owner").incarnation, owner.id());
    assert_eq!(region.history().len(), 1);
}

#[test]
fn hold_keeps_the_region_vacant_until_somebody_hands_it_over() {
    let region = Region::with(Policy { vacancy: Vacancy::Hold, ..Policy::default() });
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.kill(&old);
    let status = region.until(|s| s.state == State::Vacant);
    assert!(status.vacant_since_unix_ms.is_some());
    assert_eq!(region.history().len(), 1);
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.outcome, record.source.expect("the dead").instance.as_str()), (Outcome::Committed, old.name()));
}

#[test]
fn owners_that_die_one_after_the_other_are_held_back() {
    let region = Region::new();
    let mut owner = region.owner("1.0.0");
    let standbys: Vec<_> = (0..3).map(|_| region.standby("1.0.0")).collect();
    for (n, next) in standbys.iter().enumerate() {
        region.kill(&owner);
        if n == 2 {
            break;
        }
        next.agree(Hook::Prepare);
        region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == next.id()));
        owner = region
            .attach_as(Hello { resume: Some((next.name().into(), next.welcome.resume_token)), ..hello("1.0.0") })
            .expect("resumed");
    }
    let status = region.until(|s| s.state == State::Quarantined);
    assert_eq!(status.quarantine.expect("a fault").0, Reason::OwnerCrashLoop);
    let held = region.history()[0].clone();
    assert_eq!((held.outcome, held.reason), (Outcome::Aborted, Some(Reason::OwnerCrashLoop)));

    // Neither readiness nor another arbiter lifts it; an explicit handover does.
    let resume = Some((standbys[2].name().to_owned(), standbys[2].welcome.resume_token));
    drop((owner, standbys));
    let region = region.crash();
    let last = region.attach_as(Hello { resume, ..hello("1.0.0") }).expect("resumed");
    last.ready();
    region.until(|s| s.state == State::Quarantined && s.instances.iter().any(|i| i.eligible));
    let asked = region.begin(SwitchRequest::default());
    last.agree(Hook::Prepare);
    assert_eq!(asked.record().outcome, Outcome::Committed);
    assert_eq!(region.status().state, State::Owned);
}

#[test]
fn a_death_between_two_probes_is_seen_in_time() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    region.arbiter.proved_dead(old.id());
    let status = region.until(|s| s.state == State::Vacant);
    assert!(status.instances.is_empty());
    region.arbiter.message(old.id(), FromInstance::Ready { ready: true, message: String::new(), hooks: None });
    region.arbiter.disconnected(old.id());
    let after = Duration::ZERO;
    region.arbiter.message(old.id(), FromInstance::Leave { drain_timeout: Some(after) });
    assert_eq!(region.status().state, State::Vacant, "the dead say nothing");
}

#[test]
fn an_attach_that_meets_a_full_table_looks_for_the_dead_first() {
    let region = Region::new();
    region.ground.world().rows_max = Some(2);
    let (owner, one) = (region.owner("1.0.0"), region.attach("2.0.0"));
    assert_eq!(region.attach_as(hello("2.0.0")).err().expect("refused").reason, Reason::TableFull);
    region.kill(&one);
    let next = region.attach_as(hello("2.0.0")).expect("the dead one's row is free");
    let there: Vec<u64> = region.status().instances.iter().map(|i| i.incarnation).collect();
    assert_eq!(there, [owner.id(), next.id()]);
}

/// Each owner dies under another arbiter: with `seen`, the one it attached to sees it; else the next one finds it dead.
fn die_between_restarts(seen: bool) -> Region {
    let mut region = Region::new();
    region.owner("1.0.0");
    for _ in 0..2 {
        let next = region.attach("1.0.0");
        let owner = region.status().owner.expect("an owner").incarnation;
        if seen {
            region.arbiter.proved_dead(owner);
            region.until(|s| s.state == State::Vacant);
            next.ready();
            next.agree(Hook::Prepare);
            region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == next.id()));
            region = region.crash();
        } else {
            let row = region.ground.world().rows.iter().find(|r| r.incarnation == owner).expect("a row").row;
            region.ground.world().dead.insert(row);
            region = region.crash();
            let resume = Some((next.name().to_owned(), next.welcome.resume_token));
            let next = region.attach_as(Hello { resume, ..hello("1.0.0") }).expect("resumed");
            next.ready();
            next.agree(Hook::Prepare);
            region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == next.id()));
        }
    }
    region
}

#[test]
fn a_crash_loop_is_seen_through_restarts_of_the_arbiter() {
    for seen in [true, false] {
        let region = die_between_restarts(seen);
        let third = region.status().owner.expect("an owner").incarnation;
        region.arbiter.proved_dead(third);
        let status = region.until(|s| s.state == State::Quarantined);
        assert_eq!(status.quarantine.expect("a fault").0, Reason::OwnerCrashLoop, "seen: {seen}");
    }
    // The third one found dead, too: the arbiter that finds it says so, and remembers.
    for (leaving, state) in [(false, State::Quarantined), (true, State::Vacant)] {
        let region = die_between_restarts(true);
        let third = region.status().owner.expect("an owner").incarnation;
        {
            let mut world = region.ground.world();
            let row = world.rows.iter_mut().find(|r| r.incarnation == third).expect("a row");
            row.leaving = leaving;
            let row = row.row;
            world.dead.insert(row);
        }
        let region = region.crash();
        region.until(|s| s.state == state);
        assert_eq!(region.history()[0].reason, (!leaving).then_some(Reason::OwnerCrashLoop));
        let region = region.crash();
        region.until(|s| s.state == state);
    }
}

/// Killed after it counted the death and freed the row, before the record: the next arbiter still holds the state back.
#[test]
fn a_death_that_was_counted_and_no_more_counts() {
    let region = die_between_restarts(true);
    let third = region.status().owner.expect("an owner").incarnation;
    {
        let mut world = region.ground.world();
        world.rows.retain(|row| row.incarnation != third);
        let generation = world.sealed.generation;
        world.deaths.insert(generation, crate::os::clock::unix_ms());
        // As nobody writes it, and everybody could.
        world.deaths.insert(u64::from(u32::MAX), 1);
    }
    let region = region.crash();
    region.until(|s| s.state == State::Quarantined);
    assert_eq!(region.history()[0].reason, Some(Reason::OwnerCrashLoop));
}

/// It said so in the region, and had no stream to say it here.
#[test]
fn who_dies_leaving_has_not_crashed() {
    let region = Region::new();
    let owner = region.owner("1.0.0");
    for row in &mut region.ground.world().rows {
        row.leaving = true;
    }
    region.arbiter.disconnected(owner.id());
    region.arbiter.proved_dead(owner.id());
    region.until(|s| s.state == State::Vacant);
    assert!(region.ground.world().deaths.is_empty());
}

#[test]
fn a_handover_by_hand_forgets_deaths() {
    let region = die_between_restarts(true);
    let next = region.standby("2.0.0");
    assert_eq!(region.ground.world().deaths.len(), 2);
    // The owner's stream went with the arbiter before; it comes back to be asked for its flush.
    let owner = region.status().owner.expect("an owner");
    let token = region.ground.world().rows.iter().find(|r| r.incarnation == owner.incarnation).expect("a row").token;
    let back = region.attach_as(Hello { resume: Some((owner.instance, token)), ..hello("1.0.0") }).expect("resumed");
    region.hand_over(&back, &next);
    assert!(region.ground.world().deaths.is_empty());
}

#[test]
fn readiness_is_answered_when_it_counts() {
    let region = Region::new();
    let one = region.attach("1.0.0");
    for ready in [true, false] {
        one.say(FromInstance::Ready { ready, message: String::new(), hooks: None });
        let noted = one.hear(|m| match m {
            ToInstance::ReadyNoted { ready } => Some(*ready),
            _ => None,
        });
        assert_eq!(noted, ready);
        assert_eq!(region.instance(&one).ready, ready);
    }
}

#[test]
fn only_a_flush_that_is_there_is_waited_for() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    old.ready_with(HookSet { prepare: true, resume: true, flush: false });
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!(record.outcome, Outcome::Committed);
    assert!(record.figures.phase_us.contains_key("flush"), "{:?}", record.figures.phase_us);
    let called = |m: ToInstance| matches!(m, ToInstance::HookCall { hook: Hook::Flush, .. });
    assert!(!old.inbox.try_iter().any(called));
    // A target answers its prepare hook, whether it has one or not: it shows that it is there.
    old.in_flight(0, true);
    new.ready_with(HookSet { flush: true, ..HookSet::default() });
    let asked = region.to("1.0.0", SwitchOptions::default());
    old.agree(Hook::Prepare);
    new.agree(Hook::Flush);
    assert_eq!(asked.record().outcome, Outcome::Committed);
}
