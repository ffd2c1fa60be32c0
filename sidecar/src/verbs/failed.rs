//! How a verb fails: one value that becomes an exit code, text for people, or the JSON object.
//!
//! Invariant: the exit code says what changed. 5 means that nothing was sent, 7 that something was and nobody knows the end.

use std::error::Error as _;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::ErrorReason;
use heirloom_proto::v1::handover_record::Phase;
use heirloom_proto::{Failure, names};
use tonic::{Code, Status};

use crate::output;

/// Why a verb did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) exit_code: u8,
    pub(crate) reason: Option<ErrorReason>,
    pub(crate) message: String,
    pub(crate) expected: Option<String>,
    pub(crate) found: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) handover: Option<u64>,
    pub(crate) phase: Option<Phase>,
}

/// What a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing can have changed: exit 5.
    ToRead,
    /// Something may have: exit 7.
    ToChange,
}

impl Failed {
    fn bare(exit_code: u8, reason: Option<ErrorReason>, message: impl Into<String>) -> Self {
        let message = message.into();
        Failed { exit_code, reason, message, expected: None, found: None, region: None, handover: None, phase: None }
    }
    /// The call is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failed::bare(exit::USAGE, Some(ErrorReason::InvalidField), message)
    }
    /// The system below us said no.
    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        Failed::bare(exit::INTERNAL, Some(ErrorReason::Io), format!("{what}: {error}"))
    }
    /// The sidecar was lost after something was sent.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Failed::bare(exit::UNKNOWN, Some(ErrorReason::Unreachable), message)
    }
    /// Nobody answers at `address`.
    pub(crate) fn unreachable(address: &str, found: impl ToString) -> Self {
        let message = format!("no sidecar answers at {address}");
        Failed {
            expected: Some(format!("a sidecar listening at {address}")),
            found: Some(found.to_string()),
            ..Failed::bare(exit::UNREACHABLE, Some(ErrorReason::Unreachable), message)
        }
    }
    pub(crate) fn expected(mut self, expected: impl ToString) -> Self {
        self.expected = Some(expected.to_string());
        self
    }
    pub(crate) fn found(mut self, found: impl ToString) -> Self {
        self.found = Some(found.to_string());
        self
    }
    pub(crate) fn in_region(mut self, region: &str) -> Self {
        self.region.get_or_insert_with(|| region.to_owned());
        self
    }

    /// What a status means for the command line.
    pub(crate) fn of_status(status: &Status, asked: Asked) -> Self {
        if let Some(failure) = Failure::from_status(status) {
            return failure.into();
        }
        if is_lost(status) {
            let (text, expected) = ("the sidecar was lost before it answered", "an answer of the sidecar");
            let failed = match asked {
                Asked::ToRead => Failed::bare(exit::UNREACHABLE, Some(ErrorReason::Unreachable), text),
                Asked::ToChange => Failed::unknown(text),
            };
            return failed.expected(expected).found(root(status));
        }
        let (exit_code, reason) = match status.code() {
            Code::InvalidArgument => (exit::USAGE, Some(ErrorReason::InvalidField)),
            Code::PermissionDenied => (exit::REFUSED, Some(ErrorReason::CallerDenied)),
            Code::Unauthenticated => (exit::REFUSED, Some(ErrorReason::CallerUnknown)),
            Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists => (exit::REFUSED, None),
            Code::OutOfRange | Code::ResourceExhausted => (exit::REFUSED, None),
            Code::Aborted => (exit::ABORTED, None),
            Code::DataLoss => (exit::CORRUPT, Some(ErrorReason::RegionCorrupt)),
            Code::Unavailable => (exit::UNREACHABLE, Some(ErrorReason::Unreachable)),
            Code::Unimplemented => {
                let text = "the sidecar does not know this verb: it is of another version".to_owned();
                return Failed::bare(exit::INTERNAL, None, text).found(status.message());
            }
            _ => (exit::INTERNAL, None),
        };
        match Failure::of_later_release(status) {
            Some((word, failure)) => {
                let message = format!("{word}: {}", failure.message);
                Failed { exit_code, reason, message, ..failure.into() }
            }
            None => Failed::bare(exit_code, reason, format!("{:?}: {}", status.code(), status.message())),
        }
    }

    /// The word that says what the exit code means.
    fn outcome(&self) -> &'static str {
        match self.exit_code {
            exit::USAGE => "usage",
            exit::REFUSED => "refused",
            exit::ABORTED => "aborted",
            exit::UNREACHABLE => "unreachable",
            exit::CORRUPT => "corrupt",
            exit::UNKNOWN => "unknown",
            _ => "internal",
        }
    }

    /// The lines for people, the first without a newline before it.
    pub(crate) fn text(&self) -> String {
        let headline = match self.exit_code {
            exit::USAGE => "usage",
            exit::REFUSED => "refused, nothing changed",
            exit::ABORTED => "aborted, generation unchanged",
            exit::UNREACHABLE => "no sidecar, nothing was sent",
            exit::CORRUPT => "data found corrupt",
            exit::UNKNOWN => "outcome unknown",
            _ => "internal",
        };
        let mut text = headline.to_owned();
        if let Some(reason) = self.reason {
            text.push_str(&format!(": {}", reason.as_str_name()));
        }
        if !self.message.is_empty() {
            text.push_str(&format!("\n  {}", self.message));
        }
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => text.push_str(&format!("\n  expected {expected}, found {found}")),
            (Some(expected), None) => text.push_str(&format!("\n  expected {expected}")),
            (None, Some(found)) => text.push_str(&format!("\n  found {found}")),
            (None, None) => {}
        }
        if let Some(see) = self.see() {
            text.push_str(&format!("\n  see: {see}"));
        }
        text
    }

    /// Where to look next.
    fn see(&self) -> Option<String> {
        use ErrorReason as R;
        let region = self.region.as_deref().unwrap_or("REGION");
        Some(match self.reason? {
            R::RegionNotFound => "heirloom status".to_owned(),
            R::InstanceNotFound | R::TargetNotReady | R::TargetAmbiguous | R::NoStandby | R::OwnerWouldVacate => {
                format!("heirloom status {region} -o wide")
            }
            R::SchemaUnreadable | R::OwnerCrashLoop => format!("heirloom status {region} -o wide"),
            R::HandoverInProgress => format!("heirloom watch {region}, or heirloom abort {region}"),
            R::RegionCorrupt | R::DigestMismatch | R::RegionQuarantined => {
                format!("heirloom verify {}", self.region.as_deref()?)
            }
            R::Unreachable if self.exit_code == exit::UNKNOWN => format!("heirloom history {region}"),
            R::Unreachable => "heirloom doctor".to_owned(),
            R::CallerDenied => "allow_uids and allow_gids of the sidecar's configuration".to_owned(),
            R::ForceUnavailable => "heirloom doctor".to_owned(),
            R::InvalidName | R::InvalidField | R::Misuse | R::Io | R::ShuttingDown => return None,
            _ => format!("heirloom history {}", self.region.as_deref()?),
        })
    }

    /// The object of a switch verb.
    pub(crate) fn to_handover(&self, region: &str) -> output::Handover {
        let outcome = match self.exit_code {
            exit::ABORTED => output::Outcome::Aborted,
            exit::UNKNOWN => output::Outcome::Unknown,
            _ => output::Outcome::Refused,
        };
        output::Handover {
            reason: self.reason.map(|r| r.as_str_name().to_owned()),
            expected: self.expected.clone(),
            found: self.found.clone(),
            handover: self.handover,
            phase: self.phase.map(|p| p.as_str_name().to_lowercase()),
            ..output::Handover::without_record(region, outcome, self.exit_code, self.message.clone())
        }
    }
}

impl From<Failure> for Failed {
    fn from(it: Failure) -> Self {
        Failed {
            exit_code: it.exit_code(),
            reason: Some(it.reason).filter(|r| *r != ErrorReason::Unspecified),
            message: it.message,
            expected: it.expected,
            found: it.found,
            region: it.region.map(|r| names::short(&r).to_owned()),
            handover: it.handover.and_then(|h| names::parse_handover(&h)?.1),
            phase: it.phase,
        }
    }
}

impl From<&Failed> for output::Failure {
    fn from(it: &Failed) -> Self {
        output::Failure {
            outcome: it.outcome().to_owned(),
            exit_code: it.exit_code,
            reason: it.reason.map(|r| r.as_str_name().to_owned()),
            message: it.message.clone(),
            expected: it.expected.clone(),
            found: it.found.clone(),
            region: it.region.clone(),
            handover: it.handover,
        }
    }
}

/// The answer did not come from the sidecar: the connection broke.
pub(crate) fn is_lost(status: &Status) -> bool {
    let may = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
    may && Failure::from_status(status).is_none() && status.source().is_some()
}

/// A watcher that read too slowly was let go: it starts anew.
pub(crate) fn is_lagged(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = next.source();
    }
    text
}

/// What broke a connection, in the kernel's words or the transport's: the last of an error's causes. Those before it only say
/// whose error it was.
pub(crate) fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_exit_codes_of_the_design() {
        let ours = Failure::new(ErrorReason::GenerationMismatch, "shop is in generation 9")
            .expected(7)
            .found(9)
            .region("shop");
        let failed = Failed::of_status(&ours.to_status(), Asked::ToChange);
        assert_eq!((failed.exit_code, failed.found.as_deref(), failed.region.as_deref()), (3, Some("9"), Some("shop")));
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::PermissionDenied, 3),
            (Code::Unauthenticated, 3),
            (Code::ResourceExhausted, 3),
            (Code::Aborted, 4),
            (Code::Unavailable, 5),
            (Code::DataLoss, 6),
            (Code::Unimplemented, 1),
            (Code::Internal, 1),
        ] {
            assert_eq!(Failed::of_status(&Status::new(code, "x"), Asked::ToChange).exit_code, exit, "{code:?}");
        }
        let mut lost = Status::unavailable("broken pipe");
        lost.set_source(std::sync::Arc::new(std::io::Error::other("broken pipe")));
        assert_eq!(Failed::of_status(&lost, Asked::ToChange).exit_code, 7);
        let read = Failed::of_status(&lost, Asked::ToRead);
        assert_eq!((read.exit_code, read.found.as_deref()), (5, Some("broken pipe")));
        assert_eq!(read.message, "the sidecar was lost before it answered");
    }

    #[test]
    fn what_a_later_release_refuses_keeps_what_was_expected_and_found() {
        // The detail as this release would write it, with a word in it that this release does not have.
        let known = Failure::new(ErrorReason::TargetNotReady, "not now").expected("dry weather").found("rain");
        let known = known.region("shop").handover("regions/shop/handovers/3").to_status();
        let (word, later) = (b"TARGET_NOT_READY".as_slice(), b"TARGET_IN_A_MOOD");
        let mut details = known.details().to_vec();
        let at = details.windows(word.len()).position(|w| w == word).unwrap();
        details[at..at + word.len()].copy_from_slice(later);
        let failed = Failed::of_status(&Status::with_details(known.code(), "not now", details.into()), Asked::ToChange);
        assert_eq!((failed.exit_code, failed.reason), (3, None));
        assert_eq!((failed.region.as_deref(), failed.handover), (Some("shop"), Some(3)));
        let text = failed.text();
        assert!(text.contains("TARGET_IN_A_MOOD: not now\n  expected dry weather, found rain"), "{text}");
    }

    #[test]
    fn people_read_what_was_expected_and_where_to_look() {
        let failure =
            Failure::new(ErrorReason::GenerationMismatch, "1.9.1 i-77b0 owns shop").expected("generation 7").found(9);
        let text = Failed::from(failure).in_region("shop").text();
        assert_eq!(
            text,
            "refused, nothing changed: GENERATION_MISMATCH\n  1.9.1 i-77b0 owns shop\n  expected generation 7, found 9\n  \
             see: heirloom history shop"
        );
    }
}
