//! How a generation began: for people and for metrics, never for decisions.
//!
//! The region's history says it, also when no arbiter is there to tell; what a message said comes second. A record is read
//! while the arbiter may be writing it, so it is looked up again until it is complete.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heirloom_region::arbiter::record::{self, InstanceRef, Outcome, Record};
use heirloom_region::error::{Generation, Peer};
use heirloom_region::history::History;
use heirloom_region::process::Process;

use crate::role::Cause;

/// Generations that are remembered.
const KNOWN_MAX: usize = 8;
/// Records that are looked through for a generation: aborted handovers and departures stand between.
const RECORDS_MAX: usize = 16;

/// See [`Term::cause`](crate::Term::cause) and its neighbours.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) cause: Cause,
    pub(crate) previous: Option<Peer>,
    pub(crate) blackout: Option<Duration>,
}

/// What a message says.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    pub(crate) generation: u64,
    pub(crate) cause: record::Cause,
    pub(crate) previous: Option<Peer>,
    pub(crate) blackout: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct FactsCache {
    known: Mutex<BTreeMap<u64, Hint>>,
}

impl FactsCache {
    pub(crate) fn hint(&self, hint: Hint) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(hint.generation, hint);
        while known.len() > KNOWN_MAX {
            known.pop_first();
        }
    }

    pub(crate) fn of(&self, process: &Process, generation: Generation) -> Facts {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&generation.get()).cloned();
        let told = match known {
            Some(hint) if hint.blackout.is_some() && hint.cause != record::Cause::Unspecified => Some(hint),
            known => match from_history(process, generation.get()) {
                Some((hint, complete)) => {
                    if complete {
                        self.hint(hint.clone());
                    }
                    Some(hint)
                }
                None => known,
            },
        };
        let cause = told.as_ref().and_then(|told| Cause::from_record(told.cause)).unwrap_or(Cause::Succession);
        let (previous, blackout) = told.map_or((None, None), |told| (told.previous, told.blackout));
        Facts { cause, previous, blackout }
    }
}

/// What the history says of `generation`, and whether that is all it will ever say.
fn from_history(process: &Process, generation: u64) -> Option<(Hint, bool)> {
    let records = newest(process);
    let record =
        records.iter().find(|r| r.outcome == Outcome::Committed && r.generation == generation).or_else(|| {
            // Committed at the gate a moment ago, and not yet written down so.
            records.iter().find(|r| r.outcome == Outcome::Running && r.previous_generation + 1 == generation)
        })?;
    let blackout = record.figures.writer_blackout_us.map(Duration::from_micros);
    let previous = record.source.as_ref().map(peer);
    Some((Hint { generation, cause: record.cause, previous, blackout }, record.end_unix_ms.is_some()))
}

/// The newest records, newest first; one that cannot be read is left out.
pub(crate) fn newest(process: &Process) -> Vec<Record> {
    let history = History::new(process.mapping());
    history.newest(RECORDS_MAX).into_iter().filter_map(|(_, bytes)| Record::from_bytes(&bytes)).collect()
}

pub(crate) fn peer(instance: &InstanceRef) -> Peer {
    Peer { instance: instance.instance.clone(), version: instance.version.clone(), pid: instance.pid }
}
