//! What a selection gives: series, their samples and their chunks.

use std::fmt;
use std::ops::RangeInclusive;
use std::vec;

use heirloom_region::error::{Corrupt, Error, Incompatible};
use heirloom_region::series::xor::Decoder;
use heirloom_region::series::{Chunk, Chunks, Encoding, Sample, SeriesId};

use super::labels::Labels;
use super::reader::{Matched, Reader};
use super::{SeriesRef, TimestampMs};

/// Series that match, sorted by labels; what could not be read comes first, as errors. Each one's chunks are copied out of the
/// region as it comes.
pub struct Selection {
    reader: Reader,
    faults: vec::IntoIter<Error>,
    series: vec::IntoIter<(Labels, SeriesId)>,
    range_ms: RangeInclusive<TimestampMs>,
}

impl Selection {
    pub(super) fn new(reader: Reader, matched: Matched, range_ms: RangeInclusive<TimestampMs>) -> Self {
        let Matched { series, faults } = matched;
        Self { reader, faults: faults.into_iter(), series: series.into_iter(), range_ms }
    }
}

impl Iterator for Selection {
    type Item = Result<Series, Error>;
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(fault) = self.faults.next() {
            return Some(Err(fault));
        }
        loop {
            let (labels, id) = self.series.next()?;
            let chunks = match self.reader.raw().chunks(id, self.range_ms.clone()) {
                Ok(chunks) => chunks,
                Err(fault) => return Some(Err(fault)),
            };
            let reference = self.reader.reference(id);
            let series = Series { labels, reference, chunks, range_ms: self.range_ms.clone() };
            if !series.is_empty() {
                return Some(Ok(series));
            }
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.faults.len(), Some(self.faults.len() + self.series.len()))
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection").field("left", &self.series.len()).field("range_ms", &self.range_ms).finish()
    }
}

/// One selected series, as it was when it came out of its [`Selection`].
#[derive(Clone, Debug)]
pub struct Series {
    labels: Labels,
    reference: SeriesRef,
    chunks: Chunks,
    range_ms: RangeInclusive<TimestampMs>,
}

impl Series {
    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
    /// Itself, to append to.
    pub fn reference(&self) -> SeriesRef {
        self.reference
    }
    /// Its samples in the range, in order of time, decoded as they are asked for.
    ///
    /// An error ends a chunk: [`Error::Corrupt`] for bytes that no encoder makes; last of all [`Error::Incompatible`] if there
    /// are chunks in an encoding that this build does not read.
    pub fn samples(&self) -> impl Iterator<Item = Result<Sample, Error>> + '_ {
        let outside = |sample: &Sample| !self.range_ms.contains(&sample.timestamp_ms);
        let decoded = self.chunks.chunks.iter().flat_map(move |chunk| {
            let corrupt = move |bad: heirloom_region::series::xor::BadChunk| {
                Error::from(Corrupt::field("bytes of a series' chunk", 0, bad.to_string(), chunk.bytes.len() as u64))
            };
            Decoder::new(&chunk.bytes)
                .map(move |sample| sample.map_err(corrupt))
                .filter(move |sample| !sample.as_ref().is_ok_and(outside))
        });
        decoded.chain(self.chunks.skipped.iter().map(|encoding| Err(self.unreadable(*encoding))))
    }
    /// Its chunks that touch the range, oldest first, as Prometheus encodes them: the ones at the ends hold samples outside of
    /// it too.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks.chunks
    }
    /// Encodings of chunks that this build cannot read and has left out.
    pub fn skipped(&self) -> &[Encoding] {
        &self.chunks.skipped
    }

    /// Whether no sample is in the range.
    fn is_empty(&self) -> bool {
        let ends_inside = |c: &Chunk| self.range_ms.contains(&c.min_ms) || self.range_ms.contains(&c.max_ms);
        self.chunks.skipped.is_empty() && !self.chunks.chunks.iter().any(ends_inside) && self.samples().next().is_none()
    }

    #[cold]
    fn unreadable(&self, encoding: Encoding) -> Error {
        let why = "no chunk encoding of this build".to_owned();
        Incompatible::Decode { name: self.labels.to_string(), schema: encoding.0.into(), why }.into()
    }
}
