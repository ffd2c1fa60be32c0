//! Errors by culprit: whose fault, what was expected, what was found.
//!
//! [`Error::reason`] is the same word as `ErrorInfo.reason` on the wire and `reason` in the command line's JSON.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
            Error::NotOwner(_) => "NOT_OWNER",
            Error::Fenced(_) => "FENCED",
            Error::Full(Full::Region { .. }) => "REGION_FULL",
            Error::Full(Full::Value { .. }) => "VALUE_TOO_LARGE",
            Error::Full(Full::Table { .. } | Full::Generations { .. }) => "TABLE_FULL",
            Error::Denied(_) => "CALLER_DENIED",
            Error::Misuse(Misuse::Name { .. }) => "INVALID_NAME",
            Error::Misuse(Misuse::Argument { .. }) => "INVALID_FIELD",
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
            Error::NotOwner(_) | Error::Denied(_) => {
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

/// Bytes in the region are wrong.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// A checksum does not match.
    #[error("{what} at byte {offset}: crc {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Which structure.
        what: &'static str,
        /// Where.
        offset: u64,
        /// From the bytes.
        expected: u32,
        /// Computed.
        found: u32,
    },
    /// A field has a value that no writer of this format makes.
    #[error("{what} at byte {offset}: {found:#x}, expected {expected}")]
    Field {
        /// Which field.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What a writer of this format would have put there.
        expected: Cow<'static, str>,
        /// Its value.
        found: u64,
    },
    /// Not a region at all: the magic is another.
    #[error("not a heirloom region: the first bytes are {found:?}, expected {expected:?}")]
    Foreign {
        /// The magic, as text.
        expected: &'static str,
        /// The first bytes, escaped.
        found: String,
    },
    /// The file is shorter than its header says, or has no whole header.
    #[error("{what}: {found_bytes} bytes, expected {expected_bytes}")]
    Truncated {
        /// What is cut short.
        what: &'static str,
        /// Length that it must have.
        expected_bytes: u64,
        /// Length that it has.
        found_bytes: u64,
    },
    /// An identity is another than the one asked for: a region's UUID, an inode.
    #[error("{what}: found {found}, expected {expected}")]
    Identity {
        /// Whose identity.
        what: &'static str,
        /// Asked for.
        expected: String,
        /// In the bytes.
        found: String,
    },
    /// Bytes outside what is allocated or outside the file are referred to.
    #[error("{what}: bytes {offset}..{offset}+{len} are outside the {bound} bytes allowed")]
    OutOfBounds {
        /// Which structure refers to them.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// First byte that is not allowed.
        bound: u64,
    },
    /// A page of the mapping vanished (the file was truncated, or its file system failed); it reads as zeroes since.
    #[error("the page at byte {offset} of the region is gone")]
    PageLost {
        /// Its offset.
        offset: u64,
    },
    /// The sidecar holds the region in quarantine.
    #[error("region in quarantine: {why}")]
    Quarantined {
        /// The fault found.
        why: String,
    },
}

impl Corrupt {
    /// A field with a value that no writer of this format makes.
    pub fn field(what: &'static str, offset: u64, expected: impl Into<Cow<'static, str>>, found: u64) -> Self {
        Corrupt::Field { what, offset, expected: expected.into(), found }
    }
}

/// Two sides that cannot understand each other.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// Region format.
    #[error("region format {found}, this build reads {expected}")]
    Format {
        /// Majors that this build reads.
        expected: String,
        /// The region's.
        found: String,
    },
    /// The name exists as another kind.
    #[error("{name}: is a {found}, not a {expected}")]
    Kind {
        /// Object.
        name: String,
        /// Asked for.
        expected: &'static str,
        /// In the region.
        found: &'static str,
    },
    /// The histogram exists with other buckets.
    #[error("{name}: buckets {found:?}, not {expected:?}")]
    Buckets {
        /// Object.
        name: String,
        /// Asked for, as text so that the error can be compared.
        expected: String,
        /// In the region.
        found: String,
    },
    /// The value's schema can be neither read nor migrated.
    #[error("{name}: schema {found}, this build reads {readable:?}")]
    Schema {
        /// Object.
        name: String,
        /// What this build reads.
        readable: Vec<u32>,
        /// In the region.
        found: u32,
    },
    /// The value does not decode as its schema says.
    #[error("{name}: schema {schema}: {why}")]
    Decode {
        /// Object.
        name: String,
        /// Schema.
        schema: u32,
        /// The codec's words.
        why: String,
    },
}

/// Not now.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// No sidecar answered.
    #[error("no sidecar at {socket} within {waited:?}")]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// A handover is under way.
    #[error("handover {handover} is in progress")]
    Busy {
        /// Its resource name.
        handover: String,
    },
    /// The gate is frozen.
    #[error("the gate was frozen for {waited:?}")]
    Frozen {
        /// How long this call waited.
        waited: Duration,
    },
    /// Another process arbitrates over the region.
    #[error("another sidecar holds the region {region}")]
    Held {
        /// Its name.
        region: String,
    },
    /// Writers were faster than a read.
    #[error("no quiet moment in {attempts} attempts")]
    Contended {
        /// How many.
        attempts: u32,
    },
}

/// A limit is reached.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The region cannot grow.
    #[error("region full: {needed_bytes} bytes needed, {free_bytes} free of {limit_bytes}")]
    Region {
        /// For this call.
        needed_bytes: u64,
        /// Left.
        free_bytes: u64,
        /// The region's limit.
        limit_bytes: u64,
    },
    /// The value is larger than its object allows.
    #[error("{name}: {len_bytes} bytes, at most {limit_bytes}")]
    Value {
        /// Object.
        name: String,
        /// Encoded length.
        len_bytes: u64,
        /// Limit.
        limit_bytes: u64,
    },
    /// Generations are used up: nobody can own this region any more.
    #[error("all {limit} generations are used up: dump the region, and let a new one be created")]
    Generations {
        /// How many there are.
        limit: u64,
    },
    /// A table is full: instances, directory, descriptors, attachments of one process.
    #[error("{table} full: {limit}")]
    Table {
        /// Which.
        table: &'static str,
        /// Its size.
        limit: u64,
    },
}

/// The caller may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("uid {uid} may not {what}")]
pub struct Denied {
    /// Who asked.
    pub uid: u32,
    /// For what.
    pub what: String,
}

/// The caller is wrong.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// A name that Prometheus' data model or Heirloom's does not allow.
    #[error("{what} {found:?}: {rule}")]
    Name {
        /// Region, metric, label, object.
        what: &'static str,
        /// The name.
        found: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A value that is not allowed: buckets out of order, a replica name, an address.
    #[error("{what}: {found}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Its value.
        found: String,
    },
    /// A term of another region.
    #[error("a term of region {found}, used on {expected}")]
    ForeignTerm {
        /// The object's region.
        expected: String,
        /// The term's.
        found: String,
    },
    /// The value's `Serialize` failed.
    #[error("{name}: encoding: {why}")]
    Encode {
        /// Object.
        name: String,
        /// The codec's words.
        why: String,
    },
    /// A forked child used its parent's attachment.
    #[error("forked: attach anew in the child")]
    Forked,
    /// A global recorder is installed already.
    #[error("a metrics recorder is installed already")]
    RecorderInstalled,
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
        let e = Error::io("open", Some(Path::new("/nowhere")), io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(e.to_string(), "open /nowhere: entity not found");
    }
}
