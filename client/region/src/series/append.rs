//! Appending.
//!
//! The short way, in one section: the head's commit word is the one that this process knows, the chunk has room. Everything
//! else (decoding a head that another owner left, a larger buffer, sealing a whole chunk) is prepared outside of a section and
//! then tried again.

use std::sync::TryLockError;

use super::head::{Head, Last, side};
use super::layout::{CHUNK_BYTES, CHUNK_SAMPLES, CLASSES, CommitWord, ROW, arena, row};
use super::store::Row;
use super::xor::{COUNT_BYTES, SAMPLE_BITS_MAX, Writer};
use super::{AppendError, Appended, Commit, Encoding, Interrupted, Rejected, Sample, SeriesId, SeriesStore};
use crate::error::{Corrupt, Generation, Misuse, NotReady, WriteError};
use crate::gate::Section;
use crate::objects::lock;
use crate::sync::Ordering;

/// Samples between two looks at the gate.
const BATCH: usize = 64;
/// Tries of one append: decode, grow or seal, append, and one more where the caller's term changed in between.
const TRIES: u32 = 8;

/// What one try came to.
#[derive(Clone, Copy)]
enum Step {
    Done(Appended),
    Rejected(Rejected),
    /// The commit word is another: this process was not the last to append, or has never looked.
    Unknown,
    /// The buffer is too small, or there is none.
    Grow,
    /// The chunk is whole.
    Seal,
    /// The row leads somewhere else than to a buffer.
    Corrupt,
    /// Another thread appends to this series.
    Busy,
}

impl SeriesStore {
    /// Appends one sample; for the owner.
    ///
    /// # Errors
    /// [`AppendError::Rejected`] as Prometheus would; [`AppendError::Write`] where nothing could be written.
    pub fn append(&self, generation: Generation, id: SeriesId, sample: Sample) -> Result<Appended, AppendError> {
        let row = match self.ready_row(id) {
            Some(row) => row,
            None => self.known_row(id)?,
        };
        let head = match self.ready_head(id) {
            Some(head) => head,
            None => self.head(id).ok_or_else(|| no_series(id))?,
        };
        let mut head = lock(head);
        for _ in 0..TRIES {
            let mut step = Step::Busy;
            self.process.write(generation, |section| step = self.step(section, row, &mut head, sample))?;
            match step {
                Step::Done(appended) => return Ok(appended),
                Step::Rejected(why) => return Err(why.into()),
                Step::Unknown => *head = self.rebuild(id, self.known_row(id)?)?,
                Step::Grow => self.grow(generation, id, row, &mut head, sample)?,
                Step::Seal => self.seal(generation, row, &mut head)?,
                Step::Corrupt | Step::Busy => {
                    head.buffer.place(arena(self.mapping())).map_err(WriteError::from)?;
                    return Err(
                        WriteError::from(Corrupt::field("series' row", row.at, "a buffer", head.buffer.0)).into()
                    );
                }
            }
        }
        Err(WriteError::from_error(NotReady::Contended { attempts: TRIES }.into()).into())
    }

    /// Appends many, looking at the gate every 64: the shape of a scrape. Those that are refused do not stop the others.
    ///
    /// # Errors
    /// [`Interrupted`] says from which sample on nothing was written.
    pub fn append_batch(&self, generation: Generation, items: &[(SeriesId, Sample)]) -> Result<Commit, Interrupted> {
        let (mut commit, mut next) = (Commit::default(), 0);
        // Unlocking may wake another thread, which is a system call: not in a section.
        let mut locked = Vec::with_capacity(BATCH);
        while next < items.len() {
            let end = items.len().min(next + BATCH);
            let mut waits = false;
            let entered = self.process.write(generation, |section| {
                while let (false, Some((id, sample))) = (waits, items[..end].get(next)) {
                    match self.step_unlocked(section, *id, *sample, &mut locked) {
                        Step::Done(appended) => commit.count(next, Ok(appended)),
                        Step::Rejected(why) => commit.count(next, Err(why)),
                        _ => waits = true,
                    }
                    next += usize::from(!waits);
                }
            });
            locked.clear();
            let outcome = match (entered, waits) {
                (Ok(()), false) => continue,
                (Ok(()), true) => self.append(generation, items[next].0, items[next].1),
                (Err(error), _) => Err(error.into()),
            };
            match outcome {
                Ok(appended) => commit.count(next, Ok(appended)),
                Err(AppendError::Rejected(why)) => commit.count(next, Err(why)),
                Err(AppendError::Write(error)) => return Err(Interrupted { committed: next, commit, error }),
            }
            next += 1;
        }
        Ok(commit)
    }

    /// One of a batch, if its head is free.
    #[inline]
    fn step_unlocked<'s>(
        &'s self,
        section: &Section<'_>,
        id: SeriesId,
        sample: Sample,
        locked: &mut Vec<(SeriesId, std::sync::MutexGuard<'s, Head>)>,
    ) -> Step {
        let Some(row) = self.ready_row(id) else { return Step::Unknown };
        if let Some((last, head)) = locked.last_mut()
            && *last == id
        {
            return self.step(section, row, head, sample);
        }
        let mut head = match self.ready_head(id).map(|head| head.try_lock()) {
            Some(Ok(head)) => head,
            Some(Err(TryLockError::Poisoned(head))) => head.into_inner(),
            Some(Err(TryLockError::WouldBlock)) => return Step::Busy,
            None => return Step::Unknown,
        };
        let step = self.step(section, row, &mut head, sample);
        locked.push((id, head));
        step
    }

    /// One try, in a section.
    #[inline(always)]
    fn step(&self, section: &Section<'_>, row: Row<'_>, head: &mut Head, sample: Sample) -> Step {
        let commit = head.commit;
        if row.words[row::COMMIT].load(Ordering::Relaxed) != commit.0 {
            return Step::Unknown;
        }
        let (t, value, count, bits) = (sample.timestamp_ms, sample.value.to_bits(), commit.count(), commit.bits());
        if let Some(step) = self.judge(head, t, value) {
            return step;
        }
        if count >= CHUNK_SAMPLES || COUNT_BYTES as u32 + bits.div_ceil(8) > CHUNK_BYTES {
            return Step::Seal;
        }
        let capacity = head.buffer.capacity_bits();
        if bits + SAMPLE_BITS_MAX > capacity && bits + head.state.measure(count, t, value) > capacity {
            return Step::Grow;
        }
        let place = head.buffer.place(arena(self.mapping()));
        let Some(at) = place.ok() else { return Step::Corrupt };
        let Ok(words) = self.mapping().words(at, u64::from(capacity / 64)) else { return Step::Corrupt };
        let first = u64::from(bits / 64);
        section.mark(at + 8 * first, 8 * u64::from(SAMPLE_BITS_MAX.div_ceil(64) + 1).min(words.len() as u64 - first));
        section.mark(row.at, ROW);
        let mut writer = Writer::resume(words, bits, head.word);
        head.state.encode(count, t, value, &mut writer);
        let next = CommitWord::new(count + 1, writer.bits(), commit.tag());
        head.word = writer.flush();
        // Release: the bits before the word that counts them; pairs with the readers' Acquire.
        row.words[row::COMMIT].store(next.0, Ordering::Release);
        (head.commit, head.last) = (next, Last::Sample);
        Step::Done(Appended::New)
    }

    /// Whether the sample goes into the series at all, in the order in which Prometheus asks.
    #[inline(always)]
    fn judge(&self, head: &Head, t: i64, value: u64) -> Option<Step> {
        let last_ms = head.state.timestamp_ms;
        if head.last == Last::None || t > last_ms {
            // An old sample of a series without a newer one.
            return match self.shared.oldest_ms() {
                oldest_ms if t < oldest_ms => Some(Step::Rejected(Rejected::TooOld { found_ms: t, oldest_ms })),
                _ => None,
            };
        }
        Some(self.judge_old(head, t, value))
    }

    #[cold]
    fn judge_old(&self, head: &Head, t: i64, value: u64) -> Step {
        let (last_ms, oldest_ms) = (head.state.timestamp_ms, self.shared.oldest_ms());
        let why = match head.last {
            Last::Sample if t == last_ms && value == head.state.value => return Step::Done(Appended::Duplicate),
            _ if t < oldest_ms => Rejected::TooOld { found_ms: t, oldest_ms },
            Last::Sample if t == last_ms => {
                Rejected::Conflict { timestamp_ms: t, expected: head.state.value, found: value }
            }
            _ => Rejected::OutOfOrder { found_ms: t, last_ms },
        };
        Step::Rejected(why)
    }

    /// The row of a series that there is.
    #[cold]
    fn known_row(&self, id: SeriesId) -> Result<Row<'_>, WriteError> {
        if id.0 >= self.count()? { Err(no_series(id)) } else { Ok(self.row_at(id)?) }
    }

    /// Puts the head's bits into a larger buffer.
    #[cold]
    fn grow(
        &self,
        generation: Generation,
        id: SeriesId,
        row: Row<'_>,
        head: &mut Head,
        sample: Sample,
    ) -> Result<(), WriteError> {
        let (arena, mapping) = (arena(self.mapping()), self.mapping());
        let (commit, old) = (head.commit, head.buffer);
        let needed = commit.bits() + head.state.measure(commit.count(), sample.timestamp_ms, sample.value.to_bits());
        let fits = CLASSES.iter().position(|bytes| *bytes as u32 * 8 >= needed.max(old.capacity_bits() + 1));
        let class =
            fits.ok_or_else(|| Corrupt::field("series' commit word", row.at, "a chunk not yet whole", commit.0))?;
        let new = self.take_buffer(generation, class, Encoding::XOR.0)?;
        let to_at = new.place(arena)?;
        let used = u64::from(commit.bits().div_ceil(64));
        let to = mapping.words(to_at, CLASSES[class] / 8)?;
        let from = if used == 0 { &[] } else { mapping.words(old.place(arena)?, used)? };
        let owner = &mapping.words32(new.owner_at(arena), 1)?[0];
        let old_owner = if old.is_none() { None } else { Some(&mapping.words32(old.owner_at(arena), 1)?[0]) };
        let next = commit.turned(commit.count(), commit.bits());
        let mut turned = false;
        self.process.write(generation, |section| {
            if row.words[row::COMMIT].load(Ordering::Relaxed) != commit.0 {
                return;
            }
            section.mark(new.owner_at(arena), 4);
            section.mark(to_at, 8 * used);
            section.mark(row.at, ROW);
            if old_owner.is_some() {
                section.mark(old.owner_at(arena), 4);
            }
            owner.store(id.0 + 1, Ordering::Relaxed);
            for (to, from) in to.iter().zip(from) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            let (_, sealed) = side(row, commit);
            turn(row, next, new.0, sealed.0);
            if let Some(old_owner) = old_owner {
                old_owner.store(0, Ordering::Release);
            }
            turned = true;
        })?;
        // The next user of the old buffer marks before it writes, and that fence keeps its bits behind our commit word.
        self.give_buffer(if turned { old } else { new });
        if turned {
            (head.commit, head.buffer) = (next, new);
        } else {
            head.commit = Head::UNKNOWN;
        }
        Ok(())
    }

    /// Copies a whole chunk into the log and empties the head.
    #[cold]
    fn seal(&self, generation: Generation, row: Row<'_>, head: &mut Head) -> Result<(), WriteError> {
        let (commit, buffer) = (head.commit, head.buffer);
        let (_, prev) = side(row, commit);
        let at = buffer.place(arena(self.mapping()))?;
        let words = self.mapping().words(at, u64::from(commit.bits().div_ceil(64)))?;
        let next = commit.turned(0, 0);
        let last_ms = head.state.timestamp_ms;
        let mut turned = false;
        let chunk = super::record::Sealing { prev, commit, encoding: buffer.encoding(), words, max_ms: last_ms };
        self.seal_with(generation, chunk, |section, sealed| {
            if row.words[row::COMMIT].load(Ordering::Relaxed) == commit.0 {
                section.mark(row.at, ROW);
                row.words[row::LAST_MS].store(last_ms as u64, Ordering::Relaxed);
                turn(row, next, buffer.0, sealed.0);
                turned = true;
            }
        })?;
        if turned {
            head.emptied(next, buffer)
        } else {
            head.commit = Head::UNKNOWN
        }
        Ok(())
    }
}

/// Fills the side that `next` selects and commits it. Readers of the other side find out by the tag.
pub(super) fn turn(row: Row<'_>, next: CommitWord, buffer: u64, sealed: u64) {
    let side = &row.words[next.side()];
    side[0].store(buffer, Ordering::Relaxed);
    side[1].store(sealed, Ordering::Relaxed);
    row.words[row::COMMIT].store(next.0, Ordering::Release);
}

fn no_series(id: SeriesId) -> WriteError {
    Misuse::Argument { what: "series", found: format!("{id}, which is no series of this region") }.into()
}

impl Commit {
    fn count(&mut self, at: usize, outcome: Result<Appended, Rejected>) {
        match outcome {
            Ok(Appended::New) => self.appended += 1,
            Ok(Appended::Duplicate) => self.duplicates += 1,
            Err(why) => self.rejected.push((at, why)),
        }
    }
}
