//! Moving live connections: what one costs, and whether thousands of them lengthen a switch.
//!
//! What is compared is measured in the same run, in turns: a pair of instances whose owner holds connections, and one without.
//! Both make owned writes meanwhile, so a blackout is the writer's own measure where one met it. Two instances of an embedded arbiter in this process, each with its own control thread; the connections, packets and
//! descriptors are real. Between processes the same calls are made.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use heirloom_client::embedded::Embedded;
use heirloom_client::{Hooks, Parcel, Parcels, Serving, Stream, Tracked};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::measure::{Effort, median};
use crate::table::{Row, Table, time};

const ASKED_NS: f64 = 100e3;
const CONNECTIONS: usize = 5000;
/// A longer blackout than this times that without connections would show that they are in its way.
const SAME: f64 = 1.5;

pub(crate) fn parcels(table: &mut Table, effort: Effort) {
    allow_many();
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        one(table, effort).await;
        many(table, effort).await;
    });
}

struct Pair {
    arbiter: Embedded,
    serving: [Serving; 2],
    ends: [Parcels<u64>; 2],
}

impl Pair {
    async fn new() -> Self {
        let arbiter = Embedded::new("bench").expect("a region");
        let attach = async |version| arbiter.attach(version).await.expect("attached");
        let mut v1 = attach("v1").await.ready(Hooks::new()).await.expect("ready");
        v1.next_term().await;
        let v2 = attach("v2").await.ready(Hooks::new()).await.expect("ready");
        let ends = [&v1, &v2].map(|it| it.region().parcels("bench", 1).expect("a protocol"));
        Pair { arbiter, serving: [v1, v2], ends }
    }

    /// To v1 or v2; gives the blackout.
    async fn hand_over(&self, to: usize) -> Duration {
        self.arbiter.handover(["v1", "v2"][to]).await.expect("committed").blackout
    }
}

fn connections(n: usize) -> (Vec<Parcel<u64>>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let to = listener.local_addr().expect("an address");
    let pairs = (0..n).map(|_| {
        let client = TcpStream::connect(to).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        served.set_nonblocking(true).expect("non-blocking");
        let stream = Stream::Tcp(tokio::net::TcpStream::from_std(served).expect("a stream"));
        (Parcel { stream, unread: b"half a li".to_vec(), unsent: Vec::new(), state: 7 }, client)
    });
    pairs.unzip()
}

/// One at a time: from the decision to send to the word that it is the other's.
async fn one(table: &mut Table, effort: Effort) {
    let pair = Pair::new().await;
    let (mut conns, _clients) = connections(1);
    let mut conn = conns.pop().expect("one");
    let mut all = Vec::new();
    for round in 0..effort.handovers * 2 {
        let (to, from) = if round % 2 == 0 { (1, 0) } else { (0, 1) };
        pair.hand_over(to).await;
        let mut tracked = pair.ends[from].track();
        let departure = tracked.departure().await;
        let begin = Instant::now();
        let (sent, arrived) = tokio::join!(departure.send(conn), async { pair.ends[to].arrival().await.accept() });
        sent.expect("taken");
        all.push(begin.elapsed().as_nanos() as f64);
        conn = arrived.expect("in time").0;
    }
    let ns = median(all);
    table.add(Row {
        what: "move one live connection: offer to acknowledged, p50".into(),
        ours: time(ns),
        against: "-".into(),
        ratio: "-".into(),
        asked: "<= 100 µs".into(),
        met: Some(ns <= ASKED_NS),
    });
}

/// Connections of each end.
type Held = Arc<[AtomicUsize; 2]>;

/// Serves by doing nothing until it moves; then the other end's task goes on.
async fn hold(held: Held, end: usize, mut tracked: Tracked<u64>, mut conn: Parcel<u64>) {
    held[end].fetch_add(1, Ordering::Relaxed);
    loop {
        match tracked.departure().await.send(conn).await {
            Ok(()) => break,
            Err(back) => conn = back.parcel,
        }
    }
    held[end].fetch_sub(1, Ordering::Relaxed);
}

/// Makes owned writes wherever it may, until told to stop.
fn write(pair: &Pair, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    let regions = pair.serving.iter().map(|serving| serving.region().clone());
    let writers = regions.map(|region| {
        let (gauge, stop) = (region.gauge("bench_value").open().expect("a gauge"), stop.clone());
        std::thread::spawn(move || {
            let mut value = 0.0;
            while !stop.load(Ordering::Relaxed) {
                if let Ok(term) = region.term() {
                    value += 1.0;
                    let _ = gauge.set(&term, value); // fenced: the other one writes
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        })
    });
    writers.collect()
}

async fn all_at(held: &Held, end: usize, n: usize) {
    while held[end].load(Ordering::Relaxed) != n || held[1 - end].load(Ordering::Relaxed) != 0 {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

async fn many(table: &mut Table, effort: Effort) {
    let n = if effort.repeats < Effort::FULL.repeats { CONNECTIONS / 10 } else { CONNECTIONS };
    let (idle, busy) = (Pair::new().await, Pair::new().await);
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [write(&idle, &stop), write(&busy, &stop)];
    let (conns, _clients) = connections(n);
    let held = Held::default();
    for conn in conns {
        tokio::spawn(hold(held.clone(), 0, busy.ends[0].track(), conn));
    }
    for (end, parcels) in busy.ends.iter().enumerate() {
        let (parcels, held) = (parcels.clone(), held.clone());
        tokio::spawn(async move {
            loop {
                if let Ok((conn, tracked)) = parcels.arrival().await.accept() {
                    tokio::spawn(hold(held.clone(), end, tracked, conn));
                }
            }
        });
    }
    all_at(&held, 0, n).await;
    let (mut without, mut with, mut moving, mut each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.handovers {
        let to = (round + 1) % 2;
        without.push(idle.hand_over(to).await.as_nanos() as f64);
        let begin = Instant::now();
        with.push(busy.hand_over(to).await.as_nanos() as f64);
        if round % 8 == 3 {
            // There and back while they are on their way.
            for to in [1 - to, to] {
                moving.push(busy.hand_over(to).await.as_nanos() as f64);
            }
            all_at(&held, to, n).await;
            continue;
        }
        all_at(&held, to, n).await;
        each.push(begin.elapsed().as_nanos() as f64 / n as f64);
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().flatten().for_each(|writer| writer.join().expect("a writer"));
    rows(table, n, [without, with, moving, each].map(median));
}

fn rows(table: &mut Table, n: usize, [without, with, moving, each]: [f64; 4]) {
    table.add(Row {
        what: format!("blackout p50 of a handover with {n} connections that move"),
        ours: time(with),
        against: format!("without any {}", time(without)),
        ratio: format!("{:.2}", with / without),
        asked: format!("same (<= {SAME})"),
        met: Some(with / without <= SAME),
    });
    table.add(Row {
        what: format!("the same, while {n} are on their way"),
        ours: time(moving),
        against: format!("without any {}", time(without)),
        ratio: format!("{:.2}", moving / without),
        asked: "report".into(),
        met: None,
    });
    table.add(Row {
        what: format!("move {n} live connections, for each"),
        ours: time(each),
        against: "-".into(),
        ratio: "-".into(),
        asked: "<= 100 µs".into(),
        met: Some(each <= ASKED_NS),
    });
}

/// Each connection is two descriptors here, and one more on its way.
fn allow_many() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    let needed = 2 * CONNECTIONS as u64 + 1000;
    assert!(hard >= needed, "expected a hard RLIMIT_NOFILE of {needed}, found {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(needed), hard).expect("raise it");
}
