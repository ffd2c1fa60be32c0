//! Errors by culprit: whose fault, what was expected, what was found.
//!
//! [`Error::reason`] is the same word as `ErrorInfo.reason` on the wire and `reason` in the command line's JSON.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::series::{AppendError, Interrupted};

mod kinds;

pub use kinds::{Corrupt, Denied, Full, Incompatible, Misuse, NotFound, NotReady};

/// The number of a term of ownership. Only grows, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The generation with this number; proof of nothing.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The one after it.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instance, as seen by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Given by the arbiter, never reused.
    pub instance: String,
    /// Label of its build.
    pub version: String,
    /// In its own pid namespace; for people to read.
    pub pid: u32,
}

/// Everything that control-plane and opening calls can fail with.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes in the region are wrong. Nobody's call is at fault; restore or discard.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Two sides that cannot understand each other: a build must change.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Not now; the same call may succeed later.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// What was asked for by name is not there.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// This instance does not own; ask again elsewhere or later.
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
    /// The term is over; read again under a new one.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// A limit is reached.
    #[error(transparent)]
    Full(#[from] Full),
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The caller is wrong; fix the code.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The operating system said no.
    #[error("{op}{}: {source}", .path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Stable word in UPPER_SNAKE_CASE, listed in `heirloom.v1.ErrorReason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Corrupt(Corrupt::Quarantined { .. }) => "REGION_QUARANTINED",
            Error::Corrupt(_) => "REGION_CORRUPT",
            Error::Incompatible(Incompatible::Format { .. }) => "FORMAT_INCOMPATIBLE",
            Error::Incompatible(Incompatible::Kind { .. }) => "KIND_MISMATCH",
            Error::Incompatible(Incompatible::Buckets { .. }) => "BUCKETS_MISMATCH",
            Error::Incompatible(Incompatible::Schema { .. } | Incompatible::Decode { .. }) => "SCHEMA_UNREADABLE",
            Error::NotReady(NotReady::Unreachable { .. }) => "UNREACHABLE",
            Error::NotReady(NotReady::Busy { .. }) => "HANDOVER_IN_PROGRESS",
            Error::NotReady(NotReady::Frozen { .. }) => "FROZEN",
            Error::NotReady(NotReady::Contended { .. } | NotReady::Held { .. }) => "CONTENDED",
            Error::NotFound(NotFound::Region { .. }) => "REGION_NOT_FOUND",
            Error::NotOwner(_) => "NOT_OWNER",
            Error::Fenced(_) => "FENCED",
            Error::Full(Full::Region { .. }) => "REGION_FULL",
            Error::Full(Full::Value { .. }) => "VALUE_TOO_LARGE",
            Error::Full(Full::Table { .. } | Full::Generations { .. }) => "TABLE_FULL",
            Error::Denied(_) => "CALLER_DENIED",
            Error::Misuse(Misuse::Name { .. }) => "INVALID_NAME",
            Error::Misuse(Misuse::Argument { .. }) => "INVALID_FIELD",
            Error::Misuse(Misuse::Socket { .. }) => "SOCKET_MISMATCH",
            Error::Misuse(_) => "MISUSE",
            Error::Io { .. } => "IO",
        }
    }
    /// An operating system's refusal of `op` on `path`.
    pub fn io(op: &'static str, path: Option<&Path>, source: impl Into<io::Error>) -> Self {
        Error::Io { op, path: path.map(Path::to_path_buf), source: source.into() }
    }
    /// Whether the same call may succeed later without a change to code, build or data.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::NotReady(_) | Error::NotOwner(_) | Error::Fenced(_))
    }
}

/// Why an owned write did not happen; nothing of it is visible.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The term is over.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The gate was frozen for longer than `freeze_wait_max`; the term may go on: try again.
    #[error("the gate was frozen for {waited:?}")]
    Frozen {
        /// How long this call waited.
        waited: Duration,
    },
    /// The value, or the region, is at its limit.
    #[error(transparent)]
    Full(#[from] Full),
    /// A term of another region, a forked child, a value whose `Serialize` fails.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The object's bytes in the region are wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The object's name is taken by another kind since the handle was opened.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// The operating system said no to growing the region.
    #[error("{op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl WriteError {
    /// Why a write did not happen, from what failed before or within it.
    pub(crate) fn from_error(error: Error) -> Self {
        match error {
            Error::Fenced(e) => e.into(),
            Error::Full(e) => e.into(),
            Error::Misuse(e) => e.into(),
            Error::Corrupt(e) => e.into(),
            Error::Incompatible(e) => e.into(),
            Error::NotReady(_) => WriteError::Frozen { waited: Duration::ZERO },
            Error::Io { op, source, .. } => WriteError::Io { op, source },
            Error::NotFound(_) | Error::NotOwner(_) | Error::Denied(_) => {
                Misuse::Argument { what: "process", found: error.to_string() }.into()
            }
        }
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fenced(e) => e.into(),
            WriteError::Frozen { waited } => NotReady::Frozen { waited }.into(),
            WriteError::Full(e) => e.into(),
            WriteError::Misuse(e) => e.into(),
            WriteError::Corrupt(e) => e.into(),
            WriteError::Incompatible(e) => e.into(),
            WriteError::Io { op, source } => Error::Io { op, path: None, source },
        }
    }
}

/// So that `?` takes the error of [`SeriesStore::append`] out of a function; a sample that was rejected is the caller's fault,
/// as no later try brings it in.
///
/// [`SeriesStore::append`]: crate::series::SeriesStore::append
impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Rejected(why) => Misuse::Argument { what: "sample", found: why.to_string() }.into(),
            AppendError::Write(error) => error.into(),
        }
    }
}

/// So that `?` takes it out of a function. What was settled before ([`Interrupted::committed`]) is in the region all the same;
/// whoever wants to go on from there looks at it first.
impl From<Interrupted> for Error {
    fn from(interrupted: Interrupted) -> Self {
        interrupted.error.into()
    }
}

/// The term is over: its generation was sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {term} is sealed, {current} is open")]
pub struct Fenced {
    /// The term's generation.
    pub term: Generation,
    /// The region's open generation.
    pub current: Generation,
    /// This instance owns again, under `current`: take a new term, read again, retry here.
    pub owns_again: bool,
    /// No write was made with this term or its clones before: the whole unit of work may be done again by the owner.
    pub nothing_written: bool,
}

/// This instance does not own the region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the owner in generation {generation}")]
pub struct NotOwner {
    /// The region's open generation.
    pub generation: Generation,
    /// Who owns; `None` while vacant.
    pub owner: Option<Peer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_names_what_was_expected_and_what_was_found() {
        let e: Error = Corrupt::field("gate phase", 4096, "1 or 2", 9).into();
        assert_eq!(e.to_string(), "gate phase at byte 4096: 0x9, expected 1 or 2");
        assert_eq!((e.reason(), e.is_retryable()), ("REGION_CORRUPT", false));
        let e: Error =
            Fenced { term: Generation::new(3), current: Generation::new(4), owns_again: false, nothing_written: true }
                .into();
        assert_eq!(e.to_string(), "generation 3 is sealed, 4 is open");
        assert_eq!((e.reason(), e.is_retryable()), ("FENCED", true));
        let e: Error = NotFound::Region { expected: "one of shop".into(), found: "cart".into() }.into();
        assert_eq!(e.to_string(), "no region cart, expected one of shop");
        assert_eq!((e.reason(), e.is_retryable()), ("REGION_NOT_FOUND", false));
        let e = Error::io("open", Some(Path::new("/nowhere")), io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(e.to_string(), "open /nowhere: entity not found");
    }
}
