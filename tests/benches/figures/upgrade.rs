//! How long nobody is ready when a store with many series is upgraded: metric-store by a handover, Prometheus by a restart on its
//! data. Both were sent the same requests, and both are asked what their memory is.
//!
//! Prometheus: SIGTERM, start again on the same directory (tmpfs), until `/-/ready` is 200. metric-store: how long the gate was
//! closed, which is the time in which no version would take a write, as the record of each handover says. Meanwhile a sender
//! writes to whoever takes it, and two probes ask each version `/ready`: their gap is from when the last 200 was asked for to when
//! the next one was had, whoever gave it. It is never too short, and too long by what a probe takes on a busy machine; so the gap
//! in as long a time without a handover stands beside it.

use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heirloom_examples::metric_store::SERVICE;
use heirloom_examples::process::free_address;
use heirloom_tests::host::Host;
use heirloom_tests::http;
use heirloom_tests::metric_store::MetricStore;
use heirloom_tests::prometheus::Prometheus;

use crate::measure::{Effort, quantile};
use crate::memory::anonymous_bytes;
use crate::stores::{Written, now_ms, prometheus, request, resident_bytes, send, watch_ready, write_on};
use crate::table::{Row, Table, time};

const SAMPLES: i64 = 40;
/// Series of one request.
const BATCH: u32 = 5000;
/// Series of the sender that writes during handovers.
const SENT: u32 = 1000;
const RATIO_MAX: f64 = 0.001;
const BYTES_MAX: f64 = 0.25;

pub(crate) fn upgrade(table: &mut Table, effort: Effort) {
    let series: u32 = if effort.repeats >= Effort::FULL.repeats { 300_000 } else { 30_000 };
    let host = Host::configured("[region]\nlimit = \"2GiB\"\nseries_max = 400000\n");
    let [first, second] = [(); 2].map(|()| free_address().expect("a free port"));
    let old = MetricStore::start(&host, "1.0.0", first);
    host.await_owner(SERVICE, "1.0.0");
    let mut prometheus = prometheus();
    let start_ms = now_ms() - 1_800_000;
    let mut took = [Duration::ZERO; 2];
    for begin in (0..series).step_by(BATCH as usize) {
        let body = request(begin..begin + BATCH, 0..SAMPLES, start_ms);
        took[0] += send(first, &body);
        took[1] += send(prometheus.address(), &body);
    }
    println!("  {series} series x {SAMPLES} samples sent: metric-store {:.1?}, Prometheus {:.1?}", took[0], took[1]);
    memory(table, series, &host, &old, &prometheus);

    let start = Instant::now();
    prometheus.stop();
    let stopped = start.elapsed();
    prometheus.go_on();
    let restart = start.elapsed();
    println!("  Prometheus: ended after {stopped:.2?}, ready again after {restart:.2?}");
    let kept = prometheus.value("count(last_over_time(http_requests_total[2h]))");
    assert!(kept >= f64::from(series), "{kept} series after the restart");
    drop(prometheus);

    let new = MetricStore::start(&host, "2.0.0", second);
    host.await_eligible(SERVICE, "2.0.0");
    let found = handovers(&host, [first, second], start_ms, 2 * effort.repeats.min(10));
    println!(
        "  {} handovers; {} write requests of {SENT} samples, {} answered 503 and sent again, the longest taken after {:.1?}",
        found.closed.len(),
        found.written.requests,
        found.written.again,
        found.written.longest,
    );
    let restart = restart.as_nanos() as f64;
    let parts = |ns: &[f64]| [0.5, 1.0].map(|part| quantile(ns.to_vec(), part));
    let words = |[p50, longest]: [f64; 2]| format!("p50 {}, longest {}", time(p50), time(longest));
    let ratio = |[p50, longest]: [f64; 2]| format!("1/{:.0}, 1/{:.0}", restart / p50, restart / longest);
    let (closed, gaps) = (parts(&found.closed), parts(&found.gaps));
    let is_full = series >= 300_000;
    let samples = i64::from(series) * SAMPLES / 1_000_000;
    table.add(Row {
        what: format!("no version takes writes at an upgrade, {series} series, {samples} M samples"),
        ours: words(closed),
        against: format!("Prometheus' restart {}", time(restart)),
        ratio: ratio(closed),
        asked: format!("<= 1/{:.0}{}", 1.0 / RATIO_MAX, if is_full { "" } else { " at 300 k series" }),
        met: is_full.then_some(closed[1] <= RATIO_MAX * restart),
    });
    table.add(Row {
        what: "the same as two probes over HTTP see it".into(),
        ours: words(gaps),
        against: format!("without a handover {}", words(parts(&found.quiet))),
        ratio: ratio(gaps),
        asked: "report".into(),
        ..Row::default()
    });
    drop((old, new));
}

/// What both take for these series.
fn memory(table: &mut Table, series: u32, host: &Host, store: &MetricStore, prometheus: &Prometheus) {
    // The profile is of the heap after a collection, which it makes.
    let profile = http::ask(prometheus.address(), "GET", "/debug/pprof/heap?gc=1", &[], b"").expect("a heap profile");
    assert_eq!(profile.status, 200);
    let metrics = http::get(prometheus.address(), "/metrics", &[]).expect("its metrics").body;
    let live = metrics.lines().find_map(|line| line.strip_prefix("go_memstats_heap_alloc_bytes ")?.parse::<f64>().ok());
    let live = live.expect("go_memstats_heap_alloc_bytes");
    // Its index is made when it is first asked.
    assert_eq!(http::get(store.address, "/api/v1/labels", &[]).expect("labels").status, 200);
    let region = std::fs::metadata(host.region_file(SERVICE)).expect("the region").blocks() * 512;
    let private = anonymous_bytes(store.pid());
    let each = |bytes: f64| bytes / f64::from(series);
    let (ours, theirs) = (each((region + private) as f64), each(resident_bytes(prometheus.pid()) as f64));
    table.add(Row {
        what: format!("resident bytes per series with {SAMPLES} samples, {series} series, index included"),
        ours: format!("{ours:.0} (region {:.0}, metric-store {:.0})", each(region as f64), each(private as f64)),
        against: format!("Prometheus {theirs:.0} (live heap {:.0})", each(live)),
        ratio: format!("{:.3}", ours / theirs),
        asked: format!("<= {BYTES_MAX}{}", if series >= 300_000 { "" } else { " at 300 k series" }),
        met: (series >= 300_000).then_some(ours <= BYTES_MAX * theirs),
    });
}

/// Nanoseconds of each handover, and what its writers saw.
struct Found {
    closed: Vec<f64>,
    gaps: Vec<f64>,
    /// Gaps without a handover.
    quiet: Vec<f64>,
    written: Written,
}

fn handovers(host: &Host, addresses: [std::net::SocketAddr; 2], start_ms: i64, count: usize) -> Found {
    let (over, ready) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let (mut closed, mut gaps, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    let longest = || {
        let mut seen: Vec<(Instant, Instant)> = std::mem::take(&mut *ready.lock().expect("a list"));
        seen.sort_by_key(|(_, had)| *had);
        let gap: Option<Duration> = seen.windows(2).map(|two| two[1].1 - two[0].0).max();
        gap.expect("answers").as_nanos() as f64
    };
    let written = std::thread::scope(|scope| {
        for address in addresses {
            scope.spawn({
                let (over, ready) = (&over, &ready);
                move || watch_ready(address, over, ready)
            });
        }
        let sender = scope.spawn(|| write_on(addresses, &over, start_ms + 15_000 * SAMPLES, SENT));
        for i in 0..count {
            std::thread::sleep(Duration::from_millis(100));
            quiet.push(longest());
            let answer = host.handover(SERVICE, if i % 2 == 0 { "2.0.0" } else { "1.0.0" }, &["--wait-ready", "30s"]);
            closed.push(1e3 * answer.expect("committed", 0).number("gate_closed_us") as f64);
            std::thread::sleep(Duration::from_millis(50));
            gaps.push(longest());
        }
        over.store(true, Ordering::Relaxed);
        sender.join().expect("a sender")
    });
    Found { closed, gaps, quiet, written }
}
