//! What becomes of the lanes of the dead.
//!
//! Counter and histogram words stay as they are, and the lane's next lessee goes on from them: counters never go back.
//! Up-down words are the dead's *share* of a sum over the living, and are zeroed. The steps, for a lane leased by a process
//! that is proved dead:
//!
//! 1. `claimant`: swap 0 → mine. From here on readers leave the lane's shares out.
//! 2. Look at the lease again: if it is not the dead's any more, undo the claim and leave.
//! 3. Store 0 to each up-down word.
//! 4. `lease`: swap dead → mine. 5. `claimant`: swap mine → 0. 6. `lease`: swap mine → 0: the lane is free.
//!
//! Crash argument. A recoverer killed in between leaves a claim that names it, a lease that names the dead or it, or both.
//! Its own death proved, the next one takes the claim over by swap (dead claimant → mine) and begins at step 2; a lease that
//! names a dead recoverer is a lease of the dead like any other. Every step may be done again: zeroing is idempotent, and
//! nobody counts in the lane before step 6, the only one that frees it. No lane is ever free with a claim on it, so no
//! lessee's share is left out or zeroed by a late recoverer: one that claims after step 6 finds another lease in step 2.
//! A claim by a dead recoverer on a lane of the living (killed within step 2) is cleared by the next one to pass.

use crate::alloc::lane_words_used;
use crate::directory::Directory;
use crate::directory::entry::{Decoded, Kind};
use crate::error::Error;
use crate::instances::Row;
use crate::mapping::Mapping;
use crate::objects::lane::{CLAIMANT, LEASE, row_words, rows, strip};
use crate::sync::{AtomicU64, Ordering};

/// What [`reclaim_lanes`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Lanes freed.
    pub lanes: u32,
    /// Lanes that another recoverer, not proved dead, has claimed: try again.
    pub contended: u32,
}

/// Frees the lanes of `dead`, which must be proved dead, and those whose lease a recoverer had taken over when it was killed:
/// nobody else would ever come to them. `mine` is the caller's incarnation; `is_dead` proves the death of other recoverers,
/// whose claims are taken over. May be repeated, and killed at any step.
///
/// # Errors
/// [`Error::Corrupt`] if the lane table is not readable.
pub fn reclaim_lanes(
    mapping: &Mapping,
    dead: u64,
    mine: u64,
    is_dead: &dyn Fn(u64) -> bool,
) -> Result<Reclaimed, Error> {
    // A recoverer sits in no row; whoever sits in one has its lanes freed on the proof of its own death.
    let recoverers = |lease| lease != mine && !is_seated(mapping, lease) && is_dead(lease);
    reclaim(mapping, mine, &|lease| lease == dead || recoverers(lease), is_dead)
}

/// Whether a row of the instance table names this incarnation; "yes" where the table cannot be read.
fn is_seated(mapping: &Mapping, incarnation: u64) -> bool {
    let names =
        |row| Row::of(mapping, row).map_or(true, |row| row.incarnation().load(Ordering::Acquire) == incarnation);
    (0..mapping.limits().instances_max).any(names)
}

/// Frees the lanes of all that `is_dead` proves dead: at a start, and, where it says yes to all, under another boot.
///
/// # Errors
/// As [`reclaim_lanes`].
pub fn reclaim_all_lanes(mapping: &Mapping, mine: u64, is_dead: &dyn Fn(u64) -> bool) -> Result<Reclaimed, Error> {
    reclaim(mapping, mine, is_dead, is_dead)
}

fn reclaim(
    mapping: &Mapping,
    mine: u64,
    leased_by_dead: &dyn Fn(u64) -> bool,
    is_dead: &dyn Fn(u64) -> bool,
) -> Result<Reclaimed, Error> {
    mapping.check_writable()?;
    let mut done = Reclaimed::default();
    let mut shares = None;
    for row in 0..rows(mapping) {
        let table = row_words(mapping, row)?;
        let (lease, claimant) = (&table[LEASE], &table[CLAIMANT]);
        let (leased, claimed) = (lease.load(Ordering::Acquire), claimant.load(Ordering::Acquire));
        let stale = claimed != 0 && claimed != mine && is_dead(claimed);
        if leased == 0 || !leased_by_dead(leased) {
            if stale {
                // Killed in step 2 by the table's rules; on a free lane only damage explains it. It means nothing now.
                let _ = claimant.compare_exchange(claimed, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
            continue;
        }
        if claimed != mine && ((claimed != 0 && !stale) || !swap(claimant, claimed, mine)) {
            done.contended += 1;
            continue;
        }
        if lease.load(Ordering::Acquire) == leased {
            zero_shares(mapping, row, shares.get_or_insert_with(|| share_words(mapping)));
            swap(lease, leased, mine);
            done.lanes += 1;
        }
        swap(claimant, mine, 0);
        swap(lease, mine, 0);
    }
    Ok(done)
}

/// AcqRel: what the step before wrote is seen by whoever sees this one.
fn swap(word: &AtomicU64, from: u64, to: u64) -> bool {
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn zero_shares(mapping: &Mapping, row: u32, shares: &[u64]) {
    for word in shares {
        // What is not ready was never written.
        if let Ok(words) = mapping.words(strip(mapping, row) + word * 8, 1) {
            words[0].store(0, Ordering::Relaxed);
        }
    }
}

/// The words of all up-down gauges. Complete for a dead process: it published an entry before it counted there.
fn share_words(mapping: &Mapping) -> Vec<u64> {
    let directory = Directory::shared(mapping);
    let used = lane_words_used(mapping);
    let mut words = Vec::new();
    for (_, slot) in directory.filled() {
        if let Ok((Decoded::Known(entry), _)) = directory.read(slot)
            && entry.kind == Kind::UpDownGauge
            && entry.payload < used
        {
            words.push(entry.payload);
        }
    }
    words
}
