//! A region, mapped: the one way to its bytes.
//!
//! Invariants:
//! - Nothing outside READY extents is touched. A hole of a full tmpfs is SIGBUS even for a reader, so every access is
//!   checked against the ready bitmap, and `Mapping::ensure` makes an extent ready before its first use.
//! - An extent of OWNED is ready only if the marks and page CRCs that describe it are: `ensure` takes those first.
//! - No reference to plain memory leaves this module: shared bytes are words of [`AtomicU64`] or [`AtomicU32`].
//! - The kept descriptor is CLOEXEC and holds no lock.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use memmap2::MmapRaw;

use crate::error::{Corrupt, Denied, Error, Misuse};
use crate::layout::{EXTENT, Header, HeaderLimits, Segment, SegmentKind, control};
use crate::os::Registered;
use crate::os::fork::ForkToken;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

mod draft;
pub(crate) mod extents;
mod grow;
mod open;
mod words;

pub use crate::layout::RegionSpec;
pub(crate) use draft::Draft;
pub use draft::{draft_of, remove_abandoned};
use extents::Extents;
pub(crate) use words::{Word, Word32, Words};

/// A mapped region; used as `Arc<Mapping>`.
#[derive(Debug)]
pub struct Mapping {
    // Dropped first: a handler must not find the mapping after it is gone.
    registered: Registered,
    map: MmapRaw,
    file: Option<File>,
    header: Header,
    segments: [Segment; SegmentKind::ALL.len()],
    read_only: bool,
    fork: ForkToken,
    identity: (u64, u64),
    /// On the heap: 1 while somebody arbitrates. On a file the kernel knows, by a lock.
    heap_keeper: AtomicU64,
}

// SAFETY of sharing: `MmapRaw` is Send and Sync, and all access goes through atomics.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Mapping>();
};

impl Mapping {
    fn new(map: MmapRaw, file: Option<File>, header: Header, read_only: bool) -> Result<Arc<Self>, Error> {
        let registered = Registered::new(map.as_ptr(), header.virtual_len)?;
        map.advise(memmap2::Advice::DontFork).map_err(|e| Error::io("madvise DONTFORK", None, e))?;
        let identity = match &file {
            Some(file) => open::identity(file)?,
            None => (0, 0),
        };
        let segments = SegmentKind::ALL.map(|kind| header.segment(kind));
        let fork = ForkToken::current()?;
        let heap_keeper = AtomicU64::new(0);
        Ok(Arc::new(Self { registered, map, file, header, segments, read_only, fork, identity, heap_keeper }))
    }

    /// The kept descriptor; `None` on the heap.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(File::as_fd)
    }
    /// Device and inode of the file, (0, 0) on the heap.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }
    /// The region's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.header.uuid
    }
    /// Page 0.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// The region's name.
    pub fn name(&self) -> &str {
        &self.header.name
    }
    /// The numbers that bound the region.
    pub fn limits(&self) -> &HeaderLimits {
        &self.header.limits
    }
    /// Most bytes that the region may use.
    pub fn limit_bytes(&self) -> u64 {
        self.header.limits.limit_bytes
    }
    /// Whether stores would fault.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
    /// Whether this process is a fork of the one that mapped the region.
    pub fn is_forked_child(&self) -> bool {
        self.fork.is_forked_child()
    }
    /// The first page that the SIGBUS guard had to replace: what is read there since is not the region.
    pub fn poisoned(&self) -> Option<Corrupt> {
        self.registered.lost().map(|offset| Corrupt::PageLost { offset })
    }

    /// Bytes of ready extents.
    pub fn used_bytes(&self) -> u64 {
        self.extents().ready() * EXTENT
    }

    /// A segment's place.
    pub(crate) fn segment(&self, kind: SegmentKind) -> Segment {
        self.segments[kind as usize - 1]
    }

    /// `n` words at byte `offset`, inside the file and ready.
    pub(crate) fn words(&self, offset: u64, n: u64) -> Result<&[AtomicU64], Corrupt> {
        self.check("words", offset, n.checked_mul(8), 8)?;
        // SAFETY: in bounds, aligned and allocated by `check`; the mapping outlives the borrow; atomics may be shared.
        Ok(unsafe { std::slice::from_raw_parts(self.at(offset).cast::<AtomicU64>(), n as usize) })
    }

    /// One word.
    pub(crate) fn word(&self, offset: u64) -> Result<&AtomicU64, Corrupt> {
        Ok(&self.words(offset, 1)?[0])
    }

    /// `n` 32-bit words at byte `offset`, inside the file and ready.
    pub(crate) fn words32(&self, offset: u64, n: u64) -> Result<&[AtomicU32], Corrupt> {
        self.check("words", offset, n.checked_mul(4), 4)?;
        // SAFETY: as in `words`.
        Ok(unsafe { std::slice::from_raw_parts(self.at(offset).cast::<AtomicU32>(), n as usize) })
    }

    /// Whether all these bytes may be touched.
    pub(crate) fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.check("bytes", offset, Some(len), 1).is_ok()
    }

    /// Copies bytes out, by relaxed words; `offset` is a multiple of 8. What concurrent writers do shows in the copy, so a
    /// reader checks the copy.
    pub(crate) fn copy_out(&self, offset: u64, to: &mut [u8]) -> Result<(), Corrupt> {
        let words = self.words(offset, (to.len() as u64).div_ceil(8))?;
        for (chunk, word) in to.chunks_mut(8).zip(words) {
            let bytes = word.load(Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }

    /// Copies bytes in, by relaxed words; `offset` is a multiple of 8 and the last word is filled up with zeroes.
    pub(crate) fn copy_in(&self, offset: u64, from: &[u8]) -> Result<(), Corrupt> {
        let words = self.words(offset, (from.len() as u64).div_ceil(8))?;
        for (chunk, word) in from.chunks(8).zip(words) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Refuses a store that could not or must not happen: a read-only mapping, a forked child.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        if self.read_only {
            let what = format!("write the region {}, opened read-only", self.name());
            return Err(Denied { uid: nix::unistd::geteuid().as_raw(), what }.into());
        }
        if self.fork.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        Ok(())
    }

    fn check(&self, what: &'static str, offset: u64, len: Option<u64>, align: u64) -> Result<(), Corrupt> {
        let len = self.check_bounds(what, offset, len, align)?;
        if len == 0 {
            return Ok(());
        }
        for extent in offset / EXTENT..=(offset + len - 1) / EXTENT {
            if !self.is_extent_ready(extent) {
                return Err(Corrupt::OutOfBounds { what: "unallocated extent", offset, len, bound: extent * EXTENT });
            }
        }
        Ok(())
    }

    fn check_bounds(&self, what: &'static str, offset: u64, len: Option<u64>, align: u64) -> Result<u64, Corrupt> {
        let bound = self.header.virtual_len;
        match len {
            Some(len) if offset <= bound && len <= bound - offset && offset.is_multiple_of(align) => Ok(len),
            len => Err(Corrupt::OutOfBounds { what, offset, len: len.unwrap_or(u64::MAX), bound }),
        }
    }

    fn is_extent_ready(&self, extent: u64) -> bool {
        self.extents().is_ready(extent)
    }

    fn extents(&self) -> Extents<'_> {
        let offset = self.segment(SegmentKind::Extents).offset;
        let words = extents::len_bytes(self.header.virtual_len / EXTENT) / 8;
        // SAFETY: the header's check makes EXTENTS long enough for the file; it is allocated at creation.
        Extents::of(unsafe { std::slice::from_raw_parts(self.at(offset).cast::<AtomicU64>(), words as usize) })
    }

    /// The address of a byte; whoever reads there has checked it.
    pub(crate) fn at(&self, offset: u64) -> *const u8 {
        debug_assert!(offset <= self.header.virtual_len);
        self.map.as_ptr().wrapping_add(offset as usize)
    }

    pub(crate) fn take_heap_keeper(&self) -> bool {
        self.heap_keeper.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
    pub(crate) fn release_heap_keeper(&self) {
        self.heap_keeper.store(0, Ordering::Release);
    }
    pub(crate) fn has_heap_keeper(&self) -> bool {
        self.heap_keeper.load(Ordering::Acquire) != 0
    }

    /// Offset of a word of CONTROL's page `page` (see [`control`]).
    pub(crate) fn control(&self, page: u64) -> u64 {
        debug_assert!(page < control::LEN);
        self.segment(SegmentKind::Control).offset + page
    }
}

#[cfg(test)]
mod tests;
