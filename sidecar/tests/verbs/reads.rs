//! The verbs that only look, and `drain`.

use heirloom_proto::Failure;
use heirloom_proto::v1::handover_record::{InstanceRef, Outcome, Phase};
use heirloom_proto::v1::instance::Role;
use heirloom_proto::v1::{ErrorReason, Fault, Instance, RegionEvent, ServerInfo, VerifyEvent};
use serde_json::json;

use super::fake::Script;
use super::*;

fn owned(name: &str) -> Region {
    let instance = |id: &str, version: &str, role: Role| Instance {
        name: names::instance(name, id),
        version: version.into(),
        role: role.into(),
        ..Default::default()
    };
    Region {
        state: region::State::Owned.into(),
        owner: names::instance(name, "i-4f2a"),
        instances: vec![instance("i-4f2a", "2.0.0", Role::Owner), instance("i-1c09", "1.9.0", Role::Draining)],
        last_handover: Some(record(Outcome::Committed, Phase::Drain)),
        used_bytes: 393 << 20,
        limit_bytes: 8 << 30,
        ..region(name)
    }
}

fn change(sequence: u64, region: Region) -> RegionEvent {
    RegionEvent { sequence, region: Some(region), ..Default::default() }
}

#[test]
fn status_is_always_a_list() {
    let place = Place::new();
    let _fake = place.fake(Script { regions: vec![owned("shop"), region("cart.0")], ..Default::default() });
    let all = place.run("status -o json").code(0).json();
    assert_eq!((&all[0]["region"], &all[1]["region"]), (&json!("shop"), &json!("cart.0")));
    assert_eq!((&all[0]["owner"]["version"], &all[0]["last_handover"]), (&json!("2.0.0"), &json!(17)));
    let one = place.run("status shop -o json").code(0).json();
    assert_eq!(one.as_array().unwrap().len(), 1);
    let words =
        ["REGION", "LAST HANDOVER", "2.0.0 i-4f2a", "2 (1 draining)", "393M / 8G", "#17 committed", "blackout 63 µs"];
    place.run("status").code(0).says(&words);
    place.run("status shop -o wide").code(0).says(&["IN FLIGHT", "draining"]);
    place.run("status nope").code(3).says(&["REGION_NOT_FOUND", "see: heirloom status"]);
    assert_eq!(place.run("status -q").code(0).out, "");
}

#[test]
fn a_caller_who_may_not_is_told() {
    let place = Place::new();
    let deny =
        Failure::new(ErrorReason::CallerDenied, "uid 1000 may not call").expected("an allowed uid").found("uid 1000");
    let _fake = place.fake(Script { deny: Some(deny), ..Default::default() });
    let ran = place.run("status -o json").code(3).says(&["expected an allowed uid, found uid 1000"]);
    assert_eq!(ran.json()["reason"], "CALLER_DENIED");
}

#[test]
fn history_shows_records_as_handover_printed_them() {
    let place = Place::new();
    let history = vec![record(Outcome::Committed, Phase::Done), aborted(ErrorReason::FlushTimeout, Phase::Flush)];
    let _fake = place.fake(Script { history, ..Default::default() });
    let list = place.run("history shop -n 5 -o json").code(0).json();
    assert_eq!((list[0]["outcome"].as_str(), list[1]["reason"].as_str()), (Some("committed"), Some("FLUSH_TIMEOUT")));
    assert_eq!(place.run("history shop -n 1 -o json").json().as_array().unwrap().len(), 1);
    let one = place.run("history shop 17 -o json").code(0).json();
    assert_eq!((&one["handover"], &one["phase_us"]["precopy"]), (&json!(17), &json!(208_114)));
    place.run("history shop").code(0).says(&["1.9.0 i-1c09 → 2.0.0 i-4f2a", "aborted FLUSH_TIMEOUT"]);
    place.run("history shop 17").code(0).says(&["PHASE", "precopy", "208 ms"]);
    place.run("history shop 18").code(3).says(&["HANDOVER_NOT_FOUND"]);
}

#[test]
fn watch_prints_one_object_per_change() {
    let place = Place::new();
    let _fake =
        place.fake(Script { changes: vec![change(4, region("shop")), change(5, owned("shop"))], ..Default::default() });
    let ran = place.run("watch shop -o jsonl").code(5);
    let lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[0]["sequence"], &lines[1]["region"]["state"]), (&json!(4), &json!("owned")));
    // The end of the stream is an object, too.
    assert_eq!(lines[2]["reason"], "UNREACHABLE");
    place.run("watch").says(&["shop owned generation 7 owner 2.0.0 i-4f2a"]);
}

#[test]
fn wait_ends_when_the_condition_holds_or_the_time_is_out() {
    let place = Place::new();
    let _fake =
        place.fake(Script { changes: vec![change(4, region("shop")), change(5, owned("shop"))], ..Default::default() });
    let met = place.run("wait shop --for owner=2.0.0 -o json").code(0).json();
    assert_eq!((&met["outcome"], &met["condition"]), (&json!("met"), &json!("owner=2.0.0")));
    place.run("wait shop --for generation=7 --timeout 0s").code(0);
    place.run("wait shop --for generation=7").code(0).says(&["generation=7 after"]);
    let late = place.run("wait shop --for generation=8 --timeout 300ms -o json").code(3);
    let late = late.says(&["expected generation=8, found generation 7"]).json();
    assert_eq!((&late["outcome"], &late["exit_code"]), (&json!("timed_out"), &json!(3)));
}

#[test]
fn verify_tells_each_fault() {
    let place = Place::new();
    let whole = VerifyEvent { checked_bytes: 8192, total_bytes: 8192, ..Default::default() };
    let fake = place.fake(Script { verify: vec![whole.clone()], ..Default::default() });
    assert_eq!(place.run("verify shop -o json").code(0).json()["outcome"], "intact");
    drop(fake);
    let fault = Fault {
        structure: "page 7".into(),
        offset_bytes: 28_672,
        expected: "0x1".into(),
        found: "0x2".into(),
        reason: ErrorReason::DigestMismatch.into(),
    };
    let verify = vec![VerifyEvent { fault_count: 1, faults: vec![fault], ..whole }];
    let verify_end = Some(Failure::new(ErrorReason::DigestMismatch, "1 fault"));
    let _fake = place.fake(Script { verify, verify_end, ..Default::default() });
    let ran = place.run("verify shop -o json").code(6).says(&["DIGEST_MISMATCH", "expected 0x1, found 0x2"]);
    assert_eq!((&ran.json()["outcome"], &ran.json()["faults"][0]["offset_bytes"]), (&json!("corrupt"), &json!(28_672)));
    place.run("verify shop").code(6).says(&["page 7", "0x7000"]);
}

#[test]
fn drain_names_the_instance() {
    let place = Place::new();
    let fake = place.fake(Script::default());
    let ran = place.run("drain shop i-1c09 --timeout 5m -o json").code(0);
    assert_eq!((&ran.json()["instance"], &ran.json()["role"]), (&json!("i-1c09"), &json!("draining")));
    let asked = fake.script.lock().unwrap().drains[0].clone();
    assert_eq!((asked.name.as_str(), asked.drain_timeout_ms), ("regions/shop/instances/i-1c09", Some(300_000)));
}

#[test]
fn doctor_finds_the_sidecar() {
    let place = Place::new();
    let info = ServerInfo { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    let _fake = place.fake(Script { info, ..Default::default() });
    let dir = place.dir.path().display().to_string();
    let ran = place.run(&format!("doctor --region-dir {dir} -o json"));
    assert!(ran.code == 0 || ran.code == 3, "{ran:?}");
    let object = ran.json();
    assert_eq!(object["exit_code"], ran.code);
    let sidecar = object["checks"].as_array().unwrap().iter().find(|c| c["name"] == "sidecar").unwrap().clone();
    assert_eq!(sidecar["verdict"], "good", "{sidecar}");
}

#[test]
fn names_complete_from_the_running_sidecar() {
    let place = Place::new();
    let _fake = place.fake(Script { regions: vec![owned("shop"), region("cart")], ..Default::default() });
    let complete = |words: &[&str]| {
        let socket = place.socket();
        let mut line = vec!["--", "heirloom", "--socket", socket.to_str().unwrap()];
        line.extend(words);
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        command.args(&line).env("HEIRLOOM_COMPLETE", "fish").env_remove("HEIRLOOM_SOCKET");
        Ran::of(command.output().unwrap()).out
    };
    assert!(complete(&["status", "sh"]).starts_with("shop"));
    assert!(complete(&["handover", "shop", "1"]).starts_with("1.9.0"));
    assert!(complete(&["drain", "shop", "i-4"]).starts_with("i-4f2a"));
    assert!(place.run("completions bash").code(0).out.contains("HEIRLOOM_COMPLETE"));
}

#[test]
fn who_is_awaited_to_leave_must_be_known() {
    let place = Place::new();
    let gone = InstanceRef { name: names::instance("shop", "i-0d0d"), version: "1.5.0".into(), pid: 0 };
    let shop = Region { departed: vec![gone], ..owned("shop") };
    let fake = place.fake(Script { changes: vec![change(4, shop)], ..Default::default() });
    for condition in ["left=typo", "drained=typo", "left=i-9999"] {
        let ran = place.run(&format!("wait shop --for {condition} -o json")).code(3);
        let object = ran.json();
        assert_eq!((&object["reason"], &object["region"]), (&json!("INSTANCE_NOT_FOUND"), &json!("shop")), "{object}");
        ran.says(&["one of 1.9.0, 2.0.0, i-1c09, i-4f2a", condition.split_once('=').unwrap().1]);
    }
    for condition in ["left=1.5.0", "drained=i-0d0d"] {
        place.run(&format!("wait shop --for {condition}")).code(0);
    }
    place.run("wait shop --for owner=typo --timeout 300ms").code(3).says(&["not within", "no instance of typo"]);
    drop(fake);
    // Of those that are long gone history tells.
    let history = vec![record(Outcome::Committed, Phase::Done)];
    let _fake = place.fake(Script { changes: vec![change(4, region("shop"))], history, ..Default::default() });
    for condition in ["left=1.9.0", "drained=i-1c09", "left=2.0.0"] {
        place.run(&format!("wait shop --for {condition}")).code(0);
    }
    place.run("wait shop --for left=1.9").code(3).says(&["INSTANCE_NOT_FOUND"]);
}

#[test]
fn a_watcher_that_was_too_slow_goes_on() {
    let place = Place::new();
    let changes = vec![change(4, region("shop")), change(5, owned("shop"))];
    let fake = place.fake(Script { changes, lagging: 1, regions: vec![owned("shop")], ..Default::default() });
    place.run("wait shop --for owner=2.0.0 -o json").code(0);
    fake.script.lock().unwrap().lagging = 1;
    let ran = place.run("watch shop -o jsonl").code(5);
    assert_eq!(fake.script.lock().unwrap().watches.last().unwrap().after_sequence, 4, "from there, without a gap");
    assert!(ran.out.contains("\"owned\""), "{ran:?}");
    fake.script.lock().unwrap().lagging = 1;
    place.run("status shop -w").code(5).says(&["2.0.0 i-4f2a"]);
}

#[test]
fn a_watcher_that_was_too_slow_for_its_first_event_is_told() {
    let place = Place::new();
    let fake = place.fake(Script { lagging: 1, ..Default::default() });
    place.run("watch -o jsonl").code(3).says(&["this watcher read too slowly"]);
    assert_eq!(fake.script.lock().unwrap().watches.len(), 1, "from anew is with a gap");
    let fake = place.fake(Script { lagging: 1, ..Default::default() });
    place.run("watch --after 7").code(5);
    let asked: Vec<_> = fake.script.lock().unwrap().watches.iter().map(|w| w.after_sequence).collect();
    assert_eq!(asked, [7, 7], "it knows from where");
}

#[test]
fn a_watcher_of_many_regions_goes_on_after_the_newest_that_it_has_seen() {
    let place = Place::new();
    let changes = vec![change(9, region("cart")), change(4, region("shop"))];
    let fake = place.fake(Script { changes, lagging: 1, lagging_after: 1, ..Default::default() });
    place.run("watch -q").code(5);
    let asked: Vec<_> = fake.script.lock().unwrap().watches.iter().map(|w| w.after_sequence).collect();
    assert_eq!(asked, [0, 9], "the state comes by name, not by sequence");
}

/// Of a sidecar of a later release: what this build has no name for is shown as what it is, not as something else.
#[test]
fn values_of_a_later_release_are_shown_and_not_guessed() {
    let place = Place::new();
    let mut shop = owned("shop");
    (shop.state, shop.instances[0].role, shop.instances[0].ineligible_reason) = (99, 98, 997);
    let mut newer = record(Outcome::Aborted, Phase::Done);
    (newer.kind, newer.phase, newer.reason) = (96, 95, 994);
    let decided = HandoverRecord { outcome: 93, ..newer.clone() };

    let (changes, history) = (vec![change(4, shop.clone())], vec![newer, decided]);
    let _fake = place.fake(Script { regions: vec![shop], changes, history, ..Default::default() });
    let found = place.run("status shop -o json").code(0).json()[0].clone();
    assert_eq!((&found["state"], &found["instances"][0]["role"]), (&json!("unknown_99"), &json!("unknown_98")));
    assert!(found["instances"][0]["ineligible"].as_str().is_some_and(|why| why.starts_with("UNKNOWN_997")), "{found}");
    let found = place.run("history shop -o json").code(0).json();
    let word = |n: usize, key: &str| found[n][key].as_str().unwrap_or_default().to_owned();
    assert_eq!([word(0, "kind"), word(0, "phase"), word(0, "reason")], ["unknown_96", "unknown_95", "UNKNOWN_994"]);
    assert_eq!([word(0, "outcome"), word(1, "outcome")], ["aborted", "unknown"]);
    place.run("watch").code(5).says(&["unknown_99"]);
    place.run("status shop").code(0).says(&["unknown_99"]);
}

#[test]
fn quiet_watching_says_nothing() {
    let place = Place::new();
    let changes = vec![change(4, region("shop"))];
    let _fake = place.fake(Script { changes, regions: vec![owned("shop")], ..Default::default() });
    for line in ["status -w -q", "status -w -q -o jsonl", "status -w -q -o json", "watch -q"] {
        let ran = place.run(line).code(5);
        assert!(!ran.out.contains("owned") && !ran.out.contains("2.0.0"), "{line}: {ran:?}");
    }
}

#[test]
fn no_records_of_an_unknown_region_are_a_mistake_too() {
    let place = Place::new();
    let _fake = place.fake(Script { history: vec![record(Outcome::Committed, Phase::Done)], ..Default::default() });
    place.run("history nope -n 0").code(3).says(&["REGION_NOT_FOUND"]);
    assert_eq!(place.run("history shop -n 0 -o json").code(0).json(), json!([]));
}
