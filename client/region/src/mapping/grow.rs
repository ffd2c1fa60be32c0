//! How a region grows: extents become ready, one by one, and never cease to be.
//!
//! Growth needs no claim. `fallocate` is idempotent, so a process killed inside `ensure` leaves at most blocks that the
//! next one allocates again, and a grant that the next one uses ([`super::extents`]); the ready bit comes last. (A claim by
//! CAS, as in an extent table, would have to be taken over from the dead.)

use super::Mapping;
use super::extents::Grant;
use crate::error::{Error, Full};
use crate::layout::{EXTENT, PAGE, SUMMARY_PAGES, SegmentKind, align_up};
use crate::os;

/// How often a grower yields to another one in flight before it calls the region full.
const GRANT_TRIES: u32 = 100;

impl Mapping {
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

    /// Grant, allocate, publish. Killed before the last step, it leaves a grant for the next one who needs this extent.
    fn grow_one(&self, extent: u64, needed_bytes: u64) -> Result<(), Error> {
        let extents = self.extents();
        for _ in 0..GRANT_TRIES {
            if !self.grant(extent, needed_bytes)? {
                return Ok(());
            }
            if let Some(fd) = self.fd()
                && let Err(errno) = os::fs::allocate(fd, extent * EXTENT, EXTENT)
            {
                extents.give_back(extent);
                return Err(self.refused(errno, needed_bytes));
            }
            if extents.make_ready(extent) {
                return Ok(());
            }
        }
        Err(self.full(needed_bytes))
    }

    /// Takes one extent of the limit; false if somebody has made the extent ready meanwhile.
    pub(super) fn grant(&self, extent: u64, needed_bytes: u64) -> Result<bool, Error> {
        let (extents, limit) = (self.extents(), self.limit_bytes() / EXTENT);
        for _ in 0..GRANT_TRIES {
            match extents.grant(extent, limit) {
                Grant::Taken => return Ok(true),
                Grant::Ready => return Ok(false),
                // Another may be about to make this very extent ready, or to give a grant back.
                Grant::Full if extents.granted() == extents.ready() => break,
                Grant::Full => std::thread::yield_now(),
            }
        }
        if self.is_extent_ready(extent) { Ok(false) } else { Err(self.full(needed_bytes)) }
    }

    /// One try to grow by the extent at `offset`, for models, in which nobody may try for ever.
    #[cfg(all(loom, test))]
    pub(crate) fn grow_once(&self, offset: u64) -> bool {
        let (extents, extent) = (self.extents(), offset / EXTENT);
        extents.grant(extent, self.limit_bytes() / EXTENT) == Grant::Taken && extents.make_ready(extent)
    }

    fn full(&self, needed_bytes: u64) -> Error {
        let free_bytes = self.limit_bytes().saturating_sub(self.used_bytes());
        Full::Region { needed_bytes, free_bytes, limit_bytes: self.limit_bytes() }.into()
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

    /// Under another boot, with nobody attached: allocates again what the bitmap says is ready (the file system may have
    /// written it back before the blocks that it speaks of), and drops grants of the dead.
    pub(crate) fn settle_after_reboot(&self) -> Result<(), Error> {
        if let Some(fd) = self.fd() {
            for extent in (0..self.header.virtual_len / EXTENT).filter(|extent| self.is_extent_ready(*extent)) {
                os::fs::allocate(fd, extent * EXTENT, EXTENT).map_err(|errno| self.refused(errno, EXTENT))?;
            }
        }
        self.drop_unused_grants();
        Ok(())
    }

    /// With nobody attached: what was granted and never made ready was taken by a grower that was killed.
    pub(crate) fn drop_unused_grants(&self) {
        self.extents().forget_unused();
    }
}
