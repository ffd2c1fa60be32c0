//! How a cell's value becomes bytes, and the one place that knows bincode.
//!
//! # The byte format of codec 1
//!
//! bincode 2.0.1, `config::standard()`, through serde: little endian, variable-length integers. Nothing in it describes
//! itself, so a changed type is a new schema number. So that leaving bincode is cheap, here is all of it:
//!
//! | value | bytes |
//! |---|---|
//! | `u8`, `i8`, `bool` | one byte; `bool` is 0 or 1 |
//! | `u16` to `u128` | 0 to 250: that byte. Else a marker, then the number in little endian: `0xfb` u16, `0xfc` u32, `0xfd` u64, `0xfe` u128; the shortest that fits |
//! | `i16` to `i128` | zigzag (`(n << 1) ^ (n >> 63)`), then as unsigned |
//! | `f32`, `f64` | IEEE 754 bits, little endian, 4 or 8 bytes |
//! | `char` | UTF-8, 1 to 4 bytes |
//! | `str`, bytes, sequences, maps | length as `u64` above, then the elements (a map: key, value, key, value …) |
//! | `Option` | 0; or 1 and the value |
//! | struct, tuple, array | the fields in order, nothing between |
//! | enum | the variant's index as `u32` above, then its fields |
//! | unit | nothing |
//!
//! The crate is unmaintained and its release 3.0.0 does not compile; the version is pinned. wincode reads and writes this
//! format. The codec's id stands beside each value, so another codec can come without converting what is there.
//!
//! Bytes come from the region, so they are input: lengths are bounded before anything is allocated, and what is left over
//! is an error.

use serde::{Serialize, de::DeserializeOwned};

/// A value's encoding; its id stands beside the value.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// bincode 2, standard configuration. Not self-describing.
    #[default]
    Bincode,
}

/// Bytes that one decode may claim in memory: a wrong length must not become an allocation of any size.
const DECODED_BYTES_MAX: usize = 4 << 30;

impl Codec {
    /// The number that stands beside a value.
    pub(crate) const fn id(self) -> u16 {
        match self {
            Codec::Bincode => 1,
        }
    }

    /// The codec with this number, if this build knows it.
    pub(crate) const fn from_id(id: u16) -> Option<Self> {
        match id {
            1 => Some(Codec::Bincode),
            _ => None,
        }
    }

    /// `value` as bytes; what went wrong, in words.
    pub(crate) fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, String> {
        match self {
            Codec::Bincode => {
                bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(|e| e.to_string())
            }
        }
    }

    /// The value of which all of `bytes` is the encoding; what went wrong, in words.
    pub(crate) fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, String> {
        match self {
            Codec::Bincode => {
                let config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();
                let (value, read) = bincode::serde::decode_from_slice(bytes, config).map_err(|e| e.to_string())?;
                match read == bytes.len() {
                    true => Ok(value),
                    false => Err(format!("the value ends after {read} bytes, {} were written", bytes.len())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    fn bytes<T: Serialize>(value: T) -> Vec<u8> {
        Codec::Bincode.encode(&value).expect("encodes")
    }

    /// The table above, against the crate.
    #[test]
    fn the_documented_format_is_true() {
        #[derive(Serialize)]
        enum Shape {
            Dot,
            Line(u16),
            Box { w: u8, h: u8 },
        }
        assert_eq!(bytes(true), [1]);
        assert_eq!(bytes(200u8), [200]);
        assert_eq!(bytes(250u64), [250]);
        assert_eq!(bytes(251u64), [0xfb, 251, 0]);
        assert_eq!(bytes(0x1_0000u32), [0xfc, 0, 0, 1, 0]);
        assert_eq!(bytes(1u64 << 32), [0xfd, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes(1u128 << 64)[..], [[0xfe].as_slice(), &(1u128 << 64).to_le_bytes()].concat()[..]);
        assert_eq!((bytes(-1i64), bytes(1i32), bytes(-200i16)), (vec![1], vec![2], vec![0xfb, 143, 1]));
        assert_eq!((bytes(-1i8), bytes(1.5f64)), (vec![0xff], 1.5f64.to_le_bytes().to_vec()));
        assert_eq!((bytes('é'), bytes("é")), (vec![0xc3, 0xa9], vec![2, 0xc3, 0xa9]));
        assert_eq!((bytes(None::<u8>), bytes(Some(7u8))), (vec![0], vec![1, 7]));
        assert_eq!((bytes((1u8, 2u16)), bytes([3u8, 4]), bytes(())), (vec![1, 2], vec![3, 4], vec![]));
        assert_eq!(bytes(vec![300u16, 1]), [2, 0xfb, 44, 1, 1]);
        assert_eq!(bytes(BTreeMap::from([("a", 1u8)])), [1, 1, b'a', 1]);
        assert_eq!(
            (bytes(Shape::Dot), bytes(Shape::Line(5)), bytes(Shape::Box { w: 1, h: 2 })),
            (vec![0], vec![1, 5], vec![2, 1, 2])
        );
    }

    #[test]
    fn wrong_bytes_are_errors() {
        #[derive(Debug, Deserialize)]
        struct Two {
            _a: String,
            _b: u64,
        }
        let decode = |b: &[u8]| Codec::Bincode.decode::<Two>(b).map(drop);
        assert_eq!(decode(&[1, b'x', 9]), Ok(()));
        assert!(decode(&[1, b'x']).is_err());
        assert!(decode(&[1, 0xff, 9]).is_err());
        assert_eq!(decode(&[1, b'x', 9, 0]), Err("the value ends after 3 bytes, 4 were written".into()));
        // A length of 2^63: refused before it is allocated.
        assert!(decode(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0x80, b'x']).is_err());
        assert!(Codec::Bincode.decode::<Vec<u64>>(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0x80]).is_err());
    }

    #[test]
    fn ids_are_read_back() {
        assert_eq!(Codec::from_id(Codec::Bincode.id()), Some(Codec::Bincode));
        assert_eq!(Codec::from_id(0), None);
    }
}
