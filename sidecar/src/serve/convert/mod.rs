//! From what arbiters say to what crosses the sockets, and back: one to one, nothing decided here.

mod link;

use std::time::Duration;

use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};
use heirloom_region::arbiter::{
    self, FaultReport, InstanceRef, InstanceStatus, Kind, Outcome, Phase, Reason, Record, Refusal, RegionStatus, Role,
    State,
};
use heirloom_region::error::{Error, Full, Misuse};
use prost_types::Timestamp;

pub(crate) use link::{from_instance, to_instance};

pub(crate) fn timestamp(unix_ms: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    (unix_ms != 0).then(|| Timestamp { seconds, nanos: (unix_ms % 1000) as i32 * 1_000_000 })
}

pub(crate) fn reason(reason: Reason) -> ErrorReason {
    ErrorReason::from_str_name(reason.as_str()).unwrap_or_default()
}

pub(crate) fn phase(phase: Phase) -> v1::handover_record::Phase {
    use v1::handover_record::Phase as P;
    match phase {
        Phase::Prepare => P::Prepare,
        Phase::Precopy => P::Precopy,
        Phase::Flush => P::Flush,
        Phase::Freeze => P::Freeze,
        Phase::Seal => P::Seal,
        Phase::Commit => P::Commit,
        Phase::Drain => P::Drain,
        Phase::Done => P::Done,
        _ => P::Unspecified,
    }
}

fn kind(kind: Kind) -> v1::handover_record::Kind {
    use v1::handover_record::Kind as K;
    match kind {
        Kind::Handover => K::Handover,
        Kind::Rollback => K::Rollback,
        Kind::Promotion => K::Promotion,
        Kind::Departure => K::Departure,
        Kind::Succession => K::Succession,
        _ => K::Unspecified,
    }
}

fn outcome(outcome: Outcome) -> v1::handover_record::Outcome {
    use v1::handover_record::Outcome as O;
    match outcome {
        Outcome::Running => O::Running,
        Outcome::Committed => O::Committed,
        Outcome::Aborted => O::Aborted,
        Outcome::Already => O::Already,
        Outcome::Validated => O::Validated,
        _ => O::Unspecified,
    }
}

fn instance_ref(region: &str, it: &InstanceRef) -> v1::handover_record::InstanceRef {
    let name = names::instance(region, &it.instance);
    v1::handover_record::InstanceRef { name, version: it.version.clone(), pid: it.pid }
}

/// A record; one that is not kept (number 0) bears its region's name with number 0.
pub(crate) fn record(region: &str, it: &Record) -> v1::HandoverRecord {
    let figures = &it.figures;
    v1::HandoverRecord {
        name: names::handover(region, it.number),
        kind: kind(it.kind).into(),
        outcome: outcome(it.outcome).into(),
        phase: phase(it.phase).into(),
        reason: it.reason.map(reason).unwrap_or_default().into(),
        message: it.message.clone(),
        source: it.source.as_ref().map(|i| instance_ref(region, i)),
        target: it.target.as_ref().map(|i| instance_ref(region, i)),
        previous_generation: it.previous_generation,
        generation: it.generation,
        root_digest: it.root_digest,
        rolled_back_by: it.rolled_back_by.map(|n| names::handover(region, n)).unwrap_or_default(),
        request_id: it.request_id.clone(),
        caller: it.caller.clone(),
        note: it.note.clone(),
        forced: it.forced,
        create_time: timestamp(it.create_unix_ms),
        end_time: it.end_unix_ms.and_then(timestamp),
        figures: Some(v1::handover_record::Figures {
            region_bytes: figures.region_bytes,
            precopy_rounds: figures.precopy_rounds,
            precopy_pages: figures.precopy_pages,
            frozen_pages: figures.frozen_pages,
            gate_closed_us: figures.gate_closed_us,
            writer_blackout_us: figures.writer_blackout_us,
            total_ms: figures.total_ms,
            phase_us: figures.phase_us.clone().into_iter().collect(),
            undrained_counts: figures.undrained_counts.clone().into_iter().collect(),
        }),
    }
}

pub(crate) fn handover_event(region: &str, it: &arbiter::HandoverEvent) -> v1::HandoverEvent {
    v1::HandoverEvent {
        sequence: it.sequence,
        event_time: timestamp(it.unix_ms),
        handover: Some(record(region, &it.record)),
        precopy_dirty_pages: it.precopy_dirty_pages,
        precopy_target_pages: it.precopy_target_pages,
    }
}

pub(crate) fn instance(region: &str, it: &InstanceStatus) -> v1::Instance {
    use v1::instance::Role as R;
    let role = match it.role {
        Role::Standby => R::Standby,
        Role::Owner => R::Owner,
        Role::Draining => R::Draining,
        Role::Observer => R::Observer,
        Role::Left => R::Left,
        _ => R::Unspecified,
    };
    let (ineligible_reason, ineligible_message) = it.ineligible.clone().unwrap_or_default();
    v1::Instance {
        name: names::instance(region, &it.instance),
        version: it.version.clone(),
        role: role.into(),
        ready: it.ready,
        eligible: it.eligible,
        ineligible_reason: reason(ineligible_reason).into(),
        ineligible_message,
        pid: it.pid,
        uid: it.uid,
        attach_time: timestamp(it.attach_unix_ms),
        connected: it.connected,
        in_flight_counts: it.in_flight.clone().into_iter().collect(),
        generation: it.generation,
        incarnation: it.incarnation,
        undrained: it.undrained.iter().map(undrained).collect(),
        withdrew: it.withdrew,
    }
}

fn undrained(it: &arbiter::Undrained) -> v1::Undrained {
    v1::Undrained { kind: it.kind.clone(), reason: it.reason.clone(), count: it.count }
}

/// A region; `last` is the record that the status names as the last one.
pub(crate) fn region(it: &RegionStatus, last: Option<&Record>) -> v1::Region {
    use v1::region::State as S;
    let state = match it.state {
        State::Owned => S::Owned,
        State::Vacant => S::Vacant,
        State::Switching => S::Switching,
        State::Quarantined => S::Quarantined,
        _ => S::Unspecified,
    };
    let quarantine_fault = it.quarantine.as_ref().map(|(why, message)| v1::Fault {
        structure: "owner".into(),
        expected: "an owner that lives".into(),
        found: message.clone(),
        reason: reason(*why).into(),
        ..v1::Fault::default()
    });
    v1::Region {
        name: names::region(&it.region),
        uid: uuid::Uuid::from_bytes(it.uuid).to_string(),
        state: state.into(),
        generation: it.generation,
        owner: it.owner.as_ref().map(|o| names::instance(&it.region, &o.instance)).unwrap_or_default(),
        instances: it.instances.iter().map(|i| instance(&it.region, i)).collect(),
        active_handover: it.active_handover.map(|n| names::handover(&it.region, n)).unwrap_or_default(),
        generation_start_time: timestamp(it.generation_start_unix_ms),
        root_digest: it.root_digest,
        used_bytes: it.used_bytes,
        limit_bytes: it.limit_bytes,
        object_counts: it.object_counts.clone().into_iter().collect(),
        quarantine_fault,
        last_handover: last.map(|r| record(&it.region, r)),
        departed: it.departed.iter().map(|gone| instance_ref(&it.region, gone)).collect(),
    }
}

pub(crate) fn fault(it: &FaultReport) -> v1::Fault {
    v1::Fault {
        structure: it.structure.clone(),
        offset_bytes: it.offset_bytes,
        expected: it.expected.clone(),
        found: it.found.clone(),
        reason: reason(it.reason).into(),
    }
}

pub(crate) fn byte_range(it: &std::ops::Range<u64>) -> v1::ByteRange {
    v1::ByteRange { offset_bytes: it.start, len_bytes: it.end - it.start }
}

/// Nothing was done, and why.
pub(crate) fn refusal(region: &str, it: Refusal) -> Failure {
    Failure {
        reason: reason(it.reason),
        message: it.message,
        expected: it.expected,
        found: it.found,
        region: Some(region.to_owned()),
        handover: it.handover.map(|n| names::handover(region, n)),
        phase: it.phase.map(phase),
    }
}

/// What an aborted handover answers.
pub(crate) fn aborted(region: &str, it: &Record) -> Failure {
    let message = if it.message.is_empty() { "the handover was aborted".into() } else { it.message.clone() };
    Failure::new(it.reason.map(reason).unwrap_or_default(), message)
        .region(region)
        .handover(names::handover(region, it.number))
        .phase(phase(it.phase))
}

/// An error of the region crate.
pub(crate) fn error(region: &str, it: &Error) -> Failure {
    let reason = ErrorReason::from_str_name(it.reason()).unwrap_or_default();
    let failure = Failure::new(reason, it.to_string()).region(region);
    match it {
        Error::Misuse(misuse) => with_rule(failure, misuse),
        // The client reads these figures again.
        Error::Full(Full::Region { needed_bytes, free_bytes, limit_bytes }) => {
            failure.expected(format!("{needed_bytes} bytes of {limit_bytes}")).found(format!("{free_bytes} bytes"))
        }
        _ => failure,
    }
}

/// A name or value that breaks a rule.
pub(crate) fn misuse(it: &Misuse) -> Failure {
    let reason = match it {
        Misuse::Name { .. } => ErrorReason::InvalidName,
        _ => ErrorReason::InvalidField,
    };
    with_rule(Failure::new(reason, it.to_string()), it)
}

fn with_rule(failure: Failure, it: &Misuse) -> Failure {
    match it {
        Misuse::Name { found, rule, .. } => failure.expected(rule).found(found),
        Misuse::Argument { found, .. } => failure.found(found),
        _ => failure,
    }
}

fn millis(ms: Option<u32>) -> Option<Duration> {
    ms.map(|ms| Duration::from_millis(ms.into()))
}

pub(crate) fn switch_options(it: Option<v1::SwitchOptions>) -> arbiter::SwitchOptions {
    let it = it.unwrap_or_default();
    arbiter::SwitchOptions {
        expected_generation: it.expected_generation,
        request_id: it.request_id,
        validate_only: it.validate_only,
        force: it.force,
        note: it.note,
        ready_timeout: millis(it.ready_timeout_ms),
        prepare_timeout: millis(it.prepare_timeout_ms),
        precopy_timeout: millis(it.precopy_timeout_ms),
        flush_timeout: millis(it.flush_timeout_ms),
        freeze_timeout: it.freeze_timeout_us.map(|us| Duration::from_micros(us.into())),
        drain_timeout: millis(it.drain_timeout_ms),
        retire_after: millis(it.retire_after_ms),
    }
}

#[cfg(test)]
mod tests {
    use heirloom_region::arbiter::Cause;

    use super::link::cause;
    use super::*;

    /// Words that drift apart would turn an answer into UNSPECIFIED.
    #[test]
    fn every_word_of_the_arbiter_has_its_word_on_the_wire() {
        for it in Reason::ALL {
            assert!(reason(*it) != ErrorReason::Unspecified, "{it}");
        }
        assert!(Phase::ALL.iter().all(|it| phase(*it).as_str_name().to_lowercase() == it.as_str()));
        assert!(Kind::ALL.iter().all(|it| kind(*it).as_str_name().to_lowercase() == it.as_str()));
        assert!(Outcome::ALL.iter().all(|it| outcome(*it).as_str_name().to_lowercase() == it.as_str()));
        assert!(Cause::ALL.iter().all(|it| cause(*it).as_str_name().to_lowercase() == it.as_str()));
    }

    /// In the form that the client takes apart again.
    #[test]
    fn a_full_region_says_its_figures() {
        let full = Full::Region { needed_bytes: 4096, free_bytes: 17, limit_bytes: 65536 };
        let failure = error("shop", &full.into());
        assert_eq!(failure.expected.as_deref(), Some("4096 bytes of 65536"));
        assert_eq!(failure.found.as_deref(), Some("17 bytes"));
    }
}
