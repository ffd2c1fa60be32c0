//! Gauges: one value in the owned area, set by the owner. The last one stays over a switch, and over a death.

use std::sync::Arc;

use crate::digest::marks::Tables;
use crate::error::{Error, Generation, WriteError};
use crate::mapping::{Word, Word32};
use crate::objects::counter::add_f64_atomically;
use crate::process::Process;
use crate::sync::Ordering;

/// A gauge with one value; see [`open_gauge`](crate::objects::open_gauge).
#[derive(Clone, Debug)]
pub struct Gauge {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Arc<Process>,
    word: Word,
    /// Of the page that the word lies in.
    mark: Word32,
    at: u64,
}

impl Gauge {
    pub(super) fn new(process: &Arc<Process>, at: u64) -> Result<Self, Error> {
        let mapping = process.mapping();
        let mark = Word32::new(mapping, Tables::of(mapping).mark_offset(at))?;
        let (process, word) = (Arc::clone(process), Word::new(mapping, at)?);
        Ok(Self { inner: Arc::new(Inner { process, word, mark, at }) })
    }

    /// Sets it.
    ///
    /// # Errors
    /// [`WriteError`] if `generation` is not this process's open term; nothing is written then.
    #[inline]
    pub fn set(&self, generation: Generation, v: f64) -> Result<(), WriteError> {
        let inner = &*self.inner;
        inner.process.write(generation, |section| {
            section.mark_page_of(inner.at, &inner.mark);
            inner.word.store(v.to_bits(), Ordering::Relaxed);
        })
    }

    /// Adds to it.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn add(&self, generation: Generation, v: f64) -> Result<(), WriteError> {
        let inner = &*self.inner;
        inner.process.write(generation, |section| {
            section.mark_page_of(inner.at, &inner.mark);
            // Swaps, as other threads of the owner may add too.
            add_f64_atomically(&inner.word, v);
        })
    }

    /// The last value set; 0 if never.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.inner.word.load(Ordering::Relaxed))
    }
}
