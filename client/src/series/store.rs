//! Writing series, as the owner.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use heirloom_region::error::{Misuse, WriteError};
use heirloom_region::series::{AppendError, Appended, Commit, Expired, Interrupted, Sample, SeriesId};

use super::labels::Labels;
use super::reader::Reader;
use super::{SeriesRef, TimestampMs};
use crate::session::Session;
use crate::term::Term;

/// A region's series: everything that a [`Reader`] can do, and what the owner writes. Cheap to clone.
///
/// ```
/// # use heirloom_client::{embedded::Embedded, wait, Hooks};
/// use heirloom_client::series::{Labels, Sample};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = Embedded::new("shop")?;
/// # let shop = arbiter.attach("v1").wait()?;
/// let series = shop.region().series()?;
/// # let mut serving = wait(shop.ready(Hooks::new()))?;
/// # let term = wait(serving.next_term()).expect("owner");
/// let up = series.open(&term, &Labels::new([("__name__", "up"), ("job", "shop")])?)?;
///
/// // One sample, or what a scrape brought.
/// series.append(&term, up, Sample { timestamp_ms: 1000, value: 1.0 })?;
/// let mut batch = series.appender(&term);
/// batch.push(up, Sample { timestamp_ms: 2000, value: 1.0 });
/// batch.push(up, Sample { timestamp_ms: 1500, value: 1.0 }); // too late for Prometheus, and for this
/// let commit = batch.commit()?;
/// assert_eq!((commit.appended, commit.rejected[0].0), (1, 1));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store {
    reader: Reader,
    session: Arc<Session>,
}

impl Store {
    pub(crate) fn new(reader: Reader, session: Arc<Session>) -> Self {
        Self { reader, session }
    }
    /// The same without the means to write.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The series with these labels, created if it is not there. Creating is the owner's, so this takes a term; to look up,
    /// [`find`](Reader::find).
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::Full`] beyond the region's limit of series.
    pub fn open(&self, term: &Term, labels: &Labels) -> Result<SeriesRef, WriteError> {
        let (raw, pairs) = (self.reader.raw(), labels.iter().collect::<Vec<_>>());
        let id = match raw.find(&pairs)? {
            Some(id) => id,
            None => term.write_some(&self.session, |generation, wrote| {
                let id = raw.open_series(generation, &pairs)?;
                *wrote = true;
                Ok(id)
            })?,
        };
        Ok(self.reader.reference(id))
    }
    /// Appends one sample. An equal sample that is there is taken as [`Appended::Duplicate`], so an append whose answer was
    /// lost may be made again.
    ///
    /// # Errors
    /// [`AppendError::Rejected`] as Prometheus would: the sample will not be taken later. [`AppendError::Write`]: nothing is
    /// written, and the owner may.
    pub fn append(&self, term: &Term, series: SeriesRef, sample: Sample) -> Result<Appended, AppendError> {
        let id = self.reader.own(series).map_err(WriteError::from)?;
        term.write_some(&self.session, |generation, wrote| {
            let appended = match self.reader.raw().append(generation, id, sample) {
                Err(AppendError::Write(error)) => return Err(error),
                Err(AppendError::Rejected(why)) => Err(why.into()),
                Ok(appended) => Ok(appended),
            };
            *wrote |= matches!(appended, Ok(Appended::New));
            Ok(appended)
        })?
    }
    /// Collects samples and then appends them all, as a scrape or a remote write brings them.
    pub fn appender(&self, term: &Term) -> Appender {
        Appender { store: self.clone(), term: term.clone(), samples: Vec::new(), foreign: None }
    }

    /// What this process keeps while it owns: samples for so long (without end if `None`), and sealed chunks in about so many
    /// bytes, of which the oldest give way. It is not in the region: each version sets its own.
    pub fn set_retention(&self, time: Option<Duration>, bytes: Option<u64>) {
        self.reader.raw().set_retention(time, bytes);
    }
    /// Lets go what is older than the retention, seen from `now_ms`. One call does a bounded part and goes on where the last
    /// one ended; call it every few seconds.
    ///
    /// # Errors
    /// See [`WriteError`]; what was done before stays done.
    pub fn expire(&self, term: &Term, now_ms: TimestampMs) -> Result<Expired, WriteError> {
        term.write_some(&self.session, |generation, wrote| {
            // Even one that fails may have let something go.
            *wrote = true;
            self.reader.raw().expire(generation, now_ms)
        })
    }
}

impl Deref for Store {
    type Target = Reader;
    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("region", &self.session.region()).field("reader", &self.reader).finish()
    }
}

/// Samples on their way in, in the order of [`push`](Self::push). Dropped without a commit, nothing happens.
#[must_use = "call commit()"]
pub struct Appender {
    store: Store,
    term: Term,
    samples: Vec<(SeriesId, Sample)>,
    foreign: Option<Misuse>,
}

impl Appender {
    /// Adds a sample; nothing is checked yet.
    #[inline]
    pub fn push(&mut self, series: SeriesRef, sample: Sample) {
        match self.store.reader.own(series) {
            Ok(id) => self.samples.push((id, sample)),
            Err(misuse) => drop(self.foreign.get_or_insert(misuse)),
        }
    }
    /// Samples collected.
    pub fn len(&self) -> usize {
        self.samples.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
    /// Appends them in order, looking at the gate again every 64, so that no batch delays a switch. One that its series does
    /// not take is listed, and the others go in.
    ///
    /// # Errors
    /// [`Interrupted`]: the first `committed` of the batch are settled, and nothing of the rest is written. Give the owner the
    /// rest, from `committed` on. The whole batch may be given again only if it has one sample a series, as a scrape has, and
    /// nothing newer was appended since: each is then a duplicate or new. Of several samples of one series that are in, all but
    /// the last would be rejected as out of order, for a series compares with its last sample alone.
    pub fn commit(self) -> Result<Commit, Interrupted> {
        let Appender { store, term, samples, foreign } = self;
        if let Some(misuse) = foreign {
            return Err(Interrupted { committed: 0, commit: Commit::default(), error: misuse.into() });
        }
        let (mut committed, mut commit) = (samples.len(), Commit::default());
        let written = term.write_some(&store.session, |generation, wrote| {
            let (done, result) = match store.reader.raw().append_batch(generation, &samples) {
                Ok(done) => (done, Ok(())),
                Err(interrupted) => {
                    committed = interrupted.committed;
                    (interrupted.commit, Err(interrupted.error))
                }
            };
            *wrote |= done.appended > 0;
            commit = done;
            result
        });
        match written {
            Ok(()) => Ok(commit),
            Err(error) if commit == Commit::default() => Err(Interrupted { committed: 0, commit, error }),
            Err(error) => Err(Interrupted { committed, commit, error }),
        }
    }
}

impl Extend<(SeriesRef, Sample)> for Appender {
    fn extend<T: IntoIterator<Item = (SeriesRef, Sample)>>(&mut self, samples: T) {
        samples.into_iter().for_each(|(series, sample)| self.push(series, sample));
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").field("term", &self.term).field("samples", &self.samples.len()).finish()
    }
}
