//! Named steps of a parcel's way, for tests that kill a process at each of them.
//!
//! Compiled in with the feature `steps` in a debug build only; elsewhere [`at`] is nothing. A process whose environment has
//! `HEIRLOOM_STOP_AT=STEP/N` stops itself (SIGSTOP, all threads) when it comes by that step for the N-th time, once.

#[cfg(not(all(feature = "steps", debug_assertions)))]
#[inline(always)]
pub(crate) fn at(_step: &str) {}

#[cfg(all(feature = "steps", debug_assertions))]
pub(crate) fn at(step: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static STOP: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let stop = STOP.get_or_init(|| {
        let said = std::env::var("HEIRLOOM_STOP_AT").ok()?;
        let (step, n) = said.split_once('/')?;
        Some((step.to_owned(), n.parse().ok()?))
    });
    if let Some((at, n)) = stop
        && at == step
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *n
    {
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).expect("a process may stop itself");
    }
}
