//! A load that notices a lost write. Each customer asks one request at a time, numbers it, and repeats it under the same number until it is
//! acknowledged; the shop answers how often this customer has come, which must be that very number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

/// A request that nobody acknowledges for so long has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// One attempt's time.
const ATTEMPT: Duration = Duration::from_secs(6);
/// Before the same request is asked again where nobody else could be asked.
const PAUSE: Duration = Duration::from_millis(5);

/// What happened so far. Counts only grow; `longest_us` is since the last [`Counts::take_longest`].
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests begun.
    pub sent: AtomicU64,
    /// Requests acknowledged, each exactly once.
    pub acknowledged: AtomicU64,
    /// Requests that nobody acknowledged in time.
    pub failed: AtomicU64,
    /// Attempts answered 503, "not the owner", and repeated.
    pub deferred: AtomicU64,
    /// Attempts whose connection broke, and that were repeated.
    pub cut: AtomicU64,
    /// Acknowledgements with another number of visits than the customer's own count: a lost or doubled write.
    pub wrong: AtomicU64,
    longest_us: AtomicU64,
    versions: Mutex<BTreeMap<String, u64>>,
    first_fault: Mutex<Option<String>>,
}

impl Counts {
    /// Longest time from asking to the acknowledgement, since this was called last.
    pub fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Acknowledgements by the version that gave them.
    pub fn by_version(&self) -> BTreeMap<String, u64> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was wrong with the first request that failed or was answered wrongly.
    pub fn first_fault(&self) -> Option<String> {
        self.first_fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self, what: String) {
        self.first_fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }
}

/// How the load asks.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A gateway's address, or those of all versions: then the next one is asked when one does not acknowledge.
    pub targets: Vec<SocketAddr>,
    /// Customers, each with one request at a time.
    pub customers: usize,
    /// Each customer's pause between two requests.
    pub think: Duration,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    customers: JoinSet<(String, u64)>,
}

type Http = Client<HttpConnector, Empty<Bytes>>;

/// How one attempt ended.
enum Attempt {
    Acknowledged { visits: Option<u64>, version: String },
    Deferred,
    Cut(String),
    Refused(StatusCode),
}

impl Load {
    /// Starts the customers, on the runtime this is called from.
    pub fn start(plan: Plan) -> Self {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http: Http = Client::builder(TokioExecutor::new()).build(connector);
        let mut customers = JoinSet::new();
        for i in 0..plan.customers {
            let customer = Customer {
                name: format!("customer-{i:03}"),
                http: http.clone(),
                plan: plan.clone(),
                counts: Arc::clone(&counts),
                target: 0,
            };
            customers.spawn(customer.come(Arc::clone(&stop)));
        }
        Load { counts, stop, customers }
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets every customer end the request it is at, and gives each one's own count of acknowledged visits.
    pub async fn stop(mut self) -> (BTreeMap<String, u64>, Arc<Counts>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut visits = BTreeMap::new();
        while let Some(ended) = self.customers.join_next().await {
            match ended {
                Ok((name, count)) => {
                    visits.insert(name, count);
                }
                Err(e) => self.counts.fault(format!("a customer did not end: {e}")),
            }
        }
        (visits, self.counts)
    }
}

struct Customer {
    name: String,
    http: Http,
    plan: Plan,
    counts: Arc<Counts>,
    target: usize,
}

impl Customer {
    async fn come(mut self, stop: Arc<AtomicBool>) -> (String, u64) {
        let mut visits = 0;
        while !stop.load(Ordering::Relaxed) {
            if !self.visit(visits + 1).await {
                break; // its number may or may not be done: this customer's count ends here
            }
            visits += 1;
            tokio::time::sleep(self.plan.think).await;
        }
        (self.name, visits)
    }

    /// Asks request number `number` until it is acknowledged; false if nobody does in time.
    async fn visit(&mut self, number: u64) -> bool {
        let counts = Arc::clone(&self.counts);
        let start = Instant::now();
        counts.sent.fetch_add(1, Ordering::Relaxed);
        loop {
            let why = match self.attempt(number).await {
                Attempt::Acknowledged { visits, version } => {
                    let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                    counts.longest_us.fetch_max(us, Ordering::Relaxed);
                    counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                    *counts.versions.lock().unwrap_or_else(PoisonError::into_inner).entry(version).or_default() += 1;
                    if visits != Some(number) {
                        counts.wrong.fetch_add(1, Ordering::Relaxed);
                        counts.fault(format!("{}: expected visit {number}, found {visits:?}", self.name));
                    }
                    return true;
                }
                Attempt::Deferred => {
                    counts.deferred.fetch_add(1, Ordering::Relaxed);
                    "answered 503 to the last".to_owned()
                }
                Attempt::Cut(e) => {
                    counts.cut.fetch_add(1, Ordering::Relaxed);
                    e
                }
                Attempt::Refused(status) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    counts.fault(format!("{}, request {number}: {status}", self.name));
                    return false;
                }
            };
            if start.elapsed() > GIVE_UP_AFTER {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                counts.fault(format!("{}, request {number}: {why}", self.name));
                return false;
            }
            self.target += 1;
            if self.target.is_multiple_of(self.plan.targets.len()) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn attempt(&self, number: u64) -> Attempt {
        let target = self.plan.targets[self.target % self.plan.targets.len()];
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{target}/visit/{}?request={number}", self.name))
            .body(Empty::new());
        let request = match request {
            Ok(request) => request,
            Err(e) => return Attempt::Cut(e.to_string()),
        };
        let answer = async {
            let (head, body) = self.http.request(request).await.map_err(|e| chain(&e))?.into_parts();
            // An answer that breaks off in the middle is no acknowledgement.
            body.collect().await.map_err(|e| chain(&e))?;
            Ok::<_, String>(head)
        };
        match tokio::time::timeout(ATTEMPT, answer).await {
            Err(_) => Attempt::Cut(format!("no answer in {ATTEMPT:?}")),
            Ok(Err(e)) => Attempt::Cut(e),
            Ok(Ok(head)) => match head.status {
                StatusCode::OK => {
                    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
                    Attempt::Acknowledged { visits: text("visits").parse().ok(), version: text("version").to_owned() }
                }
                StatusCode::SERVICE_UNAVAILABLE => Attempt::Deferred,
                other => Attempt::Refused(other),
            },
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
