//! What writers announce, and the keeper waits for or believes: epochs and gate slots. A word there that no writer makes costs
//! handovers and no data, and without a name nobody would know why they abort.
//!
//! Looks beside living writers, so each word is read before what bounds it, which only grows. That a slot stays busy is no
//! fault of its word: who does not leave its section is named by the handover that gives up.

use super::EPOCH_FIRST;
use super::fault::{Fault, fault_of};
use super::marks::Tables;
use crate::error::{Corrupt, Error};
use crate::gate::page::GatePage;
use crate::gate::slots::Slots;
use crate::instances;
use crate::layout::SegmentKind;
use crate::mapping::Mapping;
use crate::sync::{Ordering, fence};

/// What is wrong with the epochs and the slots.
pub(super) fn faults(mapping: &Mapping) -> Vec<Fault> {
    let mut faults = epochs(mapping).err().map(fault_of).into_iter().collect::<Vec<_>>();
    match slots(mapping) {
        Ok(found) => faults.extend(found),
        Err(why) => faults.push(fault_of(why)),
    }
    faults
}

fn epochs(mapping: &Mapping) -> Result<(), Error> {
    let (page, at) = (GatePage::of(mapping)?, mapping.segment(SegmentKind::Gate).offset);
    let all_dirty = page.all_dirty().load(Ordering::Acquire);
    let epoch = page.epoch().load(Ordering::Acquire);
    if !(EPOCH_FIRST..=u64::from(u32::MAX)).contains(&epoch) {
        let expected = format!("{EPOCH_FIRST}..={}", u32::MAX);
        return Err(Corrupt::field("page epoch", at + 8, expected, epoch).into());
    }
    if all_dirty > epoch {
        let expected = format!("at most the page epoch, {epoch}");
        return Err(
            Corrupt::field("all-dirty epoch", at + crate::gate::page::field::ALL_DIRTY, expected, all_dirty).into()
        );
    }
    Ok(())
}

fn slots(mapping: &Mapping) -> Result<Vec<Fault>, Error> {
    let (page, slots) = (GatePage::of(mapping)?, Slots::of(mapping)?);
    let mut faults = Vec::new();
    for slot in 0..slots.len() {
        let active = slots.active(slot).load(Ordering::Acquire);
        if active == 0 {
            continue;
        }
        let claim = slots.claimant(slot);
        let (generation, epoch) = (page.load().generation().get(), page.epoch().load(Ordering::Acquire));
        let expected = if active >> 32 > generation {
            format!("a section of generation {generation} at most")
        } else if u64::from(active as u32) > epoch || active as u32 == 0 {
            format!("a section of a page epoch from 1 to {epoch}")
        } else if !is_seated(mapping, claim) {
            "0: the slot is nobody's".to_owned()
        } else {
            continue;
        };
        // A slot that was claimed, returned or used meanwhile is none of ours.
        if slots.active(slot).load(Ordering::Acquire) == active && slots.claimant(slot) == claim {
            faults.push(Corrupt::field("gate slot", slots.offset(mapping, slot), expected, active).into());
        }
    }
    Ok(faults)
}

fn is_seated(mapping: &Mapping, incarnation: u64) -> bool {
    let known = |row: Result<instances::InstanceRow, _>| row.is_ok_and(|row| row.seat.incarnation == incarnation);
    incarnation != 0 && instances::rows(mapping).any(known)
}

/// A page's mark that is newer than any writer's.
pub(super) fn mark(mapping: &Mapping, tables: Tables<'_>, page: u64) -> Option<Fault> {
    let mark = tables.mark(page);
    // The mark before its bound, however this processor orders loads.
    fence(Ordering::Acquire);
    let epoch = GatePage::of(mapping).ok()?.epoch().load(Ordering::Acquire);
    let at = tables.mark_offset(tables.offset(page));
    (mark > epoch).then(|| Corrupt::field("page mark", at, format!("at most the page epoch, {epoch}"), mark).into())
}
