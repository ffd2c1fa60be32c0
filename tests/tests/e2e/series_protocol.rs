//! metric-store's HTTP: what is refused and how it is told, what a partial write keeps, what a standby answers, and the queries.

use std::net::SocketAddr;

use heirloom_examples::metric_store::wire::{
    Histogram, Label, MetricMetadata, Sample, TimeSeries, WriteRequest, compressed,
};
use heirloom_tests::host::Host;
use heirloom_tests::http::{self, Answer};
use heirloom_tests::metric_store::Pair;
use heirloom_tests::remote;
use serde_json::{Value, json};

const NOW: i64 = 1_700_000_000_000;

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    let labels = labels.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect();
    let samples = samples.iter().map(|(at, value)| Sample::exact(*at, *value)).collect();
    TimeSeries { labels, samples, ..Default::default() }
}

fn write(address: SocketAddr, timeseries: Vec<TimeSeries>) -> (u16, String) {
    remote::write(address, &WriteRequest { timeseries, metadata: Vec::new() }).expect("an answer")
}

fn post(address: SocketAddr, headers: &[&str], body: &[u8]) -> Answer<Vec<u8>> {
    http::ask(address, "POST", "/api/v1/write", headers, body).expect("an answer")
}

#[track_caller]
fn get(address: SocketAddr, path: &str, status: u16) -> Value {
    let answer = http::get(address, path, &[]).expect("an answer");
    assert_eq!(answer.status, status, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.body))
}

#[test]
fn bad_writes_are_told_and_good_samples_beside_them_are_kept() {
    let host = Host::start();
    let pair = Pair::start(&host);
    let (owner, standby) = (pair.owner.address, pair.standby.address);
    let up = |samples: &[(i64, f64)]| series(&[("__name__", "up"), ("job", "a")], samples);
    assert_eq!(write(owner, vec![up(&[(NOW, 1.0), (NOW + 1000, 0.0)])]).0, 204);
    assert_eq!(write(owner, vec![up(&[(NOW, 1.0), (NOW + 1000, 0.0)])]).0, 400, "the first is out of order by now");
    assert_eq!(write(owner, vec![up(&[(NOW + 1000, 0.0)])]).0, 204, "an equal duplicate");

    let faulty: [(TimeSeries, &str); 9] = [
        (series(&[("job", "a")], &[(NOW, 1.0)]), "no __name__"),
        (series(&[("__name__", "x"), ("b", "1"), ("a", "1")], &[(NOW, 1.0)]), "not sorted"),
        (series(&[("__name__", "x"), ("a", "1"), ("a", "1")], &[(NOW, 1.0)]), "twice"),
        (series(&[("__name__", "x"), ("a", "")], &[(NOW, 1.0)]), "empty value"),
        (series(&[("__name__", "x"), ("a-b", "1")], &[(NOW, 1.0)]), "label name"),
        (series(&[("__name__", "1x")], &[(NOW, 1.0)]), "metric name"),
        (up(&[(NOW + 500, 3.0)]), "out of order"),
        (up(&[(NOW + 1000, 7.0)]), "duplicate"),
        (TimeSeries { histograms: vec![Histogram {}], ..series(&[("__name__", "h")], &[]) }, "native histograms"),
    ];
    for (i, (bad, why)) in faulty.into_iter().enumerate() {
        let good = series(&[("__name__", "good")], &[(NOW + i as i64, i as f64)]);
        let (status, text) = write(owner, vec![bad, good]);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(why) && text.contains("1 samples rejected, 1 kept"), "expected {why:?}, found {text}");
    }
    let kept = remote::samples(standby, remote::all(), (NOW, NOW + 9000)).expect("remote read");
    let by_name: Vec<(&str, usize)> = kept.iter().map(|(labels, s)| (labels[0].1.as_str(), s.len())).collect();
    assert_eq!(by_name, [("good", 9), ("up", 2)], "what was good is in, and nothing else");

    let metadata = WriteRequest { timeseries: Vec::new(), metadata: vec![MetricMetadata {}] };
    assert_eq!(remote::write(owner, &metadata).expect("an answer").0, 204, "metadata is taken");
    not_remote_write_1(owner);

    let refused = post(standby, &MEDIA, &compressed(&metadata));
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(write(pair.address(), vec![up(&[(NOW + 2000, 1.0)])]).0, 204, "HAProxy knows who owns");
    pair.end();
}

const MEDIA: [&str; 2] = ["content-type: application/x-protobuf", "content-encoding: snappy"];

/// Requests that are of another protocol, or of none.
fn not_remote_write_1(owner: SocketAddr) {
    let good = compressed(&WriteRequest::default());
    let second = "content-type: application/x-protobuf;proto=io.prometheus.write.v2.Request";
    for (headers, expected) in [
        (vec![second, MEDIA[1]], 415),
        (vec!["content-type: application/json", MEDIA[1]], 415),
        (vec![MEDIA[0], "content-encoding: zstd"], 415),
        (vec![MEDIA[0]], 415),
        (vec![MEDIA[0], MEDIA[1], "x-prometheus-remote-write-version: 2.0.0"], 400),
    ] {
        let answer = post(owner, &headers, &good);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, expected, "{headers:?}: {text}");
        assert!(text.contains("expected") && text.contains("found"), "{text}");
    }
    assert_eq!(post(owner, &MEDIA, b"no snappy").status, 400);
    let no_protobuf = snap::raw::Encoder::new().compress_vec(b"no protobuf").expect("short");
    assert_eq!(post(owner, &MEDIA, &no_protobuf).status, 400);
    assert_eq!(post(owner, &MEDIA, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).status, 413, "promises 4 GiB");
}

#[test]
fn series_labels_and_values_are_answered_by_both_as_prometheus_does() {
    let host = Host::start();
    let pair = Pair::start(&host);
    let at = |seconds: i64| (NOW + seconds * 1000, 1.0);
    let all = vec![
        series(&[("__name__", "up"), ("job", "a")], &[at(0), at(60)]),
        series(&[("__name__", "up"), ("job", "b"), ("zone", "z")], &[at(60)]),
        series(&[("__name__", "down"), ("job", "a")], &[at(0)]),
    ];
    assert_eq!(write(pair.address(), all).0, 204);
    let success = |data: Value| json!({ "status": "success", "data": data });
    let (down, a, b) = (
        json!({ "__name__": "down", "job": "a" }),
        json!({ "__name__": "up", "job": "a" }),
        json!({ "__name__": "up", "job": "b", "zone": "z" }),
    );
    for address in [pair.owner.address, pair.standby.address, pair.address()] {
        let is = |path: &str, expected: Value| assert_eq!(get(address, path, 200), success(expected), "{path}");
        is("/api/v1/series?match[]=up&match[]={job=%22a%22}", json!([down, a, b]));
        is("/api/v1/series?match[]={job=~%22a|x%22,__name__!=%22down%22}", json!([a]));
        is("/api/v1/series?match[]=up&start=1700000030&end=1700000090", json!([a, b]));
        is("/api/v1/series?match[]={job=%22a%22}&start=2023-11-14T22:13:50Z", json!([a]));
        is("/api/v1/series?match[]=nothing", json!([]));
        is("/api/v1/labels", json!(["__name__", "job", "zone"]));
        is("/api/v1/labels?match[]=down", json!(["__name__", "job"]));
        is("/api/v1/labels?end=1700000030", json!(["__name__", "job"]));
        is("/api/v1/label/job/values", json!(["a", "b"]));
        is("/api/v1/label/job/values?match[]=down&match[]={zone=%22z%22}", json!(["a", "b"]));
        is("/api/v1/label/__name__/values?start=1700000030", json!(["up"]));
        is("/api/v1/label/none/values", json!([]));
        for bad in [
            "series",
            "series?match[]={}",
            "series?match[]=sum(up)",
            "labels?start=x",
            "series?match[]=up&start=2&end=1",
        ] {
            let answer = get(address, &format!("/api/v1/{bad}"), 400);
            assert_eq!((&answer["status"], &answer["errorType"]), (&json!("error"), &json!("bad_data")), "{answer}");
            assert!(answer["error"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
        }
        let chunks = remote::chunks(address, remote::all(), (NOW, NOW + 90_000)).expect("chunks");
        assert_eq!(chunks.len(), 3, "{chunks:?}");
    }
    what_each_is(&pair);
    pair.end();
}

/// Readiness, metrics, and what only version 2 answers.
fn what_each_is(pair: &Pair) {
    for (instance, owns) in [(&pair.owner, 200), (&pair.standby, 503)] {
        let status = |path| http::get(instance.address, path, &[]).expect("an answer").status;
        assert_eq!([status("/-/ready"), status("/-/healthy"), status("/ready")], [200, 200, owns]);
        let metrics = http::get(instance.address, "/metrics", &[]).expect("metrics").body;
        let build = format!("metric_store_build_info{{version=\"{}\"}} 1", instance.version());
        assert!(metrics.contains(&build), "{metrics}");
    }
    let status = |address| http::get(address, "/api/v1/status/tsdb", &[]).expect("an answer").status;
    assert_eq!(status(pair.owner.address), 404, "version 1 does not know it");
    let tsdb = get(pair.standby.address, "/api/v1/status/tsdb", 200);
    assert_eq!(tsdb["data"]["headStats"]["numSeries"], 3, "{tsdb}");
    assert_eq!(tsdb["data"]["seriesCountByMetricName"][0], json!({ "name": "up", "value": 2 }), "{tsdb}");
}
