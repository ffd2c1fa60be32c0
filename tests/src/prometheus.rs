//! A real Prometheus, which finds its targets by the sidecar's `/sd` and scrapes every second.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use heirloom_examples::process::{Running, free_address, installed};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::Host;
use crate::http;
use crate::wait::until;

/// A running Prometheus. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Running,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts Prometheus beside a host and waits until it has a target that is up.
    ///
    /// # Panics
    /// If it is not installed, or finds no target in time.
    pub fn start(host: &Host) -> Self {
        let program = installed("prometheus").expect("prometheus is not installed: run tests/run tools");
        let dir = crate::host::tmpfs_dir();
        let address = free_address().expect("a free port");
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: heirloom\n    honor_labels: true\n    \
             http_sd_configs:\n      - url: http://{}/sd\n        refresh_interval: 1s\n",
            host.http()
        );
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).expect("write prometheus.yml");
        let log = fs::File::create(dir.path().join("prometheus.log")).expect("create the log");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdout(log.try_clone().expect("clone the log")).stderr(log);
        let process = Running::start("prometheus", &mut command).expect("start prometheus");
        let prometheus = Prometheus { address, _process: process, _dir: dir };
        until("Prometheus to have scraped a target that /sd named", || {
            let up = prometheus.query("sum(up)")?;
            if up.first().is_some_and(|(_, v)| *v >= 1.0) { Ok(()) } else { Err(format!("{up:?}")) }
        });
        prometheus
    }

    /// An instant query: labels and value of each result.
    ///
    /// # Errors
    /// What Prometheus said.
    pub fn query(&self, promql: &str) -> Result<Vec<(Value, f64)>, String> {
        let answer = http::get(self.address, &format!("/api/v1/query?query={}", encode(promql)), &[])?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|e| format!("{promql}: {e}: {}", answer.body))?;
        let results = body["data"]["result"].as_array().ok_or_else(|| format!("{promql}: {body}"))?;
        let value = |r: &Value| r["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
        Ok(results.iter().map(|r| (r["metric"].clone(), value(r))).collect())
    }

    /// The only value of an instant query.
    ///
    /// # Panics
    /// If there is none or are several.
    #[track_caller]
    pub fn value(&self, promql: &str) -> f64 {
        let results = self.query(promql).expect("PromQL");
        assert_eq!(results.len(), 1, "{promql}: {results:?}");
        results[0].1
    }
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
