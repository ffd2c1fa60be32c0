//! New connections in an open loop: begun by the clock, whatever became of those before. So a server that stalls meets all
//! that arrived meanwhile, and what is refused, reset or cut off is seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// For one connection, from its beginning to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of the connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Begun.
    pub begun: u64,
    /// Answers by what they say.
    pub answers: BTreeMap<String, u64>,
    /// Connections that failed, by why.
    pub failures: BTreeMap<String, u64>,
    /// Longest time between two ends of answers.
    pub longest_gap: Duration,
    /// Longest time from beginning to answer.
    pub slowest: Duration,
    /// How long it blew.
    pub lasted: Duration,
    last: Option<Instant>,
}

impl Tally {
    /// Answers of any kind.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// A running storm.
#[derive(Debug)]
pub struct Storm {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

impl Storm {
    /// Begins `per_second` connections to `to`, on a thread of its own.
    ///
    /// # Panics
    /// If no runtime can be made.
    pub fn start(to: SocketAddr, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(blow(to, per_second, stopped))
        });
        Storm { stop, thread }
    }

    /// Begins no more, waits for those under way, and tells.
    ///
    /// # Panics
    /// If the storm did.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the storm's thread")
    }
}

async fn blow(to: SocketAddr, per_second: u32, stop: Arc<AtomicBool>) -> Tally {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (begin, mut begun) = (Instant::now(), 0_u64);
    let mut under_way = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while begun < due {
            begun += 1;
            under_way.spawn(one(to, Arc::clone(&tally)));
        }
        while under_way.try_join_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let lasted = begin.elapsed();
    while under_way.join_next().await.is_some() {}
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (tally.begun, tally.lasted) = (begun, lasted);
    tally
}

async fn one(to: SocketAddr, tally: Arc<Mutex<Tally>>) {
    let begin = Instant::now();
    let answer = tokio::time::timeout(PATIENCE, ask(to)).await;
    let now = Instant::now();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = match answer {
        Ok(Ok(answer)) if !answer.is_empty() => {
            *tally.answers.entry(answer).or_default() += 1;
            tally.slowest = tally.slowest.max(now - begin);
            if let Some(last) = tally.last.replace(now) {
                tally.longest_gap = tally.longest_gap.max(now - last);
            }
            return;
        }
        Ok(Ok(_)) => "closed without an answer".to_owned(),
        Ok(Err(e)) => format!("{:?}", e.kind()),
        Err(_) => "no answer".to_owned(),
    };
    *tally.failures.entry(failed).or_default() += 1;
}

async fn ask(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(b"who\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    // All was read, so this cuts nothing off; it leaves no port in TIME_WAIT, of which there are too few for a storm.
    stream.set_zero_linger()?;
    Ok(answer)
}
