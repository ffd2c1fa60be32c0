//! The two ways without a deploy tool in which the owner itself begins: hand over on leaving, and leave the region to a successor.

use heirloom_tests::host::Host;

#[test]
fn an_owner_that_leaves_hands_over_to_the_standby() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("write ledger");
    let left = old.leave();
    assert_eq!(left["value"]["owner"], "2.0.0", "{left}");
    let status = host.await_owner("shop", "2.0.0");
    assert_eq!(status["instances"].as_array().map(Vec::len), Some(1), "{status}");
    new.tell("write ledger");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2);
}

/// Succession: nobody stands by, the state waits.
#[test]
fn a_restart_in_place_loses_nothing() {
    let host = Host::start();
    let mut first = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let born = host.status("shop")["generation"].as_u64().expect("a generation");
    first.tell("inc hits_total 3");
    first.tell("write ledger");
    let left = first.leave();
    assert!(left["value"]["owner"].is_null(), "{left}");
    let vacant = host.await_status("shop", "the region to be vacant", |status| status["state"] == "vacant");
    assert_eq!(vacant["generation"], born + 1, "a departure is a generation of its own");
    assert_eq!(host.metric("hits_total"), 3.0, "exposed while nobody is there");

    let mut second = host.ready("shop", "1.0.1");
    host.await_owner("shop", "1.0.1");
    second.tell("write ledger");
    assert_eq!(second.tell("read ledger")["value"]["sequence"], 2);
    assert_eq!(second.number("total hits_total"), 3);
    let kinds: Vec<_> = host
        .call(&["history", "shop", "-n", "2"])
        .json
        .as_array()
        .expect("a list")
        .iter()
        .map(|h| h["kind"].clone())
        .collect();
    assert_eq!(kinds, ["succession", "departure"]);
}

#[test]
fn a_standby_that_leaves_changes_no_role() {
    let host = Host::start();
    let (mut old, new) = host.pair("shop");
    let before = host.status("shop")["generation"].clone();
    new.leave();
    let status = host.await_status("shop", "one instance", |s| s["instances"].as_array().is_some_and(|i| i.len() == 1));
    assert_eq!((status["generation"].clone(), status["owner"]["version"].clone()), (before, "1.0.0".into()));
    old.tell("write ledger");
}

#[test]
fn drain_refuses_to_leave_the_region_without_an_owner() {
    let host = Host::start();
    let old = host.ready("shop", "1.0.0");
    let status = host.await_owner("shop", "1.0.0");
    let instance = status["owner"]["instance"].as_str().expect("a name").to_owned();
    host.call(&["drain", "shop", &instance]).expect_reason("OWNER_WOULD_VACATE", 3);
    assert_eq!(host.status("shop")["owner"]["pid"], old.pid());
}

#[test]
fn drain_asks_the_owner_to_hand_over_and_leave() {
    let host = Host::start();
    let (_old, _new) = host.pair("shop");
    let instance = host.status("shop")["owner"]["instance"].as_str().expect("a name").to_owned();
    let answer = host.call(&["drain", "shop", &instance]);
    assert_eq!(answer.exit_code, 0, "{} {}", answer.json, answer.stderr);
    host.await_owner("shop", "2.0.0");
    let gone = format!("left={instance}");
    assert_eq!(host.call(&["wait", "shop", "--for", &gone, "--timeout", "10s"]).exit_code, 0);
}
