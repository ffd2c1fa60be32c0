//! Waiting on a shared word, between processes: never `FUTEX_PRIVATE_FLAG`, never without a bound.

use crate::sync::AtomicU32;
use std::time::Duration;

/// Longest single wait: a waker killed between its store and its wake costs its waiters no more than this.
pub const WAIT_MAX: Duration = Duration::from_millis(1);

/// Sleeps while the word holds `seen`, until woken, for `limit` or [`WAIT_MAX`], whichever is first. May return early.
pub fn wait(word: &AtomicU32, seen: u32, limit: Duration) {
    let limit = limit.min(WAIT_MAX);
    let limit = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(limit.subsec_nanos()) };
    // SAFETY: the word and the timespec are valid for the call; the kernel only reads them. Whatever it answers, the caller
    // looks at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &limit, 0, 0) };
}

/// Wakes everyone who waits on the word.
pub fn wake_all(word: &AtomicU32) {
    // SAFETY: the word is valid; FUTEX_WAKE does not touch memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;
    use std::time::Instant;

    #[test]
    fn a_wait_ends_at_its_bound_without_a_waker_and_at_once_when_the_word_moved() {
        let word = AtomicU32::new(7);
        let start = Instant::now();
        wait(&word, 7, Duration::from_secs(3600));
        wait(&word, 8, Duration::from_secs(3600));
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn wakers_and_waiters_meet() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    let seen = word.load(Ordering::Acquire);
                    word.store(seen + 1, Ordering::Release);
                    wake_all(&word);
                }
            });
            while word.load(Ordering::Acquire) < 200 {
                wait(&word, word.load(Ordering::Acquire), WAIT_MAX);
            }
        });
    }
}
