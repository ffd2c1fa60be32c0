//! Looking for rot in a file that somebody else may be serving, or nobody: to read only, without a keeper's hold.
//!
//! It is the [`Verification`] that a keeper makes, from outside: the gate may move while it looks, so the superblocks are read
//! until the gate stood still around them.

use std::sync::Arc;

use super::superblock;
use super::verification::{Verification, Verified};
use crate::error::{Corrupt, Error};
use crate::gate::gate_word;
use crate::layout::{control, crc32};
use crate::mapping::Mapping;
use crate::os;

/// Looks at the superblocks before it takes the gate's movement for rot.
const LOOKS_MAX: u32 = 16;

/// Whether the region was last served in this boot of the host. Another boot's incarnations are all dead.
///
/// # Errors
/// `Corrupt` if the record is outside what is allocated; `Io`.
pub fn is_of_this_boot(mapping: &Mapping) -> Result<bool, Error> {
    let mut record = [0; 24];
    mapping.copy_out(mapping.control(control::BOOT), &mut record)?;
    let (id, crc) = record.split_at(16);
    Ok(crc[..4] == crc32(id).to_le_bytes() && id == os::boot::boot_id()?)
}

/// Checks a file at one go. `progress` gets bytes checked and bytes in all.
pub fn verify_file(mapping: &Arc<Mapping>, progress: &mut dyn FnMut(u64, u64)) -> Verified {
    Verification::new(Arc::clone(mapping)).run(progress)
}

pub(super) fn superblocks(mapping: &Mapping, same_boot: bool) -> Result<(), Corrupt> {
    for look in 0..LOOKS_MAX {
        let before = gate_word(mapping)?;
        let pair = superblock::read(mapping)?;
        if !same_boot {
            // The gate and the slots may be of different ages; the next start takes the highest.
            return match (pair.newest(), pair.slots()) {
                (None, [Err(why), _]) => Err(why.clone()),
                _ => Ok(()),
            };
        }
        let found = pair.current(before.generation().get());
        if found.is_ok() || (gate_word(mapping)? == before && look > 0) {
            return found.map(drop);
        }
    }
    Ok(())
}
