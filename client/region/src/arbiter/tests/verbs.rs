//! Verdicts in their order, rollbacks, dry runs, waiting for a target, draining.

use std::sync::mpsc;
use std::time::Duration;

use super::{Region, SOON};
use crate::arbiter::*;

fn options() -> SwitchOptions {
    SwitchOptions::default()
}

#[test]
fn verdicts_come_in_their_order() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let expected_generation = Some(7);
    let refused = |asked: super::people::Asked| asked.refusal().reason;
    let already = region.to("1.0.0", SwitchOptions { expected_generation, ..options() }).record();
    assert_eq!((already.outcome, already.generation), (Outcome::Already, 2));
    assert_eq!(already.target.expect("the owner").instance, old.name());
    let mismatch = region.to("9.9.9", SwitchOptions { expected_generation, ..options() }).refusal();
    assert_eq!(mismatch.reason, Reason::GenerationMismatch);
    assert_eq!((mismatch.expected.as_deref(), mismatch.found.as_deref()), (Some("7"), Some("2")));
    assert_eq!(refused(region.to("9.9.9", options())), Reason::InstanceNotFound);
    assert_eq!(refused(region.begin(SwitchRequest::default())), Reason::NoStandby);
    let new = region.attach("2.0.0");
    assert_eq!(refused(region.begin(SwitchRequest::default())), Reason::TargetNotReady);
    new.say(FromInstance::Ready { ready: false, message: "filling its cache".into(), hooks: None });
    let why = region.to("2.0.0", options()).refusal();
    assert!(why.message.contains("filling its cache") && why.message.contains(new.name()), "{why}");
    new.ready();
    let twin = region.standby("2.0.0");
    let ambiguous = region.to("2.0.0", options()).refusal();
    assert_eq!(ambiguous.reason, Reason::TargetAmbiguous);
    assert!(ambiguous.message.contains(new.name()) && ambiguous.message.contains(twin.name()), "{ambiguous}");
    let long = SwitchOptions { request_id: "x".repeat(65), ..options() };
    assert_eq!(refused(region.to("2.0.0", long)), Reason::InvalidField);
    let slow = SwitchOptions { freeze_timeout: Some(Duration::from_secs(1)), ..options() };
    assert_eq!(refused(region.to("2.0.0", slow)), Reason::InvalidField);
    assert_eq!(region.history().len(), 1, "refusals leave no record");

    let target = Target::Instance(new.name().into());
    let running = region.begin(SwitchRequest { target: target.clone(), options: options() });
    let number = running.number();
    let second = region.begin(SwitchRequest { target, options: options() }).refusal();
    assert_eq!((second.reason, second.handover), (Reason::HandoverInProgress, Some(number)));
}

#[test]
fn a_request_id_stands_for_one_request() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let with_id = || SwitchOptions { request_id: "r1".into(), ..options() };
    let asked = region.to("2.0.0", with_id());
    let number = asked.number();
    let other = region.to("3.0.0", with_id()).refusal();
    assert_eq!((other.reason, other.handover), (Reason::RequestIdReused, Some(number)), "{other}");
    assert_eq!(other.expected.as_deref(), Some("handover to version 2.0.0 with no options"));
    assert_eq!(other.found.as_deref(), Some("handover to version 3.0.0 with no options"));
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    assert_eq!(asked.record().outcome, Outcome::Committed);
    let region = region.crash();
    let verb = region.rollback(None, with_id()).refusal();
    assert_eq!((verb.reason, verb.handover), (Reason::RequestIdReused, Some(number)), "{verb}");
    assert_eq!(verb.found.as_deref(), Some("rollback of the last handover with no options"));
    assert_eq!(region.to("2.0.0", with_id()).record().number, number, "the same request joins");
}

#[test]
fn a_request_id_with_other_options_is_refused_and_changes_nothing() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let soon = Some(Duration::from_secs(5));
    let first = SwitchOptions {
        request_id: "r1".into(),
        expected_generation: Some(2),
        flush_timeout: soon,
        note: "first".into(),
        ..options()
    };
    let others = || {
        let of = |change: fn(&mut SwitchOptions)| {
            let mut other = first.clone();
            change(&mut other);
            other
        };
        [
            of(|o| o.expected_generation = None),
            of(|o| o.expected_generation = Some(3)),
            of(|o| o.validate_only = true),
            of(|o| o.force = true),
            of(|o| o.ready_timeout = Some(Duration::from_secs(5))),
            of(|o| o.prepare_timeout = Some(Duration::from_secs(5))),
            of(|o| o.precopy_timeout = Some(Duration::from_secs(5))),
            of(|o| o.flush_timeout = Some(Duration::from_secs(6))),
            of(|o| o.freeze_timeout = Some(Duration::from_millis(5))),
            of(|o| o.drain_timeout = Some(Duration::from_secs(5))),
            of(|o| o.retire_after = Some(Duration::from_secs(5))),
        ]
    };
    let asked = region.to("2.0.0", first.clone());
    let number = asked.number();
    let refuse_others = |region: &Region| {
        for other in others() {
            let refusal = region.to("2.0.0", other).refusal();
            assert_eq!((refusal.reason, refusal.handover), (Reason::RequestIdReused, Some(number)), "{refusal}");
            let expected = "handover to version 2.0.0 with expected_generation 2, flush_timeout 5s";
            assert_eq!(refusal.expected.as_deref(), Some(expected));
            assert_ne!(refusal.found, refusal.expected);
            assert_eq!(refusal.exit_code(), 2);
        }
    };
    refuse_others(&region);
    let joined = region.to("2.0.0", SwitchOptions { note: "tried again".into(), ..first.clone() });
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    assert_eq!(asked.record().outcome, Outcome::Committed);
    let joined = joined.record();
    assert_eq!((joined.number, joined.note.as_str()), (number, "first"), "a note is for people");
    let history = region.history();
    let region = region.crash();
    refuse_others(&region);
    assert_eq!(region.history(), history);
    assert_eq!(region.to("2.0.0", first.clone()).record().number, number);
}

#[test]
fn a_record_of_a_release_that_kept_no_options_joins_by_verb_and_target() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let with_id = || SwitchOptions { request_id: "r1".into(), ..options() };
    let asked = region.to("2.0.0", with_id());
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    let number = asked.record().number;
    for (_, bytes) in region.ground.world().history.iter_mut().filter(|(n, _)| **n == number) {
        let mut record = Record::from_bytes(bytes).expect("a record");
        assert_eq!(record.asked_options.take().as_deref(), Some("no options"));
        *bytes = serde_json::to_vec(&record).expect("JSON");
    }
    let region = region.crash();
    assert_eq!(region.to("2.0.0", SwitchOptions { force: true, ..with_id() }).record().number, number);
    assert_eq!(region.to("3.0.0", with_id()).refusal().reason, Reason::RequestIdReused);
}

#[test]
fn a_dry_run_changes_nothing() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let validate_only = true;
    let validated = region.to("2.0.0", SwitchOptions { validate_only, ..options() }).record();
    assert_eq!((validated.outcome, validated.number, validated.exit_code()), (Outcome::Validated, 0, 0));
    assert_eq!(validated.source.expect("the owner").incarnation, old.id());
    assert_eq!(validated.target.expect("the target").incarnation, new.id());
    let missing = region.to("3.0.0", SwitchOptions { validate_only, ..options() }).refusal();
    assert_eq!(missing.reason, Reason::InstanceNotFound);
    assert_eq!((region.history().len(), region.status().generation), (1, 2));
}

#[test]
fn unreadable_values_make_a_standby_ineligible() {
    let region = Region::new();
    let _old = region.owner("1.0.0");
    let new = region.attach("2.0.0");
    let basket = |readable| Need { object: "basket".into(), kind: "cell".into(), readable, written: vec![] };
    new.say(FromInstance::Declare(vec![basket(vec![1, 2])]));
    new.ready();
    let present = |schema| {
        let there = Present { object: "basket".into(), kind: "cell".into(), schemas: vec![schema] };
        region.ground.world().present = vec![there];
    };
    present(3);
    let refused = region.to("2.0.0", options()).refusal();
    assert_eq!(refused.reason, Reason::SchemaUnreadable);
    let status = region.instance(&new);
    assert!(status.ready && !status.eligible);
    assert_eq!(status.ineligible.expect("a reason").0, Reason::SchemaUnreadable);
    present(2);
    region.until(|s| s.instances.iter().any(|i| i.incarnation == new.id() && i.eligible));
    // What the owner writes on the way is looked at again before the freeze.
    let asked = region.to("2.0.0", options());
    new.called(Hook::Prepare);
    present(3);
    new.ready();
    let record = asked.record();
    assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some(Reason::SchemaUnreadable)));
}

#[test]
fn a_rollback_names_what_it_undoes_and_may_be_repeated() {
    let region = Region::new();
    assert_eq!(region.rollback(None, options()).refusal().reason, Reason::NothingToRollBack);
    let old = region.owner("1.0.0");
    assert_eq!(region.rollback(Some(1), options()).refusal().reason, Reason::NothingToRollBack);
    let new = region.standby("2.0.0");
    let handover = region.hand_over(&old, &new);
    assert_eq!(region.rollback(Some(77), options()).refusal().reason, Reason::HandoverNotFound);
    let asked = region.rollback(None, options());
    assert_eq!(old.agree(Hook::Prepare).kind, Kind::Rollback);
    new.agree(Hook::Flush);
    let rollback = asked.record();
    assert_eq!((rollback.outcome, rollback.rolls_back), (Outcome::Committed, Some(handover.number)));
    assert_eq!(region.record(handover.number).rolled_back_by, Some(rollback.number));
    assert_eq!(region.record(handover.number).phase, Phase::Done, "who drained owns again");
    for named in [None, Some(handover.number)] {
        let again = region.rollback(named, options()).record();
        assert_eq!((again.outcome, again.number), (Outcome::Already, rollback.number));
    }
    assert_eq!(region.status().owner.expect("an owner").incarnation, old.id());
    new.ready();
    let forth = region.hand_over(&old, &new);
    let stale = region.rollback(Some(handover.number), options()).refusal();
    assert_eq!((stale.reason, stale.handover), (Reason::NothingToRollBack, Some(handover.number)), "{}", stale.message);
    assert_eq!(region.status().generation, forth.generation, "the newer one owns, and nothing says otherwise");
}

#[test]
fn a_rollback_to_one_that_is_gone_is_refused() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    let first = region.hand_over(&old, &new);
    let third = region.standby("3.0.0");
    region.hand_over(&new, &third);
    let passed = region.rollback(Some(first.number), options()).refusal();
    assert_eq!((passed.reason, passed.handover), (Reason::NothingToRollBack, Some(first.number)));
    assert_eq!(passed.found.as_deref(), Some(third.name()));
    region.kill(&new);
    region.until(|s| s.instances.len() == 2);
    assert_eq!(region.rollback(None, options()).refusal().reason, Reason::InstanceNotFound);
}

#[test]
fn a_target_is_awaited_for_a_while() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let ready_timeout = Some(SOON);
    let asked = region.to("2.0.0", SwitchOptions { ready_timeout, ..options() });
    asked.number();
    assert_eq!(region.status().state, State::Switching);
    let new = region.standby("2.0.0");
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    let record = asked.record();
    assert_eq!((record.outcome, record.target.expect("found").incarnation), (Outcome::Committed, new.id()));

    let ready_timeout = Some(Duration::from_millis(20));
    let record = region.to("3.0.0", SwitchOptions { ready_timeout, ..options() }).record();
    assert_eq!((record.outcome, record.phase), (Outcome::Aborted, Phase::Prepare));
    assert_eq!((record.reason, record.exit_code()), (Some(Reason::InstanceNotFound), 3));
}

#[test]
fn an_instance_is_drained_on_request() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let drain = |name: &str, force| {
        Arbiter::ask(SOON, |reply| region.arbiter.drain(name.into(), force, None, reply)).expect("an answer")
    };
    assert_eq!(drain("i-77", false).expect_err("unknown").reason, Reason::InstanceNotFound);
    assert_eq!(drain(old.name(), false).expect_err("alone").reason, Reason::OwnerWouldVacate);
    let new = region.standby("2.0.0");
    drain(old.name(), false).expect("somebody follows");
    old.hear(|m| matches!(m, ToInstance::LeaveRequest { .. }).then_some(()));
    old.leave();
    new.agree(Hook::Prepare);
    old.agree(Hook::Flush);
    region.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == new.id()));
    region.arbiter.disconnected(new.id());
    assert_eq!(drain(new.name(), true).expect_err("no stream").reason, Reason::Unreachable);
}

/// What a check tells who asked for it.
struct Check {
    told: mpsc::Receiver<VerifyProgress>,
    verdict: mpsc::Receiver<Result<VerifyReport, Refusal>>,
}

impl Check {
    fn of(region: &Region) -> Self {
        let ((news, told), (answer, verdict)) = (mpsc::channel(), mpsc::channel());
        let progress = Box::new(move |progress| news.send(progress).is_ok());
        region.arbiter.verify(progress, Box::new(move |report| drop(answer.send(report))));
        Self { told, verdict }
    }
    fn until(&self, is_so: impl Fn(&VerifyProgress) -> bool) -> VerifyProgress {
        let end = std::time::Instant::now() + SOON;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let progress = self.told.recv_timeout(left).expect("news in time");
            if is_so(&progress) {
                return progress;
            }
        }
    }
}

#[test]
fn a_check_goes_on_between_other_things_and_pauses_while_a_handover_runs() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    let new = region.standby("2.0.0");
    // Without a number of slices the first check never ends by itself.
    let check = Check::of(&region);
    check.until(|p| p.checked_bytes > 4096);
    assert_eq!(region.status().state, State::Owned, "others are answered meanwhile");
    let asked = region.to("2.0.0", options());
    new.agree(Hook::Prepare);
    old.called(Hook::Flush);
    let number = asked.number();
    let paused = check.until(|p| p.paused_by.is_some());
    assert_eq!(paused.paused_by, Some(number));
    assert_eq!(region.abort(None).expect("in time").outcome, Outcome::Aborted);
    check.until(|p| p.paused_by.is_none() && p.checked_bytes > paused.checked_bytes);
    // One that nobody waits for any more ends.
    drop(check.told);
    assert!(check.verdict.recv_timeout(SOON).is_err(), "its reply is dropped");
    region.ground.world().slices = Some(3);
    let report = Check::of(&region).verdict.recv_timeout(SOON).expect("an answer").expect("nothing runs");
    assert_eq!(report.checked_bytes, 3 * 4096);
}

#[test]
fn only_so_many_wait_for_a_check_and_none_is_left_without_an_answer() {
    let region = Region::new();
    let checks: Vec<Check> = (0..17).map(|_| Check::of(&region)).collect();
    let refused = checks[16].verdict.recv_timeout(SOON).expect("an answer").expect_err("too many");
    assert_eq!(refused.reason, Reason::TableFull);
    region.arbiter.clone().shutdown();
    for check in &checks[..16] {
        let answer = check.verdict.recv_timeout(SOON).expect("an answer");
        assert_eq!(answer.expect_err("it stops").reason, Reason::ShuttingDown);
    }
}

#[test]
fn verify_and_shutdown_answer() {
    let region = Region::new();
    let old = region.owner("1.0.0");
    region.ground.world().slices = Some(1);
    let report = Arbiter::ask(SOON, |reply| region.arbiter.verify(Box::new(|_| true), reply)).expect("an answer");
    assert_eq!(report.expect("nothing runs").checked_bytes, 4096);
    let new = region.standby("2.0.0");
    let asked = region.to("2.0.0", options());
    new.agree(Hook::Prepare);
    old.called(Hook::Flush);
    let busy = Arbiter::ask(SOON, |reply| region.arbiter.verify(Box::new(|_| true), reply)).expect("an answer");
    assert_eq!(busy.expect_err("one runs").reason, Reason::HandoverInProgress);
    let arbiter = region.arbiter.clone();
    arbiter.shutdown();
    let record = asked.record();
    assert_eq!((record.outcome, record.reason), (Outcome::Aborted, Some(Reason::SidecarRestarted)));
    old.called(Hook::Resume);
    assert_eq!(region.to("2.0.0", options()).refusal().reason, Reason::ShuttingDown);
    assert_eq!(region.abort(None).expect_err("gone").exit_code(), 5);
}
