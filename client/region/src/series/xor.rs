//! Prometheus' XOR chunks of float samples, bit for bit.
//!
//! A chunk is a 2-byte big-endian count and a stream of bits, most significant first, the last byte filled with zeros. Facts
//! from `tsdb/chunkenc/xor.go` and `docs/bstream.md` of Prometheus:
//!
//! ```text
//! sample 0   timestamp as zigzag varint | value, 64 bits
//! sample 1   difference of timestamps as uvarint | value
//! others     difference of differences: 0 | 10 and 14 bits | 110 and 17 | 1110 and 20 | 1111 and 64, two's complement, where
//!            n bits hold -(2^(n-1) - 1) ..= 2^(n-1) | value
//! value      XOR with the one before: 0 if nothing changed | 10 and the bits of the last window | 11, leading zeros (5 bits,
//!            at most 31), width (6 bits, 64 written as 0), and the bits of this new window
//! ```
//!
//! A window is used again whenever the changed bits lie in it, as Prometheus does, however narrow they are. Values are bits:
//! stale markers and every NaN's payload stay as they are. Timestamps wrap as Go's integers do.
//!
//! **Bytes are input.** [`Decoder`] makes at most as many steps as the count says, reads no bit beyond the slice, and ends with
//! the first error. A count that so few bits cannot hold is refused before anything is decoded.

use super::Sample;

mod bits;
mod decode;
mod encode;

pub use decode::{BadChunk, Decoder};
pub use encode::Encoder;

pub(crate) use bits::{Sink, Writer};
pub(crate) use encode::State;

/// Bytes of the count before the bits.
pub(crate) const COUNT_BYTES: usize = 2;
/// Most bits that one sample takes: 4 and 64 for the timestamp, 2, 5, 6 and 64 for the value. (A first or second sample
/// takes at most 80 for its timestamp, and so stays below with its value: 144, 157.)
pub(crate) const SAMPLE_BITS_MAX: u32 = 80 + 2 + 5 + 6 + 64;

#[cfg(test)]
mod tests;
