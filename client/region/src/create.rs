//! How a region comes to be: a draft is filled, and gets its name last.

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::mapping::{Draft, Mapping, RegionSpec};
use crate::recover;

impl Mapping {
    /// Creates `dir/<name>`, complete before it has its name; mode 0600.
    ///
    /// # Errors
    /// `Misuse` for a spec or a file system that a region cannot have, `Full` without space, `Io` (also where the name
    /// exists already).
    pub fn create_file(dir: &Path, spec: &RegionSpec) -> Result<Arc<Self>, Error> {
        let draft = Draft::new(dir, spec)?;
        recover::format(draft.mapping())?;
        draft.publish()
    }

    /// A region in this process' own memory: for one process, and for tests.
    ///
    /// # Errors
    /// `Misuse` for a spec that a region cannot have, `Io` without address space.
    pub fn heap(spec: &RegionSpec) -> Result<Arc<Self>, Error> {
        let mapping = Self::blank(spec)?;
        recover::format(&mapping)?;
        Ok(mapping)
    }
}
