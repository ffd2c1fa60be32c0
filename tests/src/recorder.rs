//! Stands between a sender of remote writes and a store, and keeps what the store acknowledged: the samples of every request
//! that it answered with 2xx, noted before the sender hears of it. Nothing is concluded from clocks or counts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use heirloom_examples::metric_store::wire::WriteRequest;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::http;
use crate::remote::{Samples, plain};

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its server ends with it.
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    store: SocketAddr,
    noted: Mutex<Noted>,
}

/// What was acknowledged, and what was refused for good.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// In requests answered with 2xx.
    pub samples: Samples,
    /// Texts of 4xx answers.
    pub refused: Vec<String>,
    /// Answers with 5xx, or none: the sender sends again.
    pub again: usize,
}

impl Recorder {
    /// Starts one before the store at `store`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(store: SocketAddr) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { store, noted: Mutex::default() });
        let routes = Router::new().route("/api/v1/write", post(pass_on)).layer(DefaultBodyLimit::disable());
        let routes = routes.with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Recorder { address, shared, _runtime: runtime }
    }

    /// Where senders send.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that was noted so far.
    pub fn noted(&self) -> MutexGuard<'_, Noted> {
        self.shared.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was acknowledged so far of this time, both ends included.
    pub fn acknowledged(&self, (start, end): (i64, i64)) -> Samples {
        let within = |samples: &Vec<(i64, u64)>| {
            let from = samples.partition_point(|(at, _)| *at < start);
            samples[from..].iter().take_while(|(at, _)| *at <= end).copied().collect::<Vec<_>>()
        };
        let noted = self.noted();
        let all = noted.samples.iter().map(|(labels, samples)| (labels.clone(), within(samples)));
        all.filter(|(_, samples)| !samples.is_empty()).collect()
    }
}

async fn pass_on(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let forward = move || {
        let lines: Vec<String> = ["content-type", "content-encoding", "x-prometheus-remote-write-version"]
            .iter()
            .filter_map(|name| Some(format!("{name}: {}", headers.get(*name)?.to_str().ok()?)))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let answer = http::ask(shared.store, "POST", "/api/v1/write", &lines, &body);
        let mut noted = shared.noted.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                match answer.status {
                    200..=299 => note(&mut noted.samples, &body),
                    400..=499 => noted.refused.push(text.clone()),
                    _ => noted.again += 1,
                }
                (StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY), text)
            }
            Err(lost) => {
                noted.again += 1;
                (StatusCode::BAD_GATEWAY, lost)
            }
        }
    };
    let forwarded = tokio::task::spawn_blocking(forward).await;
    forwarded.unwrap_or_else(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn note(samples: &mut Samples, body: &[u8]) {
    let message = snap::raw::Decoder::new().decompress_vec(body).expect("the store read it");
    let request = WriteRequest::decode(message.as_slice()).expect("the store read it");
    for series in request.timeseries {
        let taken = series.samples.iter().map(|sample| (sample.timestamp, sample.value().to_bits()));
        samples.entry(plain(series.labels)).or_default().extend(taken);
    }
}
