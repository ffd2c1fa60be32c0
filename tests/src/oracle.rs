//! Two Prometheus servers around a metric-store: one scrapes, keeps its own copy and remote-writes; the other has nothing of its
//! own and answers PromQL by remote read.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use heirloom_examples::process::{Running, free_address, installed};

use crate::host::Host;
use crate::prometheus::Prometheus;
use crate::recorder::Recorder;
use crate::wait::until;

/// Both servers, the node-exporter that the first scrapes beside itself and the sidecar, and a record of what was acknowledged.
#[derive(Debug)]
pub struct Oracle {
    /// Scrapes every second and keeps what it scraped.
    pub source: Prometheus,
    /// Reads what the store holds.
    pub reader: Prometheus,
    /// Between the source and the store.
    pub recorder: Recorder,
    /// Every sample of this time and later is remote-written. (The source does not send what it scraped before its queue
    /// began.)
    pub began_ms: i64,
    _exporter: Running,
}

/// What the source scrapes.
const JOBS: [&str; 3] = ["prometheus", "node", "heirloom"];

impl Oracle {
    /// Starts all around the store at `address`, and waits until samples of every target were acknowledged.
    ///
    /// # Panics
    /// If one is not installed, or nothing is acknowledged in time.
    pub fn start(host: &Host, address: SocketAddr) -> Self {
        let [exporter, source, reader] = [(); 3].map(|()| free_address().expect("a free port"));
        let program = installed("prometheus-node-exporter")
            .expect("prometheus-node-exporter is not installed: run tests/run tools");
        let log = fs::File::create(host.dir().join("node-exporter.log")).expect("create the log");
        let mut command = Command::new(program);
        command.arg(format!("--web.listen-address={exporter}"));
        command.stdout(log.try_clone().expect("clone the log")).stderr(log);
        let running = Running::start("node-exporter", &mut command).expect("start node-exporter");
        let recorder = Recorder::start(address);
        let targets = [source, exporter, host.http()];
        let source = Prometheus::configured(source, &writing(recorder.address(), &targets), &[]);
        let reader = Prometheus::configured(reader, &reading(address), &[]);
        let mut oracle = Oracle { source, reader, recorder, began_ms: 0, _exporter: running };
        // From the second acknowledged scrape on: the queue may have begun within the first.
        oracle.began_ms = until("two scrapes of every target to be acknowledged", || {
            let scrapes = oracle.scrapes();
            let second = scrapes.iter().filter_map(|scrapes| scrapes.get(1)).max();
            match second {
                Some(second) if scrapes.iter().filter(|s| s.len() > 1).count() == JOBS.len() => Ok(*second),
                _ => Err(format!("{scrapes:?}")),
            }
        });
        oracle
    }

    /// When the acknowledged scrapes of each target began.
    ///
    /// A target's scrapes are appended, sent and so acknowledged one after the other, each with its `up` last but a few. So once
    /// a target has an acknowledged `up`, all samples of its earlier scrapes are acknowledged.
    fn scrapes(&self) -> Vec<Vec<i64>> {
        let noted = self.recorder.noted();
        let up = noted.samples.iter().filter(|(labels, _)| labels.iter().any(|(n, v)| n == "__name__" && v == "up"));
        up.map(|(_, samples)| samples.iter().map(|(at, _)| *at).collect()).collect()
    }

    /// How many scrapes, of all targets together, are acknowledged.
    pub fn acknowledged_scrapes(&self) -> usize {
        self.scrapes().iter().map(Vec::len).sum()
    }

    /// Waits until all samples up to `end_ms` are acknowledged.
    ///
    /// # Panics
    /// If they are not in time.
    pub fn await_acknowledged(&self, end_ms: i64) {
        until("what was scraped to be acknowledged", || {
            let last: Vec<i64> = self.scrapes().iter().filter_map(|scrapes| scrapes.last().copied()).collect();
            if last.iter().all(|last| *last > end_ms) {
                Ok(())
            } else {
                Err(format!("{last:?}, expected after {end_ms}"))
            }
        });
    }
}

fn writing(store: SocketAddr, targets: &[SocketAddr]) -> String {
    let job = |(job, address): (&str, &SocketAddr)| {
        format!("  - job_name: {job}\n    honor_labels: true\n    static_configs:\n      - targets: [\"{address}\"]\n")
    };
    let jobs: String = JOBS.into_iter().zip(targets).map(job).collect();
    format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nremote_write:\n  - url: http://{store}/api/v1/write\n    \
         queue_config: {{min_shards: 1, max_shards: 1, capacity: 20000, max_samples_per_send: 2000, \
         batch_send_deadline: 100ms, max_backoff: 200ms}}\nscrape_configs:\n{jobs}"
    )
}

fn reading(store: SocketAddr) -> String {
    format!("remote_read:\n  - url: http://{store}/api/v1/read\n    read_recent: true\n    remote_timeout: 20s\n")
}
