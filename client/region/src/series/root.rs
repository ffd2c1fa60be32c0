//! The root: the words that all series hang on, and the table of row blocks. Found by an entry of the owned directory.
//!
//! The first owner that creates a series makes it: filled, then one swap publishes its entry. Killed before, it leaks some
//! kilobytes; after, the root is whole. So a region of a release without series needs no change to get them, and one that has
//! them is read by such a release as before, which skips the kind.

use super::layout::{CLASSES, ROOT_MAGIC, ROOT_WORDS, arena, root, row_blocks};
use crate::alloc;
use crate::directory::entry::{Decoded, Entry, Kind, Space};
use crate::directory::{Directory, Key, Lookup, write_owned};
use crate::error::{Corrupt, Generation, WriteError};
use crate::mapping::{Mapping, Words};
use crate::os::clock;
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;

/// The root's name in the directory.
const NAME: &str = "series";

/// The root of a region's series.
#[derive(Debug)]
pub(super) struct Root {
    words: Words,
    pub(super) at: u64,
}

impl Root {
    /// Where the root lies, once there is one.
    pub(super) fn place(mapping: &Mapping) -> Result<Option<u64>, Corrupt> {
        let entry = match Directory::owned(mapping).find(&Key::new(Space::Roots, NAME, &[]))? {
            Lookup::Vacant(_) | Lookup::Full => return Ok(None),
            Lookup::Found(Decoded::Known(entry)) => entry,
            Lookup::Found(Decoded::Unknown { kind }) => {
                return Err(Corrupt::field("series' root", 0, "an entry of kind 33", kind.into()));
            }
        };
        Self::check(mapping, &entry).map(Some)
    }

    /// Where the root of this entry lies, checked.
    pub(super) fn check(mapping: &Mapping, entry: &Entry) -> Result<u64, Corrupt> {
        let at = entry.payload;
        if !arena(mapping).contains(at) || !at.is_multiple_of(64) {
            return Err(Corrupt::field("series' root", 0, "a place in the owned area", at));
        }
        let words = mapping.words(at, ROOT_WORDS + row_blocks(mapping))?;
        match words[root::MAGIC].load(Ordering::Relaxed) {
            ROOT_MAGIC => Ok(at),
            found => Err(Corrupt::field("series' root", at, format!("{ROOT_MAGIC:#x}"), found)),
        }
    }

    pub(super) fn find(mapping: &Arc<Mapping>) -> Result<Option<Self>, Corrupt> {
        let Some(at) = Self::place(mapping)? else { return Ok(None) };
        Ok(Some(Self { words: Words::new(mapping, at, ROOT_WORDS + row_blocks(mapping))?, at }))
    }

    /// Makes the root; the caller has looked, and keeps out the other threads of this owner.
    pub(super) fn create(process: &Process, generation: Generation) -> Result<(), WriteError> {
        let mapping = process.mapping();
        let len = ROOT_WORDS + row_blocks(mapping);
        let at = take(mapping, len * 8, 64)?;
        let mut words = vec![0; len as usize];
        words[root::MAGIC] = ROOT_MAGIC;
        words[root::OLDEST_MS] = i64::MIN as u64;
        write_owned(process, generation, at, &words)?;
        let entry = Entry { payload: at, created_unix_ms: clock::unix_ms(), ..Entry::new(Kind::SeriesRoot, NAME) };
        let directory = Directory::owned(mapping);
        // A cell that is created meanwhile may take the slot; each such takes one.
        for _ in 0..64 {
            let slot = match directory.find(&Key::new(Space::Roots, NAME, &[]))? {
                Lookup::Vacant(slot) => slot,
                Lookup::Found(_) => return Ok(()),
                Lookup::Full => break,
            };
            if directory.insert_owned(process, generation, &entry, slot)? {
                return Ok(());
            }
        }
        Err(WriteError::from_error(directory.full()))
    }

    /// A word of the root, by number.
    #[inline]
    pub(super) fn word(&self, number: usize) -> &AtomicU64 {
        &self.words[number]
    }
    /// Where that word lies.
    pub(super) fn word_at(&self, number: usize) -> u64 {
        self.at + 8 * number as u64
    }
    /// The number of the word that says where a block of rows is.
    pub(super) fn row_block_word(number: u64) -> usize {
        (ROOT_WORDS + number) as usize
    }

    /// Series that there are. Acquire: their rows and entries are whole.
    pub(super) fn count(&self, mapping: &Mapping) -> u32 {
        let count = self.word(root::COUNT).load(Ordering::Acquire);
        count.min(mapping.limits().series_max.into()) as u32
    }
    #[inline]
    pub(super) fn oldest_ms(&self) -> i64 {
        self.word(root::OLDEST_MS).load(Ordering::Relaxed) as i64
    }

    /// Where a block of rows lies.
    pub(super) fn row_block(&self, number: u64) -> Result<u64, Corrupt> {
        let word = self.words.get(Self::row_block_word(number));
        match word.map(|word| word.load(Ordering::Acquire)) {
            Some(at) if at != 0 => Ok(at),
            found => {
                let at = self.word_at(Self::row_block_word(number));
                Err(Corrupt::field("series' table of rows", at, "a block", found.unwrap_or(number)))
            }
        }
    }

    /// The newest slab of a class; 0 for none.
    pub(super) fn slab(&self, class: usize) -> u64 {
        debug_assert!(class < CLASSES.len());
        self.word(root::SLABS + class).load(Ordering::Acquire)
    }
}

/// Takes `bytes` of the owned arena that begin at a multiple of `align` from its start.
pub(super) fn take(mapping: &Mapping, bytes: u64, align: u64) -> Result<u64, WriteError> {
    alloc::owned_aligned(mapping, bytes, align).map_err(WriteError::from_error)
}
