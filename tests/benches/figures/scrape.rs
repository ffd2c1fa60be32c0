//! A scrape of 100,000 series: the real sidecar's `/metrics` over HTTP, against `prometheus`' encoder in process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use heirloom_region::mapping::{Mapping, RegionSpec};
use heirloom_region::objects::{MetricDesc, open_counter};
use heirloom_region::process::Process;
use prometheus::{CounterVec, Encoder, Opts, Registry, TextEncoder};

use crate::actor::FLAG;
use crate::ground::tmpfs;
use crate::measure::{Effort, median};
use crate::table::{Row, Table, time};

const SERIES: u64 = 100_000;
const START_MAX: Duration = Duration::from_secs(20);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn scrape(table: &mut Table, effort: Effort) {
    let registry = Registry::new();
    let family = CounterVec::new(Opts::new("bench_requests_total", "Requests."), &["user"]).expect("a family");
    registry.register(Box::new(family.clone())).expect("registered");
    for i in 0..SERIES {
        family.with_label_values(&[&format!("user-{i:06}")]).inc();
    }

    let dir = tmpfs();
    let regions = dir.path().join("regions");
    std::fs::create_dir(&regions).expect("a directory");
    fill(&regions);
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let config = dir.path().join("heirloom.toml");
    let socket = dir.path().join("heirloom.sock");
    let text = format!("[server]\nsocket = {socket:?}\nregion_dir = {regions:?}\nhttp_listen = \"{address}\"\n");
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([FLAG, "sidecar"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _sidecar = Killed(command.spawn().expect("start this program again"));
    let deadline = Instant::now() + START_MAX;
    while get(address, "/readyz").is_none() {
        assert!(Instant::now() < deadline, "the sidecar did not become ready within {START_MAX:?}");
        std::thread::sleep(Duration::from_millis(20));
    }

    let (mut ours, mut theirs, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..effort.repeats {
        let start = Instant::now();
        let answer = get(address, "/metrics").expect("a scrape");
        ours.push(start.elapsed().as_nanos() as f64);
        bytes = answer.len();
        let start = Instant::now();
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("encoded");
        theirs.push(start.elapsed().as_nanos() as f64);
    }
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| a / b).collect());
    table.add(Row {
        what: format!("scrape of 100 k series, sidecar over HTTP, {:.1} MB", bytes as f64 / 1e6),
        ours: time(median(ours)),
        against: format!("prometheus TextEncoder in process {}", time(median(theirs))),
        ratio: format!("{ratio:.2}"),
        asked: "report".into(),
        met: None,
    });
}

/// A region with the series, which the sidecar then finds.
fn fill(regions: &std::path::Path) {
    let spec = RegionSpec { series_max: 2 * SERIES as u32, ..RegionSpec::new("bench", 256 << 20) };
    let mapping = Mapping::create_file(regions, &spec).expect("a region");
    let (mut keeper, _) = heirloom_region::digest::Keeper::open(mapping.clone()).expect("its keeper");
    let (seat, liveness) = keeper.seat(&Default::default()).expect("a seat");
    let process = Process::attach(mapping, seat, liveness).expect("attach");
    for i in 0..SERIES {
        let user = format!("user-{i:06}");
        let labels = [("user", user.as_str())];
        let description = MetricDesc { name: "bench_requests_total", help: "Requests.", unit: "", labels: &labels };
        open_counter(&process, &description).expect("a counter").inc();
    }
}

/// The body of an answer 200.
fn get(address: SocketAddr, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(head + 4))
}

/// Plays the sidecar: the same code as the binary `heirloom`.
pub(crate) fn play(config: &str) {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("end with the parent");
    heirloom_sidecar::run_cli(["heirloom", "serve", "--config", config]);
}
