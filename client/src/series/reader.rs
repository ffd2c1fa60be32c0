//! Finding and reading series, from any role.
//!
//! What a reader knows beside the region is its index alone. Whoever asks brings it up to the series that there were when the
//! question came, a bounded step at a time: labels are read before the index is locked, so that nobody waits for more than the
//! filing of one step.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use heirloom_region::error::{Error, Misuse};
use heirloom_region::series::{SeriesId, SeriesStore};
use tokio::sync::oneshot;

use super::index::{Found, Index};
use super::labels::Labels;
use super::matcher::Matcher;
use super::pattern::Compiled;
use super::postings::Postings;
use super::selection::Selection;
use super::{SeriesRef, TimestampMs};
use crate::control::spawn;

/// Series that are filed under one lock.
const STEP: u32 = 512;

/// Reads a region's series: of the owner while it writes, of a standby, of an observer. Cheap to clone; all clones share one
/// index, which is this process's own and is made on first use.
///
/// ```
/// # use heirloom_client::{embedded::Embedded, wait, Hooks};
/// use heirloom_client::series::{Labels, Matcher, Sample};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = Embedded::new("shop")?;
/// # let shop = arbiter.attach("v1").wait()?;
/// # let series = shop.region().series()?;
/// # let mut serving = wait(shop.ready(Hooks::new()))?;
/// # let term = wait(serving.next_term()).expect("owner");
/// # let up = series.open(&term, &Labels::new([("__name__", "up"), ("job", "shop")])?)?;
/// # series.append(&term, up, Sample { timestamp_ms: 1000, value: 1.0 })?;
/// let reader = arbiter.observe()?.series()?;
/// for series in reader.select(&[Matcher::equal("job", "shop")], 0..=5000)? {
///     let series = series?;
///     let samples: Vec<_> = series.samples().collect::<Result<_, _>>()?;
///     assert_eq!((series.labels().name(), samples[0].value), ("up", 1.0));
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    raw: SeriesStore,
    index: RwLock<Index>,
    /// One step at a time.
    step: Mutex<()>,
}

impl Reader {
    pub(crate) fn new(raw: SeriesStore) -> Self {
        Self { inner: Arc::new(Inner { raw, index: RwLock::default(), step: Mutex::default() }) }
    }
    pub(crate) fn raw(&self) -> &SeriesStore {
        &self.inner.raw
    }

    /// How many series there are, those without samples included: the directory of series only grows.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn count(&self) -> Result<u32, Error> {
        Ok(self.raw().count()?)
    }
    /// The end of the retention, as the last owner that let something go set it: samples before it are neither taken nor
    /// given. `i64::MIN` before.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn oldest_ms(&self) -> Result<TimestampMs, Error> {
        Ok(self.raw().oldest_ms()?)
    }
    /// The series with exactly these labels. Needs no index.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn find(&self, labels: &Labels) -> Result<Option<SeriesRef>, Error> {
        let pairs: Vec<_> = labels.iter().collect();
        Ok(self.raw().find(&pairs)?.map(|id| self.reference(id)))
    }
    /// A series' labels.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Misuse`] for a series of another region.
    pub fn labels(&self, series: SeriesRef) -> Result<Labels, Error> {
        self.read_labels(self.own(series)?)
    }
    /// Brings the index up to the series that there are, on a thread of its own: what a standby does in its prepare hook, so
    /// that its first [`select`](Self::select) as owner finds it done. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Io`] if no thread can be started.
    pub async fn warm(&self) -> Result<(), Error> {
        let (answer, done) = oneshot::channel();
        let (reader, count) = (self.clone(), self.count()?);
        spawn("heirloom-index", move || {
            while !answer.is_closed() && reader.step(count) {}
            let _ = answer.send(()); // nobody waits any more
        })?;
        let ended = || Error::io("index series", None, std::io::Error::other("the index's thread ended"));
        done.await.map_err(|_| ended())
    }

    /// The series that match all of `matchers` and have samples in `range_ms`, sorted by labels. Lock-free against the owner;
    /// samples are copied and decoded as they are asked for. An append that returned before this call is seen, if it is not
    /// expired by then; a later one may be.
    ///
    /// As in PromQL, at least one matcher must not match the empty value; `__name__!=""` takes every series.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an expression that is none, or matchers that all match the empty value; [`Error::Corrupt`]. What
    /// is wrong with one series is an error of the iterator, and the others follow.
    pub fn select(&self, matchers: &[Matcher], range_ms: RangeInclusive<TimestampMs>) -> Result<Selection, Error> {
        let matched = self.matching(&selective(matchers)?)?;
        // A chunk is kept as long as one of its samples is.
        let range_ms = self.oldest_ms()?.max(*range_ms.start())..=*range_ms.end();
        Ok(Selection::new(self.clone(), matched, range_ms))
    }
    /// The labels of the series that match all of `matchers`, sorted, whether or not they have samples.
    ///
    /// # Errors
    /// As [`select`](Self::select), and [`Error::Corrupt`] for any series that might match.
    pub fn list(&self, matchers: &[Matcher]) -> Result<Vec<Labels>, Error> {
        let matched = self.matching(&selective(matchers)?)?;
        matched.check()?;
        Ok(matched.series.into_iter().map(|(labels, _)| labels).collect())
    }
    /// The label names of the series that match all of `matchers`, of all series if there is none; sorted.
    ///
    /// # Errors
    /// As [`list`](Self::list), but any matchers will do.
    pub fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, Error> {
        self.of_index(matchers, Index::names)
    }
    /// The values of one label among the series that match all of `matchers`, or among all series if there is none; sorted.
    ///
    /// # Errors
    /// As [`label_names`](Self::label_names).
    pub fn label_values(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>, Error> {
        self.of_index(matchers, |index, of| index.values(name, of))
    }

    fn of_index<R>(&self, matchers: &[Matcher], ask: impl Fn(&Index, Option<&Postings>) -> R) -> Result<R, Error> {
        if matchers.is_empty() {
            self.caught_up()?;
            self.check_readable()?;
            return Ok(ask(&self.index(), None));
        }
        let compiled = compiled(matchers)?;
        let (found, unreadable) = self.found(&compiled)?;
        let numbers = match found.ask.is_empty() && unreadable.is_empty() {
            true => found.numbers,
            false => {
                let matched = self.read_all(&compiled, &found, &unreadable);
                matched.check()?;
                let mut numbers: Vec<u32> = matched.series.iter().map(|(_, id)| id.get()).collect();
                numbers.sort_unstable();
                Postings::Few(numbers)
            }
        };
        Ok(ask(&self.index(), Some(&numbers)))
    }

    /// Looks up the series that match, with their labels, sorted.
    fn matching(&self, matchers: &[Compiled]) -> Result<Matched, Error> {
        let (found, unreadable) = self.found(matchers)?;
        let mut matched = self.read_all(matchers, &found, &unreadable);
        matched.series.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(matched)
    }

    fn found(&self, matchers: &[Compiled]) -> Result<(Found, Vec<u32>), Error> {
        self.caught_up()?;
        let index = self.index();
        Ok((index.find(matchers), index.unreadable().to_vec()))
    }

    fn read_all(&self, matchers: &[Compiled], found: &Found, unreadable: &[u32]) -> Matched {
        let mut matched = Matched::default();
        let open: Vec<&Compiled> = found.ask.iter().map(|i| &matchers[*i]).collect();
        let all: Vec<&Compiled> = matchers.iter().collect();
        let found = found.numbers.iter().map(|number| (number, &open));
        for (number, ask) in found.chain(unreadable.iter().map(|number| (*number, &all))) {
            let id = SeriesId::new(number);
            match self.read_labels(id) {
                Ok(labels) if ask.iter().all(|matcher| matcher.matches(&labels)) => matched.series.push((labels, id)),
                Ok(_) => {}
                Err(fault) => matched.faults.push(fault),
            }
        }
        matched
    }

    fn read_labels(&self, id: SeriesId) -> Result<Labels, Error> {
        let pairs = self.raw().labels(id)?;
        Ok(Labels::of(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
    }

    /// Whether every series' labels can be read.
    fn check_readable(&self) -> Result<(), Error> {
        let unreadable = self.index().unreadable().to_vec();
        unreadable.into_iter().try_for_each(|number| self.raw().labels(SeriesId::new(number)).map(drop))?;
        Ok(())
    }

    /// Brings the index up to the series that there are now.
    fn caught_up(&self) -> Result<(), Error> {
        let count = self.raw().count()?;
        while self.step(count) {}
        Ok(())
    }

    /// Files some series below `count`; false if there are none left.
    fn step(&self, count: u32) -> bool {
        if self.index().next() >= count {
            return false;
        }
        let _one: MutexGuard<'_, ()> = self.inner.step.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.index().next();
        let labels = |number| self.raw().labels(SeriesId::new(number)).ok();
        let step: Vec<_> = (from..count.min(from.saturating_add(STEP))).map(labels).collect();
        let mut index = self.inner.index.write().unwrap_or_else(PoisonError::into_inner);
        for labels in &step {
            index.add(labels.as_ref().map(|pairs| pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
        }
        index.next() < count
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reference(&self, id: SeriesId) -> SeriesRef {
        SeriesRef { home: self.raw().process().id(), id }
    }
    /// The number of a series, if it is one of this region.
    #[inline]
    pub(crate) fn own(&self, series: SeriesRef) -> Result<SeriesId, Misuse> {
        match series.home == self.raw().process().id() {
            true => Ok(series.id),
            false => Err(foreign(series)),
        }
    }
}

#[cold]
fn foreign(series: SeriesRef) -> Misuse {
    Misuse::Argument { what: "series", found: format!("{} of another region or attachment", series.id) }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("indexed", &self.index().next()).finish()
    }
}

/// Series that match, and what is wrong with those that may.
#[derive(Debug, Default)]
pub(super) struct Matched {
    pub(super) series: Vec<(Labels, SeriesId)>,
    pub(super) faults: Vec<Error>,
}

impl Matched {
    /// Whether all is known.
    fn check(&self) -> Result<(), Error> {
        match self.faults.first() {
            Some(Error::Corrupt(fault)) => Err(fault.clone().into()),
            _ => Ok(()),
        }
    }
}

fn compiled(matchers: &[Matcher]) -> Result<Vec<Compiled>, Misuse> {
    matchers.iter().map(Compiled::new).collect()
}

/// As PromQL demands: at least one matcher does not match the empty value.
fn selective(matchers: &[Matcher]) -> Result<Vec<Compiled>, Misuse> {
    let compiled = compiled(matchers)?;
    if compiled.iter().all(Compiled::matches_empty) {
        let all: Vec<String> = matchers.iter().map(Matcher::to_string).collect();
        let found = format!("{{{}}}, expected at least one that does not match the empty value", all.join(","));
        return Err(Misuse::Argument { what: "matchers", found });
    }
    Ok(compiled)
}
