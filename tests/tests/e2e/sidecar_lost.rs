//! The sidecar is killed, stopped and restarted: the data plane goes on, and instances come back as who they were.

use std::thread;
use std::time::Duration;

use heirloom_tests::host::Host;
use heirloom_tests::instance::Instance;
use heirloom_tests::random::Random;
use heirloom_tests::wait::{holds, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Twice the default `freeze_timeout`, and what a loaded machine of two cores may add to a wake-up.
const LONGEST_WAIT: Duration = Duration::from_millis(100 + 400);

fn busy(host: &Host) -> (Instance, Instance) {
    let (mut old, mut new) = host.pair("shop");
    for instance in [&mut old, &mut new] {
        instance.tell("count hits_total 1");
        instance.tell("churn ledger");
    }
    (old, new)
}

/// Ends the load and compares what the region holds with what the two recorded for themselves.
fn check_exact(host: &Host, old: &mut Instance, new: &mut Instance) {
    let (a, b) = (old.tell("stop")["value"].clone(), new.tell("stop")["value"].clone());
    let sum = |kind: &str, name: &str| [&a, &b].iter().filter_map(|v| v[kind][name].as_u64()).sum::<u64>();
    assert_eq!((&a["faults"], &b["faults"]), (&json!([]), &json!([])));
    assert_eq!(old.number("total hits_total"), sum("counted", "hits_total"));
    assert_eq!(old.tell("read ledger")["value"]["sequence"], sum("written", "ledger"), "{a} {b}");
    for stopped in [&a, &b] {
        let longest = Duration::from_micros(stopped["longest_us"].as_u64().expect("a time"));
        assert!(longest <= LONGEST_WAIT, "a writer waited {longest:?}");
    }
    let verified = host.call(&["verify", "shop"]);
    assert_eq!(verified.exit_code, 0, "{} {}", verified.json, verified.stderr);
}

/// Both instances as `status` names them.
fn names(status: &Value) -> Vec<(String, String)> {
    let word = |i: &Value, key: &str| i[key].as_str().unwrap_or_default().to_owned();
    let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<_> = instances.iter().map(|i| (word(i, "instance"), word(i, "version"))).collect();
    names.sort();
    names
}

fn await_both_connected(host: &Host) -> Value {
    host.await_status("shop", "both instances to be connected and eligible", |status| {
        let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        instances.len() == 2 && instances.iter().all(|i| i["connected"] == true && i["eligible"] == true)
    })
}

/// Starts a handover in the background, to be killed or stopped in the middle of.
fn hand_over_meanwhile(host: &Host, target: &str) -> thread::JoinHandle<()> {
    let mut command = heirloom_tests::cli::helper("heirloom");
    command.arg("--socket").arg(host.socket()).args(["handover", "shop", target, "-q"]);
    thread::spawn(move || drop(command.output()))
}

#[test]
fn instances_come_back_as_who_they_were() {
    let mut host = Host::start();
    let (mut old, mut new) = busy(&host);
    let before = await_both_connected(&host);
    host.kill_sidecar();
    old.tell("inc while_away_total 2");
    assert_eq!(old.tell("role")["value"], "owner", "a lost link changes no role");
    old.tell("write other");
    host.start_sidecar();
    let after = await_both_connected(&host);
    assert_eq!(names(&after), names(&before));
    assert_eq!(after["generation"], before["generation"]);
    assert_eq!(after["owner"], before["owner"]);
    assert_eq!(host.metric("while_away_total"), 2.0, "a new name needs no sidecar");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    check_exact(&host, &mut old, &mut new);
}

#[test]
fn a_killed_sidecar_at_a_random_moment_of_a_handover_leaves_one_of_two_outcomes() {
    let mut random = Random::announced("killed");
    let mut host = Host::start();
    let (mut old, mut new) = busy(&host);
    for round in 0..12 {
        let status = await_both_connected(&host);
        let generation = status["generation"].as_u64().expect("a generation");
        let target = if status["owner"]["version"] == "1.0.0" { "2.0.0" } else { "1.0.0" };
        let asked = hand_over_meanwhile(&host, target);
        thread::sleep(random.moment(Duration::from_millis(60)));
        host.kill_sidecar();
        host.start_sidecar();
        asked.join().expect("the caller ends");
        let after = await_both_connected(&host);
        let committed = after["generation"] == generation + 1 && after["owner"]["version"] == target;
        let unchanged = after["generation"] == generation && after["owner"] == status["owner"];
        assert!(committed || unchanged, "round {round}: {status} became {after}");
        let newest = host.call(&["history", "shop", "-n", "1"]).json[0].clone();
        assert_ne!(newest["outcome"], "running", "round {round}: every handover is decided: {newest}");
    }
    let target = if host.status("shop")["owner"]["version"] == "1.0.0" { "2.0.0" } else { "1.0.0" };
    host.handover("shop", target, &[]).expect("committed", 0);
    check_exact(&host, &mut old, &mut new);
}

#[test]
fn a_stopped_sidecar_delays_writers_for_one_freeze_budget_at_most() {
    let mut random = Random::announced("stopped");
    let mut host = Host::start();
    let (mut old, mut new) = busy(&host);
    for _ in 0..12 {
        let status = await_both_connected(&host);
        let target = if status["owner"]["version"] == "1.0.0" { "2.0.0" } else { "1.0.0" };
        let asked = hand_over_meanwhile(&host, target);
        thread::sleep(random.moment(Duration::from_millis(60)));
        host.signal_sidecar(Signal::SIGSTOP);
        // Long enough that a frozen gate is thawed by its writers.
        thread::sleep(Duration::from_millis(300));
        host.signal_sidecar(Signal::SIGCONT);
        asked.join().expect("the caller ends");
    }
    await_both_connected(&host);
    let target = if host.status("shop")["owner"]["version"] == "1.0.0" { "2.0.0" } else { "1.0.0" };
    host.handover("shop", target, &[]).expect("committed", 0);
    check_exact(&host, &mut old, &mut new);
}

#[test]
fn a_sidecar_that_ends_in_order_leaves_the_data_plane_alone() {
    let mut host = Host::start();
    let (mut old, mut new) = busy(&host);
    host.stop_sidecar();
    old.tell("inc while_away_total 1");
    host.start_sidecar();
    await_both_connected(&host);
    check_exact(&host, &mut old, &mut new);
}

#[test]
fn everything_killed_and_started_again_finds_every_committed_write() {
    let mut host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("inc hits_total 11");
    old.tell("write ledger");
    let generation = host.status("shop")["generation"].as_u64().expect("a generation");
    host.kill_sidecar();
    old.kill();
    new.kill();
    host.start_sidecar();
    let mut next = host.ready("shop", "3.0.0");
    let status = host.await_owner("shop", "3.0.0");
    assert!(status["generation"].as_u64() > Some(generation), "{status}");
    assert_eq!(next.tell("read ledger")["value"]["sequence"], 1);
    assert_eq!(next.number("total hits_total"), 11);
    until("the exposition to hold the counter", || {
        let sum = host.metric("hits_total");
        holds(sum == 11.0, sum)
    });
}

#[test]
fn an_owner_that_died_while_the_sidecar_was_away_is_followed() {
    let mut host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("write ledger");
    host.kill_sidecar();
    old.kill();
    host.start_sidecar();
    host.await_owner("shop", "2.0.0");
    new.tell("write ledger");
    assert_eq!(new.tell("read ledger")["value"]["sequence"], 2);
}

/// Who is told that it is ready may be handed the region at once.
#[test]
fn ready_returns_when_the_sidecar_knows() {
    let mut host = Host::start();
    let _old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.attach("shop", "2.0.0");
    host.signal_sidecar(Signal::SIGSTOP);
    new.send("ready");
    assert!(!new.says_something_within(Duration::from_millis(500)), "ready before anybody knew of it");
    host.signal_sidecar(Signal::SIGCONT);
    assert_eq!(new.hear()["ok"], true);
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
}
