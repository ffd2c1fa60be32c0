//! Bits in and out, most significant first.
//!
//! A writer fills whole words and keeps the one under way in a register, so that bits already written never change when a
//! word is stored again: a reader that masks what it was not promised needs no lock.

use crate::sync::{AtomicU64, Ordering};

/// Where bits go.
pub(crate) trait Sink {
    /// Appends the low `n` bits of `value`; the others are zero, and `n` is 1 to 64.
    fn put(&mut self, value: u64, n: u32);
}

/// Where whole words go, the first bit being the most significant.
pub(crate) trait Words {
    fn store(&mut self, at: usize, word: u64);
}

impl Words for Vec<u64> {
    fn store(&mut self, at: usize, word: u64) {
        if at == self.len() {
            self.push(word);
        } else {
            self[at] = word;
        }
    }
}

/// In memory the bytes stand in the order of the bits. A word beyond the end is dropped: who writes has made sure of space.
impl Words for &[AtomicU64] {
    #[inline(always)]
    fn store(&mut self, at: usize, word: u64) {
        if let Some(to) = self.get(at) {
            to.store(word.to_be(), Ordering::Relaxed);
        }
    }
}

/// Appends bits to words.
#[derive(Clone, Debug)]
pub(crate) struct Writer<W> {
    words: W,
    at: usize,
    /// The word under way; its low `64 - used` bits are zero.
    word: u64,
    /// 0 to 63.
    used: u32,
}

impl<W: Words> Writer<W> {
    /// Goes on after `bits`, the last of which begin `word`.
    #[inline(always)]
    pub(crate) fn resume(words: W, bits: u32, word: u64) -> Self {
        Self { words, at: (bits / 64) as usize, word, used: bits % 64 }
    }

    /// Bits written, with those before.
    #[inline(always)]
    pub(crate) fn bits(&self) -> u32 {
        self.at as u32 * 64 + self.used
    }

    /// Stores the word under way; gives it, for who goes on later.
    #[inline(always)]
    pub(crate) fn flush(mut self) -> u64 {
        if self.used != 0 {
            self.words.store(self.at, self.word);
        }
        self.word
    }
}

impl<W: Words> Sink for Writer<W> {
    #[inline(always)]
    fn put(&mut self, value: u64, n: u32) {
        debug_assert!((1..=64).contains(&n) && (n == 64 || value >> n == 0));
        let room = 64 - self.used;
        if n < room {
            self.word |= value << (room - n);
            self.used += n;
            return;
        }
        let rest = n - room;
        self.words.store(self.at, self.word | value >> rest);
        self.at += 1;
        self.used = rest;
        self.word = if rest == 0 { 0 } else { value << (64 - rest) };
    }
}

/// Only counts.
#[derive(Debug, Default)]
pub(crate) struct Count(pub(crate) u32);

impl Sink for Count {
    fn put(&mut self, _: u64, n: u32) {
        self.0 += n;
    }
}

/// Takes bits from bytes.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bits taken.
    pub(super) fn taken(&self) -> usize {
        self.at
    }

    /// Bits left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    /// The next `n` bits, 1 to 64; nothing is taken where there are fewer.
    #[inline]
    pub(super) fn get(&mut self, n: u32) -> Option<u64> {
        debug_assert!((1..=64).contains(&n));
        if self.left() < n as usize {
            return None;
        }
        let (byte, skip) = (self.at / 8, (self.at % 8) as u32);
        let mut word = self.word(byte) << skip;
        if skip + n > 64 {
            word |= u64::from(self.bytes[byte + 8]) >> (8 - skip);
        }
        self.at += n as usize;
        Some(word >> (64 - n))
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        match self.bytes[at..].first_chunk::<8>() {
            Some(eight) => u64::from_be_bytes(*eight),
            None => self.bytes[at..].iter().enumerate().fold(0, |word, (i, b)| word | u64::from(*b) << (56 - 8 * i)),
        }
    }
}

impl Writer<Vec<u64>> {
    /// All words, the one under way too.
    pub(super) fn words_and_last(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().copied().chain(std::iter::once(self.word))
    }
}
