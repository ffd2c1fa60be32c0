//! What a real Prometheus scraped and remote-wrote through HAProxy, another reads back by PromQL over 20 upgrades and
//! rollbacks: the same samples of the same series, at every moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heirloom_tests::host::Host;
use heirloom_tests::metric_store::Pair;
use heirloom_tests::oracle::Oracle;
use heirloom_tests::prometheus::Matrix;
use heirloom_tests::random::Random;
use heirloom_tests::remote::{self, Comparison, Samples, compare};
use heirloom_tests::wait::{holds, until};

const UPGRADES: usize = 20;
const ALL: &str = "{__name__=~\".+\"}";
/// Prometheus' stale marker. PromQL shows none.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// As in `remote`, by labels in any order.
type ByLabels = BTreeMap<BTreeMap<String, String>, Vec<(i64, u64)>>;

#[test]
fn twenty_upgrades_under_load_lose_no_sample_and_fail_no_query() {
    let host = Host::start();
    let mut random = Random::announced("series_upgrades");
    let mut pair = Pair::start(&host);
    let oracle = Oracle::start(&host, pair.address());
    let asker = Asker::new(&oracle);
    let fault = thread::scope(|scope| {
        let asking = scope.spawn(|| asker.ask());
        for i in 0..UPGRADES {
            let (before, scrapes) = (asker.queries.load(Ordering::Relaxed), oracle.acknowledged_scrapes());
            pair.hand_over(&host);
            thread::sleep(random.moment(Duration::from_millis(300)));
            pair.renew_standby(&host);
            // Every switch has queries before it, over it and after it, and so it has scrapes of all targets.
            until("queries and writes to be answered over an upgrade", || {
                let queries = asker.queries.load(Ordering::Relaxed) - before;
                let scrapes = oracle.acknowledged_scrapes() - scrapes;
                let enough = queries > 1 && scrapes > 3;
                holds(enough || asker.over.load(Ordering::Relaxed), format!("{queries}, {scrapes} in upgrade {i}"))
            });
        }
        asker.over.store(true, Ordering::Relaxed);
        asking.join().expect("the asking thread")
    });
    let queries = asker.queries.load(Ordering::Relaxed);
    assert_eq!(fault, None, "after {queries} queries");
    let end_ms = now_ms();
    oracle.await_acknowledged(end_ms);
    let again = {
        let noted = oracle.recorder.noted();
        assert!(noted.refused.is_empty(), "nothing that Prometheus sends is refused for good: {:?}", noted.refused);
        noted.again
    };
    let samples = compare_all(&oracle, &pair, (oracle.began_ms, end_ms));
    println!(
        "series_upgrades: {UPGRADES} switches, {again} writes sent again; {queries} queries meanwhile compared {} samples; \
         {samples} samples compared at the end; missing 0",
        asker.samples.load(Ordering::Relaxed)
    );
    pair.end();
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// Asks the reader while the versions change, until it is told to end or a query is answered wrongly.
struct Asker<'o> {
    oracle: &'o Oracle,
    queries: AtomicUsize,
    samples: AtomicUsize,
    over: AtomicBool,
}

impl<'o> Asker<'o> {
    fn new(oracle: &'o Oracle) -> Self {
        Asker { oracle, queries: AtomicUsize::new(0), samples: AtomicUsize::new(0), over: AtomicBool::new(false) }
    }

    /// The first fault, if there was one.
    fn ask(&self) -> Option<String> {
        while !self.over.load(Ordering::Relaxed) {
            if let Err(fault) = self.once() {
                self.over.store(true, Ordering::Relaxed);
                return Some(fault);
            }
        }
        None
    }

    /// One query for all series over the last seconds. Every sample that was acknowledged before it began is in the answer, and
    /// every sample in the answer is one of the source's.
    fn once(&self) -> Result<(), String> {
        let at = now_ms();
        let seconds = ((at - self.oracle.began_ms) / 1000).clamp(1, 5);
        let query = format!("{ALL}[{seconds}s]");
        // Prometheus 3 leaves out the left end of a range.
        let acknowledged = visible(self.oracle.recorder.acknowledged((at - seconds * 1000 + 1, at)));
        let asked = Instant::now();
        let found = self.oracle.reader.matrix(&query, at).map_err(|e| format!("after {:?}: {e}", asked.elapsed()))?;
        let found = numbers(found)?;
        let all = compare(&acknowledged, &found);
        if all.missing > 0 {
            return Err(format!("{query} at {at}: {} of {} acknowledged: {:?}", all.missing, all.expected, all.first));
        }
        let foreign = compare(&found, &numbers(self.oracle.source.matrix(&query, at)?)?);
        if foreign.missing > 0 {
            return Err(format!(
                "{query} at {at}: {} samples are not the source's: {:?}",
                foreign.missing, foreign.first
            ));
        }
        self.samples.fetch_add(all.expected, Ordering::Relaxed);
        self.queries.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What PromQL can show of these: no stale markers, one NaN.
fn visible(samples: Samples) -> ByLabels {
    let shown = |samples: Vec<(i64, u64)>| -> Vec<(i64, u64)> {
        samples.into_iter().filter(|(_, bits)| *bits != STALE).map(|(at, bits)| (at, one_nan(bits))).collect()
    };
    samples.into_iter().map(|(labels, samples)| (labels.into_iter().collect(), shown(samples))).collect()
}

fn numbers(matrix: Matrix) -> Result<ByLabels, String> {
    let number = |(at, text): (i64, String)| match text.parse::<f64>() {
        Ok(value) => Ok((at, one_nan(value.to_bits()))),
        Err(_) => Err(format!("expected a number, found {text}")),
    };
    let series =
        |(labels, samples): (_, Vec<_>)| Ok((labels, samples.into_iter().map(number).collect::<Result<_, _>>()?));
    matrix.into_iter().map(series).collect()
}

fn one_nan(bits: u64) -> u64 {
    if f64::from_bits(bits).is_nan() { f64::NAN.to_bits() } else { bits }
}

/// Everything from the beginning to the end: by PromQL, and bit for bit from both instances, stale markers included. Gives how
/// many samples there are.
fn compare_all(oracle: &Oracle, pair: &Pair, range: (i64, i64)) -> usize {
    let promql = format!("{ALL}[{}ms]", range.1 - range.0);
    let expected = oracle.source.matrix(&promql, range.1).expect("the oracle");
    let found = oracle.reader.matrix(&promql, range.1).expect("PromQL over remote read");
    same("PromQL", &compare(&expected, &found), expected.len());
    let expected = remote::samples(oracle.source.address(), remote::all(), range).expect("the oracle's remote read");
    let mut samples = 0;
    for (which, instance) in [("owner", &pair.owner), ("standby", &pair.standby)] {
        let found = remote::samples(instance.address, remote::all(), range).expect("remote read");
        let all = compare(&expected, &found);
        same(&format!("remote read from the {which}"), &all, expected.len());
        samples = all.expected;
    }
    samples
}

fn same(what: &str, all: &Comparison, series: usize) {
    println!("series_upgrades: {what}: {} samples of {series} series compared, missing {}", all.expected, all.missing);
    assert!(all.expected > 10_000 && series > 500, "{} samples are hardly a load", all.expected);
    assert_eq!((all.missing, all.more), (0, 0), "{what}: {:?}", all.first);
}
