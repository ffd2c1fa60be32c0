//! From labels to a series' number, and making new ones.
//!
//! **Invariant: a number has one entry, and an entry one number.** A creator fills the entry and the row that the count points
//! at, and then, in one section, swaps the entry into the directory and raises the count. Killed between these two, it leaves an
//! entry with the number that is next: whoever creates next looks at that row first, finds the entry in the directory and
//! raises the count. Killed before them, it leaves a row whose entry is not in the directory; it is filled again.

use super::layout::{ROW, ROWS, root, row, row_blocks};
use super::root::{Root, take};
use super::{SeriesId, SeriesStore};
use crate::alloc;
use crate::directory::entry::{Decoded, Entry, Kind, Space};
use crate::directory::{Directory, Key, Lookup, write_owned};
use crate::error::{Corrupt, Full, Generation, WriteError};
use crate::name;
use crate::objects::lock;
use crate::os::clock;
use crate::sync::Ordering;

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Series(SeriesId),
    /// Nothing; an entry would go into the slot at this offset.
    Vacant(u64),
    /// Nothing, and no slot is left.
    Full,
}

impl SeriesStore {
    /// The series with these labels, `__name__` among them, sorted by name.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn find(&self, labels: &[(&str, &str)]) -> Result<Option<SeriesId>, Corrupt> {
        let count = self.count()?;
        Ok(match self.look_up(labels)? {
            Found::Series(id) if id.0 < count => Some(id),
            _ => None,
        })
    }

    /// The series with these labels, created if there is none; for the owner.
    ///
    /// # Errors
    /// [`WriteError`]; [`Misuse`](crate::error::Misuse) by the rules of [`name::series_labels`], [`Full`] beyond the
    /// region's `series_max`. Nothing is visible then.
    pub fn open_series(&self, generation: Generation, labels: &[(&str, &str)]) -> Result<SeriesId, WriteError> {
        name::series_labels(labels)?;
        if let Some(id) = self.find(labels)? {
            return Ok(id);
        }
        let _one = lock(&self.shared.create);
        // Fenced goes before everything that takes space.
        drop(self.process.enter(generation)?);
        if self.root()?.is_none() {
            Root::create(&self.process, generation)?;
        }
        self.finish_last(generation)?;
        let id = SeriesId(self.count()?);
        let limit = self.mapping().limits().series_max;
        self.make_row(generation, id).map_err(|e| match id.0 < limit {
            true => e,
            false => Full::Table { table: "time series", limit: limit.into() }.into(),
        })?;
        self.create(generation, id, labels)
    }

    fn look_up(&self, labels: &[(&str, &str)]) -> Result<Found, Corrupt> {
        let (directory, key) = (Directory::owned(self.mapping()), Key::new(Space::Series, "", labels));
        let numbered = |payload| match u32::try_from(payload) {
            Ok(number) if number < self.mapping().limits().series_max => Ok(Found::Series(SeriesId(number))),
            _ => Err(Corrupt::field("series' number", 0, "below the region's series_max", payload)),
        };
        if let Some(number) = directory.series_number(&key) {
            return numbered(number);
        }
        match directory.find(&key)? {
            Lookup::Found(Decoded::Known(entry)) => numbered(entry.payload),
            Lookup::Found(Decoded::Unknown { kind }) => {
                Err(Corrupt::field("series' entry", 0, "a kind that this build knows", kind.into()))
            }
            Lookup::Vacant(at) => Ok(Found::Vacant(at)),
            Lookup::Full => Ok(Found::Full),
        }
    }

    /// Counts the series whose creator was killed just before.
    fn finish_last(&self, generation: Generation) -> Result<(), WriteError> {
        let root = self.rooted()?;
        let next = SeriesId(root.count(self.mapping()));
        if root.row_block(u64::from(next.0) / ROWS).is_err() {
            return Ok(());
        }
        let slot = self.row_at(next)?.words[row::ENTRY].load(Ordering::Relaxed);
        if slot == 0 {
            return Ok(());
        }
        let Ok((Decoded::Known(entry), _)) = Directory::owned(self.mapping()).read(slot) else { return Ok(()) };
        let labels: Vec<_> = entry.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if self.look_up(&labels)? != Found::Series(next) {
            return Ok(());
        }
        self.process.write(generation, |section| {
            section.mark(root.word_at(root::COUNT), 8);
            root.word(root::COUNT).store(u64::from(next.0) + 1, Ordering::Release);
        })
    }

    /// Makes room for the row with this number.
    fn make_row(&self, generation: Generation, id: SeriesId) -> Result<(), WriteError> {
        let (root, number) = (self.rooted()?, u64::from(id.0) / ROWS);
        if root.row_block(number).is_err() {
            let word = Root::row_block_word(number);
            if number >= row_blocks(self.mapping()) {
                return Err(Full::Table { table: "time series", limit: number * ROWS }.into());
            }
            let block = take(self.mapping(), ROWS * ROW, ROW)?;
            self.process.write(generation, |section| {
                section.mark(root.word_at(word), 8);
                // Release: pairs with the Acquire in `row_block`.
                root.word(word).store(block, Ordering::Release);
            })?;
        }
        if id.0 >= self.mapping().limits().series_max {
            return Err(Full::Table { table: "time series", limit: id.0.into() }.into());
        }
        self.row_at(id)?;
        Ok(())
    }

    fn create(&self, generation: Generation, id: SeriesId, labels: &[(&str, &str)]) -> Result<SeriesId, WriteError> {
        let mapping = self.mapping();
        let (root, row, directory) = (self.rooted()?, self.row_at(id)?, Directory::owned(mapping));
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let entry = Entry {
            payload: id.0.into(),
            labels: labels.iter().map(own).collect(),
            created_unix_ms: clock::unix_ms(),
            ..Entry::new(Kind::Series, "")
        };
        let words = entry.encode()?;
        let offset = alloc::owned(mapping, words.len() as u64 * 8).map_err(WriteError::from_error)?;
        write_owned(&self.process, generation, offset, &words)?;
        let slot_word = directory.slot_word(offset, words[1]);
        // A cell that is created meanwhile may take the slot; each such takes one.
        for _ in 0..64 {
            let at = match self.look_up(labels)? {
                Found::Vacant(at) => at,
                // Only a creation that this one had to wait for.
                Found::Series(found) => return Ok(found),
                Found::Full => return Err(WriteError::from_error(directory.full())),
            };
            mapping.ensure(at, 8).map_err(WriteError::from_error)?;
            let slot = mapping.word(at)?;
            let mut published = false;
            self.process.write(generation, |section| {
                section.mark(at, 8);
                section.mark(row.at, ROW);
                section.mark(root.word_at(root::COUNT), 8);
                row.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                row.words[row::LAST_MS].store(i64::MIN as u64, Ordering::Relaxed);
                row.words[row::ENTRY].store(slot_word, Ordering::Relaxed);
                // Release, both: who sees the entry, or the count, sees the row.
                published = slot.compare_exchange(0, slot_word, Ordering::Release, Ordering::Relaxed).is_ok();
                if published {
                    root.word(root::COUNT).store(u64::from(id.0) + 1, Ordering::Release);
                }
            })?;
            if published {
                return Ok(id);
            }
        }
        Err(Full::Table { table: directory.name(), limit: 64 }.into())
    }
}
