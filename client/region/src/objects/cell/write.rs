//! Writing a cell: space first, then short sections, the version last.

use super::buffer::Buffer;
use super::{HEADER_WORDS, value, version_of, version_word};
use crate::alloc;
use crate::directory::entry::Entry;
use crate::directory::{Directory, Key, Lookup, SECTION_BYTES, write_owned};
use crate::error::{Full, Generation, WriteError};
use crate::process::Process;
use crate::sync::{Ordering, fence};

/// Smallest buffer. A cell that begins with it has all four right behind its header, so that a write asks for them in time.
pub(super) const CAPACITY_MIN: u64 = 64;
/// A cell's first version.
const FIRST: u64 = 1;

/// One value to be written.
pub(super) struct Writer<'a> {
    pub(super) process: &'a Process,
    pub(super) generation: Generation,
    pub(super) words: &'a [u64],
    pub(super) len_bytes: u32,
}

impl Writer<'_> {
    /// The cell's version: it stands still, as this process owns and the caller has the cell's lock.
    pub(super) fn version(&self, at: u64) -> Result<u64, WriteError> {
        let word = self.process.mapping().word(at)?;
        Ok(version_of(word.load(Ordering::Acquire), at)?)
    }

    /// Writes the next version of the cell at `at`; gives its number.
    pub(super) fn replace(&self, at: u64, version: u64, spare: &mut Option<(u64, u64)>) -> Result<u64, WriteError> {
        let mapping = self.process.mapping();
        let header = mapping.words(at, HEADER_WORDS)?;
        let next = version.wrapping_add(1);
        let old = Buffer::load(header, next);
        let fits = old.is_placed(mapping, at, next) && old.capacity >= self.len_bytes;
        let (offset, capacity) = if fits {
            (old.offset, u64::from(old.capacity))
        } else {
            let kept = spare.filter(|(_, capacity)| *capacity >= u64::from(self.len_bytes));
            kept.map_or_else(|| self.buffer(), Ok)?
        };
        if !fits {
            *spare = Some((offset, capacity));
        }
        let last_section = SECTION_BYTES as usize / 8;
        // Release: whoever reads any byte of this fill also reads `version`, or a later one. See the module.
        fence(Ordering::Release);
        let (before, last) =
            self.words.split_at(self.words.len().saturating_sub(last_section) / last_section * last_section);
        write_owned(self.process, self.generation, offset, before)?;
        self.fill_and_publish(at, next, offset, capacity, before.len(), last)?;
        if !fits {
            *spare = None;
        }
        Ok(next)
    }

    fn fill_and_publish(
        &self,
        at: u64,
        next: u64,
        offset: u64,
        capacity: u64,
        skip: usize,
        last: &[u64],
    ) -> Result<(), WriteError> {
        let mapping = self.process.mapping();
        let header = mapping.words(at, HEADER_WORDS)?;
        let from = offset + skip as u64 * 8;
        let to = mapping.words(from, last.len() as u64)?;
        let buffer = self.descriptor(at, next, offset, capacity);
        let section = self.process.enter(self.generation)?;
        section.mark(from, last.len() as u64 * 8);
        section.mark(at, HEADER_WORDS * 8);
        for (to, word) in to.iter().zip(last) {
            to.store(*word, Ordering::Relaxed);
        }
        buffer.store(header, next);
        // Release: pairs with the reader's Acquire load.
        header[0].store(version_word(next, at), Ordering::Release);
        Ok(())
    }

    /// Makes a cell with this value as its first; gives its header's offset.
    pub(super) fn create(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        entry: &dyn Fn(u64) -> Entry,
    ) -> Result<u64, WriteError> {
        let mapping = self.process.mapping();
        let directory = Directory::owned(mapping);
        let take = |bytes| alloc::owned(mapping, bytes).map_err(WriteError::from_error);
        let header: [crate::sync::AtomicU64; HEADER_WORDS as usize] = Default::default();
        let at = if u64::from(self.len_bytes) <= CAPACITY_MIN {
            let at = take(HEADER_WORDS * 8 + 4 * CAPACITY_MIN)?;
            for version in 0..4 {
                let offset = at + HEADER_WORDS * 8 + version * CAPACITY_MIN;
                if version == FIRST {
                    write_owned(self.process, self.generation, offset, self.words)?;
                    self.descriptor(at, version, offset, CAPACITY_MIN).store(&header, version);
                } else {
                    Buffer::empty(at, version, offset, CAPACITY_MIN as u32).store(&header, version);
                }
            }
            at
        } else {
            let (offset, capacity) = self.buffer()?;
            let at = take(HEADER_WORDS * 8)?;
            write_owned(self.process, self.generation, offset, self.words)?;
            self.descriptor(at, FIRST, offset, capacity).store(&header, FIRST);
            at
        };
        header[0].store(version_word(FIRST, at), Ordering::Relaxed);
        write_owned(self.process, self.generation, at, &header.map(|w| w.into_inner()))?;
        // Only this process inserts in this generation; other cells of it may take the slot, each once.
        for _ in 0..64 {
            let slot = match directory.find(&Key::object(name, labels))? {
                Lookup::Vacant(slot) => slot,
                Lookup::Found(_) => break,
                Lookup::Full => return Err(WriteError::from_error(directory.full())),
            };
            if directory.insert_owned(self.process, self.generation, &entry(at), slot)? {
                return Ok(at);
            }
        }
        Err(Full::Table { table: directory.name(), limit: 64 }.into())
    }

    fn buffer(&self) -> Result<(u64, u64), WriteError> {
        let capacity = u64::from(self.len_bytes).max(CAPACITY_MIN).next_power_of_two();
        Ok((alloc::owned(self.process.mapping(), capacity).map_err(WriteError::from_error)?, capacity))
    }

    fn descriptor(&self, at: u64, version: u64, offset: u64, capacity: u64) -> Buffer {
        let (capacity, generation) = (capacity as u32, self.generation.get() as u32);
        Buffer {
            offset,
            len: self.len_bytes,
            capacity,
            generation,
            value_crc: value::value_crc(version, generation, self.len_bytes, self.words),
            place_crc: Buffer::place_crc(at, version, offset, capacity),
        }
    }
}
