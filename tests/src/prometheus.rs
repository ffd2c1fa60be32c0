//! A real Prometheus: one that finds its targets by the sidecar's `/sd`, or any configuration.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use heirloom_examples::process::{Running, free_address, installed};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::Host;
use crate::http;
use crate::wait::until;

/// A running Prometheus. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    /// None while it is stopped.
    process: Option<Running>,
    arguments: Vec<String>,
    dir: TempDir,
}

impl Prometheus {
    /// Starts Prometheus beside a host and waits until it has a target that is up.
    ///
    /// # Panics
    /// If it is not installed, or finds no target in time.
    pub fn start(host: &Host) -> Self {
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  - job_name: heirloom\n    honor_labels: true\n    \
             http_sd_configs:\n      - url: http://{}/sd\n        refresh_interval: 1s\n",
            host.http()
        );
        let prometheus = Self::configured(free_address().expect("a free port"), &config, &[]);
        until("Prometheus to have scraped a target that /sd named", || {
            let up = prometheus.query("sum(up)")?;
            if up.first().is_some_and(|(_, v)| *v >= 1.0) { Ok(()) } else { Err(format!("{up:?}")) }
        });
        prometheus
    }

    /// Starts Prometheus with this configuration and more arguments, listening at `address`, and waits until it is ready.
    ///
    /// # Panics
    /// If it is not installed, or does not become ready in time.
    pub fn configured(address: SocketAddr, config: &str, arguments: &[&str]) -> Self {
        let program = installed("prometheus").expect("prometheus is not installed: run tests/run tools");
        let dir = crate::host::tmpfs_dir();
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).expect("write prometheus.yml");
        let mut all = vec![
            program.display().to_string(),
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut prometheus = Prometheus { address, process: None, arguments: all, dir };
        prometheus.go_on();
        prometheus
    }

    /// Starts it again, with what it has stored, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready in time.
    pub fn go_on(&mut self) {
        let log_file = self.dir.path().join("prometheus.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_file).expect("open the log");
        let mut command = Command::new(&self.arguments[0]);
        command.args(&self.arguments[1..]);
        command.stdout(log.try_clone().expect("clone the log")).stderr(log);
        self.process = Some(Running::start("prometheus", &mut command).expect("start prometheus"));
        until("Prometheus' /-/ready to answer 200", || match http::get(self.address, "/-/ready", &[]) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}; it logged {}", fs::read_to_string(&log_file).unwrap_or_default())),
        });
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) {
        let process = self.process.as_mut().expect("Prometheus runs");
        process.terminate(Duration::from_secs(20)).expect("end Prometheus");
        self.process = None;
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("Prometheus runs").pid()
    }

    /// A query with a range-vector selector, at a time: every sample of every series, the values as they are written.
    ///
    /// # Errors
    /// What Prometheus said.
    pub fn matrix(&self, promql: &str, at_ms: i64) -> Result<Matrix, String> {
        let at = at_ms as f64 / 1000.0;
        let path = format!("/api/v1/query?query={}&time={at:.3}", encode(promql));
        let answer = http::get(self.address, &path, &[])?;
        let parsed: MatrixAnswer = serde_json::from_str(&answer.body)
            .map_err(|e| format!("{promql}: {e}: {}", answer.body.chars().take(500).collect::<String>()))?;
        if !parsed.warnings.is_empty() {
            // What a remote read could not give is a warning, beside what others gave.
            return Err(format!("{promql}: {:?}", parsed.warnings));
        }
        let samples = |values: Vec<(f64, String)>| values.into_iter().map(|(s, v)| ((s * 1000.0).round() as i64, v));
        Ok(parsed.data.result.into_iter().map(|series| (series.metric, samples(series.values).collect())).collect())
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

/// Samples by series: milliseconds, and the value as it is written.
pub type Matrix = BTreeMap<BTreeMap<String, String>, Vec<(i64, String)>>;

#[derive(Deserialize)]
struct MatrixAnswer {
    data: MatrixData,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct MatrixData {
    result: Vec<MatrixSeries>,
}

#[derive(Deserialize)]
struct MatrixSeries {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
