//! What `-o json` prints, and what the HTTP twins answer.
//!
//! Invariants: every key is always there, null if unknown; keys are only added, never renamed or given another meaning; 64-bit
//! digests are hexadecimal text, because they do not fit a JSON number; times are RFC 3339 in UTC. The schemas under
//! `schema/` are made from these types, and a test compares them.

mod convert;
pub mod dump;
pub(crate) mod time;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};

pub use convert::digest;

/// How a handover, a rollback or an abort ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target owns.
    Committed,
    /// The target owned already; nothing was done.
    Already,
    /// A dry run: it would have begun.
    Validated,
    /// Nothing changed.
    Refused,
    /// It had begun; the generation is as it was.
    Aborted,
    /// Not decided yet.
    Running,
    /// The sidecar was lost on the way.
    Unknown,
}

/// Of handover, rollback, abort and `history REGION NUMBER`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Handover {
    /// How it ended.
    pub outcome: Outcome,
    /// Of the command that asked for it.
    pub exit_code: u8,
    /// From heirloom.v1.ErrorReason; null if committed
    pub reason: Option<String>,
    /// One sentence.
    pub message: String,
    /// What should have been there.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
    /// Region's name.
    pub region: String,
    /// Number in the region's history.
    pub handover: Option<u64>,
    /// handover, rollback, promotion, departure or succession
    pub kind: Option<String>,
    /// Phase reached
    pub phase: Option<String>,
    /// Open now.
    pub generation: Option<u64>,
    /// Open before.
    pub previous_generation: Option<u64>,
    /// Who owns now; null while vacant.
    pub owner: Option<Instance>,
    /// Who owned before, if that was another.
    pub previous_owner: Option<Instance>,
    /// Hexadecimal: 64 bits do not fit a JSON number
    pub root_digest: Option<String>,
    /// Size of the region.
    pub region_bytes: Option<u64>,
    /// Rounds made while the old owner worked.
    pub precopy_rounds: Option<u32>,
    /// Pages checksummed in them.
    pub precopy_pages: Option<u64>,
    /// Pages checksummed while the gate was closed.
    pub frozen_pages: Option<u64>,
    /// Longest wait that a writer measured; null if none wrote
    pub blackout_us: Option<u64>,
    /// From FROZEN to OPEN, by the sidecar
    pub gate_closed_us: Option<u64>,
    /// From the request to the decision.
    pub total_ms: Option<u64>,
    /// Time in each phase.
    pub phase_us: BTreeMap<String, u64>,
    /// What the old owner still had in flight, by kind.
    pub undrained: BTreeMap<String, u64>,
    /// The old owner was killed for it.
    pub forced: bool,
    /// Who asked: uid:1000, or a certificate's subject.
    pub caller: Option<String>,
    /// As given.
    pub note: Option<String>,
    /// As given, or made by the command line.
    pub request_id: Option<String>,
    /// RFC 3339, UTC
    pub create_time: Option<String>,
    /// End of the abort, or of the drain.
    pub end_time: Option<String>,
}

/// Of `handover SERVICE --all`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Handovers {
    /// Of the last one; already if all were.
    pub outcome: Outcome,
    /// Of the last one.
    pub exit_code: u8,
    /// Service's name.
    pub service: String,
    /// One for each replica tried, in order.
    pub handovers: Vec<Handover>,
    /// Replicas not tried because one before was not committed.
    pub not_tried: Vec<String>,
}

/// One process, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its name within the region.
    pub instance: String,
    /// The label of its build.
    pub version: String,
    /// In the sidecar's namespace; 0 if not visible there.
    pub pid: u32,
}

/// One element of what `status` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Region {
    /// Its name.
    pub region: String,
    /// owned, vacant, switching or quarantined
    pub state: String,
    /// The open generation.
    pub generation: u64,
    /// Null while vacant.
    pub owner: Option<Instance>,
    /// All attached.
    pub instances: Vec<InstanceStatus>,
    /// Number of the running handover.
    pub active_handover: Option<u64>,
    /// Number of the last one that ended.
    pub last_handover: Option<u64>,
    /// Of the last seal, hexadecimal.
    pub root_digest: String,
    /// Allocated.
    pub used_bytes: u64,
    /// At most.
    pub limit_bytes: u64,
    /// Objects by kind.
    pub objects: BTreeMap<String, u64>,
    /// Why it is in quarantine.
    pub quarantine: Option<String>,
}

/// One attached process; also what `drain` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceStatus {
    /// Its name within the region.
    pub instance: String,
    /// The label of its build.
    pub version: String,
    /// In the sidecar's namespace; 0 if not visible there.
    pub pid: u32,
    /// standby, owner, draining, observer or left
    pub role: String,
    /// Declared by itself.
    pub ready: bool,
    /// Ready, and able to read every value.
    pub eligible: bool,
    /// Why it is not eligible.
    pub ineligible: Option<String>,
    /// Has a stream to the sidecar.
    pub connected: bool,
    /// By kind.
    pub in_flight: BTreeMap<String, u64>,
    /// While it drains: why of it is left what is, for the parts that have a reason.
    pub undrained: Vec<Undrained>,
    /// Has taken its readiness back, or leaves: not for new traffic, though it may still own.
    pub withdrew: bool,
    /// RFC 3339, UTC; empty if unknown.
    pub attach_time: String,
}

/// A part of what is in flight, and why it is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Undrained {
    /// requests, connections, terms, or the service's own.
    pub kind: String,
    /// NO_BOUNDARY, NOT_MOVABLE, MOVING, what the next owner refused it for, or the service's own word.
    pub reason: String,
    /// So much.
    pub count: u64,
}

/// One line of `watch -o jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// For `watch --after`.
    pub sequence: u64,
    /// RFC 3339, UTC
    pub time: Option<String>,
    /// As it is after the change.
    pub region: Option<Region>,
    /// The handover that changed it.
    pub handover: Option<Handover>,
    /// The instance whose drain is over with this event.
    pub drained: Option<String>,
}

/// Of `wait`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wait {
    /// met or timed_out
    pub outcome: String,
    /// 0, or 3 in time-out
    pub exit_code: u8,
    /// Region's name.
    pub region: String,
    /// As given.
    pub condition: String,
    /// How long it took.
    pub waited_ms: u64,
    /// What the condition speaks of, as it was last.
    pub found: String,
}

/// Of `verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verify {
    /// intact or corrupt
    pub outcome: String,
    /// 0, or 6 if corrupt
    pub exit_code: u8,
    /// Region's name, if the sidecar checked it.
    pub region: Option<String>,
    /// Path, if a file was checked.
    pub file: Option<String>,
    /// What else is to be known of a file: that a sidecar would not serve it under this name.
    pub note: Option<String>,
    /// Checked.
    pub checked_bytes: u64,
    /// Of these.
    pub total_bytes: u64,
    /// Time series among what was checked, from their labels to their oldest chunk.
    pub series_checked: u64,
    /// All that were found.
    pub fault_count: u64,
    /// The first 100.
    pub faults: Vec<Fault>,
    /// Bytes of owned pages of which a reboot left something else than was digested: no fault, and no proof.
    pub unverifiable_bytes: u64,
    /// Where they are, the first 100.
    pub unverifiable: Vec<ByteRange>,
}

/// Bytes of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ByteRange {
    /// Where in the file.
    pub offset_bytes: u64,
    /// How many.
    pub len_bytes: u64,
}

/// One thing that is wrong in a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Which structure.
    pub structure: String,
    /// Where in the file.
    pub offset_bytes: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// REGION_CORRUPT or DIGEST_MISMATCH
    pub reason: String,
}

/// Of any verb that fails and has no object of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// refused, aborted, unreachable, corrupt, unknown, usage or internal
    pub outcome: String,
    /// As DESIGN says: 1 to 7.
    pub exit_code: u8,
    /// From heirloom.v1.ErrorReason.
    pub reason: Option<String>,
    /// One sentence.
    pub message: String,
    /// What should have been there.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
    /// Region's name, if there is one to speak of.
    pub region: Option<String>,
    /// Number of the handover that is meant.
    pub handover: Option<u64>,
}

/// Of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctor {
    /// Nothing that is needed is missing.
    pub ok: bool,
    /// 0, or 3 if something needed is missing
    pub exit_code: u8,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub verdict: CheckVerdict,
    /// What was found.
    pub found: String,
    /// What to do or to know; null if it is as it should be.
    pub advice: Option<String>,
}

/// How a thing that `doctor` looked at is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// As it should be.
    Good,
    /// It works, with something to know.
    Warning,
    /// Needed and not there.
    Missing,
}

/// The JSON schema of every object, with the name of its file under `schema/`.
pub fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("handover", schema_for!(Handover)),
        ("handovers", schema_for!(Handovers)),
        ("status", schema_for!(Vec<Region>)),
        ("instance", schema_for!(InstanceStatus)),
        ("watch", schema_for!(Event)),
        ("wait", schema_for!(Wait)),
        ("verify", schema_for!(Verify)),
        ("failure", schema_for!(Failure)),
        ("doctor", schema_for!(Doctor)),
        ("dump", schema_for!(dump::Dump)),
    ]
}

#[cfg(test)]
mod tests;
