//! Old owners that finish their work: what is left and why, how long it may take, and several of them at once.

use std::fs::File;
use std::time::{Duration, Instant};

use heirloom_examples::process::Running;
use heirloom_tests::cli::helper;
use heirloom_tests::host::Host;
use heirloom_tests::http;
use heirloom_tests::instance::Instance;
use heirloom_tests::wait::{holds, until};
use serde_json::{Value, json};

fn instance(status: &Value, version: &str) -> Value {
    let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    instances.iter().find(|i| i["version"] == version).cloned().unwrap_or_default()
}

fn metrics(host: &Host) -> String {
    http::get(host.http(), "/metrics", &[]).expect("metrics").body
}

fn role(host: &Host, version: &str, role: &str) -> Value {
    let status =
        host.await_status("shop", &format!("{version} to be {role}"), |s| instance(s, version)["role"] == role);
    instance(&status, version)
}

/// A region's watcher, which writes to a file what it is told.
fn watch(host: &Host) -> (Running, std::path::PathBuf) {
    let path = host.dir().join("watch.jsonl");
    let mut command = helper("heirloom");
    command.arg("--socket").arg(host.socket()).args(["watch", "shop", "-o", "jsonl"]);
    command.stdout(File::create(&path).expect("create a file"));
    let watcher = Running::start("watch", &mut command).expect("start to watch");
    until("the watcher to be told how it is", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        holds(text.contains('\n'), text)
    });
    (watcher, path)
}

/// Who was said to be drained, in that order.
fn drained(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("what the watcher wrote");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| event["drained"].as_str().map(str::to_owned)).collect()
}

#[test]
fn what_is_left_and_why_is_told_until_it_is_drained() {
    let host = Host::start();
    let (mut old, _new) = host.pair("shop");
    old.tell("hold connections 2 TLS");
    old.tell("hold connections 1 CLIENT_IS_SLOW");
    old.tell("hold requests 3 -");
    let status = host.await_status("shop", "the owner's work to be told", |status| {
        let owner = instance(status, "1.0.0");
        owner["role"] == "owner" && owner["in_flight"]["connections"] == 3 && owner["in_flight"]["requests"] == 3
    });
    assert_eq!(instance(&status, "1.0.0")["undrained"], json!([]), "an owner drains nothing");
    let text = metrics(&host);
    assert!(text.contains("heirloom_in_flight{region=\"shop\",kind=\"connections\",role=\"owner\"} 3"), "{text}");
    let (_watcher, told) = watch(&host);

    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    let why = json!([
        { "kind": "connections", "reason": "CLIENT_IS_SLOW", "count": 1 },
        { "kind": "connections", "reason": "TLS", "count": 2 },
    ]);
    let name = host.await_status("shop", "the reasons to be told", |status| {
        let old = instance(status, "1.0.0");
        old["role"] == "draining" && old["undrained"] == why && old["in_flight"]["terms"].is_null()
    });
    let name = instance(&name, "1.0.0")["instance"].clone();
    let text = metrics(&host);
    for line in [
        "heirloom_draining_instances{region=\"shop\"} 1",
        "heirloom_draining{region=\"shop\",kind=\"connections\",reason=\"TLS\"} 2",
        "heirloom_draining{region=\"shop\",kind=\"connections\",reason=\"CLIENT_IS_SLOW\"} 1",
        "heirloom_draining{region=\"shop\",kind=\"requests\",reason=\"\"} 3",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    old.tell("release connections");
    host.await_status("shop", "requests alone to be left", |status| {
        let old = instance(status, "1.0.0");
        old["in_flight"] == json!({ "requests": 3 }) && old["undrained"] == json!([])
    });
    assert_eq!(drained(&told), Vec::<String>::new());
    old.tell("release requests");
    role(&host, "1.0.0", "standby");
    until("the watcher to be told", || {
        holds(drained(&told) == [name.as_str().unwrap()], format!("{:?}", drained(&told)))
    });
    assert!(metrics(&host).contains("heirloom_draining_instances{region=\"shop\"} 0"));
}

#[test]
fn a_kind_that_is_late_is_reported_once_with_its_reasons_and_nothing_is_cut() {
    let host = Host::configured("[region]\nlimit = \"64MiB\"\ndrain_timeouts = { connections = \"300ms\" }\n");
    let (mut old, _new) = host.pair("shop");
    old.tell("hold connections 2 TLS");
    old.tell("hold requests 1 -");
    let done = host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    let number = done.number("handover");
    let late = || {
        let history = host.call(&["history", "shop"]).json;
        let records = history.as_array().cloned().unwrap_or_default();
        records.into_iter().find(|record| record["handover"] == number).unwrap_or_default()
    };
    let record = until("the connections to be late", || {
        let record = late();
        let message = record["message"].as_str().unwrap_or_default().to_owned();
        holds(message.contains("is late: 2 connections (2 TLS)"), &record).map(|()| record)
    });
    assert_eq!(record["phase"], "drain", "requests have their time still: {record}");
    assert!(!record["message"].as_str().unwrap_or_default().contains("requests"), "{record}");
    assert_eq!(role(&host, "1.0.0", "draining")["in_flight"], json!({ "connections": 2, "requests": 1 }));
    old.tell("release requests");
    old.tell("release connections");
    role(&host, "1.0.0", "standby");
    let record = late();
    assert_eq!((record["phase"].as_str(), record["outcome"].as_str()), (Some("done"), Some("committed")), "{record}");
    assert_eq!(record["message"].as_str().unwrap_or_default().matches("is late").count(), 1, "{record}");
}

#[test]
fn three_upgrades_stand_on_one_another_while_all_before_still_drain() {
    let mut host = Host::start();
    let mut all: Vec<Instance> = vec![host.ready("shop", "1.0.0")];
    host.await_owner("shop", "1.0.0");
    let left = |n: usize| json!({ "connections": n });
    for n in 1..=3_usize {
        all[n - 1].tell(&format!("hold connections {n} TLS"));
        let next = format!("{}.0.0", n + 1);
        all.push(host.ready("shop", &next));
        host.await_eligible("shop", &next);
        host.handover("shop", &next, &[]).expect("committed", 0);
    }
    let all_drain = |status: &Value| {
        (1..=3).all(|n| {
            let old = instance(status, &format!("{n}.0.0"));
            old["role"] == "draining" && old["in_flight"] == left(n)
        })
    };
    host.await_status("shop", "three to drain at once, each with its own", all_drain);
    assert!(metrics(&host).contains("heirloom_draining{region=\"shop\",kind=\"connections\",reason=\"TLS\"} 6"));
    host.kill_sidecar();
    host.start_sidecar();
    host.await_owner("shop", "4.0.0");
    host.await_status("shop", "the next sidecar to know all three", all_drain);

    // Back to one that drains: it owns, and the two before go on.
    host.call(&["rollback", "shop"]).expect("committed", 0);
    host.await_owner("shop", "3.0.0");
    all[2].tell("write ledger");
    for (n, version) in [(1, "2.0.0"), (0, "1.0.0")] {
        assert_eq!(all[n].tell("release connections")["value"], n + 1);
        role(&host, version, "standby");
    }
    // Its own connections are no drain of anybody's any more; a further handover makes them one again.
    assert_eq!(role(&host, "3.0.0", "owner")["in_flight"]["connections"], 3);
    host.handover("shop", "1.0.0", &[]).expect("committed", 0);
    assert_eq!(role(&host, "3.0.0", "draining")["in_flight"]["connections"], 3);
    all[0].tell("write ledger");
    all[2].tell("release connections");
    role(&host, "3.0.0", "standby");
    assert_eq!(all[0].tell("read ledger")["value"]["sequence"], 2);
}

#[test]
fn the_probe_says_no_before_the_owner_goes() {
    let host = Host::start();
    let mut old = host.attach("shop", "1.0.0");
    old.tell("notice 1500");
    old.tell("ready");
    host.await_owner("shop", "1.0.0");
    let _new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    let traffic = |version: &str| {
        let path = format!("/v1/regions/shop/instances/{version}/traffic");
        let answer = http::get(host.http(), &path, &[]).expect("an answer");
        (answer.status, answer.body.trim().to_owned())
    };
    assert_eq!(traffic("1.0.0"), (200, "owner".into()));
    assert_eq!(traffic("2.0.0"), (503, "not the owner".into()));
    assert_eq!(old.tell("traffic")["value"], true);

    let begin = Instant::now();
    old.tell("withdraw");
    until("the sidecar's probe to say no", || holds(traffic("1.0.0") == (503, "leaving".into()), traffic("1.0.0").1));
    assert_eq!(old.tell("traffic")["value"], false);
    // Until the notice is over, it owns, and serves what comes.
    if begin.elapsed() < Duration::from_millis(1000) {
        old.tell("write ledger");
        assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
    }
    host.await_owner("shop", "2.0.0");
    assert!(begin.elapsed() >= Duration::from_millis(1500), "gone after {:?}", begin.elapsed());
    assert_eq!(traffic("2.0.0"), (200, "owner".into()));
    assert_eq!(traffic("1.0.0").0, 503);
}
