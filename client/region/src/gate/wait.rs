//! The frozen gate: waiting for it, measuring the wait, and thawing it when its time is over.
//!
//! **Invariant:** a thaw is `FROZEN(g,a) → OPEN(g,a)` and nothing else; it takes no lock, so a stopped thawer stops nobody.
//! Waits are measured where they hurt: the longest of each attempt stands in the instance's row before the thread stops
//! being counted as waiting.

use std::time::{Duration, Instant};

use super::state::GateState;
use super::word::GateWord;
use crate::error::WriteError;
use crate::instances::Row;
use crate::process::Process;
use crate::recover::keeper_is_dead;
use crate::sync::{AtomicU64, Ordering};

/// How long a waiter keeps its processor before it sleeps: a switch is usually over by then, and waking up takes longer.
const SPIN: Duration = Duration::from_micros(100);
/// Longest single sleep at a frozen gate; a freezer killed before its wake costs no more.
const SLEEP_MAX: Duration = Duration::from_millis(1);
/// Longest single sleep at an open gate.
const WATCH_MAX: Duration = Duration::from_millis(50);
const BLACKOUT_NS_BITS: u32 = 40;

/// One call's wait, over as many freezes as it meets.
pub(super) struct Wait<'p> {
    state: &'p GateState,
    began: Option<Instant>,
    frozen: Option<(GateWord, Instant)>,
    slept: bool,
}

impl<'p> Wait<'p> {
    pub(super) fn new(state: &'p GateState) -> Self {
        Self { state, began: None, frozen: None, slept: false }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Waits a while for `word`, which is not open, to go; thaws it if its time is over.
    pub(super) fn once(&mut self, word: GateWord) -> Result<(), WriteError> {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            count_waiting(self.state, 1);
        }
        if self.frozen.is_none_or(|(seen, _)| seen != word) {
            self.report();
            self.frozen = Some((word, Instant::now()));
        }
        let (waited, limit) = (self.waited(), self.state.wait_max());
        if waited >= limit {
            // Who gives up has not seen how long the gate stays closed; a wait cut short would pass for a short blackout.
            self.frozen = None;
            return Err(WriteError::Frozen { waited });
        }
        if thaw_if_due(self.state, word, self.slept) || spin(self.state, word, limit - waited) {
            self.report();
            return Ok(());
        }
        if let Some(page) = self.state.page() {
            page.wait(word, SLEEP_MAX.min(limit.saturating_sub(self.waited())));
        }
        self.slept = true;
        if self.state.load() != word {
            self.report();
        }
        Ok(())
    }

    /// Notes in the instance's row how long this thread waited for the word that it saw last.
    fn report(&mut self) {
        if let Some((word, since)) = self.frozen.take()
            && let Ok(row) = Row::of(self.state.mapping(), self.state.row())
        {
            note_blackout(row.blackout(), word.attempt(), since.elapsed());
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.report();
        if self.began.is_some() {
            // After the report, which the keeper reads once nobody waits.
            count_waiting(self.state, -1);
        }
    }
}

fn count_waiting(state: &GateState, change: i32) {
    if let Ok(row) = Row::of(state.mapping(), state.row()) {
        row.waiting().fetch_add(change as u32, Ordering::AcqRel);
    }
}

/// `{attempt:24, ns:40}`.
fn blackout_word(attempt: u32, waited: Duration) -> u64 {
    let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).min((1 << BLACKOUT_NS_BITS) - 1);
    u64::from(attempt) << BLACKOUT_NS_BITS | ns
}

fn note_blackout(word: &AtomicU64, attempt: u32, waited: Duration) {
    let new = blackout_word(attempt, waited);
    let longer = |old: u64| (old >> BLACKOUT_NS_BITS != new >> BLACKOUT_NS_BITS || old < new).then_some(new);
    // Release: pairs with the keeper's load after it saw that nobody waits.
    let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, longer);
}

/// The wait in a row's blackout word, if it was measured at this attempt.
pub(crate) fn blackout_of(word: u64, attempt: u32) -> Option<Duration> {
    let measured = word >> BLACKOUT_NS_BITS == u64::from(attempt) & ((1 << 24) - 1);
    let ns = word & ((1 << BLACKOUT_NS_BITS) - 1);
    (measured && ns > 0).then(|| Duration::from_nanos(ns))
}

/// Watches for a moment without giving the processor away; true if the word went.
fn spin(state: &GateState, word: GateWord, limit: Duration) -> bool {
    let start = Instant::now();
    let limit = SPIN.min(limit);
    while start.elapsed() < limit {
        for _ in 0..16 {
            std::hint::spin_loop();
        }
        if state.load() != word {
            return true;
        }
    }
    false
}

/// Thaws `word` if this process has seen it for longer than a freeze may last, or (with `probe`, a system call) if the keeper
/// is proved dead. True if the gate has moved.
fn thaw_if_due(state: &GateState, word: GateWord, probe: bool) -> bool {
    let Some(page) = state.page().filter(|_| word.is_frozen()) else { return false };
    let over = state.seen_for(word) > page.budget() || probe && keeper_is_dead(state.mapping());
    over && (page.thaw(word) || page.load() != word)
}

impl Process {
    /// How long an owned write waits at a frozen gate before it says `Frozen`; zero for at once. Two seconds by default.
    pub fn set_freeze_wait_max(&self, limit: Duration) {
        self.gate_state().set_wait_max(limit);
    }

    /// Waits until the gate is another than `last`, or for `timeout`, and returns what it is then. Meanwhile thaws a gate
    /// that stays frozen over its budget: for a background thread, so that a stopped sidecar blocks no one for longer.
    pub fn watch(&self, last: GateWord, timeout: Duration) -> GateWord {
        let state = self.gate_state();
        let start = Instant::now();
        loop {
            let now = state.load();
            let left = timeout.saturating_sub(start.elapsed());
            if now != last || left.is_zero() || now.is_detached() {
                return now;
            }
            // An observer may not write, so it may not thaw either.
            if now.is_frozen() && !state.mapping().is_read_only() && thaw_if_due(state, now, true) {
                continue;
            }
            let limit = if now.is_frozen() { SLEEP_MAX } else { WATCH_MAX };
            match state.page() {
                Some(page) => page.wait(now, limit.min(left)),
                None => return now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_the_last_attempt_is_kept() {
        let word = AtomicU64::new(0);
        assert_eq!(blackout_of(0, 0), None);
        for (attempt, us) in [(7, 30), (7, 50), (7, 20)] {
            note_blackout(&word, attempt, Duration::from_micros(us));
        }
        assert_eq!(blackout_of(word.load(Ordering::Relaxed), 7), Some(Duration::from_micros(50)));
        note_blackout(&word, 8, Duration::from_micros(1));
        assert_eq!(blackout_of(word.load(Ordering::Relaxed), 7), None);
        assert_eq!(blackout_of(word.load(Ordering::Relaxed), 8), Some(Duration::from_micros(1)));
        note_blackout(&word, u32::MAX >> 4, Duration::MAX);
        assert!(blackout_of(word.load(Ordering::Relaxed), u32::MAX >> 4).unwrap() > Duration::from_secs(1000));
    }
}
