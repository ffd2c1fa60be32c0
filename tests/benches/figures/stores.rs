//! metric-store beside Debian's Prometheus, both taking the same remote write requests: how fast, in how much memory, and how long
//! nobody is ready when either is upgraded.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heirloom_examples::metric_store::wire::{Label, Sample, TimeSeries, WriteRequest, compressed};
use heirloom_examples::process::free_address;
use heirloom_tests::http;
use heirloom_tests::prometheus::Prometheus;

/// Between two samples of a series.
const STEP_MS: i64 = 15_000;
const HEADERS: [&str; 3] =
    ["content-type: application/x-protobuf", "content-encoding: snappy", "x-prometheus-remote-write-version: 0.1.0"];

/// A Prometheus with an empty head that takes remote write.
pub(crate) fn prometheus() -> Prometheus {
    let address = free_address().expect("a free port");
    Prometheus::configured(address, "global: {}\n", &["--web.enable-remote-write-receiver"])
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// Labels as a Kubernetes scrape has them.
pub(crate) fn labels(n: &str) -> [(&str, &str); 7] {
    [
        ("__name__", "http_requests_total"),
        ("code", "200"),
        ("handler", n),
        ("instance", "10.0.0.17:8080"),
        ("job", "shop-frontend"),
        ("namespace", "production"),
        ("pod", "shop-frontend-7d4b9c6f5-x2x9k"),
    ]
}

/// A remote write request: the samples of these numbers of these series, counter-like, as from `start_ms` on.
pub(crate) fn request(series: Range<u32>, samples: Range<i64>, start_ms: i64) -> Vec<u8> {
    let timeseries = series.map(|n| {
        let sample =
            |k: i64| Sample::exact(start_ms + k * STEP_MS, (k * 500 + (i64::from(n) * 31 + k * 7919) % 500) as f64);
        let number = n.to_string();
        let label = |(name, value): (&str, &str)| Label { name: name.into(), value: value.into() };
        let labels = labels(&number).into_iter().map(label).collect();
        TimeSeries { labels, samples: samples.clone().map(sample).collect(), ..Default::default() }
    });
    compressed(&WriteRequest { timeseries: timeseries.collect(), metadata: Vec::new() })
}

/// Sends a request that must be taken whole; gives how long that took.
pub(crate) fn send(address: SocketAddr, body: &[u8]) -> Duration {
    let start = Instant::now();
    let answer = http::ask(address, "POST", "/api/v1/write", &HEADERS, body).expect("an answer");
    assert_eq!(answer.status, 204, "{}", String::from_utf8_lossy(&answer.body));
    start.elapsed()
}

/// What one series of requests was answered.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) requests: u64,
    /// Answered 503 and sent again, to the other one.
    pub(crate) again: u64,
    /// From the first try of a request until it was taken.
    pub(crate) longest: Duration,
}

/// Writes to whoever takes it, until `over`, each request until it is taken.
pub(crate) fn write_on(addresses: [SocketAddr; 2], over: &AtomicBool, start_ms: i64, series: u32) -> Written {
    let (mut written, mut at, mut k) = (Written::default(), 0, 0);
    while !over.load(Ordering::Relaxed) {
        let body = request(0..series, k..k + 1, start_ms);
        let start = Instant::now();
        loop {
            let answer = http::ask(addresses[at], "POST", "/api/v1/write", &HEADERS, &body).expect("an answer");
            if answer.status == 204 {
                break;
            }
            assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
            (at, written.again) = (1 - at, written.again + 1);
        }
        written.longest = written.longest.max(start.elapsed());
        (written.requests, k) = (written.requests + 1, k + 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    written
}

/// Asks `GET /ready` again and again until `over`, and notes when each 200 was asked for and had.
pub(crate) fn watch_ready(address: SocketAddr, over: &AtomicBool, found: &Mutex<Vec<(Instant, Instant)>>) {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("no delay");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let ask = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\n\r\n");
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        (&stream).write_all(ask.as_bytes()).expect("asked");
        if answered(&mut reader) == 200 {
            found.lock().expect("a list").push((asked, Instant::now()));
        }
        std::thread::sleep(Duration::from_micros(150));
    }
}

/// The status of one answer, which is read to its end.
fn answered(reader: &mut impl BufRead) -> u16 {
    let (mut status, mut length) = (0, 0);
    for n in 0.. {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        let line = line.trim().to_lowercase();
        if n == 0 {
            status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    status
}

/// Processor time that a process has taken, in its own code and in the kernel.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read /proc");
    // Counted behind the name, which may hold anything. A tick is 10 ms.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

/// Memory of a process that is resident, whatever it is for.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("read /proc");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
