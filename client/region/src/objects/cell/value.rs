//! A cell's value as bytes: one encoding per schema that its writer offers.
//!
//! ```text
//! parts:32, then for each  schema:32 | codec:16 | zero:16 | len:32 | zero:32, bytes, zeros to the next word
//! ```

use super::Stamp;
use crate::directory::entry::{bytes_of, words_of};
use crate::error::{Corrupt, Generation};

/// Largest value that a cell can have.
pub(super) const BYTES_MAX: u64 = 1 << 30;
/// Most parts of one value.
pub(super) const PARTS_MAX: u64 = 64;

/// One encoding of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the schema.
    pub schema: u32,
    /// Number of the codec.
    pub codec: u16,
    /// What the codec made.
    pub bytes: Vec<u8>,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellValue {
    /// The same value in one or more schemas; the writer's own first.
    pub parts: Vec<Part>,
    /// Of the write that made it.
    pub stamp: Stamp,
    /// In which generation it was written.
    pub generation: Generation,
}

/// Bytes that [`encode`] makes of these.
pub(super) fn len_bytes(parts: &[Part]) -> u64 {
    8 + parts.iter().map(|p| 16 + (p.bytes.len() as u64).next_multiple_of(8)).sum::<u64>()
}

pub(super) fn encode(parts: &[Part]) -> Vec<u64> {
    let mut words = Vec::with_capacity(len_bytes(parts) as usize / 8);
    words.push(parts.len() as u64);
    for part in parts {
        words.push(u64::from(part.schema) | u64::from(part.codec) << 32);
        words.push(part.bytes.len() as u64);
        words.extend(words_of(&part.bytes));
    }
    words
}

/// Never panics, whatever the words; `offset` is for errors.
pub(super) fn decode(words: &[u64], len_bytes: u32, offset: u64) -> Result<Vec<Part>, Corrupt> {
    let bad = |what, expected: &'static str, found| Err(Corrupt::field(what, offset, expected, found));
    let mut rest = words;
    let count = rest.split_off_first().copied().unwrap_or(0);
    if count > PARTS_MAX || u64::from(len_bytes) != words.len() as u64 * 8 {
        return bad("cell's number of parts", "at most 64, in whole words", count);
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        let Some([head, len]) = rest.split_off(..2) else {
            return bad("cell's number of parts", "as many as there are", count);
        };
        let taken = usize::try_from(len.div_ceil(8)).ok().and_then(|n| rest.split_off(..n));
        let Some(taken) = taken else {
            return bad("length of a cell's part", "no more than its value", *len);
        };
        let mut bytes = bytes_of(taken);
        bytes.truncate(*len as usize);
        parts.push(Part { schema: *head as u32, codec: (head >> 32) as u16, bytes });
    }
    if rest.is_empty() { Ok(parts) } else { bad("length of a cell's value", "that of its parts", rest.len() as u64) }
}

/// The schemas of a value's parts, without their bytes: of each part `word` is asked for its two words. `words` is the value's
/// length. As [`decode`], never panics.
pub(super) fn schemas(words: u64, offset: u64, word: impl Fn(u64) -> Option<u64>) -> Result<Vec<u32>, Corrupt> {
    let bad = |what, expected: &'static str, found| Err(Corrupt::field(what, offset, expected, found));
    let count = if words == 0 { 0 } else { word(0).unwrap_or(0) };
    if count > PARTS_MAX {
        return bad("cell's number of parts", "at most 64, in whole words", count);
    }
    let (mut schemas, mut at) = (Vec::with_capacity(count as usize), 1);
    for _ in 0..count {
        let (Some(head), Some(len)) = (word(at), word(at + 1)) else {
            return bad("cell's number of parts", "as many as there are", count);
        };
        schemas.push(head as u32);
        at += 2;
        if len.div_ceil(8) > words.saturating_sub(at) {
            return bad("length of a cell's part", "no more than its value", len);
        }
        at += len.div_ceil(8);
    }
    if at.min(words) == words { Ok(schemas) } else { bad("length of a cell's value", "that of its parts", words - at) }
}

pub(super) fn value_crc(version: u64, generation: u32, len: u32, words: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    update(&mut hasher, &[version, u64::from(generation) | u64::from(len) << 32]);
    update(&mut hasher, words);
    hasher.finalize()
}

/// Many bytes at a time: word by word the CRC takes ten times as long.
fn update(hasher: &mut crc32fast::Hasher, words: &[u64]) {
    const CHUNK_WORDS: usize = 64;
    let mut bytes = [0; CHUNK_WORDS * 8];
    for chunk in words.chunks(CHUNK_WORDS) {
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(chunk) {
            *to = word.to_le_bytes();
        }
        hasher.update(&bytes[..chunk.len() * 8]);
    }
}

pub(super) fn crc(words: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    update(&mut hasher, words);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let part = (any::<u32>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(schema, codec, bytes)| Part { schema, codec, bytes });
        prop::collection::vec(part, 0..5)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(parts in parts()) {
            let words = encode(&parts);
            prop_assert_eq!(words.len() as u64 * 8, len_bytes(&parts));
            prop_assert_eq!(decode(&words, words.len() as u32 * 8, 0), Ok(parts));
        }

        #[test]
        fn a_crc_in_chunks_is_the_crc_of_the_bytes(words in prop::collection::vec(any::<u64>(), 0..200)) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(crc(&words), crc32fast::hash(&bytes));
            let head = [7u64, 3 | 9 << 32].iter().flat_map(|word| word.to_le_bytes());
            let all: Vec<u8> = head.chain(bytes).collect();
            prop_assert_eq!(value_crc(7, 3, 9, &words), crc32fast::hash(&all));
        }

        #[test]
        fn arbitrary_words_never_panic(words in prop::collection::vec(0u64..80, 0..20), wild: u64, at: prop::sample::Index) {
            let mut words = words;
            if !words.is_empty() {
                let i = at.index(words.len());
                words[i] = wild;
            }
            let _ = decode(&words, words.len() as u32 * 8, 0);
        }
    }
}
