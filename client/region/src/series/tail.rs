//! Reading on: what came to a series since somebody read it last, in pieces of a bounded size.
//!
//! A reader that ships samples elsewhere keeps, for each series, the time of the last sample that it has and a [`Stamp`]. An equal
//! stamp costs one load and says that nothing came. Otherwise [`SeriesStore::tail`] gives the oldest chunks that are new, never
//! more than the reader asked for, and says if samples went before they were read.
//!
//! The stamp is read before the samples: what comes meanwhile changes it, and so is found by the next look.

use super::layout::row;
use super::view::View;
use super::{Chunks, SeriesId, SeriesStore};
use crate::error::{Corrupt, Error};
use crate::sync::Ordering;

/// Changes with every sample of a series. Of one series alone, while its region is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

/// What came to a series after some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Chunks with samples after that time, whole: the first one may begin before it.
    pub chunks: Chunks,
    /// False: there are newer chunks than these.
    pub is_whole: bool,
    /// The retention has let samples go between that time and the first one here, as far as it can be told: it is also true if
    /// exactly a sealed chunk that ended at that time has gone.
    pub has_gap: bool,
    /// Of the series as it was before the chunks were read.
    pub stamp: Stamp,
    /// Time of the series' last sample outside its head chunk, also if it has expired; `None` if there was none.
    pub sealed_ms: Option<i64>,
}

impl SeriesStore {
    /// The series' stamp: if it equals that of a [`Tail`] which was whole, nothing came since.
    ///
    /// # Errors
    /// [`Corrupt`]; also for a number that no series has.
    pub fn stamp(&self, id: SeriesId) -> Result<Stamp, Corrupt> {
        self.view()?.stamp(id)
    }

    /// The oldest `chunks_max` chunks of a series with samples after `after_ms`; of all its chunks for `None`. Also what the
    /// retention is about to let go. Takes no lock, whatever the owner does meanwhile.
    ///
    /// # Errors
    /// As [`chunks`](Self::chunks).
    pub fn tail(&self, id: SeriesId, after_ms: Option<i64>, chunks_max: usize) -> Result<Tail, Error> {
        self.view()?.tail(id, after_ms, chunks_max.max(1))
    }
}

impl View<'_> {
    fn stamp(&self, id: SeriesId) -> Result<Stamp, Corrupt> {
        // Acquire: pairs with the Release store of the commit word, so that a look at the samples finds what it counts.
        Ok(Stamp(self.row(id)?.words[row::COMMIT].load(Ordering::Acquire)))
    }

    fn tail(&self, id: SeriesId, after_ms: Option<i64>, chunks_max: usize) -> Result<Tail, Error> {
        let stamp = self.stamp(id)?;
        let row = self.row(id)?;
        let sealed_ms = row.words[row::LAST_MS].load(Ordering::Relaxed) as i64;
        let start_ms = after_ms.map_or(i64::MIN, |after| after.saturating_add(1));
        let walked = self.walk(row, start_ms..=i64::MAX, chunks_max)?;
        let before_ms = match (walked.has_head, walked.read) {
            // All that there was is gone, if there was anything.
            (false, 0) => Some(sealed_ms),
            // The head alone: the row says what came before it. Of a head that is being sealed it says the head's own end.
            (true, 1) => Some(sealed_ms).filter(|before| *before < walked.oldest_ms),
            // What a sealed chunk followed, nothing says.
            _ => Some(i64::MAX),
        };
        let ends_early = walked.oldest_ms >= start_ms;
        let has_gap = after_ms.is_some_and(|after| ends_early && before_ms.is_some_and(|before| before > after));
        let sealed_ms = Some(sealed_ms).filter(|ms| *ms != i64::MIN);
        Ok(Tail { chunks: walked.chunks, is_whole: walked.is_whole, has_gap, stamp, sealed_ms })
    }
}
