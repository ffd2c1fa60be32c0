//! What the arbiter says about its region: status, and events for those who watch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::record::{InstanceRef, Record};
use super::words::words;

words! {
    /// Of a region.
    State {
        /// Somebody owns it.
        Owned = "owned",
        /// Nobody does.
        Vacant = "vacant",
        /// A switch is under way.
        Switching = "switching",
        /// Held back because of a fault.
        Quarantined = "quarantined",
    }
}
words! {
    /// Of an instance.
    Role {
        /// Attached; may own if it is eligible.
        Standby = "standby",
        /// Owns.
        Owner = "owner",
        /// Owned, is finishing its work.
        Draining = "draining",
        /// Reads only.
        Observer = "observer",
        /// Has left in order; its process is still there.
        Left = "left",
    }
}

/// A part of what is in flight, and why it is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Undrained {
    /// Of this kind.
    pub kind: String,
    /// A word: `NO_BOUNDARY`, `TLS`, what the receiver refused it for, or the service's own.
    pub reason: String,
    /// So much.
    pub count: u64,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Its name.
    pub instance: String,
    /// Never reused.
    pub incarnation: u64,
    /// Label of its build.
    pub version: String,
    /// What it does.
    pub role: Role,
    /// It said that it may own.
    pub ready: bool,
    /// Ready, connected, not leaving, and reads every value in the region that it asked for.
    pub eligible: bool,
    /// Why it is not eligible.
    pub ineligible: Option<(Reason, String)>,
    /// In the arbiter's pid namespace; 0 if not visible.
    pub pid: u32,
    /// Of its process.
    pub uid: u32,
    /// When it attached first.
    pub attach_unix_ms: u64,
    /// Has a live stream; the lack of it changes no role.
    pub connected: bool,
    /// As last reported.
    pub in_flight: BTreeMap<String, u64>,
    /// Why of it is left what is, as last reported by one that drains; parts that give no reason are not in it.
    pub undrained: Vec<Undrained>,
    /// Has taken its readiness back, or leaves: not for new traffic, though it may still own.
    pub withdrew: bool,
    /// Owned now, or last; 0: never.
    pub generation: u64,
    /// It was asked to leave, or said that it leaves.
    pub leaving: bool,
}

impl InstanceStatus {
    /// As a record names it.
    pub fn as_ref(&self) -> InstanceRef {
        InstanceRef {
            instance: self.instance.clone(),
            version: self.version.clone(),
            pid: self.pid,
            incarnation: self.incarnation,
        }
    }
}

/// One region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionStatus {
    /// Its name, as page 0 has it.
    pub region: String,
    /// In page 0.
    pub uuid: [u8; 16],
    /// What goes on.
    pub state: State,
    /// Open now.
    pub generation: u64,
    /// Who owns; none while vacant.
    pub owner: Option<InstanceRef>,
    /// Everyone attached, in the order of attaching.
    pub instances: Vec<InstanceStatus>,
    /// Number of the switch under way.
    pub active_handover: Option<u64>,
    /// Newest decided one.
    pub last_handover: Option<u64>,
    /// When this generation was opened.
    pub generation_start_unix_ms: u64,
    /// Since when nobody owns.
    pub vacant_since_unix_ms: Option<u64>,
    /// Of the last seal.
    pub root_digest: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes allowed.
    pub limit_bytes: u64,
    /// By kind; a kind that this build does not know as `kind-N`.
    pub object_counts: BTreeMap<String, u64>,
    /// Who is gone: those whose end was proved in this arbiter's time, the newest 32, oldest first.
    pub departed: Vec<InstanceRef>,
    /// Why it is held back.
    pub quarantine: Option<(Reason, String)>,
}

/// A change of one handover, always with the whole record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandoverEvent {
    /// Counts the region's events.
    pub sequence: u64,
    /// When.
    pub unix_ms: u64,
    /// Now.
    pub record: Record,
    /// Left after the last round.
    pub precopy_dirty_pages: u64,
    /// What fits the freeze budget.
    pub precopy_target_pages: u64,
}

/// A change of the region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionEvent {
    /// Counts the region's events, from 1 at the arbiter's start.
    pub sequence: u64,
    /// When.
    pub unix_ms: u64,
    /// Now.
    pub status: RegionStatus,
    /// The handover that changed, if one did.
    pub record: Option<Record>,
    /// The instance whose drain is over with this event: it has nothing in flight any more.
    pub drained: Option<String>,
}
