//! The processor's caches: what is scattered over a large region is in none of them, so it is asked for ahead of its use.

/// Bytes that memory gives at once.
pub(crate) const LINE: usize = 64;

/// Asks the processor to have the word's line at hand soon. A hint: it reads and changes nothing. Into the second cache: the
/// first has too few places for what is on its way, and waits.
#[inline(always)]
pub(crate) fn prefetch<T>(word: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and has no effect on memory; every x86_64 has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}
