//! Owners that die. Death is proved, the standby is promoted, and a region that kills its owners is held.

use heirloom_tests::host::Host;
use heirloom_tests::instance::Instance;
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn an_owner_with_a_living_forked_child_is_proved_dead_and_the_standby_promoted() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("inc hits_total 5");
    old.tell("share open 3");
    old.tell("write ledger");
    old.fork();
    old.kill();
    let status = host.await_owner("shop", "2.0.0");
    assert_eq!(status["state"], "owned");
    new.tell("write ledger");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2, "the committed write is kept");
    assert_eq!(new.number("total hits_total"), 5, "a dead instance's counts are kept");
    assert_eq!(host.metric("open"), 0.0, "a dead instance's share is not");
    let history = host.call(&["history", "shop", "-n", "1"]);
    assert_eq!(history.json[0]["kind"], "promotion", "{}", history.json);
}

/// An owner that has a flush hook, and a standby.
fn flushing_pair(host: &Host) -> (Instance, Instance) {
    let mut old = host.attach("shop", "1.0.0");
    old.tell("hook flush nothing");
    old.tell("ready");
    host.await_owner("shop", "1.0.0");
    let new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    (old, new)
}

/// Nothing is needed of an owner that has nothing to flush but that none of its threads is in a write.
#[test]
fn a_stopped_owner_without_a_flush_hook_is_followed_and_fenced_when_it_wakes() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("write ledger");
    old.tell("keep");
    let generation = host.status("shop")["generation"].as_u64().expect("a generation");
    old.signal(Signal::SIGSTOP);
    let answer = host.handover("shop", "2.0.0", &["--flush-timeout", "300ms"]).expect("committed", 0);
    assert_eq!(answer.json["forced"], false, "{}", answer.json);
    assert_eq!(host.status("shop")["generation"], generation + 1);
    new.tell("write ledger");
    // With the term that it had when it was stopped.
    old.signal(Signal::SIGCONT);
    old.tell_refused("write-kept ledger", "FENCED");
    old.tell_refused("write ledger", "NOT_OWNER");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2, "the committed writes, and no other");
}

#[test]
fn a_stopped_owner_is_not_dead() {
    let host = Host::start();
    let (mut old, mut new) = flushing_pair(&host);
    old.tell("write ledger");
    let generation = host.status("shop")["generation"].clone();
    old.signal(Signal::SIGSTOP);
    // It cannot say that it has flushed. No deadline deposes it: the handover is taken back.
    let answer = host.handover("shop", "2.0.0", &["--flush-timeout", "300ms"]).expect("aborted", 4);
    assert_eq!(answer.word("reason"), "FLUSH_TIMEOUT", "{}", answer.json);
    old.signal(Signal::SIGCONT);
    let after = host.status("shop");
    assert_eq!((&after["owner"]["version"], &after["generation"]), (&"1.0.0".into(), &generation), "{after}");
    old.tell("write ledger");
    new.tell_refused("write ledger", "NOT_OWNER");
}

#[test]
fn force_kills_an_owner_that_does_not_answer_and_loses_no_committed_write() {
    let host = Host::start();
    let (mut old, mut new) = flushing_pair(&host);
    old.tell("inc hits_total 5");
    old.tell("write ledger");
    old.signal(Signal::SIGSTOP);
    let flags = ["--flush-timeout", "300ms", "--force", "--yes"];
    let answer = host.handover("shop", "2.0.0", &flags).expect("committed", 0);
    assert_eq!(answer.json["forced"], true, "{}", answer.json);
    old.await_death();
    new.tell("write ledger");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2, "the committed write is kept");
    assert_eq!(new.number("total hits_total"), 5, "a killed instance's counts are kept");
}

#[test]
fn a_held_region_waits_for_an_explicit_handover() {
    let host = Host::configured("[region]\nlimit = \"64MiB\"\nvacancy = \"hold\"\n");
    let (mut old, mut new) = host.pair("shop");
    old.tell("write ledger");
    old.kill();
    host.await_status("shop", "the region to be vacant", |status| status["state"] == "vacant");
    new.tell_refused("write ledger", "NOT_OWNER");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    new.tell("write ledger");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2);
}

#[test]
fn a_target_that_dies_while_it_prepares_leaves_the_owner_where_it_was() {
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.attach("shop", "2.0.0");
    new.tell("hook prepare die");
    new.tell("ready");
    host.await_eligible("shop", "2.0.0");
    let generation = host.status("shop")["generation"].clone();
    let answer = host.handover("shop", "2.0.0", &[]).expect_reason("TARGET_DIED", 3);
    assert_eq!(answer.word("outcome"), "refused", "{}", answer.json);
    assert_eq!(host.status("shop")["generation"], generation);
    old.tell("write ledger");
}

/// Three owners die within a minute: the fourth is not installed.
#[test]
fn a_region_that_kills_its_owners_is_held() {
    let host = Host::start();
    let mut instances: Vec<Instance> = Vec::new();
    for version in ["1.0.0", "2.0.0", "3.0.0", "4.0.0"] {
        instances.push(host.ready("shop", version));
        host.await_eligible("shop", version);
    }
    instances[0].tell("inc hits_total 7");
    for _ in 0..3 {
        let owner = host.await_status("shop", "an owner", |status| status["owner"].is_object())["owner"].clone();
        let dying = instances.iter_mut().find(|i| owner["pid"] == i.pid()).expect("one of ours");
        dying.kill();
        let pid = owner["pid"].clone();
        host.await_status("shop", "the dead owner to be gone", |status| status["owner"]["pid"] != pid);
    }
    let status = host.await_status("shop", "the region to be held", held);
    assert!(status["owner"].is_null(), "{status}");
    let survivor = instances.iter_mut().find(|i| i.version() == "4.0.0").expect("the fourth");
    survivor.tell_refused("write ledger", "NOT_OWNER");
    assert_eq!(survivor.number("total hits_total"), 7, "counters go on");
    survivor.tell("inc hits_total 1");
    // A person who has looked at it lifts it.
    host.handover("shop", "4.0.0", &[]).expect("committed", 0);
    survivor.tell("write ledger");
}

/// A sidecar that is killed after each death counts them all the same.
#[test]
fn a_crash_loop_is_seen_through_restarts_of_the_sidecar() {
    let mut host = Host::start();
    let mut owner = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    for version in ["2.0.0", "3.0.0"] {
        let next = host.ready("shop", version);
        owner.kill();
        host.await_owner("shop", version);
        owner = next;
        host.kill_sidecar();
        host.start_sidecar();
    }
    let _last = host.ready("shop", "4.0.0");
    owner.kill();
    let status = host.await_status("shop", "the region to be held", held);
    assert!(status["owner"].is_null(), "{status}");
}

fn held(status: &Value) -> bool {
    status["quarantine"].as_str().is_some_and(|why| why.contains("OWNER_CRASH_LOOP"))
}
