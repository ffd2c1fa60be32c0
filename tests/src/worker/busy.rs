//! Threads that count and write all the while, and record for themselves what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heirloom_client::{Cell, Error, InFlight, Region, WriteError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Outcome;

/// A cell that holds how many updates it saw, and from whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    sequence: u64,
    by: BTreeMap<String, u64>,
}

impl Ledger {
    /// One update.
    pub(super) fn note(&mut self, who: &str) {
        self.sequence += 1;
        *self.by.entry(who.to_owned()).or_default() += 1;
    }
}

/// What one thread recorded for itself.
#[derive(Default)]
struct Tally {
    name: String,
    counted: u64,
    written: u64,
    fenced: u64,
    longest: Duration,
    faults: Vec<String>,
}

/// The threads of one worker.
pub(super) struct Busy {
    region: Region,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
    held: Vec<(String, InFlight)>,
}

impl Busy {
    pub(super) fn new(region: Region) -> Self {
        Busy { region, stop: Arc::new(AtomicBool::new(false)), threads: Vec::new(), held: Vec::new() }
    }

    pub(super) fn ledger(&self, name: &str) -> Result<Cell<Ledger>, Error> {
        self.region.cell::<Ledger>(name).open()
    }

    /// Has so many of `kind` in flight until they are released, left for `why` (`-`: nobody says).
    pub(super) fn hold(&mut self, kind: &str, n: u64, why: &str) -> Outcome {
        let word = |word: &str| -> &'static str { Box::leak(word.to_owned().into_boxed_str()) };
        let (name, why) = (word(kind), word(why));
        for _ in 0..n {
            let mut held = self.region.in_flight(name);
            if why != "-" {
                held.because(why);
            }
            self.held.push((kind.to_owned(), held));
        }
        Ok(Value::Null)
    }

    pub(super) fn release(&mut self, kind: &str) -> Outcome {
        let before = self.held.len();
        self.held.retain(|(held, _)| held != kind);
        Ok(json!(before - self.held.len()))
    }

    /// Starts threads that count, in short bursts: two busy instances on two cores must leave the sidecar some time.
    pub(super) fn count(&mut self, name: &str, threads: u64) -> Result<(), Error> {
        for _ in 0..threads {
            let counter = self.region.counter(name).open()?;
            let (stop, name) = (Arc::clone(&self.stop), name.to_owned());
            self.threads.push(thread::spawn(move || {
                let mut tally = Tally { name, ..Tally::default() };
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        counter.inc();
                    }
                    tally.counted += 1000;
                    thread::sleep(Duration::from_micros(200));
                }
                tally
            }));
        }
        Ok(())
    }

    /// Starts a thread that updates a ledger whenever this instance owns.
    pub(super) fn churn(&mut self, name: &str) -> Result<(), Error> {
        let ledger = self.ledger(name)?;
        let (region, stop, name) = (self.region.clone(), Arc::clone(&self.stop), name.to_owned());
        self.threads.push(thread::spawn(move || churn(&region, &ledger, &stop, name)));
        Ok(())
    }

    /// Starts a thread that appends samples whenever this instance owns.
    pub(super) fn feed(&mut self, series: u64) {
        let (region, stop) = (self.region.clone(), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            let (written, faults) = super::feed::feed(&region, series, &stop);
            Tally { name: "samples".into(), written, faults, ..Tally::default() }
        }));
    }

    /// Ends the threads and adds up what they recorded.
    pub(super) fn stop(&mut self) -> Value {
        self.stop.store(true, Ordering::Relaxed);
        let mut counted = BTreeMap::<String, u64>::new();
        let mut written = BTreeMap::<String, u64>::new();
        let (mut fenced, mut longest, mut faults) = (0, Duration::ZERO, Vec::new());
        for thread in self.threads.drain(..) {
            let Ok(tally) = thread.join() else {
                faults.push("a thread panicked".to_owned());
                continue;
            };
            *counted.entry(tally.name.clone()).or_default() += tally.counted;
            *written.entry(tally.name).or_default() += tally.written;
            fenced += tally.fenced;
            longest = longest.max(tally.longest);
            faults.extend(tally.faults);
        }
        self.stop = Arc::new(AtomicBool::new(false));
        let longest_us = longest.as_micros() as u64;
        json!({ "counted": counted, "written": written, "fenced": fenced, "longest_us": longest_us, "faults": faults })
    }
}

fn churn(region: &Region, ledger: &Cell<Ledger>, stop: &AtomicBool, name: String) -> Tally {
    let mut tally = Tally { name, ..Tally::default() };
    let me = region.me().instance.clone();
    while !stop.load(Ordering::Relaxed) {
        let Ok(term) = region.term() else {
            thread::sleep(Duration::from_micros(50));
            continue;
        };
        let start = Instant::now();
        match ledger.update(&term, |l| l.note(&me)) {
            Ok(()) => tally.written += 1,
            Err(Error::Fenced(_)) => tally.fenced += 1,
            // Nothing was written: the same as fenced, after the longest wait that was allowed.
            Err(e) if e.reason() == frozen() => tally.fenced += 1,
            Err(e) => {
                if tally.faults.len() < 5 {
                    tally.faults.push(format!("{}: {e}", e.reason()));
                }
            }
        }
        tally.longest = tally.longest.max(start.elapsed());
        thread::sleep(Duration::from_micros(20));
    }
    tally
}

fn frozen() -> &'static str {
    Error::from(WriteError::Frozen { waited: Duration::ZERO }).reason()
}
