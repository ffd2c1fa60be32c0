//! Bits to samples.

use super::bits::Reader;
use super::encode::State;
use super::{COUNT_BYTES, Sample};

/// Bytes that are no XOR chunk.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// Not even a count.
    #[error("a chunk of {found_bytes} bytes, expected at least 2")]
    NoCount {
        /// Length.
        found_bytes: usize,
    },
    /// More samples than the bits can hold.
    #[error("a chunk's count {found}, expected at most {most} in {bits} bits")]
    Count {
        /// In the bytes.
        found: u16,
        /// Of the shortest samples.
        most: usize,
        /// Bits after the count.
        bits: usize,
    },
    /// The bits end within a sample.
    #[error("sample {sample} of a chunk: {found_bits} bits for its {what}, expected at least {expected_bits}")]
    Truncated {
        /// Which, from 0.
        sample: u16,
        /// What was being read.
        what: &'static str,
        /// Bits that it needs.
        expected_bits: usize,
        /// Bits that are left.
        found_bits: usize,
    },
    /// A varint that goes on beyond 64 bits.
    #[error("sample {sample} of a chunk: a varint of more than 64 bits, expected at most 10 bytes")]
    Varint {
        /// Which, from 0.
        sample: u16,
    },
    /// A window that does not lie in a value.
    #[error("sample {sample} of a chunk: {leading} leading zeros and {width} bits, expected at most 64 together")]
    Window {
        /// Which, from 0.
        sample: u16,
        /// Leading zeros.
        leading: u8,
        /// Bits after them.
        width: u8,
    },
    /// Whole bytes after the last sample.
    #[error("a chunk of {found_bytes} bytes, expected {expected_bytes} for its samples")]
    Length {
        /// Bytes that the samples take.
        expected_bytes: usize,
        /// Length.
        found_bytes: usize,
    },
}

/// Gives a chunk's samples one after the other, and ends with the first error.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bits: Reader<'a>,
    state: State,
    count: u16,
    next: u16,
    /// What was wrong with the count, until it was told.
    refused: Option<BadChunk>,
}

impl<'a> Decoder<'a> {
    /// Of a chunk in Prometheus' form, the 2-byte count first.
    pub fn new(chunk: &'a [u8]) -> Self {
        match chunk.split_first_chunk::<COUNT_BYTES>() {
            Some((count, bits)) => Self::of_bits(u16::from_be_bytes(*count), bits),
            None => {
                let refused = Some(BadChunk::NoCount { found_bytes: chunk.len() });
                Self { refused, ..Self::of_bits(0, &[]) }
            }
        }
    }

    /// Of the bits alone.
    fn of_bits(count: u16, bytes: &'a [u8]) -> Self {
        let (bits, most) = (bytes.len() * 8, most_samples(bytes.len() * 8));
        let refused = (usize::from(count) > most).then_some(BadChunk::Count { found: count, most, bits });
        let count = if refused.is_some() { 0 } else { count };
        Self { bits: Reader::new(bytes), state: State::EMPTY, count, next: 0, refused }
    }

    /// Samples that the chunk says it has; none if it cannot have them.
    pub fn samples(&self) -> u16 {
        self.count
    }

    /// What the sample after the last one given is encoded against.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Bits taken so far, without the count.
    pub(crate) fn bits_taken(&self) -> usize {
        self.bits.taken()
    }

    fn read(&mut self) -> Result<Sample, BadChunk> {
        match self.next {
            0 => {
                let zigzag = self.uvarint()?;
                self.state.timestamp_ms = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
                self.state.value = self.take(64, "value")?;
            }
            1 => {
                self.state.delta = self.uvarint()?;
                self.advance();
                self.read_value()?;
            }
            _ => {
                let change = self.read_change()?;
                self.state.delta = self.state.delta.wrapping_add(change as u64);
                self.advance();
                self.read_value()?;
            }
        }
        Ok(Sample { timestamp_ms: self.state.timestamp_ms, value: f64::from_bits(self.state.value) })
    }

    fn advance(&mut self) {
        self.state.timestamp_ms = self.state.timestamp_ms.wrapping_add(self.state.delta as i64);
    }

    fn read_change(&mut self) -> Result<i64, BadChunk> {
        const WHAT: &str = "timestamp";
        let mut ones = 0;
        while ones < 4 && self.take(1, WHAT)? == 1 {
            ones += 1;
        }
        let n = match ones {
            0 => return Ok(0),
            1 => 14,
            2 => 17,
            3 => 20,
            _ => return Ok(self.take(64, WHAT)? as i64),
        };
        let bits = self.take(n, WHAT)? as i64;
        Ok(if bits > 1 << (n - 1) { bits - (1 << n) } else { bits })
    }

    fn read_value(&mut self) -> Result<(), BadChunk> {
        const WHAT: &str = "value";
        if self.take(1, WHAT)? == 0 {
            return Ok(());
        }
        if self.take(1, WHAT)? == 1 {
            let (leading, width) = (self.take(5, WHAT)? as u8, self.take(6, WHAT)? as u8);
            let width = if width == 0 { 64 } else { width };
            if leading + width > 64 {
                return Err(BadChunk::Window { sample: self.next, leading, width });
            }
            (self.state.leading, self.state.trailing) = (leading, 64 - leading - width);
        } else if !self.state.has_window() {
            // What a Prometheus writes that went on with a chunk after a restart: the whole value is its window.
            (self.state.leading, self.state.trailing) = (0, 0);
        }
        let width = 64 - u32::from(self.state.leading) - u32::from(self.state.trailing);
        self.state.value ^= self.take(width, WHAT)? << self.state.trailing;
        Ok(())
    }

    fn uvarint(&mut self) -> Result<u64, BadChunk> {
        let mut value = 0;
        for i in 0..10 {
            let byte = self.take(8, "timestamp")?;
            if i == 9 && byte > 1 {
                break;
            }
            value |= (byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadChunk::Varint { sample: self.next })
    }

    #[inline]
    fn take(&mut self, n: u32, what: &'static str) -> Result<u64, BadChunk> {
        self.bits.get(n).ok_or_else(|| {
            let (expected_bits, found_bits) = (n as usize, self.bits.left());
            BadChunk::Truncated { sample: self.next, what, expected_bits, found_bits }
        })
    }

    /// After the last sample there is less than a byte. One byte more is let pass where the last sample ends with a byte:
    /// Prometheus up to 2.42 left an empty one there.
    fn check_end(&self) -> Result<(), BadChunk> {
        let (taken, left) = (self.bits.taken(), self.bits.left());
        let spare = if taken.is_multiple_of(8) { 8 } else { 7 };
        if left <= spare {
            return Ok(());
        }
        let expected_bytes = COUNT_BYTES + taken.div_ceil(8);
        Err(BadChunk::Length { expected_bytes, found_bytes: COUNT_BYTES + (taken + left) / 8 })
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<Sample, BadChunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(refused) = self.refused.take() {
            return Some(Err(refused));
        }
        if self.next >= self.count {
            return None;
        }
        let sample = self.read();
        self.next = if sample.is_ok() { self.next + 1 } else { self.count };
        if self.next == self.count && sample.is_ok() {
            self.refused = self.check_end().err();
        }
        Some(sample)
    }
}

/// How many samples so many bits can hold: a first one of 72, a second of 9, then 2 each.
fn most_samples(bits: usize) -> usize {
    match bits {
        0..72 => 0,
        72..81 => 1,
        _ => 2 + (bits - 81) / 2,
    }
}
