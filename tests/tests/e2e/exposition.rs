//! `/metrics`, `/sd`, `/healthz`, `/readyz` as others read them.

use heirloom_examples::scrape;
use heirloom_tests::host::Host;
use heirloom_tests::http;
use serde_json::Value;

const OPENMETRICS: &str = "accept: application/openmetrics-text;version=1.0.0";

#[test]
fn both_text_formats_by_content_negotiation() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    old.tell("inc hits_total 3");
    new.tell("inc hits_total 4");
    old.tell("observe seconds 2");
    old.tell("share open 2");
    new.tell("share open 1");
    old.tell("gauge level 5");

    let plain = http::get(host.http(), "/metrics", &[]).expect("scrape");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    for line in ["# TYPE hits_total counter", "# TYPE seconds histogram", "# TYPE open gauge", "# TYPE level gauge"] {
        assert!(plain.body.lines().any(|l| l == line), "expected {line:?} in:\n{}", plain.body);
    }
    assert_eq!((host.metric("hits_total"), host.metric("open"), host.metric("level")), (7.0, 3.0, 5.0));
    assert_eq!((host.metric("seconds_count"), host.metric("seconds_sum")), (1.0, 2.0));
    let infinite = scrape::sum(&host.metrics("seconds_"), "seconds_bucket", &["le=\"+Inf\""]);
    assert_eq!(infinite, Some(1.0));

    let open = http::get(host.http(), "/metrics", &[OPENMETRICS]).expect("scrape");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    for start in ["# TYPE hits counter", "hits_total{region=\"shop\"} 7", "hits_created{"] {
        assert!(open.body.lines().any(|l| l.starts_with(start)), "expected {start:?} in:\n{}", open.body);
    }
}

#[test]
fn one_region_or_all() {
    let host = Host::start();
    let mut shop = host.ready("shop", "1.0.0");
    let mut cart = host.ready("cart", "1.0.0");
    shop.tell("inc shop_hits_total 1");
    cart.tell("inc cart_hits_total 1");
    let one = http::get(host.http(), "/metrics/shop", &[]).expect("scrape");
    assert!(one.body.contains("shop_hits_total") && !one.body.contains("cart_hits_total"), "{}", one.body);
    let all = http::get(host.http(), "/metrics", &[]).expect("scrape");
    assert!(all.body.contains("shop_hits_total") && all.body.contains("cart_hits_total"), "{}", all.body);
    assert_eq!(http::get(host.http(), "/metrics/nowhere", &[]).expect("an answer").status, 404);
}

#[test]
fn the_sidecar_measures_itself() {
    let host = Host::start();
    let (mut old, _new) = host.pair("shop");
    old.tell("write ledger");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    let own = host.metrics("heirloom_");
    let generation = own.iter().find(|(name, _)| name.starts_with("heirloom_generation{"));
    assert_eq!(generation.map(|(_, v)| *v), host.status("shop")["generation"].as_f64(), "{own:?}");
    for name in
        ["heirloom_handovers_total", "heirloom_owner_info", "heirloom_region_bytes", "heirloom_blackout_seconds"]
    {
        assert!(own.keys().any(|series| series.starts_with(name)), "expected {name}, found {:?}", own.keys());
    }
}

#[test]
fn service_discovery_names_targets_that_can_be_scraped() {
    let host = Host::start();
    let _shop = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let answer = http::get(host.http(), "/sd", &[]).expect("ask /sd");
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let groups: Value = serde_json::from_str(&answer.body).expect("JSON");
    let targets = groups.as_array().expect("a list of groups");
    assert!(!targets.is_empty(), "{groups}");
    for group in targets {
        for target in group["targets"].as_array().expect("targets") {
            let address = target.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("{target}"));
            let labels = group["labels"].as_object().expect("labels");
            let word = |label: &str| labels.get(label).and_then(Value::as_str);
            let parameters =
                labels.keys().filter_map(|l| Some(format!("{}={}", l.strip_prefix("__param_")?, word(l)?)));
            let query: Vec<String> = parameters.collect();
            let path = format!("{}?{}", word("__metrics_path__").unwrap_or("/metrics"), query.join("&"));
            assert_eq!(http::get(address, &path, &[]).expect("scrape").status, 200, "{group}");
        }
    }
}

#[test]
fn health_and_readiness() {
    let host = Host::start();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http::get(host.http(), path, &[]).expect("an answer").status, 200, "{path}");
    }
    assert_eq!(http::get(host.http(), "/nothing", &[]).expect("an answer").status, 404);
}
