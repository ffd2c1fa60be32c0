//! The page CRC table and the root digest.
//!
//! **Format.** One `u64` for each page of OWNED: 0 while the page was never digested, else `PRESENT | crc`, with
//! `UNVERIFIED` set on a page whose CRC was taken from what a reboot left and that nobody has digested since.
//!
//! **Root.** The sum over all present pages of `mix(page, crc)` modulo 2^64, so that a page's change costs one subtraction
//! and one addition. It is a checksum against mistakes and rot, not against an adversary.
//!
//! **Crash.** An entry is one word: old or new. A page whose entry is newer than the last completed round is still marked
//! as dirty, so it will be digested again; and whoever opens the region sums the root anew from the table.

use crate::cache::{LINE, prefetch};
use crate::layout::PAGE;
use crate::sync::{AtomicU64, Ordering};

/// Words of a page.
pub(crate) const PAGE_WORDS: usize = (PAGE / 8) as usize;
const PRESENT: u64 = 1 << 32;
const UNVERIFIED: u64 = 1 << 33;

/// One page's entry in the CRC table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCrc(u64);

impl PageCrc {
    /// The page was never digested.
    pub const ABSENT: PageCrc = PageCrc(0);

    /// A page with this CRC.
    pub const fn of(crc: u32) -> Self {
        Self(PRESENT | crc as u64)
    }
    /// A page whose bytes a reboot left, with the CRC of what was found.
    pub const fn unverified(crc: u32) -> Self {
        Self(PRESENT | UNVERIFIED | crc as u64)
    }
    /// From the bits in the table; bits that this build does not know are dropped.
    pub const fn from_raw(raw: u64) -> Self {
        if raw & PRESENT == 0 { Self::ABSENT } else { Self(raw & (PRESENT | UNVERIFIED | u32::MAX as u64)) }
    }
    /// The bits in the table.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The CRC, if the page was digested.
    pub const fn crc(self) -> Option<u32> {
        if self.0 & PRESENT == 0 { None } else { Some(self.0 as u32) }
    }
    /// Whether the CRC was taken from what a reboot left.
    pub const fn is_unverified(self) -> bool {
        self.0 & UNVERIFIED != 0
    }
    /// What page number `page` with this entry adds to the root.
    pub const fn term(self, page: u64) -> u64 {
        match self.crc() {
            Some(crc) => mix(page, crc),
            None => 0,
        }
    }
}

/// The sum of all pages' terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root(u64);

impl Root {
    /// A root with this value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    /// The digest.
    pub const fn value(self) -> u64 {
        self.0
    }
    /// Takes `page`'s old entry out and its new one in.
    pub const fn replace(self, page: u64, old: PageCrc, new: PageCrc) -> Self {
        Self(self.0.wrapping_sub(old.term(page)).wrapping_add(new.term(page)))
    }
    /// Takes a whole run of entries in, the first of which is page `first`'s.
    pub fn add_all(self, first: u64, entries: impl Iterator<Item = PageCrc>) -> Self {
        Self(entries.zip(first..).fold(self.0, |sum, (entry, page)| sum.wrapping_add(entry.term(page))))
    }
}

/// SplitMix64's finalizer over the page number and the CRC: a swap of two pages, or the same change in two pages, does not
/// cancel out.
const fn mix(page: u64, crc: u32) -> u64 {
    let mut h = (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((crc as u64) << 32 | crc as u64);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// A page's bytes, copied out of the region: a CRC is never computed over memory that another process may be writing.
#[derive(Debug)]
pub(crate) struct PageCopy(Box<[u8; PAGE as usize]>);

impl PageCopy {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; PAGE as usize]))
    }

    /// Copies `page` by whole words, then takes the CRC of the copy. Ordering against writers is the caller's: by the
    /// gate while frozen, by the marks otherwise (a torn copy belongs to a page that is marked again).
    ///
    /// Meanwhile fetches `next`, line by line: dirty pages lie anywhere, so each is a miss for the cache, and waiting for
    /// memory is most of a page's cost.
    pub(crate) fn crc(&mut self, page: &[AtomicU64], next: Option<&[AtomicU64]>) -> u32 {
        next.unwrap_or(&[]).iter().step_by(LINE / 8).for_each(prefetch);
        copy(page, &mut self.0);
        crc32fast::hash(&self.0[..])
    }

    /// Whether every byte of `page` is zero.
    pub(crate) fn is_zero(page: &[AtomicU64]) -> bool {
        page.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
}

/// By the processor's own copy: a loop over atomic words, which no compiler joins, takes twice as long.
#[cfg(all(target_arch = "x86_64", not(any(all(loom, test), miri))))]
fn copy(page: &[AtomicU64], to: &mut [u8; PAGE as usize]) {
    assert_eq!(page.len() * 8, to.len(), "a page");
    // SAFETY: both are as long as the count says, readable and writable, and do not overlap, as one is borrowed mutably. To
    // the compiler it is opaque code that reads shared memory, like a relaxed load of each word; the direction flag is clear
    // by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") PAGE_WORDS => _,
            inout("rsi") page.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(not(all(target_arch = "x86_64", not(any(all(loom, test), miri)))))]
fn copy(page: &[AtomicU64], to: &mut [u8; PAGE as usize]) {
    for (bytes, word) in to.as_chunks_mut::<8>().0.iter_mut().zip(page) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_has_the_crc_of_the_bytes() {
        let page: Vec<AtomicU64> = (0..PAGE_WORDS as u64).map(|i| AtomicU64::new(i * i)).collect();
        let bytes: Vec<u8> = (0..PAGE_WORDS as u64).flat_map(|i| (i * i).to_le_bytes()).collect();
        assert_eq!(PageCopy::new().crc(&page, Some(&page)), crc32fast::hash(&bytes));
        assert!(!PageCopy::is_zero(&page));
    }

    #[test]
    fn swapped_pages_and_equal_changes_do_not_cancel_out() {
        let (a, b) = (PageCrc::of(1), PageCrc::of(2));
        let root = |x: [PageCrc; 2]| Root::default().add_all(0, x.into_iter());
        assert_ne!(root([a, b]), root([b, a]));
        assert_ne!(root([a, a]), root([b, b]));
        assert_ne!(root([PageCrc::of(0), PageCrc::ABSENT]), Root::default(), "a page of CRC 0 counts");
    }

    proptest! {
        #[test]
        fn the_kept_root_equals_the_recomputed_one(steps: Vec<(u8, u32, bool)>) {
            let mut table = [PageCrc::ABSENT; 256];
            let mut root = Root::default();
            for (page, crc, unverified) in steps {
                let new = if unverified { PageCrc::unverified(crc) } else { PageCrc::of(crc) };
                root = root.replace(u64::from(page), table[usize::from(page)], new);
                table[usize::from(page)] = new;
            }
            prop_assert_eq!(root, Root::default().add_all(0, table.into_iter()));
        }

        #[test]
        fn any_bits_are_an_entry(raw: u64) {
            let entry = PageCrc::from_raw(raw);
            prop_assert_eq!(entry.crc().is_some(), raw & PRESENT != 0);
            prop_assert_eq!(PageCrc::from_raw(entry.raw()), entry);
        }
    }
}
