//! What an error means: one table from [`ErrorReason`] to gRPC code and exit code, and the one shape errors have on the wire.
//!
//! Invariant: the `reason` of a [`Failure`], of `google.rpc.ErrorInfo` and of the command line's JSON are one word. Numbers
//! and names come from bytes of a peer, so parsing never panics and an unknown reason is kept as no reason at all.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::ErrorReason;
use crate::v1::handover_record::Phase;

/// `google.rpc.ErrorInfo.domain` of every error of Heirloom.
pub const DOMAIN: &str = "heirloom";

/// Exit codes of the command line.
pub mod exit {
    /// Done, or already so.
    pub const DONE: u8 = 0;
    /// A bug of ours, or of the system below us.
    pub const INTERNAL: u8 = 1;
    /// The call is wrong.
    pub const USAGE: u8 = 2;
    /// Refused; nothing changed.
    pub const REFUSED: u8 = 3;
    /// Aborted; the generation is what it was.
    pub const ABORTED: u8 = 4;
    /// No sidecar; nothing was sent.
    pub const UNREACHABLE: u8 = 5;
    /// Data found corrupt.
    pub const CORRUPT: u8 = 6;
    /// The sidecar was lost on the way; `history` will tell.
    pub const UNKNOWN: u8 = 7;
    /// Left by a second interrupt.
    pub const INTERRUPTED: u8 = 130;
}

impl ErrorReason {
    /// The gRPC status code that carries this reason.
    pub fn code(self) -> Code {
        use ErrorReason as R;
        match self {
            R::Unspecified | R::Io => Code::Internal,
            R::InvalidName | R::InvalidField | R::SocketMismatch | R::RequestIdReused | R::Misuse => {
                Code::InvalidArgument
            }
            R::RegionNotFound | R::InstanceNotFound | R::HandoverNotFound => Code::NotFound,
            R::TargetNotReady | R::TargetAmbiguous | R::NoStandby | R::NothingToRollBack => Code::FailedPrecondition,
            R::FormatIncompatible | R::SchemaUnreadable | R::KindMismatch | R::BucketsMismatch => {
                Code::FailedPrecondition
            }
            R::AlreadyCommitted | R::OwnerWouldVacate | R::ForceUnavailable | R::OwnerCrashLoop => {
                Code::FailedPrecondition
            }
            R::NotOwner => Code::FailedPrecondition,
            R::GenerationMismatch | R::HandoverInProgress | R::Fenced => Code::Aborted,
            R::Vetoed | R::PrepareTimeout | R::TargetDied | R::PrecopyNotConverging | R::FlushTimeout => Code::Aborted,
            R::FreezeTimeout | R::OwnerDied | R::AbortRequested | R::SidecarRestarted => Code::Aborted,
            R::RegionFull | R::TableFull | R::ValueTooLarge | R::MessageTooLarge => Code::ResourceExhausted,
            R::CallerDenied => Code::PermissionDenied,
            R::CallerUnknown => Code::Unauthenticated,
            R::ShuttingDown | R::Unreachable | R::Frozen | R::Contended => Code::Unavailable,
            R::RegionCorrupt | R::DigestMismatch | R::RegionQuarantined => Code::DataLoss,
        }
    }

    /// The exit code for this reason; `phase` is the phase that the handover had reached, if there was one.
    ///
    /// What a handover that has begun can end with, a veto say, or a full table, changed nothing in phase PREPARE (3); later
    /// the handover was aborted (4).
    pub fn exit_code(self, phase: Option<Phase>) -> u8 {
        use ErrorReason as R;
        match self {
            R::Vetoed
            | R::PrepareTimeout
            | R::TargetDied
            | R::TargetNotReady
            | R::SchemaUnreadable
            | R::KindMismatch
            | R::ForceUnavailable
            | R::RegionFull
            | R::TableFull
            | R::ValueTooLarge => match phase {
                None | Some(Phase::Unspecified | Phase::Prepare) => exit::REFUSED,
                Some(_) => exit::ABORTED,
            },
            R::PrecopyNotConverging | R::FlushTimeout | R::FreezeTimeout => exit::ABORTED,
            R::OwnerDied | R::AbortRequested | R::SidecarRestarted => exit::ABORTED,
            R::Frozen | R::Contended => exit::REFUSED,
            _ => match self.code() {
                Code::InvalidArgument => exit::USAGE,
                Code::Internal => exit::INTERNAL,
                Code::Unavailable => exit::UNREACHABLE,
                Code::DataLoss => exit::CORRUPT,
                _ => exit::REFUSED,
            },
        }
    }
}

/// An error of the control plane: a reason, a sentence, and what was expected and found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str_name())]
pub struct Failure {
    /// Why.
    pub reason: ErrorReason,
    /// One sentence for people.
    pub message: String,
    /// What should have been there.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
    /// The region's short name.
    pub region: Option<String>,
    /// The handover's resource name.
    pub handover: Option<String>,
    /// The phase that the handover had reached.
    pub phase: Option<Phase>,
}

impl Failure {
    /// A failure with a reason and a sentence and nothing else yet.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Failure { reason, message, expected: None, found: None, region: None, handover: None, phase: None }
    }
    /// Says what should have been there.
    #[must_use]
    pub fn expected(mut self, expected: impl ToString) -> Self {
        self.expected = Some(expected.to_string());
        self
    }
    /// Says what was there.
    #[must_use]
    pub fn found(mut self, found: impl ToString) -> Self {
        self.found = Some(found.to_string());
        self
    }
    /// Names the region.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }
    /// Names the handover.
    #[must_use]
    pub fn handover(mut self, handover: impl Into<String>) -> Self {
        self.handover = Some(handover.into());
        self
    }
    /// Names the phase reached.
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }

    /// The exit code of a command that ends with this.
    pub fn exit_code(&self) -> u8 {
        self.reason.exit_code(self.phase)
    }

    /// The status that carries it: `reason.code()`, the message, and one `google.rpc.ErrorInfo`.
    pub fn to_status(&self) -> Status {
        let metadata = [
            ("expected", self.expected.clone()),
            ("found", self.found.clone()),
            ("region", self.region.clone()),
            ("handover", self.handover.clone()),
            ("phase", self.phase.map(|p| p.as_str_name().to_owned())),
        ];
        let metadata: HashMap<String, String> =
            metadata.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.as_str_name(), DOMAIN, metadata);
        Status::with_error_details(self.reason.code(), self.message.clone(), details)
    }

    /// Reads what [`Failure::to_status`] wrote; `None` if the status is not one of Heirloom's, or its reason is unknown here.
    pub fn from_status(status: &Status) -> Option<Self> {
        let (word, failure) = Self::with_word(status)?;
        Some(Failure { reason: ErrorReason::from_str_name(&word)?, ..failure })
    }

    /// Reads what a later release wrote: its word for the reason, which is none here, and all else that it says. What that means
    /// is in the status' code.
    pub fn of_later_release(status: &Status) -> Option<(String, Self)> {
        Self::with_word(status).filter(|(word, _)| ErrorReason::from_str_name(word).is_none())
    }

    /// The word for the reason, and all else.
    fn with_word(status: &Status) -> Option<(String, Self)> {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
        let mut metadata = info.metadata;
        let failure = Failure {
            reason: ErrorReason::Unspecified,
            message: status.message().to_owned(),
            expected: metadata.remove("expected"),
            found: metadata.remove("found"),
            region: metadata.remove("region"),
            handover: metadata.remove("handover"),
            phase: metadata.remove("phase").and_then(|p| Phase::from_str_name(&p)),
        };
        Some((info.reason, failure))
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for c in format!("{code:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }

    /// Walks the enum in the `.proto`: each value has a comment that ends with its code and exit code, and they are true.
    #[test]
    fn the_table_in_the_proto_is_true() {
        let text = include_str!("../heirloom/v1/control.proto");
        let body = text.split("enum ErrorReason {").nth(1).unwrap();
        let (mut comment, mut seen) = ("", 0);
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("// ") {
                comment = text;
            } else if let Some((name, _)) = line.split_once(" = ") {
                let reason = ErrorReason::from_str_name(name).unwrap_or_else(|| panic!("{name}"));
                let (prepare, later) = (reason.exit_code(Some(Phase::Prepare)), reason.exit_code(Some(Phase::Freeze)));
                let exits = if prepare == later {
                    format!("{later}")
                } else {
                    format!("{prepare} in phase PREPARE, {later} later")
                };
                let says = format!("{} {exits}", code_name(reason.code()));
                assert!(comment.ends_with(&says), "{name}: the comment says {comment:?}, the table {says:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, (0..200).filter(|n| ErrorReason::try_from(*n).is_ok()).count());
    }

    #[test]
    fn a_failure_survives_the_wire() {
        let all = (0..200).filter_map(|n| ErrorReason::try_from(n).ok());
        for reason in all {
            let bare = Failure::new(reason, "a sentence");
            assert_eq!(Failure::from_status(&bare.to_status()), Some(bare.clone()));
            let full =
                bare.expected(7).found(9).region("shop").handover("regions/shop/handovers/3").phase(Phase::Freeze);
            let status = full.to_status();
            assert_eq!((status.code(), status.message()), (reason.code(), "a sentence"));
            assert_eq!(Failure::from_status(&status), Some(full));
        }
    }

    #[test]
    fn foreign_statuses_are_not_ours() {
        assert_eq!(Failure::from_status(&Status::internal("x")), None);
        let mut details = ErrorDetails::new();
        details.set_error_info("GENERATION_MISMATCH", "example.com", HashMap::new());
        assert_eq!(Failure::from_status(&Status::with_error_details(Code::Aborted, "x", details)), None);
        let mut details = ErrorDetails::new();
        details.set_error_info("OF_A_LATER_RELEASE", DOMAIN, HashMap::from([("found".to_owned(), "9".to_owned())]));
        let later = Status::with_error_details(Code::Aborted, "x", details);
        assert_eq!(Failure::from_status(&later), None);
        let said = Failure::new(ErrorReason::Unspecified, "x").found(9);
        assert_eq!(Failure::of_later_release(&later), Some(("OF_A_LATER_RELEASE".to_owned(), said)));
        assert_eq!(Failure::of_later_release(&Failure::new(ErrorReason::Io, "x").to_status()), None);
        let rubbish = Status::with_details(Code::Aborted, "x", vec![0xff; 64].into());
        assert_eq!(Failure::from_status(&rubbish), None);
    }
}
