//! The writer gate: an owned write costs about a nanosecond, and a freezer can still be sure that none is under way.
//!
//! A writer stores its thread's slot, then loads the gate word and goes on only if it is exactly the word that its process
//! has learnt; a freezer changes the gate word, then looks at the slots. One of the two sees the other: by the freezer's
//! `membarrier` on asymmetric slots, by sequentially consistent accesses on both sides on symmetric ones.
//!
//! - [`word`] the gate word; `page` the page that it stands on; `slots` the slot table
//! - `state` what a process keeps; `thread` what a thread keeps
//! - [`writer`] entering and leaving ([`Section`]); `wait` the frozen gate, and thawing it; `learn` the terms; `marker` the marks
//! - `freezer` the keeper's side
//!
//! **Invariants.**
//! 1. No section of generation g is under way, and none begins, between the end of the freezer's wait and the next change of
//!    the gate.
//! 2. A process learns a generation only from the region: gate OPEN(g), valid superblock g naming its incarnation, gate
//!    unchanged. Never from a message.
//! 3. A frozen gate never outlives its budget: anyone may thaw it then, or once the keeper is proved dead; that only aborts.
//! 4. Sections make no system call, allocate nothing, run no user code and do not nest.
//!
//! **Crash.** A writer killed in a section leaves a busy slot, and the freeze aborts until its death is proved and the slot
//! cleared. A freezer killed or stopped leaves a frozen word; a thaw makes it `OPEN(g,a)`, and the late commit's
//! compare-and-swap from `FROZEN(g,a)` fails.

pub(crate) mod freezer;
mod learn;
mod marker;
pub(crate) mod page;
pub(crate) mod slots;
pub(crate) mod state;
mod thread;
mod wait;
pub mod word;
pub mod writer;

#[cfg(test)]
mod tests;

pub use learn::OwnerRef;
pub use page::{FREEZE_BUDGET_MAX, FREEZE_BUDGET_MIN};
pub(crate) use wait::blackout_of;
pub use word::{GateWord, Phase};
pub use writer::Section;

use crate::error::Corrupt;
use crate::mapping::Mapping;
use crate::sync::Ordering;

/// Owned writes refused because their generation was sealed, counted by all processes since the region was made.
///
/// # Errors
/// `Corrupt` if the word is outside what is allocated.
pub fn fenced_writes(mapping: &Mapping) -> Result<u64, Corrupt> {
    Ok(page::GatePage::of(mapping)?.fenced_writes().load(Ordering::Relaxed))
}

/// Gate slots that are claimed.
///
/// # Errors
/// `Corrupt` if the table is outside what is allocated.
pub fn slots_claimed(mapping: &Mapping) -> Result<u64, Corrupt> {
    Ok(slots::Slots::of(mapping)?.claimed())
}

/// Clears and frees the gate slots of an instance that is proved dead; for the keeper alone.
///
/// # Errors
/// `Corrupt` if the table is outside what is allocated.
pub(crate) fn release_slots(mapping: &Mapping, incarnation: u64) -> Result<(), Corrupt> {
    slots::Slots::of(mapping)?.release_all(incarnation);
    Ok(())
}

/// The gate word of a mapping; Acquire.
///
/// # Errors
/// `Corrupt` if it is outside what is allocated.
pub fn gate_word(mapping: &Mapping) -> Result<GateWord, Corrupt> {
    Ok(page::GatePage::of(mapping)?.load())
}
