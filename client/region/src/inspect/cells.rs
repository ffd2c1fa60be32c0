//! Which cells there are and what schemas their values have: what a handover asks of each, twice.
//!
//! What an entry says never changes, so each is decoded once. Of a value only the heads of its parts are read, not its bytes:
//! the time depends on how many cells there are, and not on what they hold.
//!
//! All bytes are input: entries that are not whole are skipped until they are, and there are never more cells than slots in the index.

use super::{Decoded, Directory, Kind};
use crate::mapping::Mapping;
use crate::objects::cell;

/// The cells that were found so far; kept between two looks.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    seen: super::seen::Seen,
    /// Names, and where the headers lie.
    cells: Vec<(Box<str>, u64)>,
}

impl Cells {
    /// Every cell's name with the schemas of its value, in no order. A value that cannot be read (never written, torn, rotten)
    /// has none.
    pub(crate) fn look(&mut self, mapping: &Mapping) -> Vec<(&str, Vec<u32>)> {
        let directory = Directory::owned(mapping);
        let Self { seen, cells } = self;
        seen.look(&directory, |slot| match directory.read(slot) {
            Ok((Decoded::Known(entry), _)) if entry.kind == Kind::Cell => {
                // A header that is nowhere: the cell is there, and has no value to be read.
                let header = cell::header_of(mapping, &entry).unwrap_or(0);
                cells.push((entry.name.into(), header));
                true
            }
            Ok(_) => true,
            Err(_) => false,
        });
        let schemas = |at| if at == 0 { Vec::new() } else { cell::schemas_at(mapping, at).unwrap_or_default() };
        self.cells.iter().map(|(name, at)| (&**name, schemas(*at))).collect()
    }
}
