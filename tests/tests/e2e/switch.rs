//! Handover and rollback as a deploy tool sees them: what is answered, and that asking again does no harm.

use heirloom_tests::host::Host;
use serde_json::{Value, json};

/// Keys that `handover -o json` promises.
const KEYS: [&str; 30] = [
    "outcome",
    "exit_code",
    "reason",
    "message",
    "expected",
    "found",
    "region",
    "handover",
    "kind",
    "phase",
    "generation",
    "previous_generation",
    "owner",
    "previous_owner",
    "root_digest",
    "region_bytes",
    "precopy_rounds",
    "precopy_pages",
    "frozen_pages",
    "blackout_us",
    "gate_closed_us",
    "total_ms",
    "phase_us",
    "undrained",
    "forced",
    "caller",
    "note",
    "request_id",
    "create_time",
    "end_time",
];

#[track_caller]
fn has_all_keys(json: &Value) {
    for key in KEYS {
        assert!(json.get(key).is_some(), "expected the key {key}, found {json}");
    }
}

#[test]
fn a_handover_makes_the_target_the_owner_and_says_what_it_did() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("write ledger");
    let before = host.status("shop");
    let generation = before["generation"].as_u64().expect("a generation");

    let answer = host.handover("shop", "2.0.0", &["--note", "CR-881"]).expect("committed", 0);
    has_all_keys(&answer.json);
    assert_eq!(answer.number("previous_generation"), generation);
    assert_eq!(answer.number("generation"), generation + 1);
    assert_eq!(answer.json["owner"]["version"], "2.0.0");
    assert_eq!(answer.json["owner"]["pid"], new.pid());
    assert_eq!(answer.json["previous_owner"]["version"], "1.0.0");
    assert_eq!(answer.json["previous_owner"]["pid"], old.pid());
    assert_eq!(answer.json["note"], "CR-881");
    assert_eq!(answer.json["kind"], "handover");
    assert!(answer.word("root_digest").starts_with("0x"), "{}", answer.json);
    assert!(answer.number("gate_closed_us") > 0, "{}", answer.json);
    assert!(answer.number("region_bytes") > 0, "{}", answer.json);

    new.tell("write ledger");
    old.tell_refused("write ledger", "NOT_OWNER");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2);
    assert_eq!(old.tell("read ledger")["value"]["sequence"], 2, "anybody reads");
    let status = host.status("shop");
    assert_eq!(status["state"], "owned");
    assert_eq!(status["root_digest"], answer.json["root_digest"]);
}

#[test]
fn asking_again_for_what_is_so_changes_nothing() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let first = host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    // The target owns already: said before the expected generation is looked at, so a retried step is harmless.
    let again = host.handover("shop", "2.0.0", &["--expect-generation", "1"]).expect("already", 0);
    has_all_keys(&again.json);
    assert_eq!(again.number("generation"), first.number("generation"));
    assert_eq!(again.json["owner"]["version"], "2.0.0");
}

#[test]
fn a_rollback_undoes_one_handover_and_repeating_it_does_not_undo_the_undoing() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    let forward = host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    new.tell("write ledger");
    let number = forward.number("handover").to_string();

    let back = host.call(&["rollback", "shop", "--handover", &number]).expect("committed", 0);
    assert_eq!(back.json["kind"], "rollback");
    assert_eq!(back.json["owner"]["version"], "1.0.0");
    assert_eq!(back.number("generation"), forward.number("generation") + 1);
    // Ownership moved back, the state stayed as the new version left it.
    assert_eq!(old.tell("read ledger")["value"]["sequence"], 1);
    old.tell("write ledger");

    let again = host.call(&["rollback", "shop", "--handover", &number]).expect("already", 0);
    assert_eq!(again.json["owner"]["version"], "1.0.0");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2);
}

#[test]
fn a_dry_run_gives_the_verdict_and_changes_nothing() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let before = host.status("shop");
    let answer = host.handover("shop", "2.0.0", &["--dry-run"]).expect("validated", 0);
    assert_eq!(answer.json["owner"]["version"], "1.0.0");
    let after = host.status("shop");
    assert_eq!((&after["generation"], &after["owner"]), (&before["generation"], &before["owner"]));
}

#[test]
fn history_holds_what_was_answered_newest_first() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let forward = host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    let back = host.call(&["rollback", "shop"]).expect("committed", 0);
    let history = host.call(&["history", "shop"]);
    assert_eq!(history.exit_code, 0, "{}", history.stderr);
    let numbers: Vec<u64> =
        history.json.as_array().expect("a list").iter().filter_map(|h| h["handover"].as_u64()).collect();
    assert_eq!(numbers[..2], [back.number("handover"), forward.number("handover")]);
    let one = host.call(&["history", "shop", &forward.number("handover").to_string()]);
    for key in ["generation", "previous_generation", "root_digest", "owner", "previous_owner", "gate_closed_us"] {
        assert_eq!(one.json[key], forward.json[key], "{key}");
    }
}

#[test]
fn the_same_request_id_joins_the_same_handover() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let id = "0b2f6f0e-7d0e-4b5e-9a39-0d6f0f6f7b11";
    let first = host.handover("shop", "2.0.0", &["--request-id", id]).expect("committed", 0);
    host.call(&["rollback", "shop"]).expect("committed", 0);
    // A caller that lost its answer and asks again is told what came of it; it does not hand over a second time.
    let again = host.handover("shop", "2.0.0", &["--request-id", id]);
    assert_eq!(again.number("handover"), first.number("handover"), "{}", again.json);
    assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
}

#[test]
fn a_request_begun_under_an_earlier_term_is_fenced_for_good() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("churn ledger");
    new.tell("churn ledger");
    for _ in 0..10 {
        host.handover("shop", "2.0.0", &[]).expect("committed", 0);
        host.call(&["rollback", "shop"]).expect("committed", 0);
    }
    let (a, b) = (old.tell("stop"), new.tell("stop"));
    assert_eq!((&a["value"]["faults"], &b["value"]["faults"]), (&json!([]), &json!([])));
    let written = |stopped: &Value| stopped["value"]["written"]["ledger"].as_u64().expect("a count");
    let ledger = old.tell("read ledger");
    assert_eq!(ledger["value"]["sequence"].as_u64(), Some(written(&a) + written(&b)), "{ledger} {a} {b}");
    assert_eq!(host.call(&["verify", "shop"]).exit_code, 0);
}

#[test]
fn wait_sees_what_it_waits_for_and_gives_up_in_time() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    assert_eq!(host.call(&["wait", "shop", "--for", "owner=2.0.0", "--timeout", "10s"]).exit_code, 0);
    assert_eq!(host.call(&["wait", "shop", "--for", "owner=3.0.0", "--timeout", "200ms"]).exit_code, 3);
}

#[test]
fn the_blackout_is_what_the_writer_itself_measured() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("churn ledger");
    new.tell("churn ledger");
    let mut measured = 0;
    for i in 0..40 {
        let answer = host.handover("shop", if i % 2 == 0 { "2.0.0" } else { "1.0.0" }, &[]).expect("committed", 0);
        measured = measured.max(answer.json["blackout_us"].as_u64().unwrap_or_default());
    }
    let longest: Vec<u64> =
        [&mut old, &mut new].map(|i| i.tell("stop")["value"]["longest_us"].as_u64().expect("a time")).into();
    assert!(measured > 0, "a writer that writes all the while waited at one of 40 frozen gates");
    assert!(longest.iter().any(|&us| us >= measured), "reported {measured} µs, the writers saw {longest:?} µs at most");
}
