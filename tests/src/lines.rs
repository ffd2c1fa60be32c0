//! Clients of the line service that never pause: each sends numbered lines on one connection, several ahead, and checks that
//! every answer comes once, in order, with the right number, and that the kernel still knows the same connection: its own port, and
//! as many bytes in `TCP_INFO` as were sent and answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::sys::{TcpInfo, tcp_info};

/// Lines on their way at once, on each connection.
const AHEAD: u64 = 4;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers that were right.
    pub answers: u64,
    /// Connections that were cut.
    pub cut: u64,
    /// Wrong answers, answers that did not come, connections that changed.
    pub faults: Vec<String>,
    /// Longest wait for an answer.
    pub longest: Duration,
}

/// Running clients.
#[derive(Debug)]
pub struct Lines {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<Seen>,
}

impl Lines {
    /// Connects `n` clients, each of which waits so long between two lines.
    ///
    /// # Panics
    /// If no runtime can be made.
    pub fn start(to: SocketAddr, n: usize, think: Duration) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let shared = Arc::new(Mutex::new(Seen::default()));
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for _ in 0..n {
                    let client = Client {
                        stop: Arc::clone(&stopped),
                        answers: Arc::clone(&counted),
                        seen: Arc::clone(&seen),
                        think,
                    };
                    clients.spawn(client.talk(to));
                }
                while clients.join_next().await.is_some() {}
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
                seen.answers = counted.load(Ordering::Relaxed);
                seen
            })
        });
        Lines { stop, answers, seen: shared, thread }
    }

    /// Right answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// What the clients have seen so far.
    pub fn so_far(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends no more, waits for every answer, and tells.
    ///
    /// # Panics
    /// If a client did.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the clients' thread")
    }
}

struct Client {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    think: Duration,
}

impl Client {
    async fn talk(self, to: SocketAddr) {
        match self.lines(to).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => self.seen().faults.push(error.to_string()),
            Err(_) => self.seen().cut += 1,
        }
    }

    async fn lines(&self, to: SocketAddr) -> std::io::Result<()> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?;
        let (mut bytes_sent, mut bytes_answered) = (0, 0);
        let (read, mut write) = stream.into_split();
        let mut answers = BufReader::new(read).lines();
        let (mut sent, mut answered) = (0_u64, 0_u64);
        loop {
            let stopped = self.stop.load(Ordering::Relaxed);
            if stopped && sent == answered {
                let stream = answers.get_ref().get_ref().as_ref();
                let (info, now) = (tcp_info(stream)?, stream.local_addr()?);
                let expected = TcpInfo { state: 1, bytes_acked: bytes_sent + 1, bytes_received: bytes_answered };
                if info.state != expected.state && now == port {
                    return Err(std::io::ErrorKind::ConnectionReset.into()); // cut while nothing was to come
                }
                if (info, now) != (expected, port) {
                    let found = format!("{info:?} at {now}, not {expected:?} at {port}");
                    return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, found));
                }
                return Ok(());
            }
            while sent < answered + AHEAD && !stopped {
                sent += 1;
                // In two pieces, so that a half line is on its way now and then.
                let line = format!("line {sent} of many\n");
                bytes_sent += line.len() as u64;
                let (begin, end) = line.split_at(usize::try_from(sent % 7).unwrap_or(0));
                write.write_all(begin.as_bytes()).await?;
                write.write_all(end.as_bytes()).await?;
            }
            let asked = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, answers.next_line()).await;
            let fault = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
            let Ok(answer) = answer else {
                return Err(fault(format!("no answer {} within {PATIENCE:?}", answered + 1)));
            };
            let Some(answer) = answer? else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
            answered += 1;
            let expected = format!("{answered} line {answered} of many");
            if answer != expected {
                return Err(fault(format!("expected {expected:?}, found {answer:?}")));
            }
            bytes_answered += answer.len() as u64 + 1;
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.waited(asked.elapsed());
            if !self.think.is_zero() {
                tokio::time::sleep(self.think).await;
            }
        }
    }

    fn waited(&self, long: Duration) {
        let mut seen = self.seen();
        seen.longest = seen.longest.max(long);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
