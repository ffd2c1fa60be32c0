//! The cells that this process has open: what it needs to read, and whose turn it is to change one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use heirloom_region::arbiter::Need;
use heirloom_region::error::{Error, Misuse};

/// Name and labels.
pub(crate) type Key = (String, Vec<(String, String)>);
type Check = Arc<dyn Fn() -> Result<(), Error> + Send + Sync>;

/// As `status` counts cells, and as the arbiter compares kinds.
const CELL: &str = "cell";

#[derive(Default)]
pub(crate) struct Registry {
    cells: Mutex<HashMap<Key, Entry>>,
    version: AtomicU64,
}

struct Entry {
    turn: Arc<Turn>,
    readable: BTreeSet<u32>,
    written: BTreeSet<u32>,
    check: Check,
}

impl Registry {
    fn cells(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Notes a cell; `check` says whether what the region holds can be read. All who open it share one turn.
    pub(crate) fn add(&self, key: Key, readable: &[u32], written: &[u32], check: Check) -> Arc<Turn> {
        let mut cells = self.cells();
        let entry = cells.entry(key).or_insert_with(|| Entry {
            turn: Arc::new(Turn::default()),
            readable: BTreeSet::new(),
            written: BTreeSet::new(),
            check: check.clone(),
        });
        let before = entry.readable.len() + entry.written.len();
        entry.readable.extend(readable);
        entry.written.extend(written);
        entry.check = check;
        if entry.readable.len() + entry.written.len() != before {
            self.version.fetch_add(1, Ordering::Release);
        }
        entry.turn.clone()
    }
    /// Changes whenever [`needs`](Self::needs) does.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
    /// One need per name: labels tell values apart, not types.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut by_name = BTreeMap::<&str, (BTreeSet<u32>, BTreeSet<u32>)>::new();
        let cells = self.cells();
        for ((name, _), entry) in cells.iter() {
            let (readable, written) = by_name.entry(name).or_default();
            readable.extend(&entry.readable);
            written.extend(&entry.written);
        }
        let need = |(name, (readable, written)): (&str, (BTreeSet<u32>, BTreeSet<u32>))| Need {
            object: name.to_owned(),
            kind: CELL.to_owned(),
            readable: readable.into_iter().collect(),
            written: written.into_iter().collect(),
        };
        by_name.into_iter().map(need).collect()
    }
    /// Whether everything that is open can be read as this build wants it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let checks: Vec<Check> = self.cells().values().map(|entry| entry.check.clone()).collect();
        checks.iter().try_for_each(|check| check())
    }
}

/// One writer of a cell at a time in this process. Not the gate: closures of users run within a turn.
#[derive(Default)]
pub(crate) struct Turn {
    lock: Mutex<()>,
    holder: Mutex<Option<ThreadId>>,
}

pub(crate) struct Holding<'t> {
    turn: &'t Turn,
    _lock: MutexGuard<'t, ()>,
}

impl Turn {
    /// Waits for its turn; a thread that holds it already is told so, instead of waiting for itself for ever.
    pub(crate) fn take(&self, name: &str) -> Result<Holding<'_>, Misuse> {
        let me = thread::current().id();
        if *self.holder.lock().unwrap_or_else(PoisonError::into_inner) == Some(me) {
            let found = format!("{name} written within its own update");
            return Err(Misuse::Argument { what: "cell", found });
        }
        // A panic in a turn has written nothing, so a poisoned lock hides no half-done work.
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(me);
        Ok(Holding { turn: self, _lock: lock })
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        *self.turn.holder.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_not_taken_twice_by_one_thread() {
        let turn = Turn::default();
        let held = turn.take("basket").expect("free");
        assert!(matches!(turn.take("basket"), Err(Misuse::Argument { .. })));
        drop(held);
        assert!(turn.take("basket").is_ok());
    }

    #[test]
    fn needs_are_joined_by_name() {
        let registry = Registry::default();
        let fine: Check = Arc::new(|| Ok(()));
        let key = |label: &str| ("basket".to_owned(), vec![("user".to_owned(), label.to_owned())]);
        registry.add(key("a"), &[2, 1], &[2], fine.clone());
        let version = registry.version();
        registry.add(key("a"), &[1], &[2], fine.clone());
        assert_eq!(registry.version(), version);
        registry.add(key("b"), &[3], &[3], fine);
        assert!(registry.version() > version);
        let basket =
            Need { object: "basket".into(), kind: "cell".into(), readable: vec![1, 2, 3], written: vec![2, 3] };
        assert_eq!(registry.needs(), [basket]);
        assert!(registry.check().is_ok());
    }
}
