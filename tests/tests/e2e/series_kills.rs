//! The owner is killed 50 times under load: nothing that remote write acknowledged is missing, and nothing is there that was
//! not sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use heirloom_examples::metric_store::SERVICE;
use heirloom_examples::metric_store::wire::{Sample, TimeSeries, WriteRequest};
use heirloom_region::series::xor::Decoder;
use heirloom_tests::host::Host;
use heirloom_tests::metric_store::Pair;
use heirloom_tests::random::Random;
use heirloom_tests::remote::{self, Labels, Samples, compare};

const KILLS: usize = 50;
const SENDERS: usize = 3;
const SERIES: usize = 20;
/// Prometheus' stale marker.
const STALE: u64 = 0x7ff0_0000_0000_0002;

#[test]
fn fifty_killed_owners_cost_no_acknowledged_sample() {
    let host = Host::configured("[region]\nlimit = \"64MiB\"\nquarantine_deaths = 0\n");
    let mut random = Random::announced("series_kills");
    let mut pair = Pair::start(&host);
    let over = AtomicBool::new(false);
    let acknowledged = AtomicUsize::new(0);
    let mut senders: Vec<Sender> =
        (0..SENDERS).map(|sender| Sender::new(sender, pair.address(), random.number())).collect();
    thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| sender.send_until(&over, &acknowledged));
        }
        for kill in 0..KILLS {
            let (before, wanted) = (acknowledged.load(Ordering::Relaxed), 1 + random.below(20) as usize);
            heirloom_tests::wait::until("writes to be acknowledged", || {
                match acknowledged.load(Ordering::Relaxed) - before {
                    n if n >= wanted => Ok(()),
                    n => Err(format!("{n} since kill {kill}")),
                }
            });
            if kill % 5 == 4 {
                pair.hand_over(&host);
            }
            thread::sleep(random.moment(Duration::from_millis(20)));
            pair.kill_owner(&host);
        }
        over.store(true, Ordering::Relaxed);
    });
    let mut expected = Samples::new();
    let (mut requests, mut again) = (0, 0);
    for sender in senders {
        expected.extend(sender.acknowledged);
        (requests, again) = (requests + sender.requests, again + sender.again);
    }
    for instance in [&pair.owner, &pair.standby] {
        let found = remote::samples(instance.address, remote::all(), (i64::MIN, i64::MAX)).expect("remote read");
        same(instance.version(), &expected, &found);
        same("its chunks", &expected, &decoded(instance.address));
    }
    println!("series_kills: {requests} requests acknowledged over {KILLS} kills, {again} sent again");
    assert_eq!(host.call(&["verify", SERVICE]).exit_code, 0);
    pair.end();
}

fn same(what: &str, expected: &Samples, found: &Samples) {
    let all = compare(expected, found);
    println!("series_kills: {what}: {} samples compared, missing {}", all.expected, all.missing);
    assert_eq!((all.missing, all.more), (0, 0), "{what}: {:?}", all.first);
}

/// The samples in the chunks of a streamed answer.
fn decoded(address: SocketAddr) -> Samples {
    let chunks = remote::chunks(address, remote::all(), (i64::MIN, i64::MAX)).expect("a stream of chunks");
    let decode = |data: &[u8]| {
        let samples = Decoder::new(data).map(|sample| sample.map(|s| (s.timestamp_ms, s.value.to_bits())));
        samples.collect::<Result<Vec<_>, _>>().expect("a whole chunk")
    };
    chunks.into_iter().map(|(labels, chunks)| (labels, chunks.iter().flat_map(|c| decode(&c.data)).collect())).collect()
}

/// Sends one sample of each of its series after the other, each request until it is acknowledged, as Prometheus does.
struct Sender {
    address: SocketAddr,
    series: Vec<Labels>,
    random: Random,
    /// What was answered with 204.
    acknowledged: Samples,
    requests: usize,
    again: usize,
}

impl Sender {
    fn new(number: usize, address: SocketAddr, seed: u64) -> Self {
        let label = |name: &str, value: String| (name.to_owned(), value);
        let labels = |i| {
            vec![
                label("__name__", format!("sent_{}", i % 4)),
                label("sender", number.to_string()),
                label("series", format!("{i:03}")),
            ]
        };
        let series = (0..SERIES).map(labels).collect();
        Sender { address, series, random: Random::seeded(seed), acknowledged: BTreeMap::new(), requests: 0, again: 0 }
    }

    fn send_until(&mut self, over: &AtomicBool, acknowledged: &AtomicUsize) {
        let mut timestamp = 1_700_000_000_000;
        let mut counters = vec![0.0; self.series.len()];
        while !over.load(Ordering::Relaxed) {
            timestamp += 1 + self.random.below(1000) as i64;
            let values: Vec<f64> = counters.iter_mut().map(|counter| self.value(counter)).collect();
            let sample = |value: &f64| vec![Sample::exact(timestamp, *value)];
            let series = self.series.iter().zip(&values).map(|(labels, value)| TimeSeries {
                labels: remote::labels(labels),
                samples: sample(value),
                ..Default::default()
            });
            let request = WriteRequest { timeseries: series.collect(), metadata: Vec::new() };
            self.deliver(&request);
            for (labels, value) in self.series.iter().zip(&values) {
                self.acknowledged.entry(labels.clone()).or_default().push((timestamp, value.to_bits()));
            }
            self.requests += 1;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counters mostly, and now and then what floats can be.
    fn value(&mut self, counter: &mut f64) -> f64 {
        *counter += self.random.below(100) as f64;
        match self.random.below(40) {
            0 => f64::from_bits(STALE),
            1 => f64::NAN,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            4 => f64::from_bits(self.random.number()),
            _ => *counter,
        }
    }

    fn deliver(&mut self, request: &WriteRequest) {
        heirloom_tests::wait::until("a write to be acknowledged", || match remote::write(self.address, request) {
            Ok((204, _)) => Ok(()),
            Ok((status, text)) => {
                // What is good is never refused for good.
                assert!(status >= 500, "{status} {text}");
                self.again += 1;
                Err(format!("{status} {text}"))
            }
            Err(lost) => {
                self.again += 1;
                Err(lost)
            }
        });
    }
}
