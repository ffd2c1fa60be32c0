//! Reads the sidecar's `/metrics` all the while and notes any counter that goes back, disappears or cannot be read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

/// Values by series, as in `shop_requests_total{path="/visit"}`.
pub type Samples = BTreeMap<String, f64>;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often it was read.
    pub scrapes: u64,
    /// What was wrong, in the order it was seen.
    pub faults: Vec<String>,
    /// The last values.
    pub last: Samples,
}

/// Scrapes until it is stopped.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// One GET; the body if the answer is 200.
///
/// # Errors
/// What went wrong, in words.
pub async fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let http = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let uri = format!("http://{address}{path}").parse().map_err(|e| format!("{path}: {e}"))?;
    let ask = async {
        let request =
            axum::http::Request::builder().uri::<axum::http::Uri>(uri).body(Empty::<axum::body::Bytes>::new());
        let response = http.request(request.map_err(|e| e.to_string())?).await.map_err(|e| format!("{e:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(text) } else { Err(format!("{path}: {status}: {text}")) }
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.map_err(|_| format!("{path}: no answer in 5 s"))?
}

/// The samples of Prometheus' text format whose name begins with `prefix`.
///
/// # Errors
/// A line that is no sample, or a series that stands there twice.
pub fn parse(text: &str, prefix: &str) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| line.starts_with(prefix)) {
        let fault = || format!("expected `series value`, found {line:?}");
        // A label's value may hold blanks, so the name ends at its closing brace.
        let (series, rest) = match line.find('}') {
            Some(end) => line.split_at(end + 1),
            None => line.split_once(' ').ok_or_else(fault)?,
        };
        let value = rest.split_whitespace().next().and_then(|v| v.parse().ok()).ok_or_else(fault)?;
        if samples.insert(series.to_owned(), value).is_some() {
            return Err(format!("series {series} twice in one scrape"));
        }
    }
    Ok(samples)
}

/// The sum of all series called `name` that carry every one of `labels`, as in `path="/visit"`; nothing if there is none.
pub fn sum(samples: &Samples, name: &str, labels: &[&str]) -> Option<f64> {
    let wanted = |series: &str| {
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        found == name && labels.iter().all(|label| rest.contains(label))
    };
    let mut values = samples.iter().filter(|(series, _)| wanted(series)).map(|(_, value)| *value).peekable();
    values.peek().is_some().then(|| values.sum())
}

impl Seen {
    fn note(&mut self, scraped: Result<Samples, String>) {
        self.scrapes += 1;
        match scraped {
            Err(e) => self.faults.push(e),
            Ok(samples) => {
                for (series, &before) in &self.last {
                    match samples.get(series) {
                        None => self.faults.push(format!("{series} disappeared at {before}")),
                        // Gauges may fall, everything else in the shop counts.
                        Some(&now) if now < before && !series.starts_with("shop_open_requests") => {
                            self.faults.push(format!("{series} went back from {before} to {now}"));
                        }
                        Some(_) => {}
                    }
                }
                self.last = samples;
            }
        }
    }
}

impl Watcher {
    /// Starts scraping `address`, 20 times a second.
    pub fn start(address: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (out, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !end.load(Ordering::Relaxed) {
                let scraped = get(address, "/metrics").await.and_then(|text| parse(&text, "shop_"));
                out.lock().unwrap_or_else(PoisonError::into_inner).note(scraped);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Watcher { seen, stop, task }
    }

    /// Stops after one more scrape and gives what was seen.
    pub async fn stop(self, address: SocketAddr) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.ok();
        let scraped = get(address, "/metrics").await.and_then(|text| parse(&text, "shop_"));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.note(scraped);
        std::mem::take(&mut *seen)
    }
}
