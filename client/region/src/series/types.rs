//! What goes into the store and comes out of it, and how an append may be refused.

use std::fmt;

use crate::error::WriteError;

/// One sample of a series.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// Its bits are kept: a stale marker is a NaN with a payload of its own.
    pub value: f64,
}

/// Equal bits: a stale marker equals itself, and 0 is not -0.
impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        (self.timestamp_ms, self.value.to_bits()) == (other.timestamp_ms, other.value.to_bits())
    }
}

impl Eq for Sample {}

/// A series' number: dense from 0, the same in every process, never given to other labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub(crate) u32);

impl SeriesId {
    /// The series with this number; whether there is one, the store says.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A series' labels, `__name__` among them, sorted by name.
pub type LabelSet = Vec<(String, String)>;

/// What became of a sample that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the region.
    New,
    /// It was there before: the same timestamp and the same bits.
    Duplicate,
}

/// Why Prometheus would not take a sample either. It will not be taken later.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Older than the series' last sample.
    #[error("out of order sample: at {found_ms} ms, expected after {last_ms} ms")]
    OutOfOrder {
        /// The sample's time.
        found_ms: i64,
        /// That of the series' last.
        last_ms: i64,
    },
    /// Older than what is kept.
    #[error("too old sample: at {found_ms} ms, expected at or after {oldest_ms} ms")]
    TooOld {
        /// The sample's time.
        found_ms: i64,
        /// The end of the retention.
        oldest_ms: i64,
    },
    /// The series' last sample has this timestamp and another value.
    #[error("duplicate sample for timestamp {timestamp_ms} ms: bits {found:#018x}, expected {expected:#018x}")]
    Conflict {
        /// Of both.
        timestamp_ms: i64,
        /// The kept value's bits.
        expected: u64,
        /// The sample's.
        found: u64,
    },
}

/// Why a sample is not in the region.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The sample is at fault.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It could not be written; the owner may write it later.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What became of a whole batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Samples that are in the region now.
    pub appended: u64,
    /// Samples that were there before.
    pub duplicates: u64,
    /// Samples refused: their place in the batch, and why.
    pub rejected: Vec<(usize, Rejected)>,
}

/// A batch of which only the beginning was taken.
#[derive(Debug, thiserror::Error)]
#[error("{committed} samples of a batch were taken, the next was not: {error}")]
pub struct Interrupted {
    /// Samples from the batch's start that are settled: in the region, there before, or refused. Of the others none is there.
    pub committed: usize,
    /// What became of those.
    pub commit: Commit,
    /// Why the next could not be written.
    #[source]
    pub error: WriteError,
}

/// How a chunk's bits are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoding(pub u8);

impl Encoding {
    /// Prometheus' XOR encoding of floats; the number is Prometheus' too.
    pub const XOR: Encoding = Encoding(1);
}

/// A chunk as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First sample's time.
    pub min_ms: i64,
    /// Last sample's time.
    pub max_ms: i64,
    /// Samples.
    pub count: u16,
    /// How they are encoded.
    pub encoding: Encoding,
    /// Prometheus' form: the 2-byte count, then the bits to the next whole byte.
    pub bytes: Vec<u8>,
}

/// Chunks of one series, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    /// Those that this build can decode.
    pub chunks: Vec<Chunk>,
    /// Encodings of those that it cannot, one for each; they were skipped whole.
    pub skipped: Vec<Encoding>,
}
