//! What happened in one handover: the record that history keeps, `Handover` answers and the command line prints.
//!
//! Records are JSON in the region's history, read by the versions before and after this one: unknown fields are skipped,
//! missing ones take their default, unknown words read as unspecified. Nothing is renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::words::words;

words! {
    /// What kind of switch it was.
    Kind {
        /// To another instance, asked for or because the owner leaves.
        Handover = "handover",
        /// Back again.
        Rollback = "rollback",
        /// After the owner's unplanned death.
        Promotion = "promotion",
        /// The owner left and nobody could take over.
        Departure = "departure",
        /// Into a region that nobody owned.
        Succession = "succession",
    }
}
words! {
    /// How it ended, or that it has not.
    Outcome {
        /// Not decided yet.
        Running = "running",
        /// The target owns.
        Committed = "committed",
        /// The old owner goes on under its generation.
        Aborted = "aborted",
        /// The target owned already; nothing was done.
        Already = "already",
        /// A dry run found nothing against it.
        Validated = "validated",
    }
}
words! {
    /// How far it came.
    Phase {
        /// Verdicts, and the target's hook.
        Prepare = "prepare",
        /// Rounds over dirty pages while the owner works.
        Precopy = "precopy",
        /// The owner's hook, then rounds again.
        Flush = "flush",
        /// The gate is closing.
        Freeze = "freeze",
        /// Last pages and the candidate superblock.
        Seal = "seal",
        /// The gate's compare-and-swap.
        Commit = "commit",
        /// The old owner finishes its work.
        Drain = "drain",
        /// Nothing is left to do.
        Done = "done",
    }
}
words! {
    /// How a term begins, for the instance that owns it.
    Cause {
        /// The region was new.
        First = "first",
        /// The owner had left; this instance came later.
        Succession = "succession",
        /// A handover was asked for.
        Handover = "handover",
        /// A rollback was asked for.
        Rollback = "rollback",
        /// The owner passed on as it left.
        OwnerLeft = "owner_left",
        /// The owner's death was proved.
        OwnerDied = "owner_died",
    }
}

/// An instance, as a record names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRef {
    /// Its name, unique among those attached.
    pub instance: String,
    /// The label of its build.
    pub version: String,
    /// In the arbiter's pid namespace; 0 if not visible.
    pub pid: u32,
    /// Never reused.
    pub incarnation: u64,
}

/// Measured on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Bytes of the region in use.
    pub region_bytes: u64,
    /// Rounds before the freeze.
    pub precopy_rounds: u32,
    /// Pages checked in them.
    pub precopy_pages: u64,
    /// Pages checked while the gate was closed.
    pub frozen_pages: u64,
    /// From FROZEN to OPEN, by the arbiter.
    pub gate_closed_us: u64,
    /// Longest wait that a writer measured; none if no writer waited.
    pub writer_blackout_us: Option<u64>,
    /// From the request to the commit or the abort.
    pub total_ms: u64,
    /// Time in each phase, by its word.
    pub phase_us: BTreeMap<String, u64>,
    /// What the old owner still had in flight, as last reported.
    pub undrained_counts: BTreeMap<String, u64>,
}

/// One handover. See the module's rules on reading and writing it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its number in the region, from 1; 0 for an answer that is not kept (a dry run, or already so).
    pub number: u64,
    /// What kind of switch.
    pub kind: Kind,
    /// What the new owner is told.
    pub cause: Cause,
    /// How it ended.
    pub outcome: Outcome,
    /// How far it came.
    pub phase: Phase,
    /// Why it was refused or aborted; none otherwise.
    pub reason: Option<Reason>,
    /// In words.
    pub message: String,
    /// Who owned before; none if nobody did.
    pub source: Option<InstanceRef>,
    /// Who is to own; none for a departure, or while a target is awaited.
    pub target: Option<InstanceRef>,
    /// Open before it.
    pub previous_generation: u64,
    /// Open after it.
    pub generation: u64,
    /// Of the seal.
    pub root_digest: u64,
    /// The handover that undid this one.
    pub rolled_back_by: Option<u64>,
    /// The handover that this rollback undoes.
    pub rolls_back: Option<u64>,
    /// As the caller gave it; empty if it gave none.
    pub request_id: String,
    /// What the request with that id asked for: verb and target, in words.
    pub asked: String,
    /// And its options ([`SwitchOptions::terms`]); none in a record of a release that did not keep them. The same id never
    /// stands for anything else: whoever asks for something else with it is refused.
    ///
    /// [`SwitchOptions::terms`]: super::message::SwitchOptions::terms
    pub asked_options: Option<String>,
    /// As the caller gave it.
    pub note: String,
    /// Who asked: `uid:1000`, a certificate's subject, or the arbiter itself.
    pub caller: String,
    /// The owner was killed for it.
    pub forced: bool,
    /// When it was asked for.
    pub create_unix_ms: u64,
    /// End of the abort or of the drain.
    pub end_unix_ms: Option<u64>,
    /// Measured.
    pub figures: Figures,
}

impl Record {
    /// Whether its outcome stands.
    pub fn is_decided(&self) -> bool {
        self.outcome != Outcome::Running
    }
    /// Whether nothing will change in it any more, except for who rolls it back.
    pub fn is_over(&self) -> bool {
        self.is_decided() && self.end_unix_ms.is_some()
    }
    /// The command line's exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Committed | Outcome::Already | Outcome::Validated => 0,
            Outcome::Aborted => self.reason.unwrap_or_default().exit_code(Some(self.phase)),
            _ => 7,
        }
    }
    /// As history stores it: at most `len_max` bytes, shortening what people wrote before anything else.
    pub(crate) fn to_bytes(&self, len_max: usize) -> Vec<u8> {
        let mut short = self.clone();
        for text_max in [usize::MAX, 256, 128, 64, 0] {
            let bytes = serde_json::to_vec(&short).unwrap_or_default();
            if bytes.len() <= len_max {
                return bytes;
            }
            clip(&mut short.note, text_max);
            clip(&mut short.message, text_max);
            clip(&mut short.caller, text_max);
            short.figures.undrained_counts = short.figures.undrained_counts.into_iter().take(text_max / 16).collect();
        }
        serde_json::to_vec(&short).unwrap_or_default()
    }
    /// As history has stored it; `None` if these are no record's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Shortens to at most `len_max` bytes, at a character's boundary; control characters, which JSON writes six times as long,
/// become spaces.
pub(crate) fn clip(text: &mut String, len_max: usize) {
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
    if text.len() > len_max {
        let end = (0..=len_max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_release_is_read() {
        let newer = r#"{"number":3,"kind":"teleport","outcome":"committed","phase":"done","colour":"red",
            "figures":{"frozen_pages":41,"hops":2}}"#;
        let record = Record::from_bytes(newer.as_bytes()).expect("a record");
        assert_eq!((record.number, record.kind, record.outcome), (3, Kind::Unspecified, Outcome::Committed));
        assert_eq!(record.figures.frozen_pages, 41);
        assert_eq!(record.source, None);
        assert!(Record::from_bytes(b"\xff\x00").is_none());
    }

    #[test]
    fn a_record_fits_its_slot() {
        let record = Record { note: "é".repeat(3000), message: "m".repeat(3000), ..Record::default() };
        let bytes = record.to_bytes(2000);
        assert!(bytes.len() <= 2000);
        assert_eq!(Record::from_bytes(&bytes).expect("a record").message.len(), 256);
        let record = Record { note: "\n".repeat(512), message: "\"".repeat(512), ..record };
        assert!(record.to_bytes(2000).len() <= 2000);
    }
}
