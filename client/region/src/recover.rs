//! What a region is when it is new, who may arbitrate over it, and what is done for those who died.
//!
//! **One keeper.** A [`KeeperHold`] is the sidecar's byte (on the heap a flag): it is taken by one process at a time, and
//! freed by the kernel at its death. So a claim that names another keeper is a claim of the dead, and passes on; no claim
//! of a living one is ever taken over.
//!
//! **Only what belongs to the proved dead** is touched: [`reclaim`] wants a [`DeathProof`]. A row is freed last, after its
//! incarnation's slots and lanes, so a recoverer killed at any step leaves a row that names the dead and is found again;
//! each step may be done twice.
//!
//! **Another boot**: all incarnations are dead. Slots, leases and rows are cleared, then the caller opens a new generation,
//! and `Boot::adopt` stores the boot's id last. Killed before that, the next start does it all again and only skips a
//! generation.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::error::{Corrupt, Error, Misuse, NotReady};
use crate::instances::{self, Row, Seat};
use crate::layout::{SegmentKind, control, crc32};
use crate::mapping::Mapping;
use crate::objects::reclaim::{reclaim_all_lanes, reclaim_lanes};
use crate::os;
use crate::os::liveness::{self, Holder, LivenessPage};
use crate::sync::Ordering;

/// Boot record: 16 bytes of boot id, then their CRC in a word.
const BOOT_WORDS: u64 = 3;
/// Id of the keeper that holds the region, or held it last.
const KEEPER_ID: u64 = control::BOOT + 136;

/// Fills a new region before it has a name: gate OPEN(1,0), superblock 1 that names nobody, this boot.
pub(crate) fn format(mapping: &Mapping) -> Result<(), Error> {
    crate::digest::format(mapping)?;
    Boot::adopt(mapping)
}

/// The exclusive right to arbitrate over a region, while it lives.
#[derive(Debug)]
pub struct KeeperHold {
    mapping: Arc<Mapping>,
    id: u64,
    _page: Option<LivenessPage>,
}

impl KeeperHold {
    /// Takes the region for this process.
    ///
    /// # Errors
    /// `NotReady` while another keeper lives, `Denied` on a read-only mapping, `Misuse` in a forked child, `Io`.
    pub fn take(mapping: &Arc<Mapping>) -> Result<Self, Error> {
        mapping.check_writable()?;
        let held = || Error::from(NotReady::Held { region: mapping.name().to_owned() });
        let page = match mapping.fd() {
            Some(fd) => Some(liveness::take_and_hold(fd, Holder::Sidecar)?.ok_or_else(held)?),
            None if mapping.take_heap_keeper() => None,
            None => return Err(held()),
        };
        let hold = Self { mapping: Arc::clone(mapping), id: instances::fresh_incarnation(mapping)?, _page: page };
        mapping.word(mapping.control(KEEPER_ID))?.store(hold.id, Ordering::Release);
        Ok(hold)
    }

    /// The region.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
    /// What this keeper's claims carry: random, not 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the holder of this incarnation or keeper's id is proved dead. "No" where nothing is proved.
    pub fn is_dead(&self, id: u64) -> bool {
        if id == self.id {
            return false;
        }
        let mut unknown_lives = false;
        for row in 0..self.mapping.limits().instances_max {
            let Ok(words) = Row::of(&self.mapping, row) else { return false };
            let holder = words.incarnation().load(Ordering::Acquire);
            if holder == id {
                return instances::is_dead(&self.mapping, row).unwrap_or(false);
            }
            // A row that cannot be trusted may be that of the holder, if somebody lives in it.
            unknown_lives |= holder != 0
                && instances::read(&self.mapping, row).is_err()
                && !instances::is_dead(&self.mapping, row).unwrap_or(false);
        }
        // In no row: a former keeper's id (there is one keeper, and it is us), or an incarnation whose row was freed, which
        // only its proved death allows.
        !unknown_lives
    }
}

impl Drop for KeeperHold {
    fn drop(&mut self) {
        if self.mapping.fd().is_none() {
            self.mapping.release_heap_keeper();
        }
    }
}

/// Whether nobody arbitrates over the region: its sidecar is proved dead, or there never was one.
pub fn keeper_is_dead(mapping: &Mapping) -> bool {
    match mapping.fd() {
        // Where the probe fails nothing is proved.
        Some(fd) => liveness::is_free(fd, Holder::Sidecar).unwrap_or(false),
        None => !mapping.has_heap_keeper(),
    }
}

/// Whether no instance is attached that is not proved dead.
///
/// # Errors
/// `Io` or `Corrupt` where nothing can be proved.
pub(crate) fn nobody_lives(mapping: &Mapping) -> Result<bool, Error> {
    for row in 0..mapping.limits().instances_max {
        // A file's lock is asked also of rows that are free: what a row says is input.
        let free = mapping.fd().is_none() && Row::of(mapping, row)?.incarnation().load(Ordering::Acquire) == 0;
        if !free && !instances::is_dead(mapping, row)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Proof that the process in a seat is dead.
#[derive(Clone, Copy, Debug)]
pub struct DeathProof {
    seat: Seat,
}

impl DeathProof {
    /// The row's lock is free: the kernel freed it, for nobody unlocks.
    ///
    /// # Errors
    /// `Io` or `Corrupt` where nothing can be proved.
    pub fn by_lock(mapping: &Mapping, row: u32) -> Result<Option<Self>, Error> {
        let incarnation = Row::of(mapping, row)?.incarnation().load(Ordering::Acquire);
        let dead = incarnation != 0 && instances::is_dead(mapping, row)?;
        Ok(dead.then_some(Self { seat: Seat { row, incarnation } }))
    }

    /// The pidfd that the arbiter has kept for this seat is readable.
    pub fn by_pidfd(seat: Seat, pidfd: BorrowedFd<'_>) -> Option<Self> {
        os::pidfd::is_dead(pidfd).then_some(Self { seat })
    }

    /// Whose death it proves.
    pub fn seat(&self) -> Seat {
        self.seat
    }
}

/// Frees all that the dead held: slots, lanes (counts stay, shares of up-down gauges go), at last the row. Idempotent.
///
/// # Errors
/// `Misuse` if the row belongs to another incarnation by now, `Corrupt`.
pub fn reclaim(hold: &KeeperHold, proof: DeathProof) -> Result<(), Error> {
    let mapping = &hold.mapping;
    mapping.check_writable()?;
    let Seat { row, incarnation } = proof.seat;
    let words = Row::of(mapping, row)?;
    match words.incarnation().load(Ordering::Acquire) {
        0 => return Ok(()),
        found if found != incarnation => {
            let found = format!(
                "row {row} is {}, not {}",
                instances::instance_name(found),
                instances::instance_name(incarnation)
            );
            return Err(Misuse::Argument { what: "proof of death", found }.into());
        }
        _ => {}
    }
    // For people who read a dump of a region whose keeper was killed here; the hold is what excludes others.
    words.claimant().store(hold.id, Ordering::Release);
    crate::gate::release_slots(mapping, incarnation)?;
    release_lanes(hold, incarnation)?;
    words.incarnation().store(0, Ordering::Release);
    words.claimant().store(0, Ordering::Release);
    Ok(())
}

fn release_lanes(hold: &KeeperHold, incarnation: u64) -> Result<(), Error> {
    let reclaimed = reclaim_lanes(&hold.mapping, incarnation, hold.id, &|id| hold.is_dead(id))?;
    if reclaimed.contended > 0 {
        // A claim by someone who is not proved dead: the row stays, and is found again.
        return Err(NotReady::Held { region: hold.mapping.name().to_owned() }.into());
    }
    Ok(())
}

/// Which boot of the host the region's incarnations belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// This one.
    Same,
    /// A former one, or one that the record does not name any more: all incarnations are dead.
    Other,
}

impl Boot {
    /// What the boot record says.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged and somebody lives in the region, so that it cannot be another boot's; `Io`.
    pub fn of(hold: &KeeperHold) -> Result<Self, Error> {
        let mapping = &hold.mapping;
        if mapping.fd().is_none() {
            return Ok(Boot::Same);
        }
        let offset = mapping.control(control::BOOT);
        let mut record = [0; 8 * BOOT_WORDS as usize];
        mapping.copy_out(offset, &mut record)?;
        let (id, crc) = record.split_at(16);
        let (expected, found) = (u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]), crc32(id));
        if expected == found {
            return Ok(if id == os::boot::boot_id()? { Boot::Same } else { Boot::Other });
        }
        // A lock does not outlive its boot: where one is held the record is damaged, and not half-written by a reboot.
        if !nobody_lives(mapping)? {
            return Err(Corrupt::Checksum { what: "boot record", offset, expected, found }.into());
        }
        Ok(Boot::Other)
    }

    /// Stores this boot as the region's; the last step of a reset.
    pub(crate) fn adopt(mapping: &Mapping) -> Result<(), Error> {
        let id = os::boot::boot_id()?;
        let offset = mapping.control(control::BOOT);
        mapping.copy_in(offset, &id)?;
        mapping.word(offset + 16)?.store(crc32(&id).into(), Ordering::Release);
        Ok(())
    }

    /// Forgets everyone who was attached before a reboot: slots, leases and rows. The gate and the boot record follow.
    ///
    /// # Errors
    /// `Full` if the file system does not give again what the region had, `Corrupt`, `Io`.
    pub(crate) fn forget_former(hold: &KeeperHold) -> Result<(), Error> {
        let mapping = &hold.mapping;
        mapping.check_writable()?;
        mapping.settle_after_reboot()?;
        let slots = mapping.segment(SegmentKind::Slots);
        mapping.words(slots.offset, slots.len / 8)?.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        reclaim_all_lanes(mapping, hold.id, &|_| true)?;
        for row in 0..mapping.limits().instances_max {
            let words = Row::of(mapping, row)?;
            words.incarnation().store(0, Ordering::Release);
            words.claimant().store(0, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
