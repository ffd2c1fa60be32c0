//! Finding what is new, in slices: one call looks at a bounded number of series and gathers one request's samples at most.
//!
//! Reads only, and never on an arbiter's thread. The region is the queue: what does not fit stays there. All bytes are input; a
//! series that cannot be read is told once, and again when it has changed.

use heirloom_region::error::Error;
use heirloom_region::series::xor::Decoder;
use heirloom_region::series::{Sample, SeriesId, SeriesStore, Stamp, Tail};

use super::cursors::Part;
use super::message::{Body, Labels};

/// Series that one call looks at.
const LOOKS_PER_CALL: u32 = 1 << 16;
/// A request with so many bytes takes no further series.
const BODY_BYTES_ENOUGH: usize = 2 << 20;
/// Chunks have about as many samples as these, or more.
const CHUNK_SAMPLES_LOW: usize = 60;
/// Chunks of the largest part that a request can have.
const PART_CHUNKS_MAX: usize = 100_000 / CHUNK_SAMPLES_LOW + 2;

/// What is kept of one series.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Its last settled sample.
    after_ms: Option<i64>,
    /// Everything up to it was read.
    stamp: Option<Stamp>,
}

/// The series of one shard, and where its reading is. Those whose number modulo the number of shards is the shard's.
#[derive(Debug)]
pub(super) struct Scan {
    store: SeriesStore,
    shard: u32,
    shards: u32,
    known: Vec<Known>,
    labels: Labels,
    next: u32,
}

/// One request's samples.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) body: Body,
    pub(super) samples: u64,
    /// Series and the times of their last samples in it.
    pub(super) parts: Vec<Part>,
    stamps: Vec<Option<Stamp>>,
    /// Series whose samples had gone before they were read.
    pub(super) gaps: u64,
    /// Series that could not be read, and the first of them.
    pub(super) unreadable: u64,
    pub(super) fault: Option<String>,
    /// Chunks of an encoding that this build does not know.
    pub(super) skipped: u64,
    /// The pass over all series is over.
    pub(super) ends_pass: bool,
}

impl Scan {
    /// `after` says what was settled before.
    pub(super) fn new(
        store: SeriesStore,
        (shard, shards): (u32, u32),
        labels: Labels,
        after: impl Fn(SeriesId) -> Option<i64>,
    ) -> Result<Self, Error> {
        let count = store.count()?;
        let known = (0..)
            .map(|place: u32| place.saturating_mul(shards).saturating_add(shard))
            .take_while(|id| *id < count)
            .map(|id| Known { after_ms: after(SeriesId::new(id)), stamp: None });
        Ok(Scan { known: known.collect(), store, shard, shards, labels, next: 0 })
    }

    /// The next request; without samples if there was nothing new among the series that were looked at.
    pub(super) fn next(&mut self, samples_max: usize, is_over: &dyn Fn() -> bool) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        let count = self.store.count()?;
        for _ in 0..LOOKS_PER_CALL {
            let id = u64::from(self.next) * u64::from(self.shards) + u64::from(self.shard);
            if id >= u64::from(count) {
                self.next = 0;
                batch.ends_pass = true;
                break;
            }
            let room = samples_max - batch.samples as usize;
            if room == 0 || batch.body.0.len() >= BODY_BYTES_ENOUGH || is_over() {
                break;
            }
            self.look(SeriesId::new(id as u32), room, &mut batch);
            self.next += 1;
        }
        Ok(batch)
    }

    fn look(&mut self, id: SeriesId, room: usize, batch: &mut Batch) {
        let place = self.next as usize;
        if self.known.len() <= place {
            self.known.resize(place + 1, Known::default());
        }
        let known = self.known[place];
        let read = match self.store.stamp(id) {
            Ok(stamp) if known.stamp == Some(stamp) => return,
            // Whatever comes of it: not again until it has changed.
            Ok(stamp) => {
                self.known[place].stamp = Some(stamp);
                self.read(id, place, room, batch)
            }
            Err(error) => Err(error.into()),
        };
        match read {
            Ok(()) => {}
            // Its owner never gave a moment's rest.
            Err(Error::NotReady(_)) => self.known[place].stamp = None,
            Err(error) => {
                batch.unreadable += 1;
                batch.fault.get_or_insert_with(|| format!("series {id}: {error}"));
            }
        }
    }

    fn read(&mut self, id: SeriesId, place: usize, room: usize, batch: &mut Batch) -> Result<(), Error> {
        let after_ms = self.known[place].after_ms;
        let tail = self.store.tail(id, after_ms, room / CHUNK_SAMPLES_LOW + 2)?;
        let (samples, is_all) = new_samples(&tail, after_ms, i64::MAX, room);
        batch.skipped += tail.chunks.skipped.len() as u64;
        let stamp = Some(tail.stamp).filter(|_| is_all && tail.is_whole);
        // What is gone is passed over, so that it is told once.
        let last_ms = samples.last().map(|s| s.timestamp_ms).or(tail.sealed_ms.filter(|_| tail.has_gap));
        let Some(last_ms) = last_ms else {
            self.known[place].stamp = stamp;
            return Ok(());
        };
        if !samples.is_empty() {
            batch.body.add(&mut self.labels, &self.store, (id, place), &samples)?;
        }
        batch.gaps += u64::from(tail.has_gap);
        batch.samples += samples.len() as u64;
        batch.parts.push((id, last_ms));
        batch.stamps.push(stamp);
        Ok(())
    }

    /// The request with these parts again, as far as the region still has its samples. Of the series of all shards.
    pub(super) fn again(store: &SeriesStore, labels: &mut Labels, parts: &[(Part, Option<i64>)]) -> Batch {
        let mut batch = Batch::default();
        for &((id, to_ms), after_ms) in parts {
            let read = store.tail(id, after_ms, PART_CHUNKS_MAX).and_then(|tail| {
                let (samples, _) = new_samples(&tail, after_ms, to_ms, usize::MAX);
                if !samples.is_empty() {
                    batch.body.add(labels, store, (id, id.get() as usize), &samples)?;
                }
                batch.samples += samples.len() as u64;
                batch.parts.push((id, to_ms));
                Ok(())
            });
            // It is read as all others are, and what was not settled is found again.
            if let Err(error) = read {
                batch.unreadable += 1;
                batch.fault.get_or_insert_with(|| format!("series {id}: {error}"));
            }
        }
        batch
    }

    /// The batch is settled: reading goes on after it.
    pub(super) fn settled(&mut self, batch: &Batch) {
        for (&(id, ms), stamp) in batch.parts.iter().zip(&batch.stamps) {
            if let Some(known) = self.known.get_mut((id.get() / self.shards) as usize) {
                *known = Known { after_ms: Some(ms), stamp: *stamp };
            }
        }
    }
}

/// The first `most` samples after one time and up to another; whether these are all up to it.
fn new_samples(tail: &Tail, after_ms: Option<i64>, to_ms: i64, most: usize) -> (Vec<Sample>, bool) {
    let chunks = tail.chunks.chunks.iter();
    // The store has decoded them all before.
    let samples = chunks.flat_map(|chunk| Decoder::new(&chunk.bytes).map_while(Result::ok));
    let mut samples = samples
        .filter(|sample| after_ms.is_none_or(|after| sample.timestamp_ms > after))
        .take_while(|sample| sample.timestamp_ms <= to_ms)
        .fuse();
    let taken: Vec<Sample> = samples.by_ref().take(most).collect();
    let is_all = taken.len() < most || samples.next().is_none();
    (taken, is_all)
}
