//! The keeper's side of the gate: barriers and waits. What is done with a frozen gate stands in [`crate::digest`].

use std::time::Instant;

use super::slots::{Slots, before_epoch, of_generation};
use crate::error::{Corrupt, Error};
use crate::instances::{self, Row, flag};
use crate::mapping::Mapping;
use crate::os::membarrier;
use crate::sync::{Ordering, fence};

/// A wait for sections that did not end in time.
#[derive(Debug)]
pub(crate) enum Blocked {
    /// These rows' threads are still in one.
    Rows(Vec<u32>),
    /// The slot table cannot be read.
    Corrupt(Corrupt),
}

/// Makes each writer's announcement visible here, or the keeper's last store visible there.
///
/// # Errors
/// `Io` where the system refuses the barrier and some instance relies on it. Instances that announce themselves need none.
pub(crate) fn barrier(mapping: &Mapping) -> Result<(), Error> {
    fence(Ordering::SeqCst);
    match membarrier::barrier() {
        Err(refused) if asymmetric_exists(mapping)? => Err(refused),
        _ => Ok(()),
    }
}

fn asymmetric_exists(mapping: &Mapping) -> Result<bool, Corrupt> {
    for row in 0..mapping.limits().instances_max {
        let row = Row::of(mapping, row)?;
        let attached = row.incarnation().load(Ordering::Acquire) != 0;
        if attached && row.flags().load(Ordering::SeqCst) & flag::ASYMMETRIC != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// After the gate was frozen and the barrier issued: waits until no section of `generation` is under way.
pub(crate) fn wait_idle(mapping: &Mapping, generation: u64, deadline: Instant) -> Result<(), Blocked> {
    wait(mapping, deadline, of_generation(generation))
}

/// After the epoch was raised and the barrier issued: waits until each section of `generation` marks with `epoch` at least.
pub(crate) fn wait_grace(mapping: &Mapping, generation: u64, epoch: u32, deadline: Instant) -> Result<(), Blocked> {
    wait(mapping, deadline, before_epoch(generation, epoch))
}

fn wait(mapping: &Mapping, deadline: Instant, blocks: impl Fn(u64) -> bool) -> Result<(), Blocked> {
    let slots = Slots::of(mapping).map_err(Blocked::Corrupt)?;
    let Err(owners) = slots.wait_until_none(deadline, blocks) else { return Ok(()) };
    let rows = instances::rows(mapping).flatten().filter(|row| owners.contains(&row.seat.incarnation));
    Err(Blocked::Rows(rows.map(|row| row.seat.row).collect()))
}
