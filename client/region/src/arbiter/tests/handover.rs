//! Handovers from the request to the end of the drain, and every way in which they end otherwise.

use std::time::Duration;

use super::{Region, SOON};
use crate::arbiter::ground::Fault;
use crate::arbiter::*;

fn ms(n: u64) -> Option<Duration> {
    Some(Duration::from_millis(n))
}

#[test]
fn the_first_instance_owns_by_succession() {
    let region = Region::new();
    let one = region.owner("1.0.0");
    let status = region.status();
    assert_eq!((status.state, status.generation), (State::Owned, 2));
    assert_eq!((status.used_bytes, status.limit_bytes, status.object_counts["cell"]), (4096, 1 << 30, 1));
    let record = region.record(1);
    assert_eq!((record.kind, record.cause, record.outcome), (Kind::Succession, Cause::First, Outcome::Committed));
    assert_eq!((record.source, record.phase), (None, Phase::Done));
    let generation = one.hear(|m| match m {
        ToInstance::GenerationHint { generation, cause: Cause::First, .. } => Some(*generation),
        _ => None,
    });
    assert_eq!(generation, 2);
    assert_eq!(region.instance(&one).role, Role::Owner);
}

#[test]
fn a_committed_handover_is_told_with_its_figures_to_the_end_of_its_drain() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    old.in_flight(12, false);
    region.ground.world().dirty = [5000, 90, 60].into();
    let options = SwitchOptions { note: "CR-881".into(), request_id: "a-1".into(), ..SwitchOptions::default() };
    let asked = region.to("2.0.0", options.clone());
    let preparing = new.agree(Hook::Prepare);
    assert_eq!(preparing.source.expect("an owner").instance, old.name());
    old.agree(Hook::Flush);
    let record = asked.record();
    assert_eq!((record.outcome, record.phase, record.reason), (Outcome::Committed, Phase::Drain, None));
    assert_eq!((record.previous_generation, record.generation, record.number), (2, 3, 2));
    assert_eq!(record.target.clone().expect("a target").version, "2.0.0");
    assert_eq!((record.caller.as_str(), record.note.as_str()), ("uid:1000", "CR-881"));
    let figures = &record.figures;
    assert_eq!((figures.frozen_pages, figures.gate_closed_us, figures.writer_blackout_us), (41, 58, Some(63)));
    assert_eq!((figures.precopy_rounds, figures.precopy_pages), (5, 50), "5000, 90, 60, 0, then after the flush 0");
    for phase in ["prepare", "precopy", "flush", "freeze", "seal", "commit"] {
        assert!(figures.phase_us.contains_key(phase), "{phase}: {:?}", figures.phase_us);
    }
    assert_eq!(figures.undrained_counts["connection"], 12);
    assert_eq!(record.root_digest, region.status().root_digest);
    assert_eq!(region.instance(&old).role, Role::Draining);

    old.in_flight(3, false);
    old.in_flight(0, true);
    let last = asked.last();
    assert_eq!((last.record.phase, last.record.outcome), (Phase::Done, Outcome::Committed));
    assert!(last.record.end_unix_ms.is_some() && last.record.figures.undrained_counts.is_empty());
    assert_eq!(region.instance(&old).role, Role::Standby, "it may be handed back to");

    let again = region.to("2.0.0", options);
    assert_eq!(again.record().outcome, Outcome::Committed, "the request id joins");
    assert_eq!(region.history().len(), 2);
}

#[test]
fn a_late_drain_is_reported_and_not_cut() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    old.in_flight(2, false);
    let options = SwitchOptions { drain_timeout: ms(20), retire_after: ms(0), ..SwitchOptions::default() };
    let asked = region.to("2.0.0", options);
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    asked.record();
    let last = asked.last().record;
    assert_eq!((last.phase, last.figures.undrained_counts["connection"]), (Phase::Drain, 2));
    assert!(last.message.contains("late: 2 connection"), "{}", last.message);
    assert_eq!(region.instance(&old).role, Role::Draining);
    old.in_flight(0, true);
    old.hear(|m| matches!(m, ToInstance::LeaveRequest { .. }).then_some(()));
    assert_eq!(region.record(last.number).phase, Phase::Done);
    old.leave();
    region.until(|s| s.instances.iter().any(|i| i.role == Role::Left));
}

#[test]
fn hooks_refuse_or_abort_with_their_words() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.veto(Hook::Prepare, "cache is cold");
    let record = asked.record();
    assert_eq!((record.outcome, record.reason, record.phase), (Outcome::Aborted, Some(Reason::Vetoed), Phase::Prepare));
    assert_eq!((record.message.as_str(), record.exit_code()), ("cache is cold", 3));

    let asked = region.to("2.0.0", SwitchOptions::default());
    new.agree(Hook::Prepare);
    old.veto(Hook::Flush, "disk is full");
    let record = asked.record();
    assert_eq!((record.reason, record.phase, record.exit_code()), (Some(Reason::Vetoed), Phase::Flush, 4));
    let (_, told) = old.called(Hook::Resume);
    assert_eq!((told.number, told.reason), (record.number, Some(Reason::Vetoed)));
    let status = region.status();
    assert_eq!((status.generation, status.owner.expect("goes on").instance.as_str()), (2, old.name()));
    assert_eq!(status.last_handover, Some(record.number));
}

#[test]
fn every_deadline_aborts_and_none_forces() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let expect = |asked: &super::people::Asked, reason, phase| {
        let record = asked.record();
        assert_eq!((record.outcome, record.reason, record.phase), (Outcome::Aborted, Some(reason), phase));
        assert_eq!(region.status().generation, 2);
    };
    let asked = region.to("2.0.0", SwitchOptions { prepare_timeout: ms(20), ..SwitchOptions::default() });
    let (late, _) = new.called(Hook::Prepare);
    expect(&asked, Reason::PrepareTimeout, Phase::Prepare);
    new.answer(late, true, "");

    region.ground.world().always_dirty = Some(5000);
    let asked = region.to("2.0.0", SwitchOptions { precopy_timeout: ms(20), ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    expect(&asked, Reason::PrecopyNotConverging, Phase::Precopy);
    // What is left is partly an estimate, and said to be one.
    assert_eq!(region.history()[0].message, "about 5000 pages are left after the last round");
    region.ground.world().always_dirty = None;

    let asked = region.to("2.0.0", SwitchOptions { flush_timeout: ms(20), ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    old.called(Hook::Flush);
    expect(&asked, Reason::FlushTimeout, Phase::Flush);
    old.called(Hook::Resume);

    region.ground.world().stuck = true;
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    expect(&asked, Reason::FreezeTimeout, Phase::Freeze);
    old.called(Hook::Resume);
}

#[test]
fn an_abort_is_answered_with_what_happened() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    assert_eq!(region.abort(None).expect_err("nothing runs").reason, Reason::HandoverNotFound);
    assert_eq!(region.abort(Some(99)).expect_err("unknown").reason, Reason::HandoverNotFound);
    // A round that never ends is seen through between its slices.
    region.ground.world().always_dirty = Some(5000);
    let asked = region.to("2.0.0", SwitchOptions::default());
    let number = asked.number();
    new.agree(Hook::Prepare);
    let aborted = region.abort(None).expect("in time");
    assert_eq!((aborted.number, aborted.reason), (number, Some(Reason::AbortRequested)));
    assert_eq!(asked.record(), aborted);
    assert_eq!(region.abort(Some(number)).expect("again"), aborted);
    region.ground.world().always_dirty = None;
    let committed = region.hand_over(&old, &new);
    let late = region.abort(Some(committed.number)).expect_err("too late");
    assert_eq!((late.reason, late.handover), (Reason::AlreadyCommitted, Some(committed.number)));
}

#[test]
fn deaths_on_the_way_abort_and_then_promote() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let other = region.standby("2.1.0");
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.called(Hook::Prepare);
    region.kill(&new);
    assert_eq!(asked.record().reason, Some(Reason::TargetDied));
    let asked = region.to("2.1.0", SwitchOptions::default());
    other.called(Hook::Prepare);
    region.kill(&old);
    let record = asked.record();
    assert_eq!((record.reason, record.phase), (Some(Reason::OwnerDied), Phase::Prepare));
    other.agree(Hook::Prepare);
    let status = region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == other.id()));
    assert_eq!(status.generation, 3);
    let promotion = &region.history()[0];
    assert_eq!((promotion.kind, promotion.cause), (Kind::Promotion, Cause::OwnerDied));
    assert_eq!(promotion.source.as_ref().expect("the dead").instance, old.name());
    assert_eq!(region.ground.world().reclaimed, [new.id(), old.id()]);
}

#[test]
fn a_hook_is_called_again_on_the_next_stream() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", SwitchOptions::default());
    let (call_id, _) = new.called(Hook::Prepare);
    region.arbiter.disconnected(new.id());
    let resume = Some((new.name().to_owned(), new.welcome.resume_token));
    let back = region.attach_as(Hello { version: "2.0.0".into(), resume, ..Hello::default() }).expect("resumed");
    assert_eq!(back.called(Hook::Prepare).0, call_id);
    back.answer(call_id, true, "");
    old.agree(Hook::Flush);
    assert_eq!(asked.record().outcome, Outcome::Committed);
}

#[test]
fn force_without_a_handle_is_refused_and_the_owner_goes_on() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.ground.world().stuck = true;
    let asked = region.to("2.0.0", SwitchOptions { force: true, ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    let record = asked.record();
    assert_eq!((record.reason, record.forced), (Some(Reason::ForceUnavailable), false));
    old.called(Hook::Resume);
    assert_eq!(region.status().owner.expect("goes on").incarnation, old.id());
}

#[test]
fn corrupt_bytes_end_a_handover_and_nothing_else() {
    let region = Region::new();
    let _old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let message = "page 3: crc".to_owned();
    region.ground.world().round_fault = Some(Fault::new(Reason::RegionCorrupt, message));
    let asked = region.to("2.0.0", SwitchOptions::default());
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.reason, record.exit_code()), (Some(Reason::RegionCorrupt), 6));
    assert_eq!(record.message, "page 3: crc");
    assert_eq!(region.status().state, State::Owned);
}

#[test]
fn events_are_numbered_and_replayed() {
    let region = Region::with(Policy { events_max: 4, ..Policy::default() });
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.hand_over(&old, &new);
    let last = region.events.try_iter().map(|e| e.sequence).max().expect("events");
    let watch = |after| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let watcher = Box::new(move |event| sender.send(event).is_ok());
        let answer = Arbiter::ask(SOON, |reply| region.arbiter.watch(after, watcher, reply)).expect("an answer");
        answer.map(|()| receiver)
    };
    let now = watch(None).expect("the state now").recv_timeout(SOON).expect("an event");
    assert_eq!(now.status.generation, 3);
    assert_eq!(watch(Some(last + 50)).expect_err("the future").reason, Reason::InvalidField);
    assert_eq!(watch(Some(0)).expect_err("forgotten").reason, Reason::InvalidField);
    let replayed = watch(Some(now.sequence - 2)).expect("remembered");
    assert_eq!(replayed.recv_timeout(SOON).expect("an event").sequence, now.sequence - 1);
    assert_eq!(replayed.recv_timeout(SOON).expect("an event").sequence, now.sequence);
    region.attach("3.0.0");
    assert_eq!(replayed.recv_timeout(SOON).expect("an event").sequence, now.sequence + 1);
}

#[test]
fn a_slow_freezer_takes_everything_back_and_kills_nobody() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.ground.world().late = true;
    let asked = region.to("2.0.0", SwitchOptions { force: true, ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    let record = asked.record();
    assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some(Reason::FreezeTimeout)));
    assert_eq!((record.forced, record.message.as_str()), (false, "the freezer was not given its processor"));
    assert_eq!(region.status().owner.expect("goes on").instance, old.name());
}

/// A round that now and then meets a writer is not blocked by one that never leaves.
#[test]
fn force_kills_nobody_who_only_writes_much() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    region.ground.world().busy = true;
    let options = SwitchOptions { force: true, precopy_timeout: ms(50), ..SwitchOptions::default() };
    let asked = region.to("2.0.0", options);
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some(Reason::PrecopyNotConverging)));
    assert_eq!(region.status().owner.expect("goes on").instance, old.name());
}
