//! What a service meets at its own end: a fork, a region made anew, no sidecar at all; and what looks on from outside.

use std::fs;
use std::time::Duration;

use heirloom_client::{Exposition, Hooks, IfAbsent, Link, attach, wait};
use heirloom_tests::host::{Host, tmpfs_dir};
use heirloom_tests::instance::Instance;
use heirloom_tests::wait::until;
use serde_json::json;

#[test]
fn a_forked_child_is_told_so_and_its_parent_goes_on() {
    let host = Host::start();
    let mut shop = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    assert_eq!(shop.tell("fork-write open_baskets")["value"], "forked");
    assert_eq!(host.metric("open_baskets"), 4.0, "the parent's write counts, the child's does not");
}

#[test]
fn an_observer_sees_the_owner_and_its_cells_through_the_sidecar() {
    let host = Host::start();
    let (mut old, _new) = host.pair("shop");
    old.tell("write ledger");
    let socket = host.socket().display().to_string();
    let mut looker = Instance::start(&host, "other", "1.0.0", &[("HEIRLOOM_SOCKET", &socket)]);
    let seen = looker.tell("look shop ledger")["value"].clone();
    assert_eq!((&seen["owner"], &seen["ledger"]["sequence"]), (&json!("1.0.0"), &json!(1)), "{seen}");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    let after = looker.tell("look shop ledger")["value"].clone();
    assert_eq!(after["owner"], "2.0.0");
    assert!(after["generation"].as_u64() > seen["generation"].as_u64(), "{seen} {after}");
    let nowhere = looker.ask("look nowhere ledger");
    assert!(nowhere["message"].as_str().is_some_and(|m| m.contains("no region nowhere")), "{nowhere}");
}

#[test]
fn a_region_made_anew_is_no_place_to_come_back_to() {
    let mut host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    old.tell("inc hits_total 5");
    host.kill_sidecar();
    fs::remove_file(host.region_file("shop")).expect("remove the region");
    host.start_sidecar();
    let mut new = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    until("the old instance to know that its region is gone", || match old.tell("role")["value"].as_str() {
        Some("left") => Ok(()),
        role => Err(format!("{role:?}")),
    });
    assert_eq!(new.number("total hits_total"), 0, "the new region has nothing of the old");
    assert_eq!(host.status("shop")["instances"].as_array().map(Vec::len), Some(1));
    new.tell("write ledger");
}

#[test]
fn without_a_sidecar_a_private_region_serves_the_same_calls() {
    let dir = tmpfs_dir();
    let absent = attach("shop").version("1.0.0").socket(dir.path().join("nothing.sock"));
    let shop = absent.if_absent(IfAbsent::Local(Duration::from_millis(50))).wait().expect("a private region");
    let region = shop.region().clone();
    assert!(matches!(region.link(), Link::Local), "{:?}", region.link());
    let (hits, open) =
        (region.counter("hits_total").open().expect("a counter"), region.gauge("open").open().expect("one"));
    let mut serving = wait(shop.ready(Hooks::new())).expect("ready");
    let term = wait(serving.next_term()).expect("it owns at once");
    hits.add(3);
    open.set(&term, 2.0).expect("an owned write");
    let mut text = String::new();
    region.encode_local_metrics(&mut text, Exposition::Prometheus).expect("its own exposition");
    assert!(text.contains("hits_total 3") && text.contains("open 2"), "{text}");
}

#[test]
fn a_live_written_region_can_be_dumped_verified_and_scraped_for_what_is_dirty() {
    let host = Host::start();
    let (mut old, _new) = host.pair("shop");
    old.tell("count hits_total 2");
    old.tell("churn ledger");
    until("pages to be dirty", || match host.metric("heirloom_dirty_pages") {
        0.0 => Err("none"),
        _ => Ok(()),
    });
    let file = host.region_file("shop").display().to_string();
    for _ in 0..20 {
        let dump = host.call(&["dump", &file, "--objects"]);
        assert_eq!(dump.exit_code, 0, "{} {}", dump.json, dump.stderr);
        let text = dump.json.to_string();
        assert!(text.contains("ledger") && text.contains("\"hits\""), "{text}");
        let verified = host.call(&["verify", "--file", &file]);
        assert_eq!(verified.exit_code, 0, "{} {}", verified.json, verified.stderr);
    }
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    old.tell("stop");
}
