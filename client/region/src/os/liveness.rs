//! Proof of life by a lock that the kernel frees at death.
//!
//! Each instance and the sidecar has one byte beyond the end of the region file, write-locked on a fresh open file
//! description. The lock is held *only by a mapping* of that description: one page, `MADV_DONTFORK`, every descriptor closed
//! at once. A lock on a kept descriptor is wrong both ways: a forked child keeps the dead alive, `close_range` kills the
//! living. Probes go through the region's kept, lockless descriptor with `F_RDLCK`, which only a write lock opposes, so an
//! observer with a read-only descriptor cannot pin a byte.

use crate::error::Error;
use crate::os::{Registered, fs};
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, fcntl};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Byte of instance row 0; the rows follow.
const ROW_0: i64 = 1 << 40;

/// Whose life a byte stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The process that arbitrates over the region.
    Sidecar,
    /// The instance in this row.
    Instance(u32),
}

impl Holder {
    fn lock(self, kind: libc::c_int) -> libc::flock {
        let start = match self {
            Holder::Sidecar => ROW_0 - 1,
            Holder::Instance(row) => ROW_0 + i64::from(row),
        };
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: 1, l_pid: 0 }
    }
}

/// Takes the byte on a fresh open file description; `None` if it is held. The lock lives with the descriptor returned (or
/// its copies) until [`LivenessPage::hold`] moves it into a mapping.
///
/// # Errors
/// `Io` where the file cannot be opened again or locks are not supported.
pub fn take(region: BorrowedFd<'_>, holder: Holder) -> Result<Option<OwnedFd>, Error> {
    let fresh = fs::reopen(region)?;
    match fcntl(&fresh, FcntlArg::F_OFD_SETLK(&holder.lock(libc::F_WRLCK))) {
        Ok(_) => Ok(Some(fresh.into())),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
        Err(e) => Err(Error::io("F_OFD_SETLK", None, e)),
    }
}

/// Whether the byte is free: its holder is dead. Proof, if it was held before.
///
/// # Errors
/// `Io`; nothing is proved then.
pub fn is_free(region: BorrowedFd<'_>, holder: Holder) -> Result<bool, Error> {
    let mut lock = holder.lock(libc::F_RDLCK);
    fcntl(region, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|e| Error::io("F_OFD_GETLK", None, e))?;
    Ok(lock.l_type == libc::F_UNLCK as i16)
}

/// A lock held by a mapping alone: it ends with the process (or with this value), whatever descriptors or children do.
#[derive(Debug)]
pub struct LivenessPage {
    _registered: Registered,
    _page: MmapRaw,
}

impl LivenessPage {
    /// Maps one page of the locked description and closes the descriptor.
    ///
    /// A child forked by another thread before the descriptor is closed inherits it, and delays the proof by lock until it
    /// ends or execs; a pidfd then still proves the death. The page itself is taken from it by the fork handler.
    ///
    /// # Errors
    /// `Io` where the system refuses the mapping.
    pub fn hold(locked: OwnedFd) -> Result<Self, Error> {
        let page = MmapOptions::new().len(4096).map_raw_read_only(&locked).map_err(|e| Error::io("mmap", None, e))?;
        let registered = Registered::new(page.as_ptr(), 4096)?;
        page.advise(Advice::DontFork).map_err(|e| Error::io("madvise DONTFORK", None, e))?;
        drop(locked);
        Ok(Self { _registered: registered, _page: page })
    }
}

/// Takes and holds a byte for the calling process; `None` if another holds it.
///
/// # Errors
/// As [`take`] and [`LivenessPage::hold`].
pub fn take_and_hold(region: BorrowedFd<'_>, holder: Holder) -> Result<Option<LivenessPage>, Error> {
    take(region.as_fd(), holder)?.map(LivenessPage::hold).transpose()
}
