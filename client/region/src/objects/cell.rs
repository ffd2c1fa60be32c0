//! Cells: one value of bytes, written by the owner, read by all, never torn.
//!
//! A cell is a header of 24 words in the owned area and four buffers, which lie behind it where they are small. The value of version `v` lies in buffer `v & 3`; a
//! writer at version `v` fills buffer `(v + 1) & 3` and then stores `v + 1` (Release).
//!
//! **Why no reader takes a torn value.** A reader loads the version `v` (Acquire), copies buffer `v & 3`, and after an
//! Acquire fence loads the version again. Its buffer is filled next for `v + 4`, which begins after `v + 3` was stored and a
//! Release fence. If the copy has any of those bytes, the fences order the second load after that store, so it gives at
//! least `v + 3`. The reader accepts an advance of at most 2. It never writes, and it tries 16 times.
//!
//! **Crash argument.** A writer that is killed, or fenced between two of its sections, leaves a buffer half filled that no
//! version refers to; the next write fills it again from its start. A first write makes the cell whole, value included,
//! before one swap puts its name into the directory.
//!
//! The version's word carries a check of itself, as a flipped bit could make it the version before, whose value is whole.
//! A value carries a CRC over its version, generation, length and bytes. Buffers grow by powers of two, and an outgrown one
//! is not used again: together they are smaller than the living one. A buffer's descriptor carries a CRC bound to its place,
//! so that a damaged one is replaced and not written through.
//!
//! ```text
//! word 0  version:48 | check:16; 1..8 zeros; then four buffers of four words:
//!      8  offset in the owned area   9  len_bytes:32 | capacity_bytes:32
//!     10  generation:32 | crc of the value:32   11  crc of words 8, 9's capacity and the place:32 | zero:32
//! ```

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use crate::alloc::OwnedAreas;
use crate::cache::{LINE, prefetch};
use crate::directory::entry::{Entry, Kind};
use crate::directory::{Directory, Key, Lookup};
use crate::error::{Corrupt, Error, Full, Generation, Misuse, NotReady, WriteError};
use crate::mapping::Mapping;
use crate::name;
use crate::objects::local::lock;
use crate::objects::open::check_kind;
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering, fence};

mod buffer;
mod value;
mod write;

use buffer::Buffer;
pub use value::{CellValue, Part};

/// Words of a cell's header.
const HEADER_WORDS: u64 = 24;
/// Last version, and the bits of it.
const VERSION_MAX: u64 = (1 << 48) - 1;
/// A cell of no more than this is likely to have its buffers behind its header.
const SMALL_BYTES: u64 = 1 << 10;
/// How often a reader tries.
const TRIES_MAX: u32 = 16;

/// What a cell is opened by.
#[derive(Clone, Copy, Debug)]
pub struct CellSpec<'a> {
    /// Its name, by the rules of [`name::object`].
    pub name: &'a str,
    /// For many cells under one name, in any order.
    pub labels: &'a [(&'a str, &'a str)],
    /// Largest value in bytes, all parts together, that this handle writes.
    pub bytes_max: u64,
}

/// Identifies one write of one cell; equal only for the same write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(pub u64, pub u64);

impl Stamp {
    /// Of a cell that was never written.
    pub const UNBORN: Stamp = Stamp(0, 0);
}

/// A handle to a cell that may not exist yet; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cell {
    process: Arc<Process>,
    shared: Arc<Shared>,
    /// Where the header lies, if the cell was born when this handle was made. Beside the reference to what says the same: with
    /// many cells each step on the way to one is a line that no cache has.
    born: Option<NonZeroU64>,
    bytes_max: u64,
    key: Arc<Identity>,
}

#[derive(Debug)]
struct Identity {
    name: String,
    labels: Vec<(String, String)>,
}

/// What all handles to one cell share within a process.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The header's offset in the region, 0 while unborn. It never changes.
    header: AtomicU64,
    /// One writer of this process at a time; the generation keeps out the others. Holds a buffer that a failed write took.
    writer: Mutex<Option<(u64, u64)>>,
}

/// Opens a cell. The owner's first write creates it.
///
/// # Errors
/// [`Misuse::Name`], [`Misuse::Argument`], [`Misuse::Forked`]; [`Error::Incompatible`] if the name is another kind's;
/// [`Error::Corrupt`].
pub fn open_cell(p: &Arc<Process>, spec: &CellSpec) -> Result<Cell, Error> {
    if p.is_forked_child() {
        return Err(Misuse::Forked.into());
    }
    name::object(spec.name)?;
    let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
    let labels: Vec<_> = name::labels(spec.labels, false)?.iter().map(own).collect();
    if spec.bytes_max > value::BYTES_MAX {
        let found = format!("{}, at most {}", spec.bytes_max, value::BYTES_MAX);
        return Err(Misuse::Argument { what: "bytes_max", found }.into());
    }
    let shared = p.objects().cell((spec.name.to_owned(), labels.clone()));
    let key = Identity { name: spec.name.to_owned(), labels };
    // Too many labels are refused now, and not by the first write.
    key.entry(0).encode()?;
    let mut cell = Cell { process: Arc::clone(p), shared, born: None, bytes_max: spec.bytes_max, key: Arc::new(key) };
    cell.born = cell.header()?.and_then(NonZeroU64::new);
    Ok(cell)
}

impl Cell {
    /// A copy of the value, with all its parts; `None` if it was never written. Lock-free.
    ///
    /// # Errors
    /// [`Error::NotReady`] when writers were faster 16 times over; [`Error::Corrupt`], [`Error::Incompatible`].
    pub fn read(&self) -> Result<Option<CellValue>, Error> {
        match self.header()? {
            Some(header) => read_at(self.process.mapping(), header),
            None => Ok(None),
        }
    }

    /// The stamp of the newest write, without its value.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn stamp(&self) -> Result<Stamp, Error> {
        let Some(at) = self.header()? else { return Ok(Stamp::UNBORN) };
        let word = self.process.mapping().word(at)?.load(Ordering::Acquire);
        Ok(Stamp(at, version_of(word, at)?))
    }

    /// Replaces the value, if it still has the stamp `expect`. `None`: it has another one, and nothing was written.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is visible then. [`Full::Value`] for a value over `bytes_max`.
    pub fn write(
        &self,
        generation: Generation,
        parts: &[Part],
        expect: Option<Stamp>,
    ) -> Result<Option<Stamp>, WriteError> {
        if self.process.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        if parts.len() as u64 > value::PARTS_MAX {
            // No reader takes more.
            let found = format!("{}, at most {}", parts.len(), value::PARTS_MAX);
            return Err(Misuse::Argument { what: "parts of a cell's value", found }.into());
        }
        self.fetch_ahead();
        let len_bytes = value::len_bytes(parts);
        if len_bytes > self.bytes_max {
            let (name, limit_bytes) = (self.key.name.clone(), self.bytes_max);
            return Err(Full::Value { name, len_bytes, limit_bytes }.into());
        }
        let words = value::encode(parts);
        let mut spare = lock(&self.shared.writer);
        // Fenced goes before a stamp that differs, and before taking space.
        drop(self.process.enter(generation)?);
        let writer = write::Writer { process: &self.process, generation, words: &words, len_bytes: len_bytes as u32 };
        let found = self.header().map_err(WriteError::from_error)?;
        let (at, version) = match found {
            Some(at) => (at, writer.version(at)?),
            None => (0, 0),
        };
        if expect.is_some_and(|stamp| stamp != if version == 0 { Stamp::UNBORN } else { Stamp(at, version) }) {
            return Ok(None);
        }
        if found.is_some() {
            return Ok(Some(Stamp(at, writer.replace(at, version, &mut spare)?)));
        }
        let entry = |header| self.key.entry(header);
        let at = writer.create(&self.key.name, &self.key.key_labels(), &entry)?;
        self.shared.header.store(at, Ordering::Release);
        Ok(Some(Stamp(at, 1)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The process through which it was opened.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Asks for the lines of the header, and of a small cell's buffers, while the value is encoded: of many cells none is at
    /// hand, and each would be waited for in turn.
    fn fetch_ahead(&self) {
        let at = self.born.map_or_else(|| self.shared.header.load(Ordering::Relaxed), NonZeroU64::get);
        let small = HEADER_WORDS + if self.bytes_max <= SMALL_BYTES { 4 * write::CAPACITY_MIN / 8 } else { 0 };
        if let Ok(lines) = self.process.mapping().words(at, small) {
            lines.iter().step_by(LINE / 8).chain(lines.last()).for_each(prefetch);
        }
    }

    /// The header's offset, once the cell is born.
    fn header(&self) -> Result<Option<u64>, Error> {
        let known = self.shared.header.load(Ordering::Acquire);
        if known != 0 {
            return Ok(Some(known));
        }
        let mapping = self.process.mapping();
        let labels = self.key.key_labels();
        match Directory::owned(mapping).find(&Key::object(&self.key.name, &labels))? {
            Lookup::Vacant(_) | Lookup::Full => Ok(None),
            Lookup::Found(found) => {
                let at = header_of(mapping, &check_kind(found, &self.key.name, Kind::Cell)?)?;
                self.shared.header.store(at, Ordering::Release);
                Ok(Some(at))
            }
        }
    }
}

impl Identity {
    fn entry(&self, payload: u64) -> Entry {
        let created_unix_ms = crate::os::clock::unix_ms();
        Entry { payload, created_unix_ms, labels: self.labels.clone(), ..Entry::new(Kind::Cell, &self.name) }
    }

    fn key_labels(&self) -> Vec<(&str, &str)> {
        self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
    }
}

/// Where a cell's header lies, checked.
pub(crate) fn header_of(mapping: &Mapping, entry: &Entry) -> Result<u64, Corrupt> {
    let (at, arena) = (entry.payload, OwnedAreas::of(mapping).arena);
    if at.is_multiple_of(8) && arena.contains(at) && mapping.is_ready(at, HEADER_WORDS * 8) {
        return Ok(at);
    }
    Err(Corrupt::field("cell's header", 0, "an offset in the owned area", at))
}

/// What the cell of an entry has taken of the owned arena: its header and its buffers, each with its length in bytes.
pub(crate) fn taken_by(mapping: &Mapping, entry: &Entry) -> Vec<(u64, u64)> {
    let Ok(at) = header_of(mapping, entry) else { return Vec::new() };
    let Ok(header) = mapping.words(at, HEADER_WORDS) else { return Vec::new() };
    let buffers = (0..4).map(|version| (version, Buffer::load(header, version)));
    let placed = buffers.filter(|(version, buffer)| buffer.is_placed(mapping, at, *version));
    let placed = placed.map(|(_, buffer)| (buffer.offset, u64::from(buffer.capacity)));
    std::iter::once((at, HEADER_WORDS * 8)).chain(placed).collect()
}

/// Reads the cell whose header lies at `at`; see the module for why the value is whole.
pub(crate) fn read_at(mapping: &Mapping, at: u64) -> Result<Option<CellValue>, Error> {
    let read = |buffer: Buffer, version| buffer.copy(mapping, at, version);
    let Some((version, (words, buffer))) = stable(mapping, at, read)? else { return Ok(None) };
    let parts = value::decode(&words, buffer.len, at)?;
    let (stamp, generation) = (Stamp(at, version), Generation::new(u64::from(buffer.generation)));
    Ok(Some(CellValue { parts, stamp, generation }))
}

/// The schemas of the value of the cell whose header lies at `at`; nothing before its first. Reads the heads of the value's
/// parts alone, as stable as a whole value is, and without its CRC.
pub(crate) fn schemas_at(mapping: &Mapping, at: u64) -> Result<Vec<u32>, Error> {
    let read = |buffer: Buffer, version| buffer.schemas(mapping, at, version);
    Ok(stable(mapping, at, read)?.map_or_else(Vec::new, |(_, schemas)| schemas))
}

/// The version, and what `read` made of its buffer while no writer could have begun to fill it again.
fn stable<T>(
    mapping: &Mapping,
    at: u64,
    read: impl Fn(Buffer, u64) -> Result<T, Corrupt>,
) -> Result<Option<(u64, T)>, Error> {
    let header = mapping.words(at, HEADER_WORDS)?;
    for _ in 0..TRIES_MAX {
        // Acquire: pairs with the writer's Release store; the buffer of this version is whole.
        let version = version_of(header[0].load(Ordering::Acquire), at)?;
        if version == 0 {
            return Ok(None);
        }
        let found = read(Buffer::load(header, version), version);
        // Pairs with the writer's Release fence: if what was read has bytes of a later fill, the load below sees its version.
        fence(Ordering::Acquire);
        let advanced = (header[0].load(Ordering::Relaxed) & VERSION_MAX).wrapping_sub(version);
        if advanced > 2 {
            continue;
        }
        // It was stable: what is wrong with it is wrong in the region.
        return Ok(Some((version, found?)));
    }
    Err(NotReady::Contended { attempts: TRIES_MAX }.into())
}

/// The word that stores a version.
fn version_word(version: u64, at: u64) -> u64 {
    version | u64::from(value::crc(&[at, version]) as u16) << 48
}

/// The version that a word stores; 0 before the first.
fn version_of(word: u64, at: u64) -> Result<u64, Corrupt> {
    let version = word & VERSION_MAX;
    if word == 0 || word == version_word(version, at) {
        return Ok(version);
    }
    Err(Corrupt::field("cell's version", at, "a version with its check", word))
}

/// Reads the cell of an entry.
pub(crate) fn read_entry(mapping: &Mapping, entry: &Entry) -> Result<Option<CellValue>, Error> {
    read_at(mapping, header_of(mapping, entry)?)
}
