//! One word for one fault, from the region to the command line: the three crates keep the words in three tables, so that
//! none of them needs another, and only a crate that sees all of them can say that they agree.

use heirloom_proto::v1::ErrorReason;
use heirloom_proto::v1::handover_record::Phase as WirePhase;
use heirloom_region::arbiter::{Phase, Reason};
use heirloom_region::error::{
    Corrupt, Denied, Error, Fenced, Full, Generation, Incompatible, Misuse, NotOwner, NotReady,
};

fn every_error() -> Vec<Error> {
    let s = String::new;
    let corrupt = [
        Corrupt::Checksum { what: "", offset: 0, expected: 0, found: 0 },
        Corrupt::field("", 0, "", 0),
        Corrupt::Foreign { expected: "", found: s() },
        Corrupt::Truncated { what: "", expected_bytes: 0, found_bytes: 0 },
        Corrupt::Identity { what: "", expected: s(), found: s() },
        Corrupt::OutOfBounds { what: "", offset: 0, len: 0, bound: 0 },
        Corrupt::PageLost { offset: 0 },
        Corrupt::Quarantined { why: s() },
    ];
    let incompatible = [
        Incompatible::Format { expected: s(), found: s() },
        Incompatible::Kind { name: s(), expected: "", found: "" },
        Incompatible::Buckets { name: s(), expected: s(), found: s() },
        Incompatible::Schema { name: s(), readable: Vec::new(), found: 0 },
        Incompatible::Decode { name: s(), schema: 0, why: s() },
    ];
    let not_ready = [
        NotReady::Unreachable { socket: "".into(), waited: Default::default() },
        NotReady::Busy { handover: s() },
        NotReady::Frozen { waited: Default::default() },
        NotReady::Held { region: s() },
        NotReady::Contended { attempts: 0 },
    ];
    let full = [
        Full::Region { needed_bytes: 0, free_bytes: 0, limit_bytes: 0 },
        Full::Value { name: s(), len_bytes: 0, limit_bytes: 0 },
        Full::Table { table: "", limit: 0 },
    ];
    let misuse = [
        Misuse::Name { what: "", found: s(), rule: "" },
        Misuse::Argument { what: "", found: s() },
        Misuse::Socket { name: s(), what: "", expected: s(), found: s() },
        Misuse::ForeignTerm { expected: s(), found: s() },
        Misuse::Encode { name: s(), why: s() },
        Misuse::Forked,
        Misuse::RecorderInstalled,
    ];
    let generation = Generation::default();
    let mut all = vec![
        NotOwner { generation, owner: None }.into(),
        Fenced { term: generation, current: generation, owns_again: false, nothing_written: false }.into(),
        Denied { uid: 0, what: s() }.into(),
        Error::io("", None, std::io::ErrorKind::Other),
    ];
    all.extend(corrupt.map(Error::from));
    all.extend(incompatible.map(Error::from));
    all.extend(not_ready.map(Error::from));
    all.extend(full.map(Error::from));
    all.extend(misuse.map(Error::from));
    all
}

#[test]
fn every_word_of_the_region_and_of_the_arbiter_is_one_of_the_protocol() {
    let errors = every_error();
    let words = errors.iter().map(Error::reason).chain(Reason::ALL.iter().map(|reason| reason.as_str()));
    for word in words {
        assert!(ErrorReason::from_str_name(word).is_some(), "{word}: expected in ErrorReason");
    }
}

#[test]
fn exit_codes_agree_in_every_phase() {
    let unspecified = (None, None);
    let phases = Phase::ALL.iter().map(|phase| {
        let word = phase.as_str().to_uppercase();
        (Some(*phase), Some(WirePhase::from_str_name(&word).unwrap_or_else(|| panic!("{word}: expected in Phase"))))
    });
    let phases: Vec<_> =
        phases.chain([unspecified, (Some(Phase::Unspecified), Some(WirePhase::Unspecified))]).collect();
    let mut differ = Vec::new();
    for &reason in Reason::ALL {
        let Some(wire) = ErrorReason::from_str_name(reason.as_str()) else { continue };
        for (phase, wire_phase) in &phases {
            let (expected, found) = (reason.exit_code(*phase), wire.exit_code(*wire_phase));
            if expected != found {
                differ.push(format!("{reason} in {phase:?}: arbiter {expected}, protocol {found}"));
            }
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(Reason::Unspecified.exit_code(None), ErrorReason::Unspecified.exit_code(None));
}
