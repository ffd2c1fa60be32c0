//! A directory entry: what it is, as 64-bit words.
//!
//! An entry is filled before one compare-and-swap publishes it, and never changes after, so readers need no lock and may
//! keep what they decoded. All of it is covered by a CRC; the checks run in the order length, CRC, version, fields, so
//! that nothing is interpreted before it was found whole. A kind or version that this build does not know decodes to its
//! header alone: it is counted and left as it is.
//!
//! ```text
//! word 0  len_words:32 | kind:16 | version:16       (lowest bits first)
//!      1  hash of the key
//!      2  payload: lane word, offset in the owned area, series' number, or (family) the members' kind
//!      3  words:32 | labels:16 | bounds:16
//!      4  created, Unix milliseconds
//!      5  name_len:16 | labels_len:16 | help_len:16 | unit_len:16
//!      6  crc:32 | zero:32                          (CRC-32 of all words, this one as 0)
//!      7  name, labels as (len:16, name, len:16, value)*, help, unit; zeros to the next word; bounds as f64
//! ```

use crate::error::{Corrupt, Misuse};
use crate::name;

/// Words before an entry's text.
pub(crate) const HEADER_WORDS: usize = 7;
/// Longest entry: 16 KiB.
pub(crate) const ENTRY_WORDS_MAX: usize = 2048;
/// Most bucket bounds of a histogram, `+Inf` not counted.
pub const BOUNDS_MAX: usize = 256;
const VERSION: u16 = 1;
const CRC_WORD: usize = 6;

/// What an entry is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Counts up in `u64`.
    Counter = 1,
    /// Counts up in `f64`.
    FloatCounter = 2,
    /// Observations in fixed buckets.
    Histogram = 3,
    /// The sum of the living instances' shares.
    UpDownGauge = 4,
    /// One value, set by the owner.
    Gauge = 5,
    /// Bytes, written by the owner.
    Cell = 6,
    /// Samples, appended by the owner.
    Series = 7,
    /// What the series of one metric name have in common.
    Family = 32,
    /// Where the series are.
    SeriesRoot = 33,
}

impl Kind {
    const ALL: [Kind; 9] = [
        Kind::Counter,
        Kind::FloatCounter,
        Kind::Histogram,
        Kind::UpDownGauge,
        Kind::Gauge,
        Kind::Cell,
        Kind::Series,
        Kind::Family,
        Kind::SeriesRoot,
    ];

    /// The kind with this number, if this build knows it.
    pub fn from_number(number: u16) -> Option<Kind> {
        Self::ALL.into_iter().find(|k| *k as u16 == number)
    }

    /// Its name in errors and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::FloatCounter => "float counter",
            Kind::Histogram => "histogram",
            Kind::UpDownGauge => "up-down gauge",
            Kind::Gauge => "gauge",
            Kind::Cell => "cell",
            Kind::Series => "series",
            Kind::Family => "family",
            Kind::SeriesRoot => "series root",
        }
    }

    /// What its name is unique in. Part of the format: keys are hashed with it.
    pub(crate) const fn space(self) -> Space {
        match self {
            Kind::Family => Space::Families,
            Kind::Series => Space::Series,
            Kind::SeriesRoot => Space::Roots,
            _ => Space::Objects,
        }
    }

    /// Whether its words lie in the lanes.
    pub const fn in_lanes(self) -> bool {
        matches!(self, Kind::Counter | Kind::FloatCounter | Kind::Histogram | Kind::UpDownGauge)
    }
}

/// Names are unique in one of these: a cell and a series may share theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Space {
    Objects = 0,
    Families = 1,
    Series = 2,
    Roots = 3,
}

/// A decoded entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Lane word, offset in the owned area, series' number, or the members' kind.
    pub payload: u64,
    /// How many lane words.
    pub words: u32,
    /// When it was created, Unix milliseconds.
    pub created_unix_ms: u64,
    /// A family's, or an object's name.
    pub name: String,
    /// Sorted by name.
    pub labels: Vec<(String, String)>,
    /// A family's help.
    pub help: String,
    /// A family's unit.
    pub unit: String,
    /// A histogram family's upper bounds, ascending.
    pub bounds: Vec<f64>,
}

/// An entry, or one that this build does not know.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// A known kind.
    Known(Box<Entry>),
    /// A newer kind, or a newer version of a kind: to be counted and left whole.
    Unknown {
        /// Its kind's number.
        kind: u16,
    },
}

impl Entry {
    /// An entry of this kind and name, all else empty.
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        let (labels, bounds) = (Vec::new(), Vec::new());
        let (help, unit, name) = (String::new(), String::new(), name.to_owned());
        Entry { kind, payload: 0, words: 0, created_unix_ms: 0, name, labels, help, unit, bounds }
    }

    /// The key's hash: stable across builds, as it places the entry.
    pub(crate) fn hash(&self) -> u64 {
        let labels: Vec<_> = self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        key_hash(self.kind.space(), &self.name, &labels)
    }

    /// The entry as words.
    ///
    /// # Errors
    /// [`Misuse::Argument`] if it would be larger than 16 KiB.
    pub(crate) fn encode(&self) -> Result<Vec<u64>, Misuse> {
        let labels = encoded(self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let mut text = self.name.as_bytes().to_vec();
        text.extend_from_slice(&labels);
        text.extend_from_slice(self.help.as_bytes());
        text.extend_from_slice(self.unit.as_bytes());
        let len = HEADER_WORDS + text.len().div_ceil(8) + self.bounds.len();
        if len > ENTRY_WORDS_MAX || self.bounds.len() > BOUNDS_MAX {
            let found = format!("{} bytes of name, labels, help and buckets, at most {}", len * 8, ENTRY_WORDS_MAX * 8);
            return Err(Misuse::Argument { what: "size of the object's description", found });
        }
        let mut words = Vec::with_capacity(len);
        words.push(first_word(len, self.kind));
        words.push(self.hash());
        words.push(self.payload);
        words.push(u64::from(self.words) | (self.labels.len() as u64) << 32 | (self.bounds.len() as u64) << 48);
        words.push(self.created_unix_ms);
        let lens = [self.name.len(), labels.len(), self.help.len(), self.unit.len()];
        words.push(lens.iter().rev().fold(0, |acc, len| acc << 16 | *len as u64));
        words.push(0);
        words.extend(words_of(&text));
        words.extend(self.bounds.iter().map(|b| b.to_bits()));
        words[CRC_WORD] = u64::from(crc(&words));
        Ok(words)
    }
}

fn first_word(len: usize, kind: Kind) -> u64 {
    len as u64 | (kind as u64) << 32 | u64::from(VERSION) << 48
}

/// Labels as an entry has them: each name and value with its length before it.
pub(crate) fn encoded<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    for part in labels.flat_map(|(n, v)| [n, v]) {
        bytes.extend_from_slice(&(part.len() as u16).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// The number in a whole entry of the series with these labels, `count` of them, [`encoded`]. All of such an entry but number and
/// time of creation follows from its labels, so it need not be decoded. `None` says only that it is to be looked at in full.
pub(crate) fn series_number(words: &[u64], hash: u64, (count, labels): (usize, &[u8])) -> Option<u64> {
    let len = HEADER_WORDS + labels.len().div_ceil(8);
    let is_so = words.len() == len
        && words[0] == first_word(len, Kind::Series)
        && words[1] == hash
        && words[3] == (count as u64) << 32
        && words[5] == (labels.len() as u64) << 16
        && words[HEADER_WORDS..].iter().copied().eq(words_of(labels))
        && (words[CRC_WORD] & 0xffff_ffff) as u32 == crc(words);
    is_so.then(|| words[2])
}

/// How many words the entry that begins with `first` has.
///
/// # Errors
/// [`Corrupt::Field`] if no entry is that long.
pub(crate) fn len_words(first: u64, offset: u64) -> Result<usize, Corrupt> {
    let len = (first & 0xffff_ffff) as usize;
    if (HEADER_WORDS..=ENTRY_WORDS_MAX).contains(&len) {
        return Ok(len);
    }
    Err(Corrupt::field("directory entry's length in words", offset, "7 to 2048", len as u64))
}

/// Decodes an entry that lies at `offset` (for errors). Never panics, whatever the words.
///
/// # Errors
/// [`Corrupt`], naming the fault.
pub(crate) fn decode(words: &[u64], offset: u64) -> Result<Decoded, Corrupt> {
    let first = words.first().copied().unwrap_or(0);
    let len = len_words(first, offset)?;
    let bad = |what, at: usize, expected: &'static str, found| {
        Err(Corrupt::field(what, offset + at as u64 * 8, expected, found))
    };
    let Some(words) = words.get(..len) else {
        return bad("directory entry's length in words", 0, "no more than its area", len as u64);
    };
    let (expected, found) = ((words[CRC_WORD] & 0xffff_ffff) as u32, crc(words));
    if expected != found {
        return Err(Corrupt::Checksum { what: "directory entry", offset, expected, found });
    }
    let (kind, version) = ((first >> 32) as u16, (first >> 48) as u16);
    let Some(kind) = Kind::from_number(kind).filter(|_| version == VERSION) else {
        return Ok(Decoded::Unknown { kind });
    };
    let (labels_n, bounds_n) = (usize::from((words[3] >> 32) as u16), (words[3] >> 48) as usize);
    let lens: [usize; 4] = std::array::from_fn(|i| usize::from((words[5] >> (16 * i)) as u16));
    let text_len: usize = lens.iter().sum();
    if HEADER_WORDS + text_len.div_ceil(8) + bounds_n != len {
        return bad("directory entry's lengths", 5, "the sum that word 0 says", words[5]);
    }
    let bytes = bytes_of(&words[HEADER_WORDS..len - bounds_n]);
    let Some((name, labels, help, unit)) = decode_text(&bytes, lens, labels_n) else {
        return bad(
            "directory entry's text",
            HEADER_WORDS,
            "UTF-8, and the labels that word 3 counts",
            labels_n as u64,
        );
    };
    let bounds: Vec<f64> = words[len - bounds_n..].iter().map(|b| f64::from_bits(*b)).collect();
    let (payload, created_unix_ms) = (words[2], words[4]);
    let entry = Entry { kind, payload, words: words[3] as u32, created_unix_ms, name, labels, help, unit, bounds };
    if !is_valid(&entry) {
        return bad("directory entry's name, labels or buckets", 0, "what names and buckets may be", first);
    }
    if entry.hash() != words[1] {
        return bad("directory entry's hash", 1, "the hash of its name and labels", words[1]);
    }
    Ok(Decoded::Known(Box::new(entry)))
}

type Labels = Vec<(String, String)>;

fn decode_text(bytes: &[u8], lens: [usize; 4], labels_n: usize) -> Option<(String, Labels, String, String)> {
    let mut rest = bytes;
    let name = take_text(&mut rest, lens[0])?;
    let mut encoded = rest.split_off(..lens[1])?;
    let mut labels = Vec::new();
    for _ in 0..labels_n {
        labels.push((take_sized(&mut encoded)?, take_sized(&mut encoded)?));
    }
    let (help, unit) = (take_text(&mut rest, lens[2])?, take_text(&mut rest, lens[3])?);
    encoded.is_empty().then_some((name, labels, help, unit))
}

fn take_sized(rest: &mut &[u8]) -> Option<String> {
    let len = rest.split_off(..2)?;
    take_text(rest, usize::from(u16::from_le_bytes([len[0], len[1]])))
}

fn take_text(rest: &mut &[u8], len: usize) -> Option<String> {
    std::str::from_utf8(rest.split_off(..len)?).ok().map(str::to_owned)
}

/// Whether an entry holds what [`crate::name`] would have let in: listings print names without looking again.
fn is_valid(e: &Entry) -> bool {
    let labels: Vec<_> = e.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    if e.kind == Kind::Series {
        return name::series_labels(&labels).is_ok();
    }
    let sorted = name::labels(&labels, e.kind == Kind::Histogram).is_ok_and(|sorted| sorted == labels);
    let named = match e.kind {
        Kind::Cell | Kind::SeriesRoot => name::object(&e.name).is_ok(),
        _ => name::family(&e.name, false).is_ok(),
    };
    sorted && named && name::unit(&e.unit, &e.name).is_ok() && name::help(&e.help).is_ok() && bounds_ok(&e.bounds)
}

/// Whether these may be a histogram's bounds: finite, ascending, not too many.
pub(crate) fn bounds_ok(bounds: &[f64]) -> bool {
    bounds.len() <= BOUNDS_MAX && bounds.iter().all(|b| b.is_finite()) && bounds.windows(2).all(|w| w[0] < w[1])
}

/// Hash of a key: FNV-1a over its parts with their lengths, finished as MurmurHash3 does. Part of the format.
pub(crate) fn key_hash(space: Space, name: &str, labels: &[(&str, &str)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for b in bytes {
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    eat(&[space as u8]);
    for part in std::iter::once(name).chain(labels.iter().flat_map(|(n, v)| [*n, *v])) {
        eat(&(part.len() as u32).to_le_bytes());
        eat(part.as_bytes());
    }
    mix(hash)
}

/// MurmurHash3's finalizer: each bit of the input moves half the bits of the output.
pub(crate) fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Bytes as little-endian words, the last filled with zeros.
pub(crate) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(8).map(|c| {
        let mut word = [0; 8];
        word[..c.len()].copy_from_slice(c);
        u64::from_le_bytes(word)
    })
}

/// The reverse of [`words_of`].
pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// The CRC-32 of the words, that in the CRC's word itself being left out. In pieces that are long enough for the fast ways.
fn crc(words: &[u64]) -> u32 {
    const PIECE: usize = 64;
    let (mut crc, mut bytes) = (crc32fast::Hasher::new(), [0; 8 * PIECE]);
    for (n, piece) in words.chunks(PIECE).enumerate() {
        for (i, (to, word)) in bytes.chunks_exact_mut(8).zip(piece).enumerate() {
            let word = if n == 0 && i == CRC_WORD { *word & !0xffff_ffff } else { *word };
            to.copy_from_slice(&word.to_le_bytes());
        }
        crc.update(&bytes[..8 * piece.len()]);
    }
    crc.finalize()
}

#[cfg(test)]
mod tests;
