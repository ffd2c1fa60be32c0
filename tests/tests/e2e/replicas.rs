//! `HEIRLOOM_REPLICA=auto`: the sidecar chooses the region.

use heirloom_tests::host::Host;
use heirloom_tests::instance::Instance;

const AUTO: [(&str, &str); 1] = [("HEIRLOOM_REPLICA", "auto")];

fn start(host: &Host, version: &str) -> (Instance, String) {
    let mut instance = Instance::spawn(host, "cart", version, &AUTO);
    let attached = instance.hear();
    let region = attached["value"]["region"].as_str().unwrap_or_else(|| panic!("{attached}")).to_owned();
    instance.tell("ready");
    (instance, region)
}

#[test]
fn the_sidecar_assigns_replicas() {
    let host = Host::start();
    let (_a1, a) = start(&host, "1.0.0");
    host.await_owner(&a, "1.0.0");
    let (_b1, b) = start(&host, "1.0.0");
    host.await_owner(&b, "1.0.0");
    assert_ne!(a, b, "an owner of the same version is a sibling, not a predecessor");

    let (_a2, first) = start(&host, "2.0.0");
    host.await_eligible(&first, "2.0.0");
    let (b2, second) = start(&host, "2.0.0");
    host.await_eligible(&second, "2.0.0");
    let mut upgraded = [first.clone(), second.clone()];
    upgraded.sort();
    let mut owned = [a.clone(), b.clone()];
    owned.sort();
    assert_eq!(upgraded, owned, "each new instance stands by for one that has no standby yet");

    let answer = host.call(&["handover", "cart", "2.0.0", "--all"]);
    assert_eq!(answer.exit_code, 0, "{} {}", answer.json, answer.stderr);
    for region in &owned {
        host.await_owner(region, "2.0.0");
    }
    drop(b2);
}

#[test]
fn a_vacant_region_is_taken_first() {
    let host = Host::start();
    let (instance, region) = start(&host, "1.0.0");
    host.await_owner(&region, "1.0.0");
    instance.leave();
    host.await_status(&region, "the region to be vacant", |status| status["state"] == "vacant");
    let (_next, taken) = start(&host, "1.0.0");
    assert_eq!(taken, region);
    host.await_owner(&region, "1.0.0");
}

#[test]
fn all_replicas_halt_at_the_first_abort() {
    let host = Host::start();
    let mut first = Instance::spawn(&host, "cart", "1.0.0", &AUTO);
    let region = first.hear()["value"]["region"].as_str().expect("a region").to_owned();
    first.tell("hook flush veto");
    first.tell("ready");
    host.await_owner(&region, "1.0.0");
    let (_b1, second) = start(&host, "1.0.0");
    host.await_owner(&second, "1.0.0");
    let _standbys = [start(&host, "2.0.0"), start(&host, "2.0.0")];
    for region in [&region, &second] {
        host.await_eligible(region, "2.0.0");
    }
    let answer = host.call(&["handover", "cart", "2.0.0", "--all"]).expect("aborted", 4);
    let tried = answer.json["handovers"].as_array().expect("those tried");
    assert_eq!((tried.len(), &tried[0]["reason"]), (1, &"VETOED".into()), "{}", answer.json);
    assert_eq!(answer.json["not_tried"], serde_json::json!([second]), "{}", answer.json);
    for region in [&region, &second] {
        assert_eq!(host.status(region)["owner"]["version"], "1.0.0");
    }
}
