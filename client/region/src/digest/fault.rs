//! What is wrong, where, and how people are told.

use std::ops::Range;

use super::marks::Tables;
use crate::error::{Corrupt, Error};
use crate::inspect::ObjectFault;
use crate::mapping::Mapping;

/// What the faults of pages are called.
const OWNED_PAGE: &str = "owned page";

/// Something in a region that is not as its writer left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which structure, or object.
    pub structure: String,
    /// Where, in the region.
    pub offset_bytes: u64,
    /// What had to be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Fault {
    /// The reason's name in the protocol: `DIGEST_MISMATCH` for a page's bytes, `REGION_CORRUPT` for all else.
    pub fn reason(&self) -> &'static str {
        if self.structure.starts_with(OWNED_PAGE) { "DIGEST_MISMATCH" } else { "REGION_CORRUPT" }
    }
}

impl From<Corrupt> for Fault {
    fn from(why: Corrupt) -> Self {
        let (structure, offset_bytes, expected, found) = match &why {
            Corrupt::Checksum { what, offset, expected, found } => {
                (*what, *offset, format!("crc {expected:#010x}"), format!("crc {found:#010x}"))
            }
            Corrupt::Field { what, offset, expected, found } => {
                (*what, *offset, expected.to_string(), format!("{found:#x}"))
            }
            Corrupt::OutOfBounds { what, offset, len, bound } => (
                *what,
                *offset,
                format!("at most byte {bound}"),
                format!("bytes {offset}..{}", offset.saturating_add(*len)),
            ),
            Corrupt::PageLost { offset } => {
                ("page", *offset, "mapped bytes".into(), "nothing: the page is gone".into())
            }
            other => ("region", 0, "a whole region".into(), other.to_string()),
        };
        Self { structure: structure.into(), offset_bytes, expected, found }
    }
}

impl From<ObjectFault> for Fault {
    fn from(fault: ObjectFault) -> Self {
        let ObjectFault { structure, offset, error } = fault;
        let of_its_bytes = Fault::from(error);
        let structure = format!("{structure}: {}", of_its_bytes.structure);
        Self { structure, offset_bytes: of_its_bytes.offset_bytes.max(offset), ..of_its_bytes }
    }
}

pub(super) fn page_fault(mapping: &Mapping, run: &Range<u64>, expected: Option<u32>, found: u32) -> Fault {
    let structure = match run.end - run.start {
        1 => format!("{OWNED_PAGE} {}", run.start),
        _ => format!("{OWNED_PAGE}s {}..{}", run.start, run.end),
    };
    Fault {
        structure,
        offset_bytes: Tables::of(mapping).offset(run.start),
        expected: expected.map_or_else(|| "zeroes: never digested".into(), |crc| format!("crc {crc:#010x}")),
        found: format!("crc {found:#010x}"),
    }
}

pub(super) fn fault_of(why: Error) -> Fault {
    match why {
        Error::Corrupt(why) => why.into(),
        why => {
            Fault { structure: "region".into(), offset_bytes: 0, expected: "readable".into(), found: why.to_string() }
        }
    }
}
