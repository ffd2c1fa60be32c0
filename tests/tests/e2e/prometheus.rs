//! A real Prometheus scrapes every second over handovers, a restart in place and a restart of the sidecar.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use heirloom_examples::load::{Load, Plan};
use heirloom_tests::host::Host;
use heirloom_tests::prometheus::Prometheus;
use heirloom_tests::shop::Shop;
use heirloom_tests::wait::{holds, until};

const TOTAL: &str = "shop_requests_total{path=\"/visit\"}";

#[test]
fn prometheus_sees_one_service_that_never_stopped_counting() {
    let host = Host::start();
    let v1 = Shop::start(&host, "1.0.0", None);
    v1.await_owning();
    let v2 = Shop::start(&host, "2.0.0", None);
    host.await_eligible("shop", "2.0.0");
    // Counted too, so asked once before the series are compared.
    assert!(v1.sessions().is_empty());
    let prometheus = Prometheus::start(&host);

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let targets = vec![v1.address, v2.address];
    let plan = Plan { targets, customers: 4, think: Duration::from_millis(5) };
    let load = runtime.block_on(async { Load::start(plan) });
    // The first series must have been seen before the window that is judged begins.
    until("Prometheus to know the counter", || match prometheus.query(TOTAL) {
        Ok(found) if found.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    await_scrapes(&prometheus);
    let names = series(&prometheus);
    let began = Instant::now();
    for target in ["2.0.0", "1.0.0", "2.0.0"] {
        host.handover("shop", target, &[]).expect("committed", 0);
        await_scrapes(&prometheus);
    }
    let (visits, count) = runtime.block_on(load.stop());
    let acknowledged = count.acknowledged.load(Ordering::Relaxed);
    assert_eq!(count.failed.load(Ordering::Relaxed), 0, "{:?}", count.first_fault());
    assert_eq!(v2.sessions(), visits);
    let expected = host.metric_of("shop_requests_total", &["path=\"/visit\""]);
    until("Prometheus to have scraped the last value", || match prometheus.query(TOTAL) {
        Ok(found) if found.first().is_some_and(|(_, v)| *v == expected) => Ok(()),
        other => Err(format!("{other:?}, expected {expected}")),
    });

    let window = began.elapsed().as_secs() + 60;
    for counter in ["shop_requests_total", "shop_request_seconds_count", "shop_request_seconds_bucket"] {
        for (labels, resets) in prometheus.query(&format!("resets({counter}[{window}s])")).expect("PromQL") {
            assert_eq!(resets, 0.0, "{counter} {labels}");
        }
    }
    // What was counted is what was acknowledged, once, though two instances counted all the while.
    let replays = host.metric("shop_replays_total");
    assert_eq!(prometheus.value(&format!("sum({TOTAL})")) - replays, acknowledged as f64);
    check_increase(&prometheus, began.elapsed());
    assert_eq!(series(&prometheus), names, "an upgrade makes no new series");
    assert_eq!(prometheus.value("count(shop_requests_total{path=\"/visit\"})"), 1.0, "one series, whoever counts");
    // No gap: every scrape of the last seconds succeeded, and there was one a second.
    let seconds = began.elapsed().as_secs();
    assert_eq!(prometheus.value(&format!("min(min_over_time(up[{seconds}s]))")), 1.0);
    let scrapes = prometheus.value(&format!("max(count_over_time(up[{seconds}s]))"));
    assert!(scrapes >= seconds as f64 - 2.0, "{scrapes} scrapes in {seconds} s");
    v1.end();
    v2.end();
}

/// Until every series of the shop has been scraped three more times.
fn await_scrapes(prometheus: &Prometheus) {
    let scrapes = || prometheus.value("min(count_over_time(up[1h]))");
    let enough = scrapes() + 3.0;
    until("three more scrapes", || holds(scrapes() >= enough, scrapes()));
}

/// `increase()` extrapolates to the ends of its window; between two samples it is their difference. Compare both.
fn check_increase(prometheus: &Prometheus, over: Duration) {
    let window = over.as_secs();
    let increase = prometheus.value(&format!("sum(increase({TOTAL}[{window}s]))"));
    let difference = prometheus.value(&format!("sum({TOTAL}) - sum({TOTAL} offset {window}s)"));
    let tolerance = difference * 0.15 + 1.0;
    assert!((increase - difference).abs() <= tolerance, "increase() says {increase}, the samples {difference}");
}

/// Every series of the shop, by name and labels without those of the scrape.
fn series(prometheus: &Prometheus) -> Vec<String> {
    let found = prometheus.query("{__name__=~\"shop_.+\"}").expect("PromQL");
    let mut names: Vec<String> = found.iter().map(|(labels, _)| labels.to_string()).collect();
    names.sort();
    names
}
