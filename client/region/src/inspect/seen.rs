//! Which slots of an index were decoded, and which must be tried again.
//!
//! A slot is filled once and what it refers to never changes, so each entry is decoded once. One that could not be read is
//! tried again, a bounded number of them at each look: bytes that were wrong for a while (a page that was lost and put back, a
//! repaired file) must not hide an object for as long as this process lives.

use std::collections::VecDeque;

use crate::directory::Directory;

/// How many unreadable entries are tried again at one look; the others have their turn at the next ones.
pub(super) const AGAIN: usize = 64;

/// What one reader has seen of one index.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A bit for each slot that was asked for.
    bits: Vec<u64>,
    /// Positions of those that could not be read, the one that waits longest first. Never more than the index has slots.
    unreadable: VecDeque<u64>,
}

impl Seen {
    /// Gives `read` each slot that is new, and some of those that it could not read before; it says whether it could.
    pub(super) fn look(&mut self, directory: &Directory<'_>, mut read: impl FnMut(u64) -> bool) {
        for _ in 0..self.unreadable.len().min(AGAIN) {
            let Some(at) = self.unreadable.pop_front() else { break };
            // The slot's own word may be what was wrong.
            if !directory.slot_at(at).is_some_and(&mut read) {
                self.unreadable.push_back(at);
            }
        }
        for (at, slot) in directory.filled() {
            if self.is_new(directory.slot_number(at)) && !read(slot) {
                self.unreadable.push_back(at);
            }
        }
    }

    /// How many could not be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.len() as u64
    }

    fn is_new(&mut self, slot: usize) -> bool {
        let (word, bit) = (slot / 64, 1 << (slot % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }
}
