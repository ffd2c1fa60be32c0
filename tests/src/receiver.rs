//! A store that takes remote write and does what it is told: answers by a script, and keeps what it was sent; over TLS if it has a
//! certificate.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heirloom_proto::prometheus::{TimeSeries, WriteRequest};
use prost::Message as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Answers so, with this header and a `;`-free body.
    Answers(u16, &'static str),
    /// Closes the connection without a word.
    HangsUp,
    /// Keeps the sender waiting until the receiver is dropped, or the sender goes.
    Waits,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// When.
    pub at: Instant,
    /// Its head, in lower case.
    pub head: String,
    /// The compressed body.
    pub body: Vec<u8>,
    /// What was done with it.
    pub did: Does,
}

impl Received {
    /// What it says.
    ///
    /// # Panics
    /// If it is not snappy's block format around a `WriteRequest`.
    pub fn series(&self) -> Vec<TimeSeries> {
        let bytes = snap::raw::Decoder::new().decompress_vec(&self.body).expect("snappy");
        WriteRequest::decode(&*bytes).expect("a WriteRequest").timeseries
    }

    /// Whether the store has its samples now.
    pub fn was_taken(&self) -> bool {
        matches!(self.did, Does::Answers(200..=299, _))
    }
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<VecDeque<Does>>,
    received: Mutex<Vec<Received>>,
    over: AtomicBool,
}

/// A running receiver. Ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts one; what is not in the script is answered with 204.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(script: &[Does]) -> Self {
        Self::serve(script, None)
    }

    /// As [`Receiver::start`], over TLS.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start_tls(script: &[Does], config: ServerConfig) -> Self {
        Self::serve(script, Some(Arc::new(config)))
    }

    fn serve(script: &[Does], tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { script: Mutex::new(script.iter().copied().collect()), ..Shared::default() });
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, tls) = (Arc::clone(&serving), tls.clone());
                // A sender that went away in the middle is the test's business, and so is one that wants no such certificate.
                thread::spawn(move || meet(stream, tls, &shared).ok());
            }
        });
        Receiver { address, scheme, shared, thread: Some(thread) }
    }

    /// Where it takes remote write.
    pub fn url(&self) -> String {
        format!("{}://{}/api/v1/write", self.scheme, self.address)
    }

    /// All requests so far, in the order in which they came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts something at the script's end.
    pub fn then(&self, does: Does) {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner).push_back(does);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
        self.thread.take().map(JoinHandle::join);
    }
}

fn meet(stream: TcpStream, tls: Option<Arc<ServerConfig>>, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    match tls {
        None => answer(stream, shared),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
            answer(StreamOwned::new(connection, stream), shared)
        }
    }
}

fn answer(stream: impl Read + Write, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let did = shared.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let did = did.unwrap_or(Does::Answers(204, ""));
    let received = Received { at: Instant::now(), head, body, did };
    shared.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    match did {
        Does::HangsUp => Ok(()),
        Does::Waits => reader.read(&mut [0]).map(drop),
        Does::Answers(status, header) => {
            let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
            write!(
                reader.get_mut(),
                "HTTP/1.1 {status} so\r\nconnection: close\r\ncontent-length: 4\r\n{header}\r\nso.\n"
            )
        }
    }
}
