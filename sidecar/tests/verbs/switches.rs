//! `handover`, `rollback` and `abort`: outcomes, lost streams, Ctrl-C.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;

use heirloom_proto::Failure;
use heirloom_proto::v1::handover_record::{Outcome, Phase};
use heirloom_proto::v1::{ErrorReason, handover_request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::fake::{Act, Script};
use super::*;

fn script(acts: Vec<Act>) -> Script {
    Script { switches: [acts].into(), ..Default::default() }
}

fn running(phase: Phase) -> Act {
    Act::Event(record(Outcome::Running, phase))
}

fn committed() -> Act {
    Act::Event(record(Outcome::Committed, Phase::Drain))
}

#[test]
fn a_commit_is_one_object_with_every_figure() {
    let place = Place::new();
    let fake = place.fake(script(vec![running(Phase::Precopy), committed()]));
    let ran = place.run("handover shop 2.0.0 --expect-generation 7 --freeze-timeout 50ms --note x -o json").code(0);
    let object = ran.json();
    assert_eq!(object["outcome"], "committed");
    assert_eq!(object["reason"], json!(null));
    assert_eq!((&object["generation"], &object["previous_generation"]), (&json!(8), &json!(7)));
    assert_eq!(object["owner"], json!({"instance": "i-4f2a", "version": "2.0.0", "pid": 42}));
    assert_eq!(object["previous_owner"]["version"], "1.9.0");
    assert_eq!(
        (&object["blackout_us"], &object["frozen_pages"], &object["total_ms"]),
        (&json!(63), &json!(41), &json!(212))
    );
    assert_eq!((&object["region_bytes"], &object["precopy_rounds"]), (&json!(1u64 << 30), &json!(3)));
    assert_eq!(object["root_digest"], "0x0000000000009f3c");

    let asked = fake.script.lock().unwrap().handovers[0].clone();
    let options = asked.options.unwrap();
    assert_eq!(asked.target, Some(handover_request::Target::TargetVersion("2.0.0".into())));
    assert_eq!((options.expected_generation, options.freeze_timeout_us), (Some(7), Some(50_000)));
    assert_eq!((options.note.as_str(), options.prepare_timeout_ms), ("x", None));
    assert!(!options.request_id.is_empty());
}

#[test]
fn people_read_the_phases_and_a_table() {
    let place = Place::new();
    let _fake = place.fake(script(vec![running(Phase::Prepare), running(Phase::Flush), committed()]));
    let ran = place.run("handover shop").code(0);
    let words = ["1.9.0 i-1c09 (gen 7)", "prepare", "812 µs", "3 rounds, 18211 pages", "closed 58 µs", "63 µs"];
    let ran = ran.says(&words).says(&["committed", "drains: 12 connection", "heirloom rollback shop", "212 ms"]);
    assert!(!ran.out.contains('\x1b'), "no colours where nobody looks: {ran:?}");
}

#[test]
fn one_object_a_line_while_it_runs() {
    let place = Place::new();
    let _fake = place.fake(script(vec![running(Phase::Prepare), running(Phase::Precopy), committed()]));
    let ran = place.run("handover shop -o jsonl").code(0);
    let outcomes: Vec<_> =
        ran.out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["outcome"].clone()).collect();
    assert_eq!(outcomes, ["running", "running", "committed"]);
}

#[test]
fn owning_already_is_done() {
    let place = Place::new();
    let _fake = place.fake(script(vec![Act::Event(record(Outcome::Already, Phase::Prepare))]));
    let ran = place.run("handover shop 2.0.0 -o json").code(0);
    assert_eq!(ran.json()["outcome"], "already");
}

#[test]
fn a_refusal_says_what_was_expected_and_found() {
    let mismatch =
        || Failure::new(ErrorReason::GenerationMismatch, "1.9.1 i-77b0 owns shop").expected(7).found(9).region("shop");
    for output in ["human", "json"] {
        let place = Place::new();
        let _fake = place.fake(script(vec![Act::Fail(mismatch())]));
        let ran = place.run(&format!("handover shop 2.0.0 --expect-generation 7 -o {output}")).code(3);
        let words =
            ["refused, nothing changed: GENERATION_MISMATCH", "expected 7, found 9", "see: heirloom history shop"];
        let ran = ran.says(&words);
        if output == "json" {
            let object = ran.json();
            assert_eq!(object["outcome"], "refused");
            assert_eq!(
                (&object["expected"], &object["found"], &object["exit_code"]),
                (&json!("7"), &json!("9"), &json!(3))
            );
            assert_eq!((&object["reason"], &object["region"]), (&json!("GENERATION_MISMATCH"), &json!("shop")));
            assert!(object["phase_us"].is_object() && object["owner"].is_null());
        } else {
            assert_eq!(ran.out, "");
        }
    }
}

#[test]
fn an_abort_is_exit_4_and_a_veto_in_prepare_exit_3() {
    for (reason, phase, outcome, code) in [
        (ErrorReason::FreezeTimeout, Phase::Freeze, "aborted", 4),
        (ErrorReason::TargetDied, Phase::Flush, "aborted", 4),
        (ErrorReason::Vetoed, Phase::Prepare, "refused", 3),
    ] {
        let place = Place::new();
        let failure = Failure::new(reason, "why").expected("50 ms").found("51 ms").phase(phase);
        let _fake =
            place.fake(script(vec![running(Phase::Prepare), Act::Event(aborted(reason, phase)), Act::Fail(failure)]));
        let ran = place.run("handover shop -o json").code(code).says(&[reason.as_str_name()]);
        let object = ran.json();
        assert_eq!((&object["outcome"], &object["generation"]), (&json!(outcome), &json!(7)));
        assert_eq!((&object["reason"], &object["found"]), (&json!(reason.as_str_name()), &json!("51 ms")));
        assert_eq!(object["owner"]["version"], "1.9.0");
    }
}

#[test]
fn nobody_there_is_exit_5() {
    let place = Place::new();
    for line in [
        "handover shop",
        "rollback shop",
        "abort shop",
        "drain shop i-1",
        "status",
        "watch",
        "history shop",
        "verify shop",
    ] {
        let ran =
            place.run(&format!("{line} -o json")).code(5).says(&["UNREACHABLE", "expected a sidecar listening at"]);
        assert_eq!((&ran.json()["reason"], &ran.json()["exit_code"]), (&json!("UNREACHABLE"), &json!(5)), "{line}");
    }
    let ran = place.run("handover shop").code(5).says(&[
        "no sidecar, nothing was sent",
        "found No such file",
        "heirloom doctor",
    ]);
    assert_eq!(ran.out, "");
}

#[test]
fn a_lost_stream_is_joined_again_by_its_request_id() {
    let place = Place::new();
    let first = place.fake(script(vec![running(Phase::Precopy), Act::Hang]));
    let mut child = place.start("handover shop -o jsonl");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"running\""), "{line}");
    let id = first.script.lock().unwrap().handovers[0].options.clone().unwrap().request_id;
    drop(first);
    let second = place.fake(script(vec![committed()]));
    let ran =
        Ran::of(child.wait_with_output().unwrap()).code(0).says(&["lost the sidecar", "joined again", "\"committed\""]);
    assert!(!ran.out.contains("unknown"));
    let again = second.script.lock().unwrap().handovers[0].options.clone().unwrap().request_id;
    assert_eq!(id, again);
}

/// As one that is stopped: it takes connections and requests, and says nothing.
#[test]
fn a_sidecar_that_is_stopped_is_named_and_nothing_of_the_transport_is_told() {
    let place = Place::new();
    let _stopped = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
    let ran = place.run("handover shop 2.0.0 -o json").code(7);
    let object = ran.json();
    let address = place.socket().display().to_string();
    let said = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    assert!(
        said("message").contains(&format!("the sidecar at {address} was lost after the request was sent")),
        "{ran:?}"
    );
    assert!(said("message").contains("heirloom history shop"), "{ran:?}");
    assert!(said("expected").contains(&format!("a sidecar at {address} that answers again within 10s")), "{ran:?}");
    assert!(!said("found").is_empty() && said("found").len() < 60, "{ran:?}");
    for raw in ["status:", "metadata", "details", "h2 protocol", "transport error"] {
        assert!(!ran.out.contains(raw) && !ran.err.contains(raw), "{raw}: {ran:?}");
    }
}

#[test]
fn a_sidecar_that_does_not_come_back_leaves_the_outcome_unknown() {
    let place = Place::new();
    let fake = place.fake(script(vec![running(Phase::Precopy), Act::Hang]));
    let child = place.start("handover shop -o json");
    until("the request", || !fake.script.lock().unwrap().handovers.is_empty());
    drop(fake);
    let ran =
        Ran::of(child.wait_with_output().unwrap()).code(7).says(&["outcome unknown", "see: heirloom history shop"]);
    assert_eq!((&ran.json()["outcome"], &ran.json()["reason"]), (&json!("unknown"), &json!("UNREACHABLE")));
}

/// Runs until standard error holds `word`; returns what it held.
fn read_err_until(child: &mut Child, word: &str) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    let err = child.stderr.as_mut().unwrap();
    while !String::from_utf8_lossy(&text).contains(word) && err.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
}

/// Begins a handover that has sent its first event.
fn begun(place: &Place) -> Child {
    let mut child = place.start("handover shop -o jsonl");
    let mut byte = [0];
    while byte != *b"\n" {
        assert_eq!(child.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1, "it ended early");
    }
    child
}

#[test]
fn the_first_interrupt_asks_for_an_abort_and_reports_it() {
    let place = Place::new();
    let end = aborted(ErrorReason::AbortRequested, Phase::Precopy);
    let failure = Failure::new(ErrorReason::AbortRequested, "asked for").phase(Phase::Precopy);
    let acts = vec![running(Phase::Precopy), Act::AwaitAbort, Act::Event(end.clone()), Act::Fail(failure)];
    let fake = place.fake(Script { abort: Some(Ok(end)), ..script(acts) });
    let child = begun(&place);
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap()).code(4).says(&["asking for an abort", "ABORT_REQUESTED"]);
    assert_eq!(ran.json()["outcome"], "aborted");
    assert_eq!(fake.script.lock().unwrap().aborts[0].name, "regions/shop/handovers/17");
}

#[test]
fn an_interrupt_that_comes_too_late_reports_the_commit() {
    let place = Place::new();
    let late = Failure::new(ErrorReason::AlreadyCommitted, "generation 8 is open");
    let acts = vec![running(Phase::Freeze), Act::AwaitAbort, committed()];
    let _fake = place.fake(Script { abort: Some(Err(late)), ..script(acts) });
    let child = begun(&place);
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap()).code(0);
    assert_eq!(ran.json()["outcome"], "committed");
}

#[test]
fn the_second_interrupt_leaves_with_130() {
    let place = Place::new();
    let _fake = place.fake(script(vec![running(Phase::Precopy), Act::Hang]));
    let mut child = begun(&place);
    interrupt(&child);
    read_err_until(&mut child, "asking for an abort");
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap()).code(130);
    assert_eq!((&ran.json()["outcome"], &ran.json()["handover"]), (&json!("running"), &json!(17)));
}

#[test]
fn detached_returns_at_once_and_following_waits_for_the_drain() {
    let place = Place::new();
    let fake = place.fake(script(vec![running(Phase::Prepare), Act::Hang]));
    let ran = place.run("handover shop --detach -o json").code(0);
    assert_eq!(ran.json()["outcome"], "running");
    drop(fake);

    let done = Act::Event(record(Outcome::Committed, Phase::Done));
    let fake = place.fake(script(vec![running(Phase::Prepare), committed(), done]));
    let ran = place.run("handover shop --follow-drain -o json").code(0);
    assert_eq!(ran.json()["phase"], "done");
    assert!(fake.script.lock().unwrap().handovers[0].options.as_ref().unwrap().follow_drain);
}

#[test]
fn force_is_not_taken_from_a_program_that_did_not_say_yes() {
    let place = Place::new();
    let fake = place.fake(script(vec![committed()]));
    place.run("handover shop --force -o json").code(2).says(&["--force needs --yes"]).json();
    assert!(fake.script.lock().unwrap().handovers.is_empty());
    place.run("handover shop --force -y").code(0);
    assert!(fake.script.lock().unwrap().handovers[0].options.as_ref().unwrap().force);
}

#[test]
fn a_dry_run_has_no_number() {
    let place = Place::new();
    let validated = HandoverRecord { name: names::handover("shop", 0), ..record(Outcome::Validated, Phase::Prepare) };
    let _fake = place.fake(script(vec![Act::Event(validated)]));
    let object = place.run("handover shop --dry-run -o json").code(0).json();
    assert_eq!((&object["outcome"], &object["handover"]), (&json!("validated"), &Value::Null));
}

#[test]
fn a_caller_who_was_too_slow_joins_again() {
    let place = Place::new();
    let lagged = Failure::new(ErrorReason::TableFull, "this follower read too slowly");
    let switches = [vec![running(Phase::Precopy), Act::Fail(lagged)], vec![committed()]];
    let fake = place.fake(Script { switches: switches.into(), ..Default::default() });
    place.run("handover shop").code(0).says(&["joined again"]);
    let ids: Vec<_> =
        fake.script.lock().unwrap().handovers.iter().map(|h| h.options.clone().unwrap().request_id).collect();
    assert_eq!(ids[0], ids[1]);
}

/// As a region whose page epochs are used up ends every handover: told once, and not taken for a stream that was read too slowly.
#[test]
fn an_abort_for_a_full_table_is_the_last_word() {
    let place = Place::new();
    let full = || Failure::new(ErrorReason::TableFull, "page epochs full").phase(Phase::Precopy);
    let acts = || {
        let reason = ErrorReason::TableFull.into();
        let aborted = HandoverRecord { reason, ..record(Outcome::Aborted, Phase::Precopy) };
        vec![running(Phase::Precopy), Act::Event(aborted), Act::Fail(full())]
    };
    let fake = place.fake(Script { switches: [acts(), acts(), vec![committed()]].into(), ..Default::default() });
    let ran = place.run("handover shop -o json").code(4);
    assert_eq!((&ran.json()["outcome"], &ran.json()["reason"]), (&json!("aborted"), &json!("TABLE_FULL")));
    assert_eq!(fake.script.lock().unwrap().handovers.len(), 1);
}

/// Who began a handover and lost sight of it has not been refused it.
#[test]
fn no_room_to_join_again_is_no_refusal() {
    let place = Place::new();
    let lagged = Failure::new(ErrorReason::TableFull, "this follower read too slowly");
    let full = Failure::new(ErrorReason::TableFull, "no more followers").expected("at most 1024 followers");
    let switches = [vec![running(Phase::Precopy), Act::Fail(lagged)], vec![Act::Fail(full)], vec![committed()]];
    let _fake = place.fake(Script { switches: switches.into(), ..Default::default() });
    place.run("handover shop").code(0).says(&["joined again"]);
}

#[test]
fn a_follower_too_many_is_refused() {
    let place = Place::new();
    let full = Failure::new(ErrorReason::TableFull, "no more followers").expected("at most 1024 followers");
    let _fake = place.fake(script(vec![Act::Fail(full)]));
    let ran = place.run("handover shop --follow-drain -o json").code(3).says(&["expected at most 1024 followers"]);
    assert_eq!(ran.json()["reason"], "TABLE_FULL");
}

#[test]
fn a_rollback_names_what_it_undoes() {
    let place = Place::new();
    let fake = place.fake(Script { switches: [vec![committed()], vec![committed()]].into(), ..Default::default() });
    place.run("rollback shop --handover 17 --dry-run").code(0);
    place.run("rollback shop -q").code(0);
    let asked = fake.script.lock().unwrap().rollbacks.clone();
    assert_eq!(asked[0].handover, "regions/shop/handovers/17");
    assert!(asked[0].options.as_ref().unwrap().validate_only);
    assert_eq!(asked[1].handover, "");
}

#[test]
fn all_replicas_halt_at_the_first_abort() {
    let place = Place::new();
    let failure = Failure::new(ErrorReason::FlushTimeout, "too slow").phase(Phase::Flush);
    let switches = [
        vec![Act::Event(record(Outcome::Already, Phase::Prepare))],
        vec![Act::Event(aborted(ErrorReason::FlushTimeout, Phase::Flush)), Act::Fail(failure)],
    ];
    let regions = ["shop.10", "cart", "shop.0", "shop.2", "shopping"].map(region).into();
    let fake = place.fake(Script { switches: switches.into(), regions, ..Default::default() });
    let ran = place.run("handover shop 2.0.0 --all -o json").code(4);
    let object = ran.json();
    assert_eq!((&object["outcome"], &object["service"]), (&json!("aborted"), &json!("shop")));
    assert_eq!(object["handovers"].as_array().unwrap().len(), 2);
    assert_eq!(object["not_tried"], json!(["shop.10"]));
    let names: Vec<_> = fake.script.lock().unwrap().handovers.iter().map(|h| h.name.clone()).collect();
    assert_eq!(names, ["regions/shop.0", "regions/shop.2"]);
    drop(fake);

    let _fake = place.fake(Script { regions: vec![region("cart")], ..Default::default() });
    place.run("handover shop --all").code(3).says(&["REGION_NOT_FOUND", "expected regions shop or shop.*, found none"]);
}

#[test]
fn the_verb_abort_is_done_when_it_is_aborted() {
    let place = Place::new();
    let end = aborted(ErrorReason::AbortRequested, Phase::Precopy);
    let fake = place.fake(Script { abort: Some(Ok(end)), ..Default::default() });
    let ran = place.run("abort shop -o json").code(0);
    assert_eq!((&ran.json()["outcome"], &ran.json()["exit_code"]), (&json!("aborted"), &json!(0)));
    assert_eq!(fake.script.lock().unwrap().aborts[0].name, "regions/shop/handovers/-");
    drop(fake);
    let late = Failure::new(ErrorReason::AlreadyCommitted, "generation 8 is open");
    let _fake = place.fake(Script { abort: Some(Err(late)), ..Default::default() });
    place.run("abort shop 17").code(3).says(&["ALREADY_COMMITTED"]);
}

/// Runs on a terminal and returns what it showed.
fn on_a_terminal(place: &Place, line: &str, typed: &str, mut seen: impl FnMut(&str)) -> (i32, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let here = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&here).unwrap();
    unlockpt(&here).unwrap();
    let name = ptsname(&here, Vec::new()).unwrap().into_string().unwrap();
    let there = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut command = place.command(line);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CI");
    let clone = || there.try_clone().unwrap();
    let mut child = command.stdin(clone()).stdout(clone()).stderr(clone()).spawn().unwrap();
    drop((there, command));
    let mut here = std::fs::File::from(here);
    std::io::Write::write_all(&mut here, typed.as_bytes()).unwrap();
    let (mut shown, mut part) = (Vec::new(), [0; 4096]);
    // The end of a terminal without a process is an error, EIO.
    while let Ok(n @ 1..) = here.read(&mut part) {
        shown.extend(&part[..n]);
        seen(&String::from_utf8_lossy(&shown));
    }
    (child.wait().unwrap().code().unwrap(), String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn on_a_terminal_the_phases_are_live() {
    let place = Place::new();
    let acts =
        vec![running(Phase::Prepare), running(Phase::Precopy), Act::AwaitAbort, running(Phase::Freeze), committed()];
    let fake = place.fake(script(acts));
    let (code, shown) = on_a_terminal(&place, "handover shop", "", |shown| {
        if shown.contains("412 pages left") {
            fake.aborted.send_replace(true);
        }
    });
    assert_eq!(code, 0, "{shown}");
    for word in [
        "1.9.0 i-1c09 (gen 7)",
        "round 3, 412 pages left, 96 fit the freeze budget",
        "✔",
        "18211 pages",
        "LONGEST WAIT",
        "63 µs",
    ] {
        assert!(shown.contains(word), "{word:?} is not in {shown}");
    }
}

#[test]
fn force_asks_on_a_terminal() {
    let place = Place::new();
    let fake = place.fake(script(vec![committed()]));
    let (code, shown) = on_a_terminal(&place, "handover shop --force", "n\n", |_| {});
    assert_eq!(code, 3, "{shown}");
    assert!(shown.contains("Go on? [y/N]") && fake.script.lock().unwrap().handovers.is_empty(), "{shown}");
    let (code, shown) = on_a_terminal(&place, "handover shop --force", "y\n", |_| {});
    assert_eq!(code, 0, "{shown}");
}
