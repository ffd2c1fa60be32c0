//! The kinds of errors, one for each culprit.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

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
    #[error("not a heirloom region: the first bytes are \"{found}\", expected \"{expected}\"")]
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

/// What was asked for by name is not there.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No region has this name, and who only reads makes none.
    #[error("no region {found}, expected {expected}")]
    Region {
        /// What there is.
        expected: String,
        /// What was asked for.
        found: String,
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
    /// A socket that is not the one kept under this name.
    #[error("socket {name}: {what} is {expected}, asked for was {found}")]
    Socket {
        /// Its name.
        name: String,
        /// Address, type, number.
        what: &'static str,
        /// Of what is kept.
        expected: String,
        /// Of what was asked for, or given.
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
