//! Work in flight: what a drain waits for, by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::session::Session;

/// All that an instance has in flight. Kinds are few and stay, so a look-up is a short walk under a read lock.
#[derive(Default)]
pub(crate) struct Work {
    kinds: RwLock<Vec<(&'static str, Arc<AtomicU64>)>>,
    total: AtomicU64,
}

impl Work {
    fn kind(&self, name: &'static str) -> Arc<AtomicU64> {
        let find = |kinds: &[(&'static str, Arc<AtomicU64>)]| kinds.iter().find(|k| k.0 == name).map(|k| k.1.clone());
        if let Some(count) = find(&self.kinds.read().unwrap_or_else(PoisonError::into_inner)) {
            return count;
        }
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        find(&kinds).unwrap_or_else(|| {
            let count = Arc::new(AtomicU64::new(0));
            kinds.push((name, count.clone()));
            count
        })
    }
    /// How much there is of everything.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Acquire)
    }
    /// The kinds of which there is something, with how much.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let counted = kinds.iter().map(|(name, n)| (name.to_string(), n.load(Ordering::Relaxed)));
        counted.filter(|(_, n)| *n > 0).collect()
    }
}

/// See [`Region::in_flight`](crate::Region::in_flight).
#[must_use = "it counts until dropped"]
pub struct InFlight {
    session: Arc<Session>,
    count: Arc<AtomicU64>,
}

impl InFlight {
    pub(crate) fn new(session: &Arc<Session>, kind: &'static str) -> Self {
        let count = session.work.kind(kind);
        count.fetch_add(1, Ordering::Relaxed);
        session.work.total.fetch_add(1, Ordering::AcqRel);
        Self { session: session.clone(), count }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if self.session.work.total.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.session.last_work_done();
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("of_its_kind", &self.count.load(Ordering::Relaxed)).finish()
    }
}
