//! Reading with mmap-sync. The one unsafe block of the benchmarks: its read hands out a reference into shared memory.

use mmap_sync::synchronizer::Synchronizer;

/// Copies 64 bytes out.
pub(crate) fn read(synchronizer: &mut Synchronizer) -> Option<[u64; 8]> {
    // SAFETY: only this process writes these files, and only ever a `[u64; 8]`, so the bytes are a valid archive of that
    // type; the guard keeps the file from being written while it is read.
    let guard = unsafe { synchronizer.read::<[u64; 8]>(false) };
    guard.map(|value| *value).ok()
}
