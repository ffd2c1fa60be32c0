//! Looking for rot in a file that somebody else may be serving, or nobody: to read only, without a keeper's hold.
//!
//! It sees what [`super::Keeper::verify`] sees, from outside: the gate may move while it looks, so the superblocks are read
//! until the gate stood still around them. After a reboot, pages that differ from their CRC are unverifiable and no fault:
//! nobody can tell rot from what the kernel had not written back.

use std::sync::Arc;

use super::superblock;
use super::verify::{Fault, fault_of, find_rot};
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

/// Checks everything that has a checksum or a bound. `progress` gets pages done and pages in all.
pub fn verify_file(mapping: &Arc<Mapping>, progress: &mut dyn FnMut(u64, u64)) -> Vec<Fault> {
    let mut faults = Vec::new();
    let same_boot = is_of_this_boot(mapping).unwrap_or_else(|why| {
        faults.push(fault_of(why));
        true
    });
    faults.extend(superblocks(mapping, same_boot).err().map(Fault::from));
    find_rot(mapping, same_boot, progress, &mut faults);
    faults
}

fn superblocks(mapping: &Mapping, same_boot: bool) -> Result<(), Corrupt> {
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
