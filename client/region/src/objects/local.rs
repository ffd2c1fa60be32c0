//! What one process keeps beside the region for its objects: lanes without a thread, a lock for each cell, and
//! what appending to the series needs.
//!
//! Nothing here outlives the process, and nothing in the region depends on it: it only keeps threads of one process from
//! getting in each other's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::mapping::Mapping;
use crate::objects::cell::Shared;
use crate::objects::lane::Lane;
use crate::series;

/// A cell's name and sorted labels.
pub(crate) type CellKey = (String, Vec<(String, String)>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Local {
    lanes: Mutex<Vec<Lane>>,
    cells: Mutex<HashMap<CellKey, Weak<Shared>>>,
    series: OnceLock<Arc<series::Shared>>,
}

impl Local {
    /// A lane that an exited thread left.
    pub(crate) fn take_lane(&self) -> Option<Lane> {
        lock(&self.lanes).pop()
    }

    /// Keeps a lane for the next thread. The lock orders the two threads' plain stores.
    pub(crate) fn return_lane(&self, lane: Lane) {
        lock(&self.lanes).push(lane);
    }

    /// The one state that all handles to the series share.
    pub(crate) fn series(&self, mapping: &Mapping) -> Arc<series::Shared> {
        Arc::clone(self.series.get_or_init(|| Arc::new(series::Shared::new(mapping))))
    }

    /// The one state that all handles of a cell share.
    pub(crate) fn cell(&self, key: CellKey) -> Arc<Shared> {
        let mut cells = lock(&self.cells);
        if let Some(shared) = cells.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        // Dead references of dropped handles are swept when the map would grow.
        if cells.len() == cells.capacity() {
            cells.retain(|_, shared| shared.strong_count() > 0);
        }
        let shared = Arc::new(Shared::default());
        cells.insert(key, Arc::downgrade(&shared));
        shared
    }
}

/// No code that can panic runs under these locks with the state half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
