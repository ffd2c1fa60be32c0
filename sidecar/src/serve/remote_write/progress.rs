//! What was shipped of one region, for its metrics and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Counts from the start of this sidecar.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) since_unix_ms: u64,
    pub(crate) samples: AtomicU64,
    pub(crate) retries: AtomicU64,
    /// Series whose samples expired before they were read.
    pub(crate) gaps: AtomicU64,
    /// Looks at series that could not be read, and chunks that this build does not know.
    pub(crate) unreadable: AtomicU64,
    pub(crate) skipped_chunks: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    /// By shard: when the last pass began that left nothing behind.
    caught_up: Mutex<Vec<Instant>>,
}

impl Progress {
    pub(super) fn new(shards: u32) -> Self {
        Progress {
            since_unix_ms: super::super::unix_ms(),
            samples: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            skipped_chunks: AtomicU64::new(0),
            failed: Mutex::default(),
            caught_up: Mutex::new(vec![Instant::now(); shards as usize]),
        }
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, reason: &str, samples: u64) {
        *lock(&self.failed).entry(reason.to_owned()).or_default() += samples;
    }

    pub(super) fn caught_up(&self, shard: u32, began: Instant) {
        lock(&self.caught_up)[shard as usize] = began;
    }

    /// Samples given up, by reason.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        lock(&self.failed).clone()
    }

    /// How long ago everything that there was had been shipped.
    pub(crate) fn lag_seconds(&self) -> f64 {
        let oldest = lock(&self.caught_up).iter().min().copied();
        oldest.map_or(0.0, |oldest| oldest.elapsed().as_secs_f64())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
