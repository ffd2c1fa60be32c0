//! Time series, written as a service writes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heirloom_client::Region;
use heirloom_client::series::{Labels, Sample, SeriesRef, Store};
use serde_json::json;

use super::{Outcome, Trouble};

/// Appends to `count` series, as the owner, a sample each for every second from `from_ms` on; answers how many are new.
pub(super) fn append(region: &Region, count: u64, samples: u64, from_ms: u64) -> Outcome {
    let (store, term) = (region.series()?, region.term()?);
    let mut appender = store.appender(&term);
    for n in 0..count {
        let series = store.open(&term, &labels(n)?)?;
        for k in 0..samples {
            let timestamp_ms = (from_ms + 1000 * k) as i64;
            appender.push(series, Sample { timestamp_ms, value: value(n, k) });
        }
    }
    let commit = appender.commit().map_err(|interrupted| Trouble::from(interrupted.error))?;
    Ok(json!(commit.appended))
}

/// Lets go what is older than `time_ms`, seen from `now_ms`, as the owner.
pub(super) fn retain(region: &Region, time_ms: u64, now_ms: u64) -> Outcome {
    let store = region.series()?;
    store.set_retention(Some(Duration::from_millis(time_ms)), None);
    let expired = store.expire(&region.term()?, now_ms as i64)?;
    Ok(json!(expired.heads))
}

/// Appends to `count` series whenever this instance owns, until told to stop; gives how many samples were taken, and faults.
pub(super) fn feed(region: &Region, count: u64, stop: &AtomicBool) -> (u64, Vec<String>) {
    let (mut taken, mut faults, mut round) = (0, Vec::new(), 0);
    let store = match region.series() {
        Ok(store) => store,
        Err(e) => return (0, vec![e.to_string()]),
    };
    let mut series = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        let Ok(term) = region.term() else { continue };
        if series.is_empty() {
            match open_all(&store, &term, count) {
                Ok(opened) => series = opened,
                // The term ended meanwhile; what was opened is found again.
                Err(_) => continue,
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut appender = store.appender(&term);
        for (n, series) in (0..).zip(&series) {
            appender.push(*series, Sample { timestamp_ms: now.as_millis() as i64, value: value(n, round) });
        }
        round += 1;
        match appender.commit() {
            // The instance before may have written in this very millisecond.
            Ok(commit) => taken += commit.appended,
            Err(interrupted) => taken += interrupted.commit.appended,
        }
    }
    if taken == 0 {
        faults.push("nothing was appended".to_owned());
    }
    (taken, faults)
}

fn open_all(store: &Store, term: &heirloom_client::Term, count: u64) -> Result<Vec<SeriesRef>, Trouble> {
    (0..count).map(|n| Ok(store.open(term, &labels(n)?)?)).collect()
}

fn labels(n: u64) -> Result<Labels, Trouble> {
    Ok(Labels::new([("__name__", "fed"), ("n", n.to_string().as_str()), ("zone", "a \"quoted\" ü")])?)
}

fn value(n: u64, k: u64) -> f64 {
    match n % 4 {
        0 => (13 * k + n) as f64,
        1 => (k as f64 + 0.1) / 7.0,
        2 => -0.0,
        _ => (k as f64).sin() * 1e300,
    }
}
