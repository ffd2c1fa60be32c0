//! A forked child has no part in its parent's attachments.
//!
//! Invariants: mappings of a region are `MADV_DONTFORK`; in the child the `pthread_atfork` handler lays private zero pages
//! over their addresses, so that handles which the child inherited count into nothing (gate word 0 means detached) and
//! do not fault. Identity lies in a `MADV_WIPEONFORK` page, which the kernel clears even where no handler runs (a raw
//! `clone`): a claim or an allocation checks it first.

use crate::error::Error;
use crate::sync::{AtomicU64, Ordering};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;

use super::registry;

/// Which process this is, between forks: 0 in a child that has not asked yet.
struct Guard(NonNull<AtomicU64>);
// SAFETY: the pointer is to a page that is mapped for as long as the process lives and holds an atomic.
unsafe impl Send for Guard {}
// SAFETY: as above.
unsafe impl Sync for Guard {}

static GUARD: OnceLock<Result<Guard, i32>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Proof of having been made by this very process, not by one that forked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkToken(u64);

impl ForkToken {
    /// The token of the calling process.
    ///
    /// # Errors
    /// `Io` where the system refuses the guard page or the fork handler.
    pub fn current() -> Result<Self, Error> {
        let word = install()?;
        let now = word.load(Ordering::Relaxed);
        if now != 0 {
            return Ok(Self(now));
        }
        // A number that no ancestor has used: NEXT is copied by a fork and counted on after it.
        let mine = NEXT.fetch_add(1, Ordering::Relaxed);
        match word.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(Self(mine)),
            Err(other) => Ok(Self(other)),
        }
    }

    /// Whether the calling process is another than the one that took the token. One load.
    pub fn is_forked_child(self) -> bool {
        match GUARD.get() {
            // SAFETY: see `Guard`.
            Some(Ok(guard)) => unsafe { guard.0.as_ref() }.load(Ordering::Relaxed) != self.0,
            _ => true,
        }
    }
}

/// Makes the guard page and sets the handler, once in a process.
pub(super) fn install() -> Result<&'static AtomicU64, Error> {
    let made = GUARD.get_or_init(|| make().map_err(|e| e as i32));
    match made {
        // SAFETY: see `Guard`; the page is never unmapped.
        Ok(guard) => Ok(unsafe { guard.0.as_ref() }),
        Err(errno) => Err(Error::io("set the fork guard", None, std::io::Error::from_raw_os_error(*errno))),
    }
}

fn make() -> Result<Guard, nix::Error> {
    let len = NonZeroUsize::MIN.saturating_add(4095);
    // SAFETY: a new anonymous mapping at an address that the kernel chooses overlaps nothing.
    let page =
        unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the range is the page just mapped.
    unsafe { madvise(page, 4096, MmapAdvise::MADV_WIPEONFORK) }?;
    // SAFETY: `in_child` is async-signal-safe (it reads a static table and calls mmap) and lives for ever.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if failed != 0 {
        return Err(nix::Error::from_raw(failed));
    }
    Ok(Guard(page.cast()))
}

extern "C" fn in_child() {
    // Where it fails an inherited handle faults at its next use; there is nobody here to tell.
    registry::each(|_, base, len| {
        zero_pages(base, len);
    });
}

/// Replaces `len` bytes at `base` by private zero pages; async-signal-safe. True if it worked.
pub(super) fn zero_pages(base: u64, len: u64) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range is a registered mapping of this process (or was its parent's, and DONTFORK left it empty here);
    // all access to it is through raw pointers to atomics, for which zero is a value.
    let got = unsafe {
        libc::mmap(base as *mut libc::c_void, len as usize, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    got != libc::MAP_FAILED
}
