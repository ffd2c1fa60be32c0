//! Gauges: one value in the owned area, set by the owner. The last one stays over a switch, and over a death.

use std::sync::Arc;

use crate::error::{Error, Generation, WriteError};
use crate::mapping::Word;
use crate::process::Process;
use crate::sync::Ordering;

/// A gauge with one value; see [`open_gauge`](crate::objects::open_gauge).
#[derive(Clone, Debug)]
pub struct Gauge {
    process: Arc<Process>,
    word: Word,
    at: u64,
}

impl Gauge {
    pub(super) fn new(process: &Arc<Process>, payload: u64) -> Result<Self, Error> {
        let at = payload;
        Ok(Self { process: Arc::clone(process), word: Word::new(process.mapping(), at)?, at })
    }

    /// Sets it.
    ///
    /// # Errors
    /// [`WriteError`] if `generation` is not this process's open term; nothing is written then.
    #[inline]
    pub fn set(&self, generation: Generation, v: f64) -> Result<(), WriteError> {
        let section = self.process.enter(generation)?;
        section.mark(self.at, 8);
        self.word.store(v.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Adds to it.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn add(&self, generation: Generation, v: f64) -> Result<(), WriteError> {
        let section = self.process.enter(generation)?;
        section.mark(self.at, 8);
        super::counter::add_f64_atomically(&self.word, v);
        Ok(())
    }

    /// The last value set; 0 if never.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.word.load(Ordering::Relaxed))
    }
}
