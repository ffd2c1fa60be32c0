//! Prometheus' messages, and how they cross HTTP: snappy's block format, and CRC-framed streams.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

pub use heirloom_proto::prometheus::*;

/// What remote write 1.0 and remote read requests are.
pub const PROTOBUF: &str = "application/x-protobuf";
/// What a `STREAMED_XOR_CHUNKS` answer is.
pub const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

/// A message in snappy's block format.
///
/// # Panics
/// Never: snappy refuses only what is longer than 4 GiB.
pub fn compressed(message: &impl Message) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(&message.encode_to_vec()).expect("shorter than 4 GiB")
}

/// A frame of a stream: its length as a varint, the CRC-32C of its bytes, big-endian, and its bytes.
pub fn frame(message: &ChunkedReadResponse) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(message.len() + 14);
    encode_varint(message.len() as u64, &mut frame);
    frame.put_u32(crc32c::crc32c(&message));
    frame.put_slice(&message);
    frame.freeze()
}

/// Why a stream of frames cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    /// The stream ends within a frame.
    #[error("a frame of {expected} bytes is cut short after {found}")]
    Cut {
        /// Its length.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// Its checksum is another.
    #[error("a frame's CRC-32C is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// As sent.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// Its length, or what it holds, is no protobuf.
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
}

/// All frames of a stream, for clients.
///
/// # Errors
/// [`BadFrame`], at the first one that is bad.
pub fn frames(mut stream: &[u8]) -> Result<Vec<ChunkedReadResponse>, BadFrame> {
    let mut all = Vec::new();
    while !stream.is_empty() {
        let expected = usize::try_from(decode_varint(&mut stream)?).unwrap_or(usize::MAX);
        let found = stream.len().saturating_sub(4);
        if found < expected || stream.len() < 4 {
            return Err(BadFrame::Cut { expected, found });
        }
        let sum = stream.get_u32();
        let (message, rest) = stream.split_at(expected);
        if crc32c::crc32c(message) != sum {
            return Err(BadFrame::Checksum { expected: sum, found: crc32c::crc32c(message) });
        }
        all.push(ChunkedReadResponse::decode(message)?);
        stream = rest;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(query_index: i64) -> ChunkedReadResponse {
        let chunk = Chunk { min_time_ms: 1, max_time_ms: 2, r#type: chunk::Encoding::Xor.into(), data: vec![7; 300] };
        let labels = vec![Label { name: "__name__".into(), value: "up".into() }];
        ChunkedReadResponse { chunked_series: vec![ChunkedSeries { labels, chunks: vec![chunk] }], query_index }
    }

    #[test]
    fn frames_are_read_back_and_damage_is_named() {
        let stream = [frame(&response(0)), frame(&response(1))].concat();
        assert_eq!(frames(&stream).expect("whole"), [response(0), response(1)]);
        assert!(matches!(frames(&stream[..stream.len() - 1]), Err(BadFrame::Cut { .. })));
        assert!(matches!(frames(&stream[..3]), Err(BadFrame::Cut { found: 0, .. })));
        let mut damaged = stream;
        damaged[10] ^= 1;
        assert!(matches!(frames(&damaged), Err(BadFrame::Checksum { .. })));
    }

    /// The polynomial is Castagnoli's and the sum is big-endian: RFC 3720's example of 32 zero bytes.
    #[test]
    fn the_sum_is_castagnolis() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let empty = frame(&ChunkedReadResponse::default());
        assert_eq!(empty[..], [0, 0, 0, 0, 0]);
        let one = ChunkedReadResponse { query_index: 1, ..Default::default() };
        assert_eq!(frame(&one)[1..5], crc32c::crc32c(&one.encode_to_vec()).to_be_bytes());
    }
}
