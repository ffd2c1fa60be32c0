//! Wrong calls. Each is refused with a reason, what was expected and what was found, the right exit code and gRPC status, and changes
//! nothing.

use heirloom_proto::v1::{GetRegionRequest, HandoverRequest, SwitchOptions, handover_request::Target};
use heirloom_tests::cli::Answer;
use heirloom_tests::grpc::{Control, refusal};
use heirloom_tests::host::Host;
use heirloom_tests::http;
use serde_json::{Value, json};
use tonic::Code;

/// Runs `wrong`, then checks that the region is what it was.
#[track_caller]
fn unchanged(host: &Host, wrong: impl FnOnce() -> Answer) -> Answer {
    let before = host.status("shop");
    let answer = wrong();
    let after = host.status("shop");
    for key in ["generation", "owner", "state", "root_digest"] {
        assert_eq!(after[key], before[key], "{key} after {}", answer.json);
    }
    answer
}

fn code(host: &Host, request: HandoverRequest) -> (Code, String) {
    let status = Control::connect(host).run(async |client| {
        let mut events = client.handover(request).await?.into_inner();
        while events.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    });
    refusal(&status.expect_err("refused"))
}

fn request(version: &str, options: SwitchOptions) -> HandoverRequest {
    let target = Some(Target::TargetVersion(version.into()));
    HandoverRequest { name: "regions/shop".into(), target, options: Some(options) }
}

#[test]
fn arguments() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    for wrong in [
        &["handover"][..],
        &["handover", "shop", "2.0.0", "--freeze-timeout", "5"],
        &["handover", "shop", "2.0.0", "--instance", "i-1"],
        &["handover", "shop", "2.0.0", "--expect-generation", "many"],
        &["wait", "shop", "--for", "owner"],
        &["hand-over", "shop"],
    ] {
        let answer = unchanged(&host, || host.call(wrong));
        assert_eq!(answer.exit_code, 2, "{wrong:?}: {} {}", answer.json, answer.stderr);
    }
    host.call(&["status", "Shop!"]).expect_reason("INVALID_NAME", 2);
}

#[test]
fn unknown_region_and_unknown_instance() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    for verb in [
        &["handover", "nowhere", "2.0.0"][..],
        &["rollback", "nowhere"],
        &["history", "nowhere"],
        &["verify", "nowhere"],
    ] {
        let answer = unchanged(&host, || host.call(verb));
        answer.expect_reason("REGION_NOT_FOUND", 3);
    }
    let answer = unchanged(&host, || host.call(&["handover", "shop", "--instance", "i-00000000"]));
    answer.expect_reason("INSTANCE_NOT_FOUND", 3);
    let answer = unchanged(&host, || host.handover("shop", "9.9.9", &[]));
    assert!(["NO_STANDBY", "INSTANCE_NOT_FOUND"].contains(&answer.word("reason")), "{}", answer.json);
    assert_eq!(answer.exit_code, 3);
    host.call(&["history", "shop", "4711"]).expect_reason("HANDOVER_NOT_FOUND", 3);

    let mut control = Control::connect(&host);
    let missing = control.run(async |c| c.get_region(GetRegionRequest { name: "regions/nowhere".into() }).await);
    assert_eq!(refusal(&missing.expect_err("refused")), (Code::NotFound, "REGION_NOT_FOUND".into()));
    let malformed = control.run(async |c| c.get_region(GetRegionRequest { name: "shop".into() }).await);
    assert_eq!(malformed.expect_err("refused").code(), Code::InvalidArgument);
}

#[test]
fn a_target_that_is_not_ready() {
    let host = Host::start();
    let _old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.attach("shop", "2.0.0");
    let answer = unchanged(&host, || host.handover("shop", "2.0.0", &[])).expect_reason("TARGET_NOT_READY", 3);
    assert_eq!(answer.word("outcome"), "refused");
    assert_eq!(
        code(&host, request("2.0.0", SwitchOptions::default())),
        (Code::FailedPrecondition, "TARGET_NOT_READY".into())
    );
    new.tell("ready not");
    unchanged(&host, || host.handover("shop", "2.0.0", &[])).expect_reason("TARGET_NOT_READY", 3);
}

#[test]
fn wrong_expected_generation() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let generation = host.status("shop")["generation"].as_u64().expect("a generation");
    let answer = unchanged(&host, || host.handover("shop", "2.0.0", &["--expect-generation", "77"]));
    let answer = answer.expect_reason("GENERATION_MISMATCH", 3);
    assert_eq!((answer.word("expected"), answer.word("found")), ("77", generation.to_string().as_str()));
    let options = SwitchOptions { expected_generation: Some(77), ..Default::default() };
    assert_eq!(code(&host, request("2.0.0", options)), (Code::Aborted, "GENERATION_MISMATCH".into()));
}

#[test]
fn a_second_handover_names_the_first() {
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.attach("shop", "2.0.0");
    new.tell("hook prepare hang");
    new.tell("ready");
    let _third = host.ready("shop", "3.0.0");
    host.await_eligible("shop", "2.0.0");
    host.await_eligible("shop", "3.0.0");
    let begun = host.handover("shop", "2.0.0", &["--detach", "--prepare-timeout", "20s"]);
    assert_eq!(begun.exit_code, 0, "{} {}", begun.json, begun.stderr);
    let running = begun.number("handover");

    let second = host.handover("shop", "3.0.0", &[]).expect_reason("HANDOVER_IN_PROGRESS", 3);
    assert!(second.json.to_string().contains(&running.to_string()), "names #{running}: {}", second.json);
    assert_eq!(code(&host, request("3.0.0", SwitchOptions::default())), (Code::Aborted, "HANDOVER_IN_PROGRESS".into()));
    old.tell("write ledger");

    let aborted = host.call(&["abort", "shop"]);
    assert_eq!(aborted.exit_code, 0, "{} {}", aborted.json, aborted.stderr);
    assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
    host.handover("shop", "3.0.0", &[]).expect("committed", 0);
    host.call(&["abort", "shop"]).expect_reason("HANDOVER_NOT_FOUND", 3);
}

#[test]
fn hooks_that_refuse_or_come_late() {
    let host = Host::start();
    let mut old = host.attach("shop", "1.0.0");
    old.tell("hook flush veto");
    old.tell("ready");
    host.await_owner("shop", "1.0.0");
    let mut vetoes = host.attach("shop", "2.0.0");
    vetoes.tell("hook prepare veto");
    vetoes.tell("ready");
    let mut hangs = host.attach("shop", "3.0.0");
    hangs.tell("hook prepare hang");
    hangs.tell("ready");
    let _good = host.ready("shop", "4.0.0");
    for version in ["2.0.0", "3.0.0", "4.0.0"] {
        host.await_eligible("shop", version);
    }
    unchanged(&host, || host.handover("shop", "2.0.0", &[])).expect_reason("VETOED", 3);
    let late = &["--prepare-timeout", "200ms"];
    unchanged(&host, || host.handover("shop", "3.0.0", late)).expect_reason("PREPARE_TIMEOUT", 3);
    let answer = host.handover("shop", "4.0.0", &[]).expect_reason("VETOED", 4);
    assert_eq!((answer.word("outcome"), answer.word("phase")), ("aborted", "flush"), "{}", answer.json);
    assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
    old.tell("write ledger");
}

#[test]
fn a_target_that_dies_between_prepare_and_commit() {
    let host = Host::start();
    let mut old = host.attach("shop", "1.0.0");
    old.tell("hook flush hang");
    old.tell("ready");
    host.await_owner("shop", "1.0.0");
    let mut new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    let begun = host.handover("shop", "2.0.0", &["--detach", "--flush-timeout", "20s"]);
    let number = begun.number("handover").to_string();
    heirloom_tests::wait::until("the flush to begin", || {
        let one = host.call(&["history", "shop", &number]);
        if one.word("phase") == "flush" { Ok(()) } else { Err(one.json.to_string()) }
    });
    new.kill();
    let ended = heirloom_tests::wait::until("the handover to be decided", || {
        let one = host.call(&["history", "shop", &number]);
        if one.word("outcome") == "running" { Err(one.json.to_string()) } else { Ok(one) }
    });
    assert_eq!((ended.word("outcome"), ended.word("reason")), ("aborted", "TARGET_DIED"), "{}", ended.json);
    assert_eq!(ended.json["exit_code"], 4);
    assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
    old.tell("write ledger");
}

#[test]
fn nothing_to_roll_back() {
    let host = Host::start();
    let (old, _new) = host.pair("shop");
    unchanged(&host, || host.call(&["rollback", "shop"])).expect_reason("NOTHING_TO_ROLL_BACK", 3);
    let forward = host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    old.leave();
    let number = forward.number("handover").to_string();
    let answer = unchanged(&host, || host.call(&["rollback", "shop", "--handover", &number]));
    assert_eq!(answer.exit_code, 3, "the one to go back to is gone: {}", answer.json);
}

#[test]
fn names_kinds_and_buckets() {
    let host = Host::start();
    let mut owner = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    for name in ["9lives", "with-dash", "ümlaut", "__reserved"] {
        let refused = owner.ask(&format!("open counter {name}"));
        if name != "__reserved" {
            assert_eq!(refused["reason"], "INVALID_NAME", "{name}: {refused}");
        }
    }
    owner.tell("open counter hits_total");
    owner.tell_refused("open histogram hits_total", "INVALID_NAME");
    owner.tell_refused("open histogram hits", "KIND_MISMATCH");
    owner.tell_refused("open gauge hits", "KIND_MISMATCH");
    owner.tell("open histogram seconds 0.1,0.5");
    owner.tell_refused("open histogram seconds 0.1,0.6", "BUCKETS_MISMATCH");
    owner.tell("inc hits_total 1");
    assert_eq!(host.metric("hits_total"), 1.0);
    let mut other = host.attach("shop", "2.0.0");
    let refused = other.tell_refused("open updown hits", "KIND_MISMATCH");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("counter"), "says what it found: {message}");
}

#[test]
fn values_that_do_not_fit() {
    let host = Host::configured("[region]\nlimit = \"16MiB\"\n");
    let mut owner = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    owner.tell("blob small 1000 900");
    owner.tell("inc hits_total 1");
    let refused = owner.tell_refused("blob small 1000 2000", "VALUE_TOO_LARGE");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("1000"), "says what is allowed: {message}");
    // The region itself has a limit.
    let mut last = Value::Null;
    for i in 0..64 {
        last = owner.ask(&format!("blob big{i} 1000000 900000"));
        if last["ok"] != true {
            break;
        }
    }
    assert_eq!(last["reason"], "REGION_FULL", "{last}");
    owner.tell("inc hits_total 1");
    owner.tell("blob small 1000 800");
    assert_eq!(host.call(&["verify", "shop"]).exit_code, 0);
}

#[test]
fn more_instances_than_seats() {
    let host = Host::configured("[region]\nlimit = \"64MiB\"\ninstances_max = 2\n");
    let (_old, _new) = host.pair("shop");
    let refused = heirloom_tests::instance::Instance::refused(&host, "shop", "3.0.0", &[]);
    assert_eq!(refused["reason"], "TABLE_FULL", "{refused}");
    assert!(refused["message"].as_str().is_some_and(|words| words.contains("instances full: 2")), "{refused}");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
}

#[test]
fn the_http_twins_answer_the_same() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let post = |path: &str, body: Value| http::post(host.http(), path, &body.to_string()).expect("an answer");
    let parse = |answer: &http::Answer| serde_json::from_str::<Value>(&answer.body).expect("one object");

    let missing = post("/v1/regions/nowhere:handover", json!({ "version": "2.0.0" }));
    assert_eq!((missing.status, parse(&missing)["reason"].clone()), (404, json!("REGION_NOT_FOUND")));
    let options = json!({ "version": "2.0.0", "expect_generation": 77 });
    let mismatch = post("/v1/regions/shop:handover", options);
    assert_eq!(
        (mismatch.status, parse(&mismatch)["reason"].clone()),
        (409, json!("GENERATION_MISMATCH")),
        "{}",
        mismatch.body
    );
    let malformed = http::post(host.http(), "/v1/regions/shop:handover", "{").expect("an answer");
    assert_eq!(malformed.status, 400, "{}", malformed.body);
    let done = post("/v1/regions/shop:handover", json!({ "version": "2.0.0" }));
    assert_eq!((done.status, parse(&done)["outcome"].clone()), (200, json!("committed")), "{}", done.body);
    let again = post("/v1/regions/shop:handover", json!({ "version": "2.0.0" }));
    assert_eq!((again.status, parse(&again)["outcome"].clone()), (200, json!("already")), "{}", again.body);
}
