use std::path::Path;

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::{Figures, InstanceRef, Kind, Outcome as Decided, Phase};
use heirloom_proto::v1::{ErrorReason, HandoverRecord};

use super::*;

fn record(outcome: Decided, reason: ErrorReason, phase: Phase) -> HandoverRecord {
    let instance = |name: &str, version: &str, pid| InstanceRef {
        name: names::instance("shop", name),
        version: version.into(),
        pid,
    };
    HandoverRecord {
        name: names::handover("shop", 17),
        kind: Kind::Handover.into(),
        outcome: outcome.into(),
        phase: phase.into(),
        reason: reason.into(),
        source: Some(instance("i-1c09", "1.9.0", 4242)),
        target: Some(instance("i-4f2a", "2.0.0", 4711)),
        previous_generation: 7,
        generation: if outcome == Decided::Committed { 8 } else { 7 },
        root_digest: 0x9f3c_2b11_d07a_5e44,
        figures: Some(Figures { writer_blackout_us: Some(63), gate_closed_us: 58, ..Default::default() }),
        ..Default::default()
    }
}

#[test]
fn the_schemas_on_disk_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    for (name, schema) in schemas() {
        let path = dir.join(format!("{name}.schema.json"));
        let made = serde_json::to_value(&schema).unwrap();
        let on_disk = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        assert_eq!(on_disk, Some(made), "{} is old: cargo run -p heirloom-sidecar --example schemas", path.display());
    }
}

#[test]
fn a_committed_record_names_both_owners() {
    let it = Handover::from(&record(Decided::Committed, ErrorReason::Unspecified, Phase::Drain));
    assert_eq!((it.outcome, it.exit_code, it.reason), (Outcome::Committed, 0, None));
    assert_eq!((it.region.as_str(), it.handover, it.phase.as_deref()), ("shop", Some(17), Some("drain")));
    assert_eq!((it.generation, it.previous_generation), (Some(8), Some(7)));
    assert_eq!((it.owner.unwrap().version, it.previous_owner.unwrap().instance), ("2.0.0".into(), "i-1c09".into()));
    assert_eq!(it.root_digest.as_deref(), Some("0x9f3c2b11d07a5e44"));
    assert_eq!((it.blackout_us, it.gate_closed_us), (Some(63), Some(58)));
}

#[test]
fn outcomes_and_exit_codes_agree() {
    for (decided, reason, phase, outcome, code, owner) in [
        (Decided::Committed, ErrorReason::Unspecified, Phase::Done, Outcome::Committed, exit::DONE, "2.0.0"),
        (Decided::Already, ErrorReason::Unspecified, Phase::Prepare, Outcome::Already, exit::DONE, "2.0.0"),
        (Decided::Validated, ErrorReason::Unspecified, Phase::Prepare, Outcome::Validated, exit::DONE, "1.9.0"),
        (Decided::Running, ErrorReason::Unspecified, Phase::Precopy, Outcome::Running, exit::DONE, "1.9.0"),
        (Decided::Running, ErrorReason::Unspecified, Phase::Drain, Outcome::Running, exit::DONE, "2.0.0"),
        (Decided::Aborted, ErrorReason::Vetoed, Phase::Prepare, Outcome::Refused, exit::REFUSED, "1.9.0"),
        (Decided::Aborted, ErrorReason::Vetoed, Phase::Flush, Outcome::Aborted, exit::ABORTED, "1.9.0"),
        (Decided::Aborted, ErrorReason::FreezeTimeout, Phase::Freeze, Outcome::Aborted, exit::ABORTED, "1.9.0"),
        (Decided::Aborted, ErrorReason::AbortRequested, Phase::Prepare, Outcome::Aborted, exit::ABORTED, "1.9.0"),
        (Decided::Unspecified, ErrorReason::Unspecified, Phase::Unspecified, Outcome::Unknown, exit::UNKNOWN, "1.9.0"),
    ] {
        let it = Handover::from(&record(decided, reason, phase));
        assert_eq!((it.outcome, it.exit_code), (outcome, code), "{decided:?} {reason:?} {phase:?}");
        assert_eq!(it.owner.unwrap().version, owner, "{decided:?} {phase:?}");
    }
}

#[test]
fn a_refusal_has_every_key() {
    let failure = heirloom_proto::Failure::new(ErrorReason::GenerationMismatch, "shop is in generation 9, not 7")
        .expected(7)
        .found(9);
    let it = Handover::refused("shop", &failure);
    assert_eq!((it.outcome, it.exit_code, it.expected.as_deref()), (Outcome::Refused, 3, Some("7")));
    let value = serde_json::to_value(&it).unwrap();
    let full = serde_json::to_value(Handover::from(&record(Decided::Committed, ErrorReason::Unspecified, Phase::Done)))
        .unwrap();
    let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&value), keys(&full));
    assert_eq!(value["reason"], "GENERATION_MISMATCH");
    assert_eq!(serde_json::from_value::<Handover>(value).unwrap(), it);
}
