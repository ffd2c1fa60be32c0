//! What `WatchRegions` follows: the changes of all regions under one sequence.
//!
//! The last [`KEPT_MAX`] events are kept, so that a watcher who lost its stream goes on where it was. Sequences begin at
//! the start time in microseconds: one from an earlier sidecar lies before the first that is kept and is refused as
//! forgotten, instead of being mistaken for one of ours. A watcher who reads too slowly is cut off the same way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heirloom_proto::Failure;
use heirloom_proto::v1::{ErrorReason, HandoverRecord, Region, RegionEvent};
use tokio::sync::broadcast;

use super::convert;

const KEPT_MAX: usize = 1024;

pub(crate) struct Journal {
    inner: Mutex<Inner>,
    live: broadcast::Sender<RegionEvent>,
}

struct Inner {
    first: u64,
    next: u64,
    kept: VecDeque<RegionEvent>,
    /// Each region as it was said last.
    now: BTreeMap<String, RegionEvent>,
}

/// Where a watcher begins, and how it goes on.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) begin: Vec<RegionEvent>,
    pub(crate) live: broadcast::Receiver<RegionEvent>,
}

impl Journal {
    pub(crate) fn new(start_unix_us: u64) -> Self {
        let inner = Inner { first: start_unix_us, next: start_unix_us, kept: VecDeque::new(), now: BTreeMap::new() };
        Journal { inner: Mutex::new(inner), live: broadcast::channel(KEPT_MAX).0 }
    }

    /// Records a change. The region's name is its resource name.
    pub(crate) fn push(&self, region: Region, handover: Option<HandoverRecord>, drained: String, unix_ms: u64) {
        let mut inner = self.lock();
        let name = region.name.clone();
        let event_time = convert::timestamp(unix_ms);
        let event = RegionEvent { sequence: inner.next, event_time, region: Some(region), handover, drained };
        inner.next += 1;
        inner.kept.push_back(event.clone());
        if inner.kept.len() > KEPT_MAX {
            inner.kept.pop_front();
            inner.first += 1;
        }
        // How it is now; what happened happened once.
        inner.now.insert(name, RegionEvent { drained: String::new(), ..event.clone() });
        // Under the lock: a subscriber sees each event either in its beginning or live, never twice, never not at all.
        let _ = self.live.send(event);
    }

    /// The state now and then each change, or, with `after` not 0, each change after that one.
    ///
    /// # Errors
    /// `INVALID_FIELD` with the range that is known.
    pub(crate) fn subscribe(&self, after: u64) -> Result<Subscription, Failure> {
        let inner = self.lock();
        let begin = match after {
            0 => inner.now.values().cloned().collect(),
            after if after.saturating_add(1) < inner.first || after >= inner.next => {
                let failure = Failure::new(ErrorReason::InvalidField, "this sequence is forgotten: start anew");
                return Err(failure.expected(format!("{} to {}", inner.first - 1, inner.next - 1)).found(after));
            }
            after => inner.kept.iter().filter(|e| e.sequence > after).cloned().collect(),
        };
        Ok(Subscription { begin, live: self.live.subscribe() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(journal: &Journal, name: &str, generation: u64) {
        journal.push(Region { name: name.into(), generation, ..Region::default() }, None, String::new(), 1);
    }

    #[test]
    fn a_watcher_begins_with_the_state_and_misses_nothing() {
        let journal = Journal::new(1_000);
        push(&journal, "regions/a", 1);
        push(&journal, "regions/b", 1);
        push(&journal, "regions/a", 2);
        let mut all = journal.subscribe(0).unwrap();
        let seen: Vec<_> = all.begin.iter().map(|e| e.region.as_ref().unwrap().generation).collect();
        assert_eq!(seen, [2, 1]);
        push(&journal, "regions/b", 2);
        assert_eq!(all.live.try_recv().unwrap().sequence, 1_003);
        let rest: Vec<_> = journal.subscribe(1_001).unwrap().begin.iter().map(|e| e.sequence).collect();
        assert_eq!(rest, [1_002, 1_003]);
        assert_eq!(journal.subscribe(1_003).unwrap().begin, []);
    }

    #[test]
    fn forgotten_and_invented_sequences_are_refused() {
        let journal = Journal::new(1_000);
        (0..KEPT_MAX as u64 + 5).for_each(|g| push(&journal, "regions/a", g));
        for after in [7, 1_003, 1_000 + KEPT_MAX as u64 + 5, u64::MAX] {
            let refused = journal.subscribe(after).unwrap_err();
            assert_eq!((refused.reason, refused.found), (ErrorReason::InvalidField, Some(after.to_string())));
        }
        assert_eq!(journal.subscribe(1_004).unwrap().begin.len(), KEPT_MAX);
    }
}
