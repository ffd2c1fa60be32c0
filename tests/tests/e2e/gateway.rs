//! Through HAProxy, under continuous load: v1 → v2 → v1 → v2 without one failed request, and every visit where it belongs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use heirloom_examples::gateway::Gateway;
use heirloom_examples::load::{Counts, Load, Plan};
use heirloom_tests::host::Host;
use heirloom_tests::http;
use heirloom_tests::instance::free_address;
use heirloom_tests::shop::Shop;
use heirloom_tests::wait::{holds, until};
use tokio::runtime::Runtime;

const CUSTOMERS: usize = 12;
/// Requests between two events: a second or so of load.
const PHASE: u64 = 3000;

/// Both versions behind HAProxy, and customers who come all the while.
struct Shops {
    v1: Shop,
    v2: Shop,
    load: Load,
    runtime: Runtime,
    _gateway: Gateway,
}

impl Shops {
    fn under_load(host: &Host) -> Self {
        let v1 = Shop::start(host, "1.0.0", None);
        v1.await_owning();
        let v2 = Shop::start(host, "2.0.0", None);
        host.await_eligible("shop", "2.0.0");
        let gateway = through_haproxy(host, &[&v1, &v2]);
        let runtime = Runtime::new().expect("a runtime");
        let plan = Plan { targets: vec![gateway.address()], customers: CUSTOMERS, think: Duration::from_millis(2) };
        let load = runtime.block_on(async { Load::start(plan) });
        Self { v1, v2, load, runtime, _gateway: gateway }
    }

    /// Until that many more requests were acknowledged: time that no phase of the story can run out of.
    fn await_requests(&self, more: u64) {
        let acknowledged = || self.load.counts().acknowledged.load(Ordering::Relaxed);
        let enough = acknowledged() + more;
        until(&format!("{enough} acknowledged requests"), || holds(acknowledged() >= enough, acknowledged()));
    }
}

fn through_haproxy(host: &Host, shops: &[&Shop]) -> Gateway {
    assert!(Gateway::installed(), "haproxy is not installed: run tests/run tools");
    let servers: Vec<_> = shops.iter().map(|shop| shop.address).collect();
    let gateway = Gateway::start(host.dir(), free_address(), &servers).expect("start haproxy");
    until("HAProxy to have found the owner", || match http::get(gateway.address(), "/ready", &[]) {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    gateway
}

fn counts(counts: &Counts) -> [u64; 5] {
    let c = counts;
    [&c.sent, &c.acknowledged, &c.failed, &c.wrong, &c.deferred].map(|count| count.load(Ordering::Relaxed))
}

#[test]
fn three_switches_fail_no_request_and_lose_no_visit() {
    let host = Host::start();
    let shops = Shops::under_load(&host);
    shops.await_requests(PHASE);
    for target in ["2.0.0", "1.0.0", "2.0.0"] {
        host.handover("shop", target, &[]).expect("committed", 0);
        shops.await_requests(PHASE);
    }
    let Shops { v1, v2, load, runtime, _gateway } = shops;
    let (visits, count) = runtime.block_on(load.stop());
    let [sent, acknowledged, failed, wrong, deferred] = counts(&count);
    assert_eq!((failed, wrong), (0, 0), "{:?}", count.first_fault());
    assert_eq!(sent, acknowledged);
    assert_eq!(deferred, 0, "the gateway itself never said 503");
    assert_eq!(count.by_version().len(), 2, "both versions answered: {:?}", count.by_version());
    assert_eq!(v2.sessions(), visits);
    assert_eq!(v1.sessions(), visits, "the one that stands by reads the same");

    let (total, replays) =
        (host.metric_of("shop_requests_total", &["path=\"/visit\""]), host.metric("shop_replays_total"));
    assert_eq!(total - replays, acknowledged as f64, "{replays} replays");
    assert_eq!(host.metric("shop_request_seconds_count"), host.metric("shop_requests_total"));
    assert_eq!(host.call(&["verify", "shop"]).exit_code, 0);
    v1.end();
    v2.end();
}

#[test]
fn a_killed_owner_costs_time_and_no_acknowledged_visit() {
    let host = Host::start();
    let mut shops = Shops::under_load(&host);
    shops.await_requests(PHASE);
    shops.v1.kill();
    shops.v2.await_owning();
    shops.await_requests(PHASE);
    let Shops { v2, load, runtime, .. } = shops;
    let (visits, count) = runtime.block_on(load.stop());
    let [sent, acknowledged, failed, wrong, _deferred] = counts(&count);
    assert_eq!((failed, wrong), (0, 0), "{:?}", count.first_fault());
    assert_eq!(sent, acknowledged);
    assert_eq!(v2.sessions(), visits);
    v2.end();
}
