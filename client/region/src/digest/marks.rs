//! Which pages of OWNED are dirty, found without looking at the region.
//!
//! **Format.** MARKS holds a `u32` epoch for each page, MARK_SUMMARY one for each 128 pages. A writer raises the summary first,
//! then the mark, then writes ([`crate::gate::Section::mark`]); both only ever grow within a boot. A page is dirty while its
//! mark is newer than the last completed round.
//!
//! Only ready pages of the tables are touched. A summary without marks, or a mark without a page, is nobody's (no writer of
//! this format makes one) and is passed over: the page that it would describe cannot have been written.

use crate::cache::{LINE, prefetch};
use crate::gate::page::GatePage;
use crate::layout::{EXTENT, PAGE, SUMMARY_PAGES, Segment, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::{AtomicU32, Ordering};

const MARKS_OF_LINE: usize = LINE / size_of::<AtomicU32>();
const SUMMARIES_OF_EXTENT: u64 = EXTENT / size_of::<AtomicU32>() as u64;

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
    /// The first group at or after `from` whose summary is newer than `since`.
    fn next_group(self, from: u64, since: u64) -> Option<u64> {
        let (mut next, end) = (from, self.pages.div_ceil(SUMMARY_PAGES));
        while next < end {
            let n = (SUMMARIES_OF_EXTENT - next % SUMMARIES_OF_EXTENT).min(end - next);
            // An extent that is not ready was never written.
            let summaries = self.mapping.words32(self.summary.offset + 4 * next, n).unwrap_or(&[]);
            if let Some(at) = first_newer(summaries, since) {
                return Some(next + at as u64);
            }
            next += n;
        }
        None
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
    group: Option<Group<'m>>,
    /// The dirty group after `group`.
    ahead: Option<u64>,
}

/// A dirty group of pages.
#[derive(Clone, Copy)]
struct Group<'m> {
    number: u64,
    marks: &'m [AtomicU32],
}

impl<'m> DirtyPages<'m> {
    /// Pages at or after `from` with a mark newer than `since`.
    pub(crate) fn new(mapping: &'m Mapping, since: u64, from: u64) -> Self {
        let all = GatePage::of(mapping).map_or(0, |page| page.all_dirty().load(Ordering::Relaxed));
        let (all, tables) = ((all > since).then_some(all), Tables::of(mapping));
        let ahead = if all.is_some() { None } else { tables.next_group(from / SUMMARY_PAGES, since) };
        Self { tables, since, all, next: from, group: None, ahead }
    }

    /// Goes on to the next dirty group, and asks for the marks of the one after it, while this one's are looked at: the
    /// owner's processor has them.
    fn next_group(&mut self) -> Option<Group<'m>> {
        let number = self.ahead?;
        self.ahead = self.tables.next_group(number + 1, self.since);
        if let Some(marks) = self.ahead.and_then(|ahead| self.tables.group(ahead)) {
            marks.as_chunks::<MARKS_OF_LINE>().0.iter().for_each(|line| prefetch(&line[0]));
        }
        self.next = self.next.max(number * SUMMARY_PAGES);
        // A summary without marks is nobody's.
        Some(Group { number, marks: self.tables.group(number).unwrap_or(&[]) })
    }

    /// Where a mark was not allocated every ready page counts.
    fn next_of_all(&mut self, all: u64) -> Option<(u64, u64)> {
        while self.next < self.tables.pages {
            let page = self.next;
            self.next += 1;
            if self.tables.is_ready(page) {
                return Some((page, self.tables.mark(page).max(all)));
            }
        }
        None
    }
}

impl Iterator for DirtyPages<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if let Some(all) = self.all {
            return self.next_of_all(all);
        }
        loop {
            let Some(group) = self.group else {
                self.group = Some(self.next_group()?);
                continue;
            };
            let first = group.number * SUMMARY_PAGES;
            let index = (self.next - first) as usize;
            // A group that is shorter than the others is the last of OWNED.
            let Some(clean) = group.marks.get(index..).and_then(|marks| first_newer(marks, self.since)) else {
                self.group = None;
                continue;
            };
            let page = self.next + clean as u64;
            self.next = page + 1;
            if self.tables.is_ready(page) {
                // It is as new as it was found, or newer: marks only grow.
                return Some((page, u64::from(group.marks[index + clean].load(Ordering::Relaxed))));
            }
        }
    }
}
