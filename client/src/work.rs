//! Work in flight: what a drain waits for, by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use heirloom_region::arbiter::Undrained;

use crate::session::Session;

/// It never was where its protocol could let it move.
pub(crate) const NO_BOUNDARY: &str = "NO_BOUNDARY";
/// Nobody has said that it can move.
pub(crate) const NOT_MOVABLE: &str = "NOT_MOVABLE";
/// It waits for its turn, or is on its way.
pub(crate) const MOVING: &str = "MOVING";

/// A kind, and why it is left: no reason is the empty word.
type Key = (&'static str, &'static str);

/// All that an instance has in flight. Kinds and reasons are few and stay, so a look-up is a short walk under a read lock.
#[derive(Default)]
pub(crate) struct Work {
    kinds: RwLock<Vec<(Key, Arc<AtomicU64>)>>,
    total: AtomicU64,
}

impl Work {
    fn kind(&self, name: Key) -> Arc<AtomicU64> {
        let find = |kinds: &[(Key, Arc<AtomicU64>)]| kinds.iter().find(|k| k.0 == name).map(|k| k.1.clone());
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
        let mut counts = BTreeMap::new();
        for ((name, _), n) in kinds.iter().map(|(key, n)| (key, n.load(Ordering::Relaxed))).filter(|(_, n)| *n > 0) {
            *counts.entry((*name).to_owned()).or_default() += n;
        }
        counts
    }
    /// The same by why it is left, where that is known.
    pub(crate) fn left(&self) -> Vec<Undrained> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let parts = kinds.iter().map(|((kind, reason), n)| (*kind, *reason, n.load(Ordering::Relaxed)));
        let parts = parts.filter(|(_, reason, n)| *n > 0 && !reason.is_empty());
        parts.map(|(kind, reason, count)| Undrained { kind: kind.into(), reason: reason.into(), count }).collect()
    }
    /// How much there is of the kinds that are still waited for, so long after the beginning.
    pub(crate) fn awaited(&self, limits: &BTreeMap<&'static str, Duration>, after: Duration) -> u64 {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let kinds = kinds.iter().filter(|((kind, _), _)| limits.get(kind).is_none_or(|limit| after < *limit));
        kinds.map(|(_, n)| n.load(Ordering::Relaxed)).sum()
    }
}

/// See [`Region::in_flight`](crate::Region::in_flight).
#[must_use = "it counts until dropped"]
pub struct InFlight {
    session: Arc<Session>,
    key: Key,
    count: Arc<AtomicU64>,
}

impl InFlight {
    pub(crate) fn new(session: &Arc<Session>, kind: &'static str) -> Self {
        Self::left_for(session, kind, "")
    }

    pub(crate) fn left_for(session: &Arc<Session>, kind: &'static str, reason: &'static str) -> Self {
        let key = (kind, reason);
        let count = session.work.kind(key);
        count.fetch_add(1, Ordering::Relaxed);
        session.work.total.fetch_add(1, Ordering::AcqRel);
        Self { session: session.clone(), key, count }
    }

    /// Says why it is left while this instance drains: a word that `status`, `/metrics` and a late drain's message show with its
    /// count, `TLS` say. Reasons are few, as kinds are.
    ///
    /// ```
    /// # use heirloom_client::{embedded::Embedded, wait};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let arbiter = Embedded::new("shop")?;
    /// # let shop = arbiter.attach("v1").wait()?;
    /// let mut upload = shop.region().in_flight("uploads");
    /// upload.because("CLIENT_IS_SLOW");
    /// # Ok(()) }
    /// ```
    pub fn because(&mut self, reason: &'static str) {
        if self.key.1 == reason {
            return;
        }
        self.key.1 = reason;
        let count = self.session.work.kind(self.key);
        count.fetch_add(1, Ordering::Relaxed);
        std::mem::replace(&mut self.count, count).fetch_sub(1, Ordering::Relaxed);
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
