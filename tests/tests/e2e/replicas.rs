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
