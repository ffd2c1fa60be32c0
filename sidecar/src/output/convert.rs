//! From the protocol's messages to what is printed.

use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::{Figures, InstanceRef, Kind, Outcome as Decided, Phase};
use heirloom_proto::v1::instance::Role;
use heirloom_proto::v1::region::State;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};

use super::time::rfc3339;
use super::{Event, Fault, Handover, Instance, InstanceStatus, Outcome, Region, Undrained};

/// A digest as it is printed.
pub fn digest(digest: u64) -> String {
    format!("{digest:#018x}")
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The name of an enum value in lower case; `None` for UNSPECIFIED.
fn word(name: &str) -> Option<String> {
    (!name.ends_with("_UNSPECIFIED")).then(|| name.to_lowercase())
}

/// The name of an enum value as it is on the wire; of one that this build does not know its number, never another one's name.
/// `None` for UNSPECIFIED.
fn wire_word<E: TryFrom<i32>>(value: i32, name: impl Fn(&E) -> &'static str) -> Option<String> {
    match E::try_from(value) {
        Ok(known) => Some(name(&known)).filter(|name| !name.ends_with("UNSPECIFIED")).map(str::to_owned),
        Err(_) => Some(format!("UNKNOWN_{value}")),
    }
}

fn wire_reason(value: i32) -> Option<String> {
    wire_word(value, ErrorReason::as_str_name)
}

fn reason_word(reason: ErrorReason) -> Option<String> {
    (reason != ErrorReason::Unspecified).then(|| reason.as_str_name().to_owned())
}

impl From<&InstanceRef> for Instance {
    fn from(it: &InstanceRef) -> Self {
        Instance { instance: names::short(&it.name).to_owned(), version: it.version.clone(), pid: it.pid }
    }
}

impl From<&v1::Instance> for Instance {
    fn from(it: &v1::Instance) -> Self {
        Instance { instance: names::short(&it.name).to_owned(), version: it.version.clone(), pid: it.pid }
    }
}

/// The outcome and exit code of a record. An abort in phase PREPARE that changed nothing counts as refused.
fn decided(record: &v1::HandoverRecord) -> (Outcome, u8) {
    match record.outcome() {
        Decided::Committed => (Outcome::Committed, exit::DONE),
        Decided::Already => (Outcome::Already, exit::DONE),
        Decided::Validated => (Outcome::Validated, exit::DONE),
        Decided::Running => (Outcome::Running, exit::DONE),
        Decided::Aborted => match record.reason().exit_code(Some(record.phase())) {
            exit::REFUSED => (Outcome::Refused, exit::REFUSED),
            _ => (Outcome::Aborted, exit::ABORTED),
        },
        Decided::Unspecified => (Outcome::Unknown, exit::UNKNOWN),
    }
}

impl From<&v1::HandoverRecord> for Handover {
    fn from(record: &v1::HandoverRecord) -> Self {
        let (outcome, exit_code) = decided(record);
        let number = names::parse_handover(&record.name);
        let (source, target) = (record.source.as_ref().map(Instance::from), record.target.as_ref().map(Instance::from));
        let committed = match outcome {
            Outcome::Committed => true,
            Outcome::Running => matches!(record.phase(), Phase::Drain | Phase::Done),
            _ => false,
        };
        let (owner, previous_owner) = match outcome {
            _ if committed => (target, source),
            Outcome::Already => (target, None),
            _ => (source, None),
        };
        let generation = if committed { record.generation } else { record.generation.max(record.previous_generation) };
        let empty = Figures::default();
        let figures = record.figures.as_ref();
        let all = figures.unwrap_or(&empty);
        Handover {
            outcome,
            exit_code,
            reason: wire_reason(record.reason),
            message: record.message.clone(),
            expected: None,
            found: None,
            region: number.map_or_else(String::new, |(region, _)| region.to_owned()),
            // Number 0: nothing was begun, so there is nothing to look up.
            handover: number.and_then(|(_, number)| number).filter(|n| *n > 0),
            kind: wire_word(record.kind, Kind::as_str_name).map(|kind| kind.to_lowercase()),
            phase: wire_word(record.phase, Phase::as_str_name).map(|phase| phase.to_lowercase()),
            generation: Some(generation).filter(|g| *g > 0),
            previous_generation: Some(record.previous_generation).filter(|g| *g > 0),
            owner,
            previous_owner,
            root_digest: Some(record.root_digest).filter(|d| *d != 0).map(digest),
            region_bytes: figures.map(|f| f.region_bytes),
            precopy_rounds: figures.map(|f| f.precopy_rounds),
            precopy_pages: figures.map(|f| f.precopy_pages),
            frozen_pages: figures.map(|f| f.frozen_pages),
            blackout_us: figures.and_then(|f| f.writer_blackout_us),
            gate_closed_us: figures.map(|f| f.gate_closed_us),
            total_ms: figures.map(|f| f.total_ms),
            phase_us: all.phase_us.clone().into_iter().collect(),
            undrained: all.undrained_counts.clone().into_iter().collect(),
            forced: record.forced,
            caller: some(&record.caller),
            note: some(&record.note),
            request_id: some(&record.request_id),
            create_time: record.create_time.as_ref().and_then(rfc3339),
            end_time: record.end_time.as_ref().and_then(rfc3339),
        }
    }
}

impl Handover {
    /// What is printed when there is no record: refused before it began, or not known.
    pub fn without_record(region: &str, outcome: Outcome, exit_code: u8, message: impl Into<String>) -> Self {
        let record = v1::HandoverRecord { message: message.into(), ..Default::default() };
        Handover { outcome, exit_code, region: region.to_owned(), ..Handover::from(&record) }
    }

    /// A refusal of the sidecar, as the HTTP twins answer it too.
    pub fn refused(region: &str, failure: &Failure) -> Self {
        let exit_code = failure.exit_code();
        let outcome = match exit_code {
            exit::ABORTED => Outcome::Aborted,
            exit::UNKNOWN => Outcome::Unknown,
            _ => Outcome::Refused,
        };
        Handover {
            reason: reason_word(failure.reason),
            expected: failure.expected.clone(),
            found: failure.found.clone(),
            handover: failure.handover.as_deref().and_then(|h| names::parse_handover(h)?.1),
            phase: failure.phase.and_then(|p| word(p.as_str_name())),
            ..Handover::without_record(region, outcome, exit_code, failure.message.clone())
        }
    }
}

impl From<&v1::Instance> for InstanceStatus {
    fn from(it: &v1::Instance) -> Self {
        let ineligible = match wire_reason(it.ineligible_reason) {
            None => some(&it.ineligible_message),
            Some(reason) => Some(format!("{reason} {}", it.ineligible_message).trim_end().to_owned()),
        };
        InstanceStatus {
            instance: names::short(&it.name).to_owned(),
            version: it.version.clone(),
            pid: it.pid,
            role: wire_word(it.role, Role::as_str_name)
                .map_or_else(|| "unknown".to_owned(), |role| role.to_lowercase()),
            ready: it.ready,
            eligible: it.eligible,
            ineligible,
            connected: it.connected,
            in_flight: it.in_flight_counts.clone().into_iter().collect(),
            undrained: it.undrained.iter().map(Undrained::from).collect(),
            withdrew: it.withdrew,
            attach_time: it.attach_time.as_ref().and_then(rfc3339).unwrap_or_default(),
        }
    }
}

impl From<&v1::Undrained> for Undrained {
    fn from(it: &v1::Undrained) -> Self {
        Undrained { kind: it.kind.clone(), reason: it.reason.clone(), count: it.count }
    }
}

impl From<&v1::Region> for Region {
    fn from(it: &v1::Region) -> Self {
        let number = |name: &str| names::parse_handover(name).and_then(|(_, number)| number);
        let owner =
            it.instances.iter().find(|i| !it.owner.is_empty() && names::short(&i.name) == names::short(&it.owner));
        Region {
            region: names::parse_region(&it.name).unwrap_or(&it.name).to_owned(),
            state: wire_word(it.state, State::as_str_name)
                .map_or_else(|| "unknown".to_owned(), |state| state.to_lowercase()),
            generation: it.generation,
            owner: owner.map(Instance::from),
            instances: it.instances.iter().map(InstanceStatus::from).collect(),
            active_handover: number(&it.active_handover),
            last_handover: it.last_handover.as_ref().and_then(|h| number(&h.name)),
            root_digest: digest(it.root_digest),
            used_bytes: it.used_bytes,
            limit_bytes: it.limit_bytes,
            objects: it.object_counts.clone().into_iter().collect(),
            quarantine: it.quarantine_fault.as_ref().map(|fault| Fault::from(fault).to_string()),
        }
    }
}

impl From<&v1::Fault> for Fault {
    fn from(it: &v1::Fault) -> Self {
        Fault {
            structure: it.structure.clone(),
            offset_bytes: it.offset_bytes,
            expected: it.expected.clone(),
            found: it.found.clone(),
            reason: wire_reason(it.reason).unwrap_or_else(|| ErrorReason::RegionCorrupt.as_str_name().to_owned()),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fault { structure, offset_bytes, expected, found, reason } = self;
        write!(f, "{reason} {structure} at byte {offset_bytes}: expected {expected}, found {found}")
    }
}

impl From<&v1::RegionEvent> for Event {
    fn from(it: &v1::RegionEvent) -> Self {
        Event {
            sequence: it.sequence,
            time: it.event_time.as_ref().and_then(rfc3339),
            region: it.region.as_ref().map(Region::from),
            handover: it.handover.as_ref().map(Handover::from),
            drained: some(names::short(&it.drained)),
        }
    }
}
