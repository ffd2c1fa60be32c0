//! Entering and leaving: an owned write's section.
//!
//! To enter: store the slot `{generation, epoch}`, compiler barrier, Acquire-load the gate, and go on only if it is exactly
//! the word learnt; re-read the page epoch inside. To leave: Release-store the slot idle. The epoch in the slot may be old,
//! never new: the grace period of a round then waits too long, never too short.

use std::marker::PhantomData;

use super::slots::announcement;
use super::state::GateState;
use super::thread;
use super::wait::Wait;
use super::word::{GateWord, Phase};
use crate::error::{Fenced, Generation, Misuse, WriteError};
use crate::layout::PAGE;
use crate::process::Process;
use crate::sync::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

/// Times that one call looks at the gate anew without having waited: each needs a handover or a thaw in between.
const TRIES: u32 = 1000;

/// Proof that the gate is open for this thread's write, and stays so until it is dropped. Short, straight code only: no
/// system call, no allocation, no user code, no other section.
#[must_use = "the write must happen while the section lives"]
#[derive(Debug)]
pub struct Section<'p> {
    process: &'p Process,
    slot: &'p AtomicU64,
    epoch: u32,
    /// It goes through the slot that is locked and shared.
    shared: bool,
    _thread: PhantomData<*const ()>,
}

impl Section<'_> {
    /// Marks the pages of OWNED that the `len` bytes at `offset` (from the start of the region) lie in as dirty. To be done
    /// before the bytes are written: the Release fence lets nobody see the data without the marks.
    #[inline(always)]
    pub(crate) fn mark(&self, offset: u64, len: u64) {
        let (fast, page) = (thread::fast(), offset / PAGE);
        // This thread has marked that page with that epoch before, and marks never fall.
        let marked = fast.marked_page.get() == page && fast.marked_epoch.get() == self.epoch;
        if !marked || (offset + len.saturating_sub(1)) / PAGE != page {
            self.process.gate_state().marker().mark(offset, len, self.epoch);
            fast.remember_mark(self.process.id(), page, self.epoch);
        }
        fence(Ordering::Release);
    }

    /// As [`mark`](Self::mark), for a write within one page by someone who keeps that page's mark at hand.
    #[inline(always)]
    pub(crate) fn mark_page_of(&self, offset: u64, mark: &AtomicU32) {
        if mark.load(Ordering::Relaxed) < self.epoch {
            self.raise(offset);
        }
        fence(Ordering::Release);
    }

    #[cold]
    #[inline(never)]
    fn raise(&self, offset: u64) {
        self.process.gate_state().marker().mark(offset, 1, self.epoch);
    }

    /// The epoch that this section marks with.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl Drop for Section<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Pairs with the freezer's loads of the slot: idle means that the section's stores are visible.
        self.slot.store(0, Ordering::Release);
        if self.shared {
            thread::fast().in_shared.set(false);
            self.process.gate_state().unlock_shared();
        }
    }
}

impl Process {
    /// Opens a section for one owned write under `generation`. About a nanosecond while the gate is open; waits while it is
    /// frozen.
    ///
    /// # Errors
    /// `Fenced` if the generation is not this process' any more, `Frozen` if the gate stayed frozen for the longest wait
    /// ([`Process::set_freeze_wait_max`]), `Misuse` in a forked child, for an observer, or inside another section.
    // Always inline: what a call would cost is what the whole gate may.
    #[inline(always)]
    pub fn enter(&self, generation: Generation) -> Result<Section<'_>, WriteError> {
        match self.enter_at_once(generation) {
            Some(section) => Ok(section),
            None => enter_slowly(self, generation),
        }
    }

    /// As [`enter`](Self::enter), for one write of a few words: on the fast path no result is copied through memory, which
    /// costs several times the check itself.
    #[inline(always)]
    pub(crate) fn write(&self, generation: Generation, write: impl FnOnce(&Section<'_>)) -> Result<(), WriteError> {
        match self.enter_at_once(generation) {
            Some(section) => {
                write(&section);
                Ok(())
            }
            None => write_slowly(self, generation, write),
        }
    }

    /// The open gate, the thread's own slot, the word learnt before: nothing else.
    #[inline(always)]
    fn enter_at_once(&self, generation: Generation) -> Option<Section<'_>> {
        let fast = thread::fast();
        if fast.direct.get() != self.id() {
            return None;
        }
        // SAFETY: the ids are equal, so both lie in the mapping that this living process keeps.
        let (slot, gate): (&AtomicU64, &[AtomicU64; 2]) = unsafe { (&*fast.slot.get(), &*fast.gate.get()) };
        let announced = fast.announced.get();
        // A busy slot is a section of this very thread. Of another generation than its own it announces nothing: see `announce`.
        if slot.load(Ordering::Relaxed) != 0 || announced >> 32 != generation.get() {
            return None;
        }
        slot.store(announced, Ordering::Relaxed);
        // As in `announce`, for a slot that relies on the freezer's membarrier.
        compiler_fence(Ordering::SeqCst);
        let word = gate[0].load(Ordering::Acquire);
        let epoch = gate[1].load(Ordering::Relaxed) as u32;
        if word != fast.learnt.get() {
            slot.store(0, Ordering::Release);
            return None;
        }
        if announced as u32 != epoch {
            fast.epoch.set(epoch);
            fast.announced.set(announcement(generation.get(), epoch));
        }
        Some(Section { process: self, slot, epoch, shared: false, _thread: PhantomData })
    }
}

/// One try with one slot: the open gate and the epoch to mark with, or the gate word that forbids to go on (the slot is idle
/// again).
fn announce(
    state: &GateState,
    slot: &AtomicU64,
    epoch: u32,
    generation: Generation,
) -> Result<(GateWord, u32), GateWord> {
    let learnt = state.learnt.load(Ordering::Relaxed);
    if learnt >> 32 != generation.get() {
        // A term that this process does not hold is never announced: a freezer that reads another generation in a slot could
        // take it for idle without having seen the Release store that ended the section before.
        return Err(state.load());
    }
    let announced = announcement(generation.get(), epoch);
    let (word, epoch) = if state.asymmetric() {
        slot.store(announced, Ordering::Relaxed);
        // Keeps the compiler from moving the load up; the processor is kept from it by the freezer's membarrier.
        compiler_fence(Ordering::SeqCst);
        let word = state.word().load(Ordering::Acquire);
        (word, state.epoch().load(Ordering::Relaxed))
    } else {
        // With the freezer's SeqCst change of the gate (or of the epoch) and SeqCst loads of the slots, one sees the other.
        slot.swap(announced, Ordering::SeqCst);
        let word = state.word().load(Ordering::SeqCst);
        (word, state.epoch().load(Ordering::SeqCst))
    };
    // What was never learnt equals no gate, nor what a forked child sees of it.
    if word == learnt {
        return Ok((GateWord::from_raw(word), epoch as u32));
    }
    slot.store(0, Ordering::Release);
    Err(GateWord::from_raw(word))
}

#[cold]
#[inline(never)]
fn write_slowly(p: &Process, generation: Generation, write: impl FnOnce(&Section<'_>)) -> Result<(), WriteError> {
    write(&enter_slowly(p, generation)?);
    Ok(())
}

/// The thread's own slot where it does not rely on the freezer's barrier, or the gate has moved on since.
fn enter_again(process: &Process, generation: Generation) -> Option<Section<'_>> {
    let (state, fast) = (process.gate_state(), thread::fast());
    if fast.process.get() != state.id() {
        return None;
    }
    // SAFETY: the ids are equal, so the slot lies in the mapping that `state` keeps alive.
    let slot: &AtomicU64 = unsafe { &*fast.slot.get() };
    if slot.load(Ordering::Relaxed) != 0 {
        return None;
    }
    let (word, epoch) = announce(state, slot, fast.epoch.get(), generation).ok()?;
    fast.epoch.set(epoch);
    fast.shorten(state, word, announcement(generation.get(), epoch));
    Some(Section { process, slot, epoch, shared: false, _thread: PhantomData })
}

#[cold]
#[inline(never)]
fn enter_slowly(process: &Process, generation: Generation) -> Result<Section<'_>, WriteError> {
    if let Some(section) = enter_again(process, generation) {
        return Ok(section);
    }
    let state = process.gate_state();
    if thread::in_section() {
        let found = "a section inside a section; one write ends before the next begins".into();
        return Err(Misuse::Argument { what: "owned write", found }.into());
    }
    let mut wait = Wait::new(state);
    for _ in 0..TRIES {
        let word = match try_any_slot(process, generation)? {
            Ok(section) => return Ok(section),
            Err(word) => word,
        };
        if word.is_detached() || process.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        if word.generation() != generation {
            return Err(fenced(process, generation, word));
        }
        match word.phase() {
            Some(Phase::Open) if process.learn_word(word).is_ok() => {}
            // Open under this number, but not to this process.
            Some(Phase::Open) if state.load() == word => return Err(fenced(process, generation, word)),
            Some(Phase::Open) => {}
            Some(Phase::Frozen) | None => wait.once(word)?,
        }
    }
    // A gate that changed this often while we looked; the caller may try again.
    Err(WriteError::Frozen { waited: wait.waited() })
}

/// Tries the thread's own slot, or the instance's shared one where there is none.
fn try_any_slot(process: &Process, generation: Generation) -> Result<Result<Section<'_>, GateWord>, WriteError> {
    let state = process.gate_state();
    // In a forked child the slots are the parent's.
    if process.is_forked_child() {
        return Err(Misuse::Forked.into());
    }
    let (fast, shared) = (thread::fast(), !thread::take_slot(state));
    let (slot, epoch) = if shared {
        // Nothing is known of what the slot's last user read; 1 is never newer than the truth.
        (state.shared_slot()?, 1)
    } else {
        // SAFETY: `take_slot` has just pointed it at a slot of this very process.
        (unsafe { &*fast.slot.get() }, fast.epoch.get())
    };
    if shared {
        state.lock_shared()?;
    }
    match announce(state, slot, epoch, generation) {
        Ok((_, epoch)) if shared => {
            fast.in_shared.set(true);
            // And forgets what was marked through it.
            fast.close();
            fast.marked_page.set(0);
            Ok(Ok(Section { process, slot, epoch, shared, _thread: PhantomData }))
        }
        Ok((word, epoch)) => {
            fast.epoch.set(epoch);
            fast.shorten(state, word, announcement(generation.get(), epoch));
            Ok(Ok(Section { process, slot, epoch, shared, _thread: PhantomData }))
        }
        Err(word) => {
            if shared {
                state.unlock_shared();
            }
            Ok(Err(word))
        }
    }
}

#[cold]
fn fenced(process: &Process, term: Generation, word: GateWord) -> WriteError {
    if let Some(page) = process.gate_state().page() {
        page.fenced_writes().fetch_add(1, Ordering::Relaxed);
    }
    let owns_again = word.is_open() && process.learn_word(word).is_ok();
    // Whether the term has written before, the term knows.
    Fenced { term, current: word.generation(), owns_again, nothing_written: false }.into()
}
