//! The directories: from a name to its entry, without a lock.
//!
//! An index is a row of levels, each twice as large as the one before, of buckets of 8 slots. A key has one bucket in each
//! level, and its *probe sequence* is the 8 slots of its bucket in level 0, then of that in level 1, and so on. A slot is
//! one word `{offset:40, tag:24}`, 0 while empty, and is filled once, for ever.
//!
//! **Invariant: a key is in the directory at most once.** An inserter swaps into the *first empty* slot of the sequence,
//! after it saw that no slot before holds the key. Slots are never emptied, so two inserters of one key want the same slot;
//! the loser looks again and finds the winner's entry. A look-up ends at the first empty slot for the same reason. Levels
//! need no state: one whose extent was never made ready is empty.
//!
//! Crash argument: the entry is written and checksummed before the swap publishes it (Release; readers load the slot with
//! Acquire). Killed before the swap, the inserter leaves private bytes that nobody refers to; after it, a whole entry.
//!
//! The owned directory is the same, but its bytes are digested: they are written inside a gate section, after marks.

pub mod entry;

pub use entry::{BOUNDS_MAX, Kind};

use crate::alloc::{self, OwnedAreas};
use crate::directory::entry::{Decoded, Entry, Space, key_hash, mix};
use crate::error::{Corrupt, Error, Full, Generation, NotReady, WriteError};
use crate::layout::{EXTENT, Segment, SegmentKind};
use crate::mapping::Mapping;
use crate::process::Process;
use crate::sync::{AtomicU64, Ordering};

const BUCKET_SLOTS: u64 = 8;
/// Slots of level 0.
const LEVEL_SLOTS: u64 = 4096;
/// Bytes written in one gate section.
pub(crate) const SECTION_BYTES: u64 = 16 * 1024;

/// What an entry is found by. Families and series of one name differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    space: Space,
    name: &'a str,
    labels: &'a [(&'a str, &'a str)],
    hash: u64,
}

impl<'a> Key<'a> {
    pub(crate) fn family(name: &'a str) -> Self {
        Self::new(Space::Families, name, &[])
    }

    /// `labels` sorted.
    pub(crate) fn object(name: &'a str, labels: &'a [(&'a str, &'a str)]) -> Self {
        Self::new(Space::Objects, name, labels)
    }

    /// `labels` sorted.
    pub(crate) fn new(space: Space, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> Self {
        Self { space, name, labels, hash: key_hash(space, name, labels) }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        let pairs = entry.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        self.space == entry.kind.space() && self.name == entry.name && self.labels.iter().copied().eq(pairs)
    }
}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The entry, or that of a kind unknown to this build whose hash is the key's.
    Found(Decoded),
    /// Nothing; an entry would go into the slot at this offset.
    Vacant(u64),
    /// Nothing, and no slot is left for this key.
    Full,
}

/// One of the two directories of a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory<'m> {
    mapping: &'m Mapping,
    index: Segment,
    /// Slots' offsets count from here, in words.
    base: u64,
    levels: u32,
    owned: bool,
}

impl<'m> Directory<'m> {
    /// What any instance may write: metrics.
    pub(crate) fn shared(mapping: &'m Mapping) -> Self {
        let base = mapping.segment(SegmentKind::SharedArena).offset;
        Self::new(mapping, mapping.segment(SegmentKind::SharedIndex), base, false)
    }

    /// What the owner alone writes: cells and series.
    pub(crate) fn owned(mapping: &'m Mapping) -> Self {
        let areas = OwnedAreas::of(mapping);
        Self::new(mapping, areas.index, areas.arena.offset, true)
    }

    fn new(mapping: &'m Mapping, index: Segment, base: u64, owned: bool) -> Self {
        let levels = (index.len / 8 / LEVEL_SLOTS + 1).ilog2();
        Self { mapping, index, base, levels, owned }
    }

    /// Its name in errors.
    pub(crate) fn name(&self) -> &'static str {
        if self.owned { "owned directory" } else { "shared directory" }
    }

    /// Looks a key up.
    ///
    /// # Errors
    /// [`Corrupt`] if an entry that may be this key's is not whole: to insert beside it could make a second one.
    pub(crate) fn find(&self, key: &Key) -> Result<Lookup, Corrupt> {
        for bucket in self.buckets(key.hash) {
            let Some(slots) = self.slots_at(bucket) else { return Ok(Lookup::Vacant(bucket)) };
            for (i, slot) in slots.iter().enumerate() {
                // Acquire: pairs with the publishing swap, so that the entry behind it is whole.
                let slot = slot.load(Ordering::Acquire);
                if slot == 0 {
                    return Ok(Lookup::Vacant(bucket + i as u64 * 8));
                }
                if slot >> 40 != tag(key.hash) {
                    continue;
                }
                let (decoded, hash) = self.read(slot)?;
                let same = match &decoded {
                    Decoded::Known(entry) => key.is_of(entry),
                    Decoded::Unknown { .. } => hash == key.hash,
                };
                if same {
                    return Ok(Lookup::Found(decoded));
                }
            }
        }
        Ok(Lookup::Full)
    }

    /// The number of the series with this key, where its entry is whole and none is in its way: what a scrape asks for each of
    /// its samples. `None` says nothing; [`find`](Self::find) does.
    pub(crate) fn series_number(&self, key: &Key) -> Option<u64> {
        let labels = entry::encoded(key.labels.iter().copied());
        let len = entry::HEADER_WORDS + labels.len().div_ceil(8);
        let mut copy = Vec::with_capacity(len);
        for bucket in self.buckets(key.hash) {
            for slot in self.slots_at(bucket)? {
                // Acquire: as in `find`.
                let slot = slot.load(Ordering::Acquire);
                if slot == 0 {
                    return None;
                }
                if slot >> 40 == tag(key.hash) {
                    let words = self.mapping.words(self.offset(slot), len as u64).ok()?;
                    copy.clear();
                    copy.extend(words.iter().map(|word| word.load(Ordering::Relaxed)));
                    return entry::series_number(&copy, key.hash, (key.labels.len(), &labels));
                }
            }
        }
        None
    }

    /// Finds a key's entry in the shared directory, or publishes the one that `make` gives.
    ///
    /// # Errors
    /// As [`find`](Self::find), those of `make`, and [`Full`].
    pub(crate) fn find_or_insert(
        &self,
        key: &Key,
        make: impl FnOnce() -> Result<Entry, Error>,
    ) -> Result<Decoded, Error> {
        debug_assert!(!self.owned, "owned entries are written through the gate");
        let (mut make, mut made) = (Some(make), None);
        // Each lost swap filled a slot of the sequence, so there are no more rounds than slots.
        for _ in 0..=u64::from(self.levels) * BUCKET_SLOTS {
            let at = match self.find(key)? {
                Lookup::Found(found) => return Ok(found),
                Lookup::Vacant(at) => at,
                Lookup::Full => return Err(self.full()),
            };
            if let Some(make) = make.take() {
                let entry = make()?;
                let words = entry.encode()?;
                let offset = alloc::shared(self.mapping, words.len() as u64 * 8)?;
                for (to, word) in self.mapping.words(offset, words.len() as u64)?.iter().zip(&words) {
                    to.store(*word, Ordering::Relaxed);
                }
                made = Some((entry, self.slot_word(offset, key.hash)));
            }
            let Some((entry, slot)) = &made else { break };
            self.mapping.ensure(at, 8)?;
            // Release: the entry's words before the slot. Relaxed when lost: the look-up loads it again.
            if self.mapping.words(at, 1)?[0].compare_exchange(0, *slot, Ordering::Release, Ordering::Relaxed).is_ok() {
                return Ok(Decoded::Known(Box::new(entry.clone())));
            }
        }
        Err(NotReady::Contended { attempts: self.levels * BUCKET_SLOTS as u32 }.into())
    }

    /// Publishes `entry` in the owned directory. `false`: another thread was first, look again.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is visible then.
    pub(crate) fn insert_owned(
        &self,
        process: &Process,
        generation: Generation,
        entry: &Entry,
        at: u64,
    ) -> Result<bool, WriteError> {
        let words = entry.encode()?;
        // Space first: sections make no system call.
        let offset = alloc::owned(self.mapping, words.len() as u64 * 8).map_err(WriteError::from_error)?;
        self.mapping.ensure(at, 8).map_err(WriteError::from_error)?;
        write_owned(process, generation, offset, &words)?;
        let section = process.enter(generation)?;
        section.mark(at, 8);
        let slot = self.mapping.words(at, 1)?;
        let word = self.slot_word(offset, entry.hash());
        Ok(slot[0].compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok())
    }

    /// The entry that a slot refers to, and the hash that stands in it.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub(crate) fn read(&self, slot: u64) -> Result<(Decoded, u64), Corrupt> {
        self.read_words(slot).map(|(decoded, words)| (decoded, words[1]))
    }

    /// The entry that a slot refers to, and its length in bytes.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub(crate) fn read_with_len(&self, slot: u64) -> Result<(Decoded, u64), Corrupt> {
        self.read_words(slot).map(|(decoded, words)| (decoded, words.len() as u64 * 8))
    }

    fn read_words(&self, slot: u64) -> Result<(Decoded, Vec<u64>), Corrupt> {
        let offset = self.offset(slot);
        let first = self.mapping.words(offset, 1)?[0].load(Ordering::Relaxed);
        let len = entry::len_words(first, offset)?;
        let mut words = Vec::with_capacity(len);
        words.extend(self.mapping.words(offset, len as u64)?.iter().map(|w| w.load(Ordering::Relaxed)));
        // Word 0 was read twice; decoding trusts the copy alone.
        Ok((entry::decode(&words, offset)?, words))
    }

    /// Where the entry that a slot refers to lies in the region.
    pub(crate) fn offset(&self, slot: u64) -> u64 {
        self.base + (slot & ((1 << 40) - 1)) * 8
    }

    /// All filled slots, in the index's order: its position and word. Bounded by the index, whatever its bytes.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u64, u64)> + use<'m> {
        let (mapping, index) = (self.mapping, self.index);
        let end = index.offset + self.levels_len();
        (index.offset..end).step_by(EXTENT as usize).flat_map(move |at| {
            let words = mapping.words(at, EXTENT.min(end - at) / 8).unwrap_or(&[]);
            words.iter().enumerate().filter_map(move |(i, w)| match w.load(Ordering::Acquire) {
                0 => None,
                slot => Some((at + i as u64 * 8, slot)),
            })
        })
    }

    /// The word of the slot at this position, if it is filled.
    pub(crate) fn slot_at(&self, at: u64) -> Option<u64> {
        self.mapping.word(at).ok().map(|word| word.load(Ordering::Acquire)).filter(|slot| *slot != 0)
    }

    /// A slot's number in the index, from its position.
    pub(crate) fn slot_number(&self, at: u64) -> usize {
        (at.saturating_sub(self.index.offset) / 8) as usize
    }

    fn levels_len(&self) -> u64 {
        LEVEL_SLOTS * ((1 << self.levels) - 1) * 8
    }

    /// The buckets of a key's probe sequence: the first slot's offset in the region.
    fn buckets(&self, hash: u64) -> impl Iterator<Item = u64> + use<> {
        let start = self.index.offset;
        (0..self.levels).map(move |level| {
            let buckets = (LEVEL_SLOTS / BUCKET_SLOTS) << level;
            let before = (LEVEL_SLOTS / BUCKET_SLOTS) * ((1 << level) - 1);
            let bucket = mix(hash ^ u64::from(level)) & (buckets - 1);
            start + (before + bucket) * BUCKET_SLOTS * 8
        })
    }

    fn slots_at(&self, bucket: u64) -> Option<&'m [AtomicU64]> {
        self.mapping.words(bucket, BUCKET_SLOTS).ok()
    }

    pub(crate) fn slot_word(&self, offset: u64, hash: u64) -> u64 {
        ((offset - self.base) / 8) | (tag(hash) << 40)
    }

    /// What an insertion without a slot gets.
    pub(crate) fn full(&self) -> Error {
        Full::Table { table: self.name(), limit: LEVEL_SLOTS * ((1 << self.levels) - 1) }.into()
    }
}

fn tag(hash: u64) -> u64 {
    hash >> 40
}

/// Writes words of the owned area, in sections short enough for a freeze to wait for. Not atomic as a whole: what refers
/// to them is written last, by the caller.
pub(crate) fn write_owned(p: &Process, generation: Generation, offset: u64, words: &[u64]) -> Result<(), WriteError> {
    for (i, chunk) in words.chunks((SECTION_BYTES / 8) as usize).enumerate() {
        let at = offset + i as u64 * SECTION_BYTES;
        let to = p.mapping().words(at, chunk.len() as u64)?;
        let section = p.enter(generation)?;
        section.mark(at, chunk.len() as u64 * 8);
        for (to, word) in to.iter().zip(chunk) {
            to.store(*word, Ordering::Relaxed);
        }
    }
    Ok(())
}
