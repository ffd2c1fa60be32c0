//! The writer's side of the page marks: raising them, in a few loads when they stand already.
//!
//! **Invariant:** an address in the tables is used only after the extent that it lies in was seen ready; extents once ready
//! stay so, so one look for each 64 MiB of OWNED is enough.

use std::sync::Arc;

use super::page::GatePage;
use crate::error::Corrupt;
use crate::layout::{EXTENT, PAGE, SUMMARY_PAGES, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Pages whose marks lie in one extent.
const GROUP_PAGES: u64 = EXTENT / 4;
const _: () = assert!(EXTENT.is_multiple_of(4) && GROUP_PAGES.is_multiple_of(SUMMARY_PAGES));

/// Where one mapping's marks are. Each segment starts on an extent.
#[derive(Debug)]
pub(super) struct Marker {
    mapping: Arc<Mapping>,
    owned: u64,
    owned_len: u64,
    marks: *const AtomicU32,
    summary: *const AtomicU32,
    /// One bit for each group of pages whose marks and summary were seen ready.
    ready: Box<[AtomicU64]>,
}

// SAFETY: the pointers are into the mapping kept alive beside them, and lead to atomics.
unsafe impl Send for Marker {}
// SAFETY: as above.
unsafe impl Sync for Marker {}

impl Marker {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        let owned = mapping.segment(SegmentKind::Owned);
        let owned_len = owned.len.min(mapping.limit_bytes());
        let groups = (owned_len / PAGE).div_ceil(GROUP_PAGES);
        Self {
            owned: owned.offset,
            owned_len,
            marks: mapping.at(mapping.segment(SegmentKind::Marks).offset).cast(),
            summary: mapping.at(mapping.segment(SegmentKind::MarkSummary).offset).cast(),
            ready: (0..groups.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            mapping: Arc::clone(mapping),
        }
    }

    /// Marks the pages of OWNED that the `len` bytes at `offset` (from the start of the region) lie in.
    #[inline(always)]
    pub(super) fn mark(&self, offset: u64, len: u64, epoch: u32) {
        // Below OWNED this wraps to a number above its length: outside OWNED nothing is digested.
        let first = offset.wrapping_sub(self.owned);
        if first >= self.owned_len || len == 0 {
            debug_assert!(len == 0, "a mark for byte {offset}, which is not in OWNED");
            return;
        }
        let last = first.saturating_add(len - 1).min(self.owned_len - 1);
        self.mark_page(first / PAGE, epoch);
        if last / PAGE != first / PAGE {
            self.mark_more(first / PAGE + 1, last / PAGE, epoch);
        }
    }

    #[inline(never)]
    fn mark_more(&self, first: u64, last: u64, epoch: u32) {
        (first..last + 1).for_each(|page| self.mark_page(page, epoch));
    }

    #[inline(always)]
    fn mark_page(&self, page: u64, epoch: u32) {
        let group = page / GROUP_PAGES;
        if self.ready[(group / 64) as usize].load(Ordering::Relaxed) & 1 << (group % 64) == 0 && !self.look(group) {
            return self.mark_all(epoch);
        }
        // SAFETY: the page is below OWNED's length, so its mark and its summary are in their segments; both are ready.
        let (mark, summary) =
            unsafe { (&*self.marks.add(page as usize), &*self.summary.add((page / SUMMARY_PAGES) as usize)) };
        if mark.load(Ordering::Relaxed) < epoch {
            raise(summary, epoch);
            raise(mark, epoch);
        }
    }

    /// Whether the group's marks and summaries may be touched; remembers if so.
    #[cold]
    fn look(&self, group: u64) -> bool {
        let pages = GROUP_PAGES.min(self.owned_len / PAGE - group * GROUP_PAGES);
        let marks = self.mapping.segment(SegmentKind::Marks).offset + 4 * group * GROUP_PAGES;
        let summaries = GROUP_PAGES / SUMMARY_PAGES;
        let summary = self.mapping.segment(SegmentKind::MarkSummary).offset + 4 * group * summaries;
        let ready = self.mapping.is_ready(marks, 4 * pages)
            && self.mapping.is_ready(summary, 4 * pages.div_ceil(SUMMARY_PAGES).min(summaries));
        if ready {
            self.ready[(group / 64) as usize].fetch_or(1 << (group % 64), Ordering::Relaxed);
        }
        ready
    }

    /// Where a page's own mark is not allocated (no writer of this format leaves it so), every page counts as dirty: slow, and
    /// never wrong.
    #[cold]
    fn mark_all(&self, epoch: u32) {
        let page: Result<GatePage<'_>, Corrupt> = GatePage::of(&self.mapping);
        if let Ok(page) = page {
            page.all_dirty().fetch_max(u64::from(epoch), Ordering::Relaxed);
        }
    }
}

/// Fetch-max, after a look: a plain store could lower a mark that another thread has raised meanwhile.
#[inline(never)]
fn raise(mark: &AtomicU32, epoch: u32) {
    if mark.load(Ordering::Relaxed) < epoch {
        mark.fetch_max(epoch, Ordering::Relaxed);
    }
}
