//! A region, mapped: the one way to its bytes.
//!
//! Invariants:
//! - Nothing outside READY extents is touched. A hole of a full tmpfs is SIGBUS even for a reader, so every access is
//!   checked against the ready bitmap, and [`Mapping::ensure`] makes an extent ready before its first use.
//! - An extent of OWNED is ready only if the marks and page CRCs that describe it are: `ensure` takes those first.
//! - No reference to plain memory leaves this module: shared bytes are words of [`AtomicU64`] or [`AtomicU32`].
//! - The kept descriptor is CLOEXEC and holds no lock.
//!
//! Growth needs no claim. `fallocate` is idempotent, so a process killed inside `ensure` leaves at most blocks that the
//! next one allocates again, and a share of the limit that stays granted; the ready bit comes last. (A claim by CAS, as in
//! an extent table, would have to be taken over from the dead.)

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use memmap2::MmapRaw;

use crate::error::{Corrupt, Denied, Error, Full, Misuse};
use crate::layout::{
    EXTENT, Header, HeaderLimits, PAGE, SUMMARY_PAGES, Segment, SegmentKind, align_up, control, extents,
};
use crate::os::fork::ForkToken;
use crate::os::{self, Registered};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

mod open;

pub use crate::layout::RegionSpec;

/// How often a grower yields to another one in flight before it calls the region full.
const GRANT_TRIES: u32 = 1000;

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
        let words = self.bitmap_words();
        words.iter().map(|w| u64::from(w.load(Ordering::Relaxed).count_ones())).sum::<u64>() * EXTENT
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

    /// Makes the bytes ready, within the region's limit; any process may call it at any time.
    ///
    /// # Errors
    /// `Full` with figures when the limit or the file system is exhausted, `Misuse` in a forked child, `Denied` where the
    /// mapping is read-only, `Corrupt` outside the file.
    pub(crate) fn ensure(&self, offset: u64, len: u64) -> Result<(), Error> {
        if self.is_ready(offset, len) {
            return Ok(());
        }
        self.check_bounds("ensure", offset, Some(len), 1)?;
        self.check_writable()?;
        let owned = self.segment(SegmentKind::Owned);
        if owned.contains(offset) {
            // Whole extents become ready, so the tables must cover whole extents.
            let first = (offset - owned.offset) / EXTENT * (EXTENT / PAGE);
            let end = align_up(offset - owned.offset + len, EXTENT) / PAGE;
            let (summary_first, summary_end) = (first / SUMMARY_PAGES, end.div_ceil(SUMMARY_PAGES));
            self.ensure_table(SegmentKind::MarkSummary, summary_first * 4, summary_end * 4)?;
            self.ensure_table(SegmentKind::Marks, first * 4, end * 4)?;
            self.ensure_table(SegmentKind::PageCrcs, first * 8, end * 8)?;
        }
        self.grow(offset, len)
    }

    fn ensure_table(&self, kind: SegmentKind, first: u64, end: u64) -> Result<(), Error> {
        let table = self.segment(kind);
        self.grow(table.offset + first, end.min(table.len) - first)
    }

    fn grow(&self, offset: u64, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        for extent in offset / EXTENT..=(offset + len - 1) / EXTENT {
            if !self.is_extent_ready(extent) {
                self.grow_one(extent, len)?;
            }
        }
        Ok(())
    }

    /// Grant, allocate, publish. Killed before the last step, it leaves a grant that is never used: the region's limit is
    /// then reached an extent early, and never late.
    fn grow_one(&self, extent: u64, needed_bytes: u64) -> Result<(), Error> {
        if !self.grant(extent, needed_bytes)? {
            return Ok(());
        }
        let given_back = |error| {
            self.granted().fetch_sub(1, Ordering::Relaxed);
            error
        };
        if let Some(fd) = self.fd() {
            os::fs::allocate(fd, extent * EXTENT, EXTENT)
                .map_err(|errno| given_back(self.refused(errno, needed_bytes)))?;
        }
        // Pairs with the Acquire load in `is_extent_ready`.
        let before = self.bitmap_words()[(extent / 64) as usize].fetch_or(1 << (extent % 64), Ordering::AcqRel);
        if before & (1 << (extent % 64)) != 0 {
            self.granted().fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes one extent of the limit; false if somebody has made the extent ready meanwhile.
    fn grant(&self, extent: u64, needed_bytes: u64) -> Result<bool, Error> {
        let limit = self.limit_bytes() / EXTENT;
        for _ in 0..GRANT_TRIES {
            let granted = self.granted().load(Ordering::Relaxed);
            if granted >= limit {
                // Another may be about to make this very extent ready, or to give a grant back.
                if granted == self.used_bytes() / EXTENT {
                    break;
                }
                std::thread::yield_now();
            } else if self
                .granted()
                .compare_exchange(granted, granted + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(true);
            }
            if self.is_extent_ready(extent) {
                return Ok(false);
            }
        }
        if self.is_extent_ready(extent) {
            return Ok(false);
        }
        let free_bytes = self.limit_bytes().saturating_sub(self.used_bytes());
        Err(Full::Region { needed_bytes, free_bytes, limit_bytes: self.limit_bytes() }.into())
    }

    fn refused(&self, errno: nix::Error, needed_bytes: u64) -> Error {
        match (errno, self.fd()) {
            (nix::Error::ENOSPC | nix::Error::EDQUOT, Some(fd)) => {
                let free_bytes = os::fs::free_bytes(fd);
                Full::Region { needed_bytes, free_bytes, limit_bytes: self.limit_bytes() }.into()
            }
            _ => Error::io("fallocate", Some(std::path::Path::new(self.name())), errno),
        }
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
        // Pairs with the AcqRel fetch_or in `grow_one`.
        self.bitmap_words()[(extent / 64) as usize].load(Ordering::Acquire) & (1 << (extent % 64)) != 0
    }

    fn bitmap_words(&self) -> &[AtomicU64] {
        let offset = self.segment(SegmentKind::Extents).offset + extents::BITMAP;
        let words = (self.header.virtual_len / EXTENT).div_ceil(64);
        // SAFETY: the header's check makes EXTENTS long enough for the file; it is allocated at creation.
        unsafe { std::slice::from_raw_parts(self.at(offset).cast::<AtomicU64>(), words as usize) }
    }

    fn granted(&self) -> &AtomicU64 {
        let offset = self.segment(SegmentKind::Extents).offset + extents::GRANTED;
        // SAFETY: as in `bitmap_words`.
        unsafe { &*self.at(offset).cast::<AtomicU64>() }
    }

    /// The address of a byte; whoever reads there has checked it.
    fn at(&self, offset: u64) -> *const u8 {
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

    /// Under another boot, with nobody attached: allocates again what the bitmap says is ready (the file system may have
    /// written it back before the blocks that it speaks of), and drops grants of the dead.
    pub(crate) fn settle_after_reboot(&self) -> Result<(), Error> {
        if let Some(fd) = self.fd() {
            for extent in (0..self.header.virtual_len / EXTENT).filter(|extent| self.is_extent_ready(*extent)) {
                os::fs::allocate(fd, extent * EXTENT, EXTENT).map_err(|errno| self.refused(errno, EXTENT))?;
            }
        }
        self.granted().store(self.used_bytes() / EXTENT, Ordering::Relaxed);
        Ok(())
    }

    /// Offset of a word of CONTROL's page `page` (see [`control`]).
    pub(crate) fn control(&self, page: u64) -> u64 {
        debug_assert!(page < control::LEN);
        self.segment(SegmentKind::Control).offset + page
    }
}

/// Some words that stay mapped for as long as this lives: what a handle keeps after its one check.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    mapping: Arc<Mapping>,
    first: *const AtomicU64,
    len: usize,
}

// SAFETY: the pointer is into the mapping that is kept alive beside it, and the words are atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Checks bounds and readiness once.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: u64, n: u64) -> Result<Self, Corrupt> {
        let words = mapping.words(offset, n)?;
        Ok(Self { first: words.as_ptr(), len: words.len(), mapping: Arc::clone(mapping) })
    }
    /// The mapping that they are in.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: checked by `Words::new`; extents once ready stay so, and the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

/// One word; see [`Words`].
#[derive(Clone, Debug)]
pub(crate) struct Word(Words);

impl Word {
    /// Checks bounds and readiness once.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: u64) -> Result<Self, Corrupt> {
        Ok(Self(Words::new(mapping, offset, 1)?))
    }
    /// The mapping that it is in.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        self.0.mapping()
    }
}

impl Deref for Word {
    type Target = AtomicU64;
    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: as in `Words::deref`.
        unsafe { &*self.0.first }
    }
}

#[cfg(test)]
mod tests;
