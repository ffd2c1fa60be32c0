//! The structures that all series share: whether they are as a writer leaves them, and what space they have taken.
//!
//! Bytes are input: each list is followed for no longer than it could be if it filled the arena.

use super::layout::{BLOCK, BLOCK_HEADER, CLASSES, ROOT_WORDS, ROW, ROWS, SLAB, arena, block, root, row_blocks};
use super::log;
use super::root::Root;
use super::slab;
use crate::directory::entry::Entry;
use crate::error::Corrupt;
use crate::mapping::Mapping;
use crate::sync::Ordering;

/// Checks the root of this entry, the blocks of rows, the slabs and the log.
///
/// # Errors
/// [`Corrupt`], the first fault.
pub(crate) fn check_root(mapping: &Mapping, entry: &Entry) -> Result<(), Corrupt> {
    let at = Root::check(mapping, entry)?;
    let word = |number: u64| Ok::<_, Corrupt>(mapping.word(at + 8 * number)?.load(Ordering::Acquire));
    let (count, limit) = (word(root::COUNT as u64)?, u64::from(mapping.limits().series_max));
    if count > limit {
        return Err(Corrupt::field("series' count", at + 8, format!("at most {limit}"), count));
    }
    for number in 0..count.div_ceil(ROWS) {
        let found = word(ROOT_WORDS + number)?;
        if !is_rows(mapping, found) {
            let at = at + 8 * (ROOT_WORDS + number);
            return Err(Corrupt::field("series' table of rows", at, "a block of rows", found));
        }
    }
    for class in 0..CLASSES.len() {
        each_slab(mapping, word((root::SLABS + class) as u64)?, class, |_| ())?;
    }
    each_block(mapping, word(root::LOG_OLDEST as u64)?, |_| ())
}

/// What the series have taken of the owned arena, as far as it can be followed: places and lengths in bytes.
pub(crate) fn taken(mapping: &Mapping) -> Vec<(u64, u64)> {
    let mut taken = Vec::new();
    let Ok(Some(at)) = Root::place(mapping) else { return taken };
    taken.push((at, 8 * (ROOT_WORDS + row_blocks(mapping))));
    let Ok(words) = mapping.words(at, ROOT_WORDS + row_blocks(mapping)) else { return taken };
    let word = |number: usize| words[number].load(Ordering::Relaxed);
    let rows = words[ROOT_WORDS as usize..].iter().map(|word| word.load(Ordering::Relaxed));
    taken.extend(rows.filter(|at| is_rows(mapping, *at)).map(|at| (at, ROW * ROWS)));
    for class in 0..CLASSES.len() {
        // What is behind a fault is not known; it is found corrupt wherever it is used.
        let _ = each_slab(mapping, word(root::SLABS + class), class, |at| taken.push((at, SLAB)));
    }
    for first in [root::LOG_OLDEST, root::LOG_CURRENT].map(word) {
        let _ = each_block(mapping, first, |at| taken.push((at, BLOCK)));
    }
    // It may not have a header yet.
    taken.extend(Some(word(root::LOG_MOVING)).filter(|at| *at != 0).map(|at| (at, BLOCK)));
    taken
}

fn is_rows(mapping: &Mapping, at: u64) -> bool {
    arena(mapping).contains(at) && at.is_multiple_of(ROW) && mapping.is_ready(at, ROW * ROWS)
}

fn each_slab(mapping: &Mapping, newest: u64, class: usize, mut visit: impl FnMut(u64)) -> Result<(), Corrupt> {
    let mut at = newest;
    for _ in 0..=arena(mapping).len / SLAB {
        if at == 0 {
            return Ok(());
        }
        slab::owners(mapping, at, class)?;
        visit(at);
        at = slab::older(mapping, at)?;
    }
    Err(Corrupt::field("series' slabs", newest, "a list with an end", at))
}

fn each_block(mapping: &Mapping, oldest: u64, mut visit: impl FnMut(u64)) -> Result<(), Corrupt> {
    let mut at = oldest;
    // Twice as many as there can be: blocks are moved from one end to the other meanwhile.
    for _ in 0..=2 * arena(mapping).len / BLOCK {
        if at == 0 {
            return Ok(());
        }
        let header = log::header(mapping, at)?;
        let used = header[block::USED].load(Ordering::Relaxed);
        if !(BLOCK_HEADER..=BLOCK).contains(&used) {
            return Err(Corrupt::field("series' block's used bytes", at, "64 to 65536", used));
        }
        visit(at);
        at = header[block::NEXT].load(Ordering::Acquire);
    }
    Err(Corrupt::field("series' blocks of chunks", oldest, "a list with an end", at))
}
