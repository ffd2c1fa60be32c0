//! The blackout once more, through everything: two services with the client crate, a real sidecar, and `heirloom handover -o
//! json` as a process of its own for each handover. All figures but the verb's own time are what it prints.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use heirloom_tests::host::Host;

use crate::actor::FLAG;
use crate::measure::{Effort, median, quantile};
use crate::member::SERVICE;
use crate::table::{Row, Table, time};

const SIZES_MIB: [u64; 2] = [64, 1024];
const RATES: [u64; 2] = [100_000, 1_000_000];
const PAUSE: Duration = Duration::from_millis(50);
const P50_MAX_US: f64 = 100.0;

/// A process with the client crate; killed, by its id, when dropped.
struct Member {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Member {
    fn start(host: &Host, version: &str, mib: u64, per_second: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([FLAG, "member"]).arg(host.socket()).arg(version);
        command.args([mib, per_second].map(|n| n.to_string())).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start this program again");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, orders, answers }
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        assert_eq!(answer.trim(), "ready", "process {} was told to {order}", self.child.id());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn sidecar(table: &mut Table, effort: Effort) {
    for per_second in RATES {
        for mib in SIZES_MIB {
            table.add(row(mib, per_second, effort));
        }
    }
}

fn row(mib: u64, per_second: u64, effort: Effort) -> Row {
    let host = Host::configured(&format!("[region]\nlimit = \"{}MiB\"\n", mib * 3 / 2));
    let mut old = Member::start(&host, "1.0.0", mib, per_second);
    host.await_owner(SERVICE, "1.0.0");
    old.tell("fill");
    let mut new = Member::start(&host, "2.0.0", mib, per_second);
    host.await_eligible(SERVICE, "2.0.0");
    old.tell("storm");
    new.tell("storm");
    let (mut waits, mut closed, mut took, mut bytes, mut refused) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
    for i in 0..4 + effort.handovers / 2 {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        let answer = host.handover(SERVICE, if i % 2 == 0 { "2.0.0" } else { "1.0.0" }, &[]);
        let elapsed = began.elapsed().as_nanos() as f64;
        if answer.exit_code != 0 {
            refused += 1;
            println!("  {mib} MiB, {per_second}/s, handover {i}: {}", answer.word("message"));
        } else if i >= 4 {
            // The first ones find their pages; they do not count.
            waits.extend(answer.json["blackout_us"].as_u64().map(|us| us as f64));
            closed.push(answer.number("gate_closed_us") as f64);
            took.push(elapsed);
            bytes = answer.number("region_bytes");
        }
    }
    assert!(bytes >= mib << 20, "a region of {bytes} bytes is not filled with {mib} MiB");
    println!(
        "  {bytes} bytes, {per_second}/s: {} of {} switches met a writer, {refused} refused; the verb took p50 {}, p99 {}",
        waits.len(),
        closed.len(),
        time(median(took.clone())),
        time(quantile(took, 0.99)),
    );
    let p50 = median(waits.clone());
    let both = |us: &[f64]| [0.5, 0.99].map(|part| time(1e3 * quantile(us.to_vec(), part)));
    let ([p50_words, p99_words], [gate, gate_p99]) = (both(&waits), both(&closed));
    Row {
        what: format!("blackout, {mib} MiB, {per_second} updates/s, sidecar and client"),
        ours: format!("p50 {p50_words}, p99 {p99_words}"),
        against: format!("gate closed p50 {gate}, p99 {gate_p99}"),
        ratio: String::new(),
        asked: format!("p50 <= {P50_MAX_US} µs"),
        met: Some(p50 <= P50_MAX_US),
    }
}
