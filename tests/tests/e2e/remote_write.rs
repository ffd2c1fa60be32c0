//! The sidecar ships samples: to a real Prometheus, and to a store that answers by a script.

use std::collections::BTreeMap;
use std::time::Duration;

use heirloom_examples::process::free_address;
use heirloom_region::mapping::Mapping;
use heirloom_region::process::Process;
use heirloom_region::series::xor::Decoder;
use heirloom_region::series::{SeriesId, SeriesStore};
use heirloom_tests::host::Host;
use heirloom_tests::prometheus::Prometheus;
use heirloom_tests::receiver::{Does, Receiver};
use heirloom_tests::wait::{holds, until};
use std::time::{SystemTime, UNIX_EPOCH};

/// Samples by labels: milliseconds and the value's bits.
type Samples = BTreeMap<BTreeMap<String, String>, Vec<(i64, u64)>>;

/// A sidecar that ships to `url`.
fn host(url: &str, more: &str) -> Host {
    Host::configured(&format!(
        "[region]\nlimit = \"64MiB\"\n[remote_write]\nurl = {url:?}\ninterval = \"20ms\"\nbackoff_max = \"100ms\"\n\
         external_labels = {{ site = \"lab\", zone = \"not this\" }}\n{more}"
    ))
}

/// Everything that a region holds, as a store should have it.
fn held(host: &Host) -> Samples {
    let mapping = Mapping::open_file(&host.region_file("shop"), true).expect("the region's file");
    let store = SeriesStore::open(&Process::observer(mapping).expect("an observer")).expect("series");
    let series = (0..store.count().expect("a count")).map(|number| {
        let id = SeriesId::new(number);
        let mut labels: BTreeMap<_, _> = store.labels(id).expect("labels").into_iter().collect();
        labels.extend([("region", "shop"), ("site", "lab")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        let chunks = store.chunks(id, i64::MIN..=i64::MAX).expect("chunks");
        let samples = chunks.chunks.iter().flat_map(|c| Decoder::new(&c.bytes).map(|s| s.expect("a sample")));
        (labels, samples.map(|s| (s.timestamp_ms, s.value.to_bits())).collect())
    });
    series.collect()
}

/// Everything that the receiver has taken, in the order in which it came.
fn taken(receiver: &Receiver) -> Samples {
    let mut all = Samples::new();
    for series in receiver.received().iter().filter(|r| r.was_taken()).flat_map(|r| r.series()) {
        let names: Vec<_> = series.labels.iter().map(|l| l.name.clone()).collect();
        assert!(names.is_sorted(), "{names:?}");
        let labels = series.labels.into_iter().map(|l| (l.name, l.value)).collect();
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value.unwrap_or_default().to_bits()));
        all.entry(labels).or_default().extend(samples);
    }
    all
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn count(samples: &Samples) -> usize {
    samples.values().map(Vec::len).sum()
}

#[test]
fn a_real_prometheus_gets_every_sample_over_handovers_its_own_absence_and_a_killed_sidecar() {
    let receiving = ["--web.enable-remote-write-receiver"];
    let mut store = Prometheus::configured(free_address().expect("a free port"), "global: {}\n", &receiving);
    let mut host = host(&format!("http://{}/api/v1/write", store.address()), "batch_samples = 500\n");
    let (mut old, mut new) = host.pair("shop");
    old.tell("feed 120");
    new.tell("feed 120");
    let shipped = |host: &Host| host.metrics("heirloom_remote_write_samples_total").values().sum::<f64>();
    let more = |host: &Host, what: &str| {
        let before = shipped(host);
        until(what, || holds(shipped(host) >= before + 3000.0, shipped(host)));
    };
    more(&host, "samples to arrive");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    more(&host, "samples of the next version to arrive");

    store.stop();
    let retries = || host.metric("heirloom_remote_write_retries_total");
    until("the sidecar to try again", || holds(retries() >= 5.0, retries()));
    store.go_on();
    more(&host, "samples to arrive after the store was away");

    host.kill_sidecar();
    host.start_sidecar();
    more(&host, "samples to arrive after the sidecar was killed");
    host.handover("shop", "1.0.0", &[]).expect("committed", 0);
    more(&host, "samples of the first version again to arrive");

    for instance in [&mut old, &mut new] {
        assert_eq!(instance.tell("stop")["value"]["faults"], serde_json::json!([]));
    }
    let expected = held(&host);
    let found = until("Prometheus to have all that the region holds", || {
        let bits = |(t, v): (i64, String)| (t, v.parse::<f64>().expect("a value").to_bits());
        let found = store.matrix("{__name__=\"fed\"}[1h]", now_ms() + 1000)?;
        let found: Samples = found.into_iter().map(|(l, s)| (l, s.into_iter().map(bits).collect())).collect();
        if found == expected { Ok(found) } else { Err(format!("{} of {} samples", count(&found), count(&expected))) }
    });
    assert_eq!(found.len(), 120);
    println!("{} samples of {} series compared, 0 missing", count(&found), found.len());
}

#[test]
fn what_the_store_cannot_take_now_is_sent_again_and_what_it_refuses_is_not() {
    let busy = [
        Does::Answers(503, "retry-after: 1"),
        Does::Answers(429, "Retry-After: 1"),
        Does::Answers(500, ""),
        Does::HangsUp,
    ];
    let receiver = Receiver::start(&busy);
    let host = host(&receiver.url(), "shards = 1\nheaders = { x-scope-orgid = \"lab\" }\n");
    let (mut owner, _standby) = host.pair("shop");
    owner.tell("append 5 10 1700000000000");
    until("all to be taken", || holds(count(&taken(&receiver)) == 50, count(&taken(&receiver))));
    assert_eq!(taken(&receiver), held(&host), "each sample once, in order");

    let received = receiver.received();
    assert!(received[1..5].iter().all(|r| r.body == received[0].body), "the same request again");
    for pair in received[..3].windows(2) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= Duration::from_secs(1), "the store asked for a second, and was left alone for {waited:?}");
    }
    for header in [
        "post /api/v1/write http/1.1",
        "content-encoding: snappy",
        "content-type: application/x-protobuf",
        "x-prometheus-remote-write-version: 0.1.0",
        "x-scope-orgid: lab",
        "user-agent: heirloom/",
    ] {
        assert!(received[0].head.contains(header), "expected {header}, found {}", received[0].head);
    }
    assert_eq!(host.metric("heirloom_remote_write_retries_total"), 4.0);
    assert_eq!(host.metric("heirloom_remote_write_samples_total"), 50.0);

    let requests = received.len();
    receiver.then(Does::Answers(400, ""));
    owner.tell("append 1 1 1700001000000");
    let failed = || host.metrics("heirloom_remote_write_failed_total").values().sum::<f64>();
    until("the refused sample to be counted", || holds(failed() == 1.0, failed()));
    assert_eq!(host.metric_of("heirloom_remote_write_failed_total", &["reason=\"http_400\""]), 1.0);
    owner.tell("append 1 1 1700002000000");
    until("the next to be taken", || holds(count(&taken(&receiver)) == 51, count(&taken(&receiver))));
    assert_eq!(receiver.received().len(), requests + 2, "what was refused is not sent again");
    until("all to be shipped", || {
        let lag = host.metric("heirloom_remote_write_lag_seconds");
        holds(lag < 1.0, lag)
    });
}

#[test]
fn status_dump_and_verify_tell_of_series() {
    let host = Host::start();
    let (mut owner, _standby) = host.pair("shop");
    owner.tell("append 3 130 1700000000000");
    // Counted anew from time to time.
    host.await_status("shop", "3 series", |status| status["objects"]["series"] == 3);
    assert_eq!(host.call(&["verify", "shop"]).expect("intact", 0).json["series_checked"], 3);
    let file = host.region_file("shop").display().to_string();
    assert_eq!(host.call(&["verify", "--file", &file]).expect("intact", 0).json["series_checked"], 3);
    let dump = host.call(&["dump", &file, "--objects"]).json;
    let series = dump["series"].as_array().expect("series");
    assert_eq!(series.len(), 3);
    for (number, it) in series.iter().enumerate() {
        let labels = serde_json::json!({ "__name__": "fed", "n": number.to_string(), "zone": "a \"quoted\" ü" });
        assert_eq!((&it["number"], &it["labels"]), (&serde_json::json!(number), &labels));
        assert_eq!(it["samples"], 130);
        assert_eq!((&it["first_ms"], &it["last_ms"]), (&1_700_000_000_000_i64.into(), &1_700_000_129_000_i64.into()));
        assert_eq!((&it["chunks"]["xor"], &it["fault"]), (&2.into(), &serde_json::Value::Null));
    }
}

#[test]
fn a_sidecar_that_was_killed_sends_the_request_of_which_it_knows_nothing_again_and_goes_on() {
    let receiver = Receiver::start(&[Does::Answers(200, ""), Does::Waits]);
    let mut host = host(&receiver.url(), "shards = 1\n");
    let (mut owner, _standby) = host.pair("shop");
    owner.tell("append 1 1 1700000000000");
    until("the first to be taken", || holds(count(&taken(&receiver)) == 1, "nothing"));
    owner.tell("append 7 30 1700001000000");
    until("a request to be under way", || holds(receiver.received().len() == 2, receiver.received().len()));
    owner.tell("append 9 30 1700002000000");
    host.kill_sidecar();
    owner.tell("append 11 30 1700003000000");
    host.start_sidecar();
    until("all to be taken", || holds(count(&taken(&receiver)) == count(&held(&host)), count(&taken(&receiver))));
    let received = receiver.received();
    assert_eq!(received[2].body, received[1].body, "the request that was under way comes first");
    assert_eq!(taken(&receiver), held(&host), "each sample once, in order");

    // In order, nothing comes twice.
    let requests = received.len();
    host.stop_sidecar();
    host.start_sidecar();
    owner.tell("append 1 1 1700009000000");
    until("the last to be taken", || holds(count(&taken(&receiver)) == count(&held(&host)), count(&taken(&receiver))));
    assert_eq!(receiver.received().len(), requests + 1);
}

#[test]
fn samples_that_expire_before_they_are_sent_are_counted() {
    let receiver = Receiver::start(&[Does::Answers(204, "")]);
    let host = host(&receiver.url(), "shards = 1\n");
    let (mut owner, _standby) = host.pair("shop");
    owner.tell("append 1 1 1700000000000");
    until("the first to be taken", || holds(count(&taken(&receiver)) == 1, "nothing"));
    receiver.then(Does::Answers(503, "retry-after: 2"));
    owner.tell("append 1 1 1700001000000");
    until("the store to be away", || holds(receiver.received().len() == 2, receiver.received().len()));
    // One is under way; these are not, and are gone before it is taken.
    owner.tell("append 1 3 1700002000000");
    assert_eq!(owner.tell("retain 1000 1700009000000")["value"], 1);
    owner.tell("append 1 1 1700010000000");
    until("the last to be taken", || holds(count(&taken(&receiver)) == 3, count(&taken(&receiver))));
    assert_eq!(host.metric("heirloom_remote_write_gaps_total"), 1.0);
    assert!(host.log().contains("samples had expired before they were sent"), "{}", host.log());
}
