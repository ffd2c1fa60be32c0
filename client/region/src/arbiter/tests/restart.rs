//! An arbiter that takes up what another one left.

use super::Region;
use super::people::One;
use crate::arbiter::*;

#[test]
fn the_living_stay_what_they_were() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let (id, generation) = (old.id(), region.status().generation);
    let (old_token, old_name) = (old.welcome.resume_token, old.name().to_owned());
    drop((old, new));
    let region = region.crash();
    let status = region.status();
    assert_eq!((status.state, status.generation), (State::Owned, generation));
    assert_eq!(status.owner.expect("alive").incarnation, id, "not re-attached is not vacant");
    assert_eq!(status.instances.len(), 2);
    assert!(status.instances.iter().all(|i| !i.connected && !i.eligible));
    let resume = Some((old_name, old_token));
    region.attach_as(Hello { version: "1.0.0".into(), resume, ..Hello::default() }).expect("resumed");
    assert_eq!(region.history().len(), 1);
}

#[test]
fn an_unfinished_record_is_closed_as_it_went() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", SwitchOptions { request_id: "r1".into(), ..SwitchOptions::default() });
    let number = asked.number();
    new.agree(Hook::Prepare);
    old.called(Hook::Flush);
    let ground = region.ground.clone();
    let (old_resume, new_resume) =
        ((old.name().to_owned(), old.welcome.resume_token), (new.name().to_owned(), new.welcome.resume_token));
    drop((old, new));
    let region = region.crash();
    assert!(asked.answer.recv().is_err(), "nobody answers for the one that crashed");
    let record = region.record(number);
    assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some(Reason::SidecarRestarted)));
    assert_eq!(record.phase, Phase::Flush);
    let resumed = |resume| region.attach_as(Hello { version: "x".into(), resume: Some(resume), ..Hello::default() });
    let old = resumed(old_resume).expect("resumed");
    assert_eq!(old.called(Hook::Resume).1.number, number, "its flush had begun");
    let new = resumed(new_resume).expect("resumed");
    new.ready();
    let joined = region.to("2.0.0", SwitchOptions { request_id: "r1".into(), ..SwitchOptions::default() }).record();
    assert_eq!(joined.number, number, "the request id is remembered");
    let next = region.hand_over(&old, &new);
    assert_eq!((next.number, next.generation), (number + 1, 3), "numbering goes on");
    assert_eq!(ground.world().sealed.owner, new.id());
}

#[test]
fn a_crash_after_the_commit_is_told_as_committed() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let record = region.hand_over(&old, &new);
    let (old_id, new_id, ground, policy) = (old.id(), new.id(), region.ground.clone(), region.policy.clone());
    drop((region, old, new));
    // As the arbiter would have left it, had it died right after the compare-and-swap.
    let unfinished = Record { outcome: Outcome::Running, phase: Phase::Flush, generation: 2, ..record.clone() };
    let unfinished = Record { end_unix_ms: None, root_digest: 0, ..unfinished };
    ground.world().history.insert(record.number, serde_json::to_vec(&unfinished).expect("json"));
    let region = Region::over(ground, policy);
    let closed = region.record(record.number);
    assert_eq!((closed.outcome, closed.generation, closed.root_digest), (Outcome::Committed, 3, record.root_digest));
    let status = region.status();
    assert_eq!(status.owner.expect("an owner").incarnation, new_id);
    let old = status.instances.iter().find(|i| i.incarnation == old_id).expect("alive");
    assert_eq!((old.role, old.generation), (Role::Draining, 2));
}

#[test]
fn a_switch_that_a_reboot_cut_short_is_told_as_committed_only_if_it_was() {
    // Where the reset went on from generation 2, and what had been open: nothing sealed; sealed; committed.
    for (resets_to, former, outcome) in [(3, 2, Outcome::Aborted), (4, 2, Outcome::Aborted), (4, 3, Outcome::Committed)]
    {
        cut_short(resets_to, former, outcome);
    }
}

fn cut_short(resets_to: u64, former: u64, outcome: Outcome) {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", SwitchOptions::default());
    let number = asked.number();
    new.agree(Hook::Prepare);
    let (ground, policy) = (region.ground.clone(), region.policy.clone());
    drop((region, old, new));
    {
        let mut world = ground.world();
        world.rows.clear();
        assert_eq!(world.sealed.generation, 2);
        (world.sealed.generation, world.sealed.owner, world.sealed.reset) = (resets_to, 0, Some(former));
        let running = world.history.get(&number).expect("a record").clone();
        let mut running: Record = serde_json::from_slice(&running).expect("json");
        (running.outcome, running.reason, running.end_unix_ms) = (Outcome::Running, None, None);
        world.history.insert(number, serde_json::to_vec(&running).expect("json"));
    }
    let region = Region::over(ground, policy);
    let closed = region.record(number);
    let reason = (outcome == Outcome::Aborted).then_some(Reason::SidecarRestarted);
    assert_eq!((closed.outcome, closed.reason, closed.generation), (outcome, reason, former));
    assert_eq!(closed.message.contains("the host went down"), outcome == Outcome::Aborted, "{closed:?}");
}

#[test]
fn a_switch_after_a_reboot_that_the_arbiter_cut_short_does_not_blame_the_host() {
    let region = Region::new();
    {
        let sealed = &mut region.ground.world().sealed;
        (sealed.generation, sealed.reset) = (4, Some(2));
    }
    let region = region.crash();
    let new = region.standby("2.0.0");
    new.called(Hook::Prepare);
    let number = region.history()[0].number;
    drop(new);
    let closed = region.crash().record(number);
    assert_eq!((closed.outcome, closed.previous_generation), (Outcome::Aborted, 4));
    assert_eq!(closed.message, "the arbiter stopped before the commit");
}

#[test]
fn those_who_died_meanwhile_are_reclaimed_and_replaced() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.kill(&old);
    let (ground, policy) = (region.ground.clone(), region.policy.clone());
    let resume = (new.name().to_owned(), new.welcome.resume_token);
    let id = old.id();
    drop((region, old, new));
    let region = Region::over(ground, policy);
    region.until(|s| s.state == State::Vacant || s.state == State::Switching);
    assert_eq!(region.ground.world().reclaimed, [id]);
    let departed: Vec<_> = region.status().departed.iter().map(|gone| gone.incarnation).collect();
    assert_eq!(departed, [id]);
    let new =
        region.attach_as(Hello { version: "2.0.0".into(), resume: Some(resume), ..Hello::default() }).expect("resumed");
    new.ready();
    new.agree(Hook::Prepare);
    region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == new.id()));
    assert_eq!(region.history()[0].kind, Kind::Promotion);
}

#[test]
fn hostile_history_is_skipped() {
    let region = Region::new();
    let one = region.owner("1.0.0");
    {
        let mut world = region.ground.world();
        world.history.insert(7, b"not json".to_vec());
        let last = u64::MAX;
        world.history.insert(last, format!(r#"{{"number":{last},"outcome":"running"}}"#).into_bytes());
        world.history.insert(8, format!(r#"{{"number":8,"previous_generation":{last}}}"#).into_bytes());
        world.history.insert(9, br#"{"number":4,"outcome":"committed","rolled_back_by":3,"source":{}}"#.to_vec());
    }
    let (ground, policy) = (region.ground.clone(), region.policy.clone());
    let resume = (one.name().to_owned(), one.welcome.resume_token);
    drop((region, one));
    let region = Region::over(ground, policy);
    let one = region.attach_as(Hello { version: "1".into(), resume: Some(resume), ..Hello::default() });
    let one = one.expect("resumed");
    one.ready();
    let new = region.standby("2.0.0");
    assert_eq!(region.hand_over(&one, &new).outcome, Outcome::Committed);
}

/// Whether it has a flush hook is known to each arbiter: an owner that is stopped says nothing more.
#[test]
fn declared_hooks_are_known_to_the_next_arbiter() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    old.ready_with(HookSet { prepare: true, flush: false, resume: true });
    let new = region.standby("2.0.0");
    region.until(|s| s.instances.len() == 2);
    let resume = (new.name().to_owned(), new.welcome.resume_token);
    let old_id = old.id();
    drop((old, new));
    let region = region.crash();
    let new = region.attach_as(Hello { resume: Some(resume), version: "2.0.0".into(), ..Hello::default() });
    let new = new.expect("resumed");
    new.ready();
    let asked = region.to("2.0.0", SwitchOptions { flush_timeout: Some(super::SOON), ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.outcome, record.source.map(|s| s.incarnation)), (Outcome::Committed, Some(old_id)));
}

/// A process that can be killed, as an owner whose writers are stuck.
fn stuck_owner(region: &Region) -> (std::process::Child, One) {
    let child = std::process::Command::new("sleep").arg("1000").spawn().expect("a process");
    let pidfd = crate::os::pidfd::open(child.id()).expect("alive");
    let hello = Hello { version: "1.0.0".into(), ..Hello::default() };
    let old = One::attach_with(&region.arbiter, hello, Some(pidfd)).expect("a seat");
    old.ready();
    old.agree(Hook::Prepare);
    region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == old.id()));
    region.ground.world().stuck = true;
    (child, old)
}

/// Killed between the note and the signal, or right after the signal: the note is there, and the death is no crash.
#[test]
fn who_is_killed_by_force_is_noted_before() {
    let region = Region::new();
    let (mut child, old) = stuck_owner(&region);
    let new = region.standby("2.0.0");
    region.ground.world().killed_at = Some(|record| record.windows(13).any(|text| text == b"\"forced\":true"));
    let asked = region.to("2.0.0", SwitchOptions { force: true, ..SwitchOptions::default() });
    let number = asked.number();
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    assert!(asked.answer.recv().is_err(), "nobody answers for the one that was killed");
    assert_eq!(child.try_wait().expect("ours"), None, "it was noted first");
    region.ground.world().killed_at = None;
    child.kill().expect("alive");
    child.wait().expect("reaped");
    region.kill(&old);
    drop((old, new));
    let region = region.crash();
    region.until(|s| s.owner.is_none());
    let record = region.record(number);
    assert_eq!((record.outcome, record.forced, record.caller.as_str()), (Outcome::Aborted, true, "uid:1000"));
    assert!(region.ground.world().deaths.is_empty(), "no crash");
}

/// The same, where the signal was not sent: an instance that comes back was not killed, and if it dies later that is a crash.
#[test]
fn a_kill_that_was_noted_and_did_not_come_to_be_is_taken_back() {
    let region = Region::new();
    let (mut child, old) = stuck_owner(&region);
    let new = region.standby("2.0.0");
    region.ground.world().killed_at = Some(|record| record.windows(13).any(|text| text == b"\"forced\":true"));
    let asked = region.to("2.0.0", SwitchOptions { force: true, ..SwitchOptions::default() });
    let number = asked.number();
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    assert!(asked.answer.recv().is_err(), "nobody answers for the one that was killed");
    region.ground.world().killed_at = None;
    let resume = Some((old.name().to_owned(), old.welcome.resume_token));
    // Over two more arbiters: the second finds the record closed.
    let region = region.crash().crash();
    assert!(region.record(number).forced, "it may be dying");
    let back = region.attach_as(Hello { version: "1.0.0".into(), resume, ..Hello::default() }).expect("resumed");
    assert!(!region.record(number).forced, "it was not killed");
    region.kill(&back);
    region.until(|s| s.owner.is_none());
    assert_eq!(region.ground.world().deaths.len(), 1, "a crash");
    child.kill().expect("alive");
    child.wait().expect("reaped");
}
