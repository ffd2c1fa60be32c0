//! Which pages of OWNED are dirty, found without looking at the region.
//!
//! **Format.** MARKS holds a `u32` epoch for each page, MARK_SUMMARY one for each 512 pages. A writer raises the summary first,
//! then the mark, then writes ([`crate::gate::Section::mark`]); both only ever grow within a boot. A page is dirty while its
//! mark is newer than the last completed round.
//!
//! Only ready pages of the tables are touched. A summary without marks, or a mark without a page, is nobody's (no writer of
//! this format makes one) and is passed over: the page that it would describe cannot have been written.

use super::pages::{LINE, prefetch};
use crate::gate::page::GatePage;
use crate::layout::{PAGE, SUMMARY_PAGES, Segment, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU32, Ordering};

const MARKS_OF_LINE: usize = LINE / size_of::<AtomicU32>();

/// Where OWNED and its tables are.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'m> {
    mapping: &'m Mapping,
    owned: Segment,
    summary: Segment,
    marks: Segment,
    /// Pages that OWNED may ever have.
    pub(crate) pages: u64,
}

impl<'m> Tables<'m> {
    pub(crate) fn of(mapping: &'m Mapping) -> Self {
        let segment = |kind| mapping.segment(kind);
        let owned = segment(SegmentKind::Owned);
        let pages = owned.len.min(mapping.limit_bytes()) / PAGE;
        Self { mapping, owned, summary: segment(SegmentKind::MarkSummary), marks: segment(SegmentKind::Marks), pages }
    }

    /// Offset of a page of OWNED in the region.
    pub(crate) fn offset(self, page: u64) -> u64 {
        self.owned.offset + page * PAGE
    }
    /// Whether the page may be touched.
    pub(crate) fn is_ready(self, page: u64) -> bool {
        self.mapping.is_ready(self.offset(page), PAGE)
    }
    /// Where the mark of the page with this byte of OWNED is.
    pub(crate) fn mark_offset(self, offset: u64) -> u64 {
        self.marks.offset + 4 * (offset.saturating_sub(self.owned.offset) / PAGE)
    }
    /// The page's own mark; 0 where there is none.
    pub(crate) fn mark(self, page: u64) -> u64 {
        let word = self.mapping.words32(self.marks.offset + 4 * page, 1);
        word.map_or(0, |word| u64::from(word[0].load(Ordering::Relaxed)))
    }
    fn summary(self, group: u64) -> u64 {
        let word = self.mapping.words32(self.summary.offset + 4 * group, 1);
        word.map_or(0, |word| u64::from(word[0].load(Ordering::Relaxed)))
    }
    fn group(self, group: u64) -> Option<&'m [AtomicU32]> {
        let first = group * SUMMARY_PAGES;
        self.mapping.words32(self.marks.offset + 4 * first, SUMMARY_PAGES.min(self.pages - first)).ok()
    }

    /// Forgets all marks; only while nobody is attached.
    pub(crate) fn clear(self) {
        for segment in [self.summary, self.marks] {
            for at in (segment.offset..segment.end()).step_by(PAGE as usize) {
                if let Ok(words) = self.mapping.words32(at, PAGE / 4) {
                    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                }
            }
        }
    }
}

/// Where the first mark newer than `since` stands. A line of marks at a time, without a branch for each: when few pages are
/// dirty, most of a round is looking for them.
fn first_newer(marks: &[AtomicU32], since: u64) -> Option<usize> {
    let since = u32::try_from(since).unwrap_or(u32::MAX);
    let newer = |mark: &AtomicU32| mark.load(Ordering::Relaxed) > since;
    let (lines, rest) = marks.as_chunks::<MARKS_OF_LINE>();
    for (i, line) in lines.iter().enumerate() {
        if line.iter().fold(false, |any, mark| any | newer(mark)) {
            return line.iter().position(newer).map(|at| i * MARKS_OF_LINE + at);
        }
    }
    rest.iter().position(newer).map(|at| lines.len() * MARKS_OF_LINE + at)
}

/// The dirty pages from some page on, each with its mark, in order.
pub(crate) struct DirtyPages<'m> {
    tables: Tables<'m>,
    since: u64,
    /// The epoch that stands for every page, if it is newer than `since`.
    all: Option<u64>,
    next: u64,
    group: Option<&'m [AtomicU32]>,
}

impl<'m> DirtyPages<'m> {
    /// Pages at or after `from` with a mark newer than `since`.
    pub(crate) fn new(mapping: &'m Mapping, since: u64, from: u64) -> Self {
        let all = GatePage::of(mapping).map_or(0, |page| page.all_dirty().load(Ordering::Relaxed));
        let all = (all > since).then_some(all);
        Self { tables: Tables::of(mapping), since, all, next: from, group: None }
    }
}

impl DirtyPages<'_> {
    /// Asks for the marks of the next dirty group, while this one's are looked at: the owner's processor has them.
    fn fetch_next_group(&self, group: u64) {
        let mut groups = group + 1..self.tables.pages.div_ceil(SUMMARY_PAGES);
        let next = groups.find(|group| self.tables.summary(*group) > self.since);
        if let Some(marks) = next.and_then(|next| self.tables.group(next)) {
            marks.as_chunks::<MARKS_OF_LINE>().0.iter().for_each(|line| prefetch(&line[0]));
        }
    }
}

impl Iterator for DirtyPages<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        while self.next < self.tables.pages {
            let (page, group, index) = (self.next, self.next / SUMMARY_PAGES, (self.next % SUMMARY_PAGES) as usize);
            if let Some(all) = self.all {
                self.next += 1;
                if self.tables.is_ready(page) {
                    return Some((page, self.tables.mark(page).max(all)));
                }
                continue;
            }
            if index == 0 || self.group.is_none() {
                let dirty = self.tables.summary(group) > self.since;
                self.group = if dirty { self.tables.group(group) } else { None };
                if self.group.is_some() {
                    self.fetch_next_group(group);
                }
            }
            let Some(marks) = self.group else {
                self.next = (group + 1) * SUMMARY_PAGES;
                continue;
            };
            // A group that is shorter than 512 is the last of OWNED.
            let Some(clean) = marks.get(index..).and_then(|marks| first_newer(marks, self.since)) else {
                self.next = (group + 1) * SUMMARY_PAGES;
                continue;
            };
            let page = page + clean as u64;
            self.next = page + 1;
            if self.tables.is_ready(page) {
                // It is as new as it was found, or newer: marks only grow.
                return Some((page, u64::from(marks[index + clean].load(Ordering::Relaxed))));
            }
        }
        None
    }
}
