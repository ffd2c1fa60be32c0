//! Head buffers: slabs of equal ones, each with its owner's number.
//!
//! A buffer is free if no owner stands there. The lists that a process takes from are hints, its own, and checked; they are
//! filled from the slabs bit by bit, so that a new owner need not look at all of them.
//!
//! **Crash.** Killed between an owner's number and the commit word of its row, a process leaks one buffer: it has an owner whose
//! row leads elsewhere. [`SeriesStore::sweep_slabs`] finds it so.
//!
//! ```text
//! word 0  the next older slab   1  class   then 4 bytes for each buffer: its series' number + 1, or 0; then the buffers
//! ```

use super::layout::{BufferRef, CLASSES, CommitWord, SLAB, SLAB_HEADER, arena, root, row, slab_buffers};
use super::root::take;
use super::{SeriesId, SeriesStore};
use crate::error::{Corrupt, Generation, WriteError};
use crate::mapping::Mapping;
use crate::objects::lock;
use crate::sync::{AtomicU32, Ordering};

/// Slabs that one allocation looks at before it takes a new one.
const LOOK_MAX: u32 = 16;

/// Buffers that may be free, as a process knows; see the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// In whose term the rest was found out.
    generation: Generation,
    classes: [Class; CLASSES.len()],
}

#[derive(Debug, Default)]
struct Class {
    free: Vec<BufferRef>,
    /// The next slab to look at; 0 for none.
    look: u64,
    /// The next slab to sweep; 0 to begin anew.
    sweep: u64,
}

impl SeriesStore {
    /// A buffer that nobody owns. Whoever uses it writes its number in the section that refers to it.
    pub(super) fn take_buffer(
        &self,
        generation: Generation,
        class: usize,
        encoding: u8,
    ) -> Result<BufferRef, WriteError> {
        let (root, mapping) = (self.rooted()?, self.mapping());
        let mut pool = lock(&self.shared.pool);
        if pool.generation != generation {
            // Another may have owned meanwhile.
            pool.generation = generation;
            for (number, class) in pool.classes.iter_mut().enumerate() {
                *class = Class { look: root.slab(number), ..Class::default() };
            }
        }
        let pool = &mut pool.classes[class];
        for _ in 0..LOOK_MAX {
            while let Some(buffer) = pool.free.pop() {
                let owner = &mapping.words32(buffer.owner_at(arena(mapping)), 1)?[0];
                if owner.load(Ordering::Relaxed) == 0 {
                    return Ok(buffer.with_encoding(encoding));
                }
            }
            if pool.look == 0 {
                break;
            }
            let slab = pool.look;
            let owners = owners(mapping, slab, class)?;
            let free = owners.iter().enumerate().filter(|(_, owner)| owner.load(Ordering::Relaxed) == 0);
            pool.free.extend(free.map(|(i, _)| BufferRef::new(arena(mapping), slab, i as u64, class, 0)));
            pool.look = older(mapping, slab)?;
        }
        let slab = self.new_slab(generation, class)?;
        let all = (0..slab_buffers(class)).rev();
        pool.free.extend(all.map(|i| BufferRef::new(arena(mapping), slab, i, class, 0)));
        pool.free
            .pop()
            .map(|buffer| buffer.with_encoding(encoding))
            .ok_or_else(|| Corrupt::field("series' slab", slab, "buffers", 0).into())
    }

    /// Keeps a buffer at hand that nobody owns any more.
    pub(super) fn give_buffer(&self, buffer: BufferRef) {
        if !buffer.is_none()
            && let Some(class) = lock(&self.shared.pool).classes.get_mut(buffer.class())
        {
            class.free.push(buffer);
        }
    }

    fn new_slab(&self, generation: Generation, class: usize) -> Result<u64, WriteError> {
        let (root, mapping) = (self.rooted()?, self.mapping());
        let at = take(mapping, SLAB, 64)?;
        let header = mapping.words(at, SLAB_HEADER / 8)?;
        self.process.write(generation, |section| {
            section.mark(at, SLAB_HEADER);
            section.mark(root.word_at(root::SLABS + class), 8);
            let newest = root.word(root::SLABS + class);
            header[0].store(newest.load(Ordering::Relaxed), Ordering::Relaxed);
            header[1].store(class as u64, Ordering::Relaxed);
            newest.store(at, Ordering::Release);
        })?;
        Ok(at)
    }

    /// Frees buffers whose owner's row leads elsewhere, in up to `slabs` slabs of each class; gives their number.
    pub(super) fn sweep_slabs(&self, generation: Generation, slabs: u32) -> Result<u64, WriteError> {
        let (root, mapping) = (self.rooted()?, self.mapping());
        let mut freed = 0;
        for class in 0..CLASSES.len() {
            let mut at = lock(&self.shared.pool).classes[class].sweep;
            for _ in 0..slabs {
                at = if at == 0 { root.slab(class) } else { at };
                if at == 0 {
                    break;
                }
                freed += self.sweep_slab(generation, at, class)?;
                at = older(mapping, at)?;
                if at == 0 {
                    break;
                }
            }
            lock(&self.shared.pool).classes[class].sweep = at;
        }
        Ok(freed)
    }

    fn sweep_slab(&self, generation: Generation, slab: u64, class: usize) -> Result<u64, WriteError> {
        let (arena, mut freed) = (arena(self.mapping()), 0);
        for (i, owner) in owners(self.mapping(), slab, class)?.iter().enumerate() {
            let number = owner.load(Ordering::Relaxed);
            if number == 0 {
                continue;
            }
            let buffer = BufferRef::new(arena, slab, i as u64, class, 0);
            let id = SeriesId(number - 1);
            // With the head locked nobody gives this series a buffer meanwhile.
            let head =
                self.head(id).ok_or_else(|| Corrupt::field("series' slab's owner", slab, "a series", number.into()))?;
            let _head = lock(head);
            if owner.load(Ordering::Relaxed) != number || self.is_used_by(id, buffer)? {
                continue;
            }
            self.process.write(generation, |section| {
                section.mark(buffer.owner_at(arena), 4);
                owner.store(0, Ordering::Release);
            })?;
            self.give_buffer(buffer);
            freed += 1;
        }
        Ok(freed)
    }

    /// That the buffer is this series', as the slab says.
    pub(super) fn check_owner(&self, id: SeriesId, buffer: BufferRef) -> Result<(), Corrupt> {
        let arena = arena(self.mapping());
        buffer.place(arena)?;
        let at = buffer.owner_at(arena);
        match self.mapping().words32(at, 1)?[0].load(Ordering::Relaxed) {
            found if found == id.0 + 1 => Ok(()),
            found => Err(Corrupt::field("owner of series' head buffer", at, format!("{}", id.0 + 1), found.into())),
        }
    }

    fn is_used_by(&self, id: SeriesId, buffer: BufferRef) -> Result<bool, Corrupt> {
        let row = self.row(id)?;
        let commit = CommitWord(row.words[row::COMMIT].load(Ordering::Acquire));
        let used = super::head::side(row, commit).0;
        Ok(used.with_encoding(0) == buffer.with_encoding(0))
    }
}

/// The owners of a slab's buffers.
pub(super) fn owners(mapping: &Mapping, slab: u64, class: usize) -> Result<&[AtomicU32], Corrupt> {
    if !arena(mapping).contains(slab) || !slab.is_multiple_of(64) {
        return Err(Corrupt::field("series' slab", arena(mapping).offset, "a place in the owned area", slab));
    }
    let found = mapping.words(slab, 2)?[1].load(Ordering::Relaxed);
    if found != class as u64 {
        return Err(Corrupt::field("series' slab's class", slab + 8, format!("{class}"), found));
    }
    mapping.words32(slab + SLAB_HEADER, slab_buffers(class))
}

/// The next older slab; 0 for none.
pub(super) fn older(mapping: &Mapping, slab: u64) -> Result<u64, Corrupt> {
    Ok(mapping.word(slab)?.load(Ordering::Relaxed))
}
