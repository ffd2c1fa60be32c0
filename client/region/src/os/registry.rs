//! The process' mappings, in a static table that a signal handler and a forked child may read.
//!
//! Crash argument: an entry is claimed by CAS and published last (its base), so a handler that interrupts at any
//! instruction sees it whole or not at all; nothing allocates or locks.

use crate::error::{Error, Full};
use crate::sync::{AtomicU64, Ordering};

const ENTRIES: usize = 4096;
const CLAIMED: u64 = 1;

struct Entry {
    base: AtomicU64,
    len: AtomicU64,
    /// 1 + offset of the first page lost, 0 while none is.
    lost: AtomicU64,
}

static TABLE: [Entry; ENTRIES] =
    [const { Entry { base: AtomicU64::new(0), len: AtomicU64::new(0), lost: AtomicU64::new(0) } }; ENTRIES];
/// One more than the highest entry ever used, so that a handler looks at few.
static USED: AtomicU64 = AtomicU64::new(0);

/// A mapping's entry; dropping it takes the mapping out of the table, before it is unmapped.
#[derive(Debug)]
pub(crate) struct Registered(usize);

impl Registered {
    /// Enters the mapping of `len` bytes at `base`.
    pub(crate) fn new(base: *const u8, len: u64) -> Result<Self, Error> {
        super::fork::install()?;
        let found = TABLE.iter().position(|entry| {
            entry.base.load(Ordering::Relaxed) == 0
                && entry.base.compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        let Some(index) = found else {
            return Err(Full::Table { table: "mappings of this process", limit: ENTRIES as u64 }.into());
        };
        TABLE[index].len.store(len, Ordering::Relaxed);
        TABLE[index].lost.store(0, Ordering::Relaxed);
        USED.fetch_max(index as u64 + 1, Ordering::Relaxed);
        // Pairs with the Acquire load in `each`.
        TABLE[index].base.store(base as u64, Ordering::Release);
        Ok(Self(index))
    }

    /// Offset of the first page that the SIGBUS guard had to replace.
    pub(crate) fn lost(&self) -> Option<u64> {
        TABLE[self.0].lost.load(Ordering::Relaxed).checked_sub(1)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        TABLE[self.0].base.store(0, Ordering::Release);
    }
}

/// Base and length of each entry. Async-signal-safe.
pub(super) fn each(mut visit: impl FnMut(usize, u64, u64)) {
    let used = USED.load(Ordering::Relaxed) as usize;
    for (index, entry) in TABLE.iter().enumerate().take(used) {
        let base = entry.base.load(Ordering::Acquire);
        if base > CLAIMED {
            visit(index, base, entry.len.load(Ordering::Relaxed));
        }
    }
}

/// Remembers the first page lost of an entry. Async-signal-safe.
pub(super) fn note_lost(index: usize, offset: u64) {
    let _ = TABLE[index].lost.compare_exchange(0, offset + 1, Ordering::Relaxed, Ordering::Relaxed);
}
