//! The store's handle, and what one process keeps for it beside the region.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::head::Head;
use super::layout::{ROW, ROWS, arena, root, row, row_blocks};
use super::root::Root;
use super::slab::Pool;
use super::view::View;
use super::{Chunks, LabelSet, SeriesId};
use crate::error::{Corrupt, Error, Misuse};
use crate::mapping::{Mapping, Words};
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering};

/// A region's series, through one process; cheap to clone.
#[derive(Clone, Debug)]
pub struct SeriesStore {
    pub(super) process: Arc<Process>,
    pub(super) shared: Arc<Shared>,
}

/// Rows that were seen ready, and where they are.
type Rows = (Words, u64);
/// What the process keeps of the rows of one block.
type Heads = Box<[Mutex<Head>]>;

/// What all handles of one process share. Nothing of it outlives the process, and the region depends on none of it.
#[derive(Debug)]
pub(crate) struct Shared {
    root: OnceLock<Root>,
    rows: Box<[OnceLock<Rows>]>,
    heads: Box<[OnceLock<Heads>]>,
    /// One creation at a time.
    pub(super) create: Mutex<()>,
    pub(super) pool: Mutex<Pool>,
    /// One change of the log at a time; taken after a head's lock and before a section.
    pub(super) log: Mutex<()>,
    pub(super) retention_ms: AtomicI64,
    pub(super) retention_bytes: AtomicU64,
    /// The series that the next sweep begins with.
    pub(super) sweep: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(mapping: &Mapping) -> Self {
        let blocks = row_blocks(mapping);
        Self {
            root: OnceLock::new(),
            rows: (0..blocks).map(|_| OnceLock::new()).collect(),
            heads: (0..blocks).map(|_| OnceLock::new()).collect(),
            create: Mutex::default(),
            pool: Mutex::default(),
            log: Mutex::default(),
            retention_ms: AtomicI64::new(i64::MAX),
            retention_bytes: AtomicU64::new(u64::MAX),
            sweep: AtomicUsize::new(0),
        }
    }
}

impl Shared {
    #[inline]
    pub(super) fn oldest_ms(&self) -> i64 {
        self.root.get().map_or(i64::MIN, Root::oldest_ms)
    }
}

/// One series' row: its words, and where they lie in the region.
#[derive(Clone, Copy)]
pub(super) struct Row<'s> {
    pub(super) words: &'s [AtomicU64],
    pub(super) at: u64,
}

impl SeriesStore {
    /// The series of a region. There need not be any yet: the owner's first [`open_series`](Self::open_series) makes room.
    ///
    /// # Errors
    /// [`Misuse::Forked`] in a forked child, [`Error::Corrupt`].
    pub fn open(process: &Arc<Process>) -> Result<Self, Error> {
        if process.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        let store = Self { process: Arc::clone(process), shared: process.objects().series(process.mapping()) };
        store.root()?;
        Ok(store)
    }

    /// The process through which it was opened.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// What the owner keeps: samples for so long, and sealed chunks in about so many bytes. Of this process; the next owner
    /// sets its own. Takes effect with the next [`expire`](Self::expire), and as the log needs space.
    pub fn set_retention(&self, time: Option<Duration>, bytes: Option<u64>) {
        let ms = time.map_or(i64::MAX, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        self.shared.retention_ms.store(ms, Ordering::Relaxed);
        self.shared.retention_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many series there are; those below it are whole, so an index goes on from the number that it saw last.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn count(&self) -> Result<u32, Corrupt> {
        Ok(self.root()?.map_or(0, |root| root.count(self.mapping())))
    }

    /// The end of the retention: older samples are neither taken nor given. `i64::MIN` before anything expired.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn oldest_ms(&self) -> Result<i64, Corrupt> {
        Ok(self.root()?.map_or(i64::MIN, Root::oldest_ms))
    }

    /// A series' labels.
    ///
    /// # Errors
    /// [`Corrupt`]; also for a number that no series has.
    pub fn labels(&self, id: SeriesId) -> Result<LabelSet, Corrupt> {
        self.view()?.labels(id)
    }

    /// The chunks of a series that have samples in a range of time and in the retention, whole, oldest first: all that was
    /// committed before the call, and perhaps some after it, but nothing without what is older. Takes no lock, whatever the
    /// owner does meanwhile.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also for a number that no series has; [`Error::NotReady`] if the owner never gave a moment's rest.
    pub fn chunks(&self, id: SeriesId, range_ms: RangeInclusive<i64>) -> Result<Chunks, Error> {
        self.view()?.chunks(id, &range_ms)
    }

    pub(super) fn view(&self) -> Result<View<'_>, Corrupt> {
        Ok(View::with_root(self.mapping(), self.rooted()?.at))
    }

    #[inline]
    pub(super) fn mapping(&self) -> &Mapping {
        self.process.mapping()
    }

    /// The root, once an owner has made it.
    #[inline]
    pub(super) fn root(&self) -> Result<Option<&Root>, Corrupt> {
        match self.shared.root.get() {
            Some(root) => Ok(Some(root)),
            None => self.find_root(),
        }
    }

    #[cold]
    fn find_root(&self) -> Result<Option<&Root>, Corrupt> {
        Ok(Root::find(self.process.mapping())?.map(|root| self.shared.root.get_or_init(|| root)))
    }

    /// The root of a store that has series.
    pub(super) fn rooted(&self) -> Result<&Root, Corrupt> {
        self.root()?.ok_or_else(|| Corrupt::field("series", 0, "a root in the owned directory", 0))
    }

    /// The row of a series that there is.
    pub(super) fn row(&self, id: SeriesId) -> Result<Row<'_>, Corrupt> {
        self.view()?.row(id)
    }

    /// The row with this number, whether or not there is a series.
    pub(super) fn row_at(&self, id: SeriesId) -> Result<Row<'_>, Corrupt> {
        if let Some(row) = self.ready_row(id) {
            return Ok(row);
        }
        let (mapping, number) = (self.process.mapping(), u64::from(id.0) / ROWS);
        let at = self.rooted()?.row_block(number)?;
        let outside = !arena(mapping).contains(at) || !at.is_multiple_of(ROW);
        let cell = self.shared.rows.get(number as usize).filter(|_| !outside);
        let cell =
            cell.ok_or_else(|| Corrupt::field("series' block of rows", at, "a place in the owned area", number))?;
        let words = Words::new(mapping, at, ROWS * row::WORDS as u64)?;
        cell.get_or_init(|| (words, at));
        self.ready_row(id).ok_or_else(|| Corrupt::field("series' row", at, "a row of its block", number))
    }

    #[inline]
    pub(super) fn ready_row(&self, id: SeriesId) -> Option<Row<'_>> {
        let (block, index) = (u64::from(id.0) / ROWS, (u64::from(id.0) % ROWS) as usize);
        let (words, at) = self.shared.rows.get(block as usize)?.get()?;
        let words = words.get(index * row::WORDS..(index + 1) * row::WORDS)?;
        Some(Row { words, at: at + index as u64 * ROW })
    }

    /// What this process keeps of a series that it has appended to.
    #[inline]
    pub(super) fn ready_head(&self, id: SeriesId) -> Option<&Mutex<Head>> {
        let (block, index) = (u64::from(id.0) / ROWS, (u64::from(id.0) % ROWS) as usize);
        self.shared.heads.get(block as usize)?.get()?.get(index)
    }

    /// As [`ready_head`](Self::ready_head), with room for it made; `None` beyond the table.
    pub(super) fn head(&self, id: SeriesId) -> Option<&Mutex<Head>> {
        let block = self.shared.heads.get((u64::from(id.0) / ROWS) as usize)?;
        block.get_or_init(|| (0..ROWS).map(|_| Mutex::default()).collect());
        self.ready_head(id)
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<SeriesStore>();
    assert!(root::COUNT < root::SLABS && size_of::<Mutex<Head>>() <= 72);
};
