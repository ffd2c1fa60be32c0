//! Words that a handle keeps after one check.

use std::ops::Deref;
use std::sync::Arc;

use super::Mapping;
use crate::error::Corrupt;
use crate::sync::{AtomicU32, AtomicU64};

/// Some words that stay mapped for as long as this lives: what a handle keeps after its one check.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    /// Keeps `first` valid.
    _mapping: Arc<Mapping>,
    first: *const AtomicU64,
    len: usize,
}

// SAFETY: the pointer is into the mapping that is kept alive beside it, and the words are atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Checks bounds and readiness once.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: u64, n: u64) -> Result<Self, Corrupt> {
        let words = mapping.words(offset, n)?;
        Ok(Self { first: words.as_ptr(), len: words.len(), _mapping: Arc::clone(mapping) })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: checked by `Words::new`; extents once ready stay so, and the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

/// One word; see [`Words`].
#[derive(Clone, Debug)]
pub(crate) struct Word(Words);

impl Word {
    /// Checks bounds and readiness once.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: u64) -> Result<Self, Corrupt> {
        Ok(Self(Words::new(mapping, offset, 1)?))
    }
}

impl Deref for Word {
    type Target = AtomicU64;
    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: as in `Words::deref`.
        unsafe { &*self.0.first }
    }
}

/// One 32-bit word; see [`Words`].
#[derive(Debug)]
pub(crate) struct Word32 {
    /// Keeps `at` valid.
    _mapping: Arc<Mapping>,
    at: *const AtomicU32,
}

// SAFETY: as for `Words`.
unsafe impl Send for Word32 {}
// SAFETY: as for `Words`.
unsafe impl Sync for Word32 {}

impl Word32 {
    /// Checks bounds and readiness once.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: u64) -> Result<Self, Corrupt> {
        Ok(Self { at: mapping.words32(offset, 1)?.as_ptr(), _mapping: Arc::clone(mapping) })
    }
}

impl Deref for Word32 {
    type Target = AtomicU32;
    #[inline]
    fn deref(&self) -> &AtomicU32 {
        // SAFETY: as in `Words::deref`.
        unsafe { &*self.at }
    }
}
