//! What `dump -o json` prints of a region file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A region file, as it lies there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dump {
    /// Path.
    pub file: String,
    /// Page 0.
    pub header: Header,
    /// The gate word.
    pub gate: Gate,
    /// Both slots.
    pub superblocks: Vec<Superblock>,
    /// Last served in this boot of the host; if not, all instances are dead.
    pub same_boot: bool,
    /// Rows of the instance table in use.
    pub instances: Vec<InstanceRow>,
    /// Number that the next record of the history gets.
    pub next_handover: u64,
    /// Objects by kind; an unknown kind as "kind-N".
    pub objects: BTreeMap<String, u64>,
    /// Metrics with their values; null without --objects
    pub metrics: Option<Vec<Metric>>,
    /// Cells without their bytes; null without --objects
    pub cells: Option<Vec<Cell>>,
    /// Time series without their samples, by number; null without --objects
    pub series: Option<Vec<Series>>,
    /// Pages of the owned area by checksum state: verified, dirty, unverifiable, corrupt, empty.
    pub page_counts: BTreeMap<String, u64>,
    /// The same as runs; null without --pages
    pub pages: Option<Vec<PageRun>>,
    /// Everything that is wrong, as `verify --file` says it.
    pub faults: Vec<super::Fault>,
}

/// Page 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    /// The region's name.
    pub region: String,
    /// Region's UUID, hexadecimal.
    pub uid: String,
    /// Format, "major.minor".
    pub format: String,
    /// RFC 3339, UTC; null if unknown.
    pub create_time: Option<String>,
    /// Sparse size of the file.
    pub virtual_bytes: u64,
    /// Allocated.
    pub used_bytes: u64,
    /// At most.
    pub limit_bytes: u64,
    /// Rows of the instance table.
    pub instances_max: u32,
    /// Threads with a lane of their own.
    pub lanes_max: u32,
    /// Gate slots.
    pub slots_max: u32,
    /// Metric series.
    pub series_max: u32,
    /// Records of the history.
    pub history_max: u32,
    /// The segment table.
    pub segments: Vec<Segment>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// Its name; "kind-N" if this build does not know it.
    pub kind: String,
    /// Version of its encoding.
    pub version: u32,
    /// First byte.
    pub offset_bytes: u64,
    /// Length.
    pub len_bytes: u64,
}

/// The gate word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gate {
    /// The open generation.
    pub generation: u64,
    /// The freeze attempt.
    pub attempt: u32,
    /// open, frozen or unknown
    pub phase: String,
}

/// One slot of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Superblock {
    /// 0 or 1.
    pub slot: u32,
    /// current, other or invalid
    pub state: String,
    /// Why it is invalid.
    pub fault: Option<String>,
    /// Number of the record.
    pub sequence: Option<u64>,
    /// Generation that it opened.
    pub generation: Option<u64>,
    /// Owner's name; null if it names nobody.
    pub owner: Option<String>,
    /// Hexadecimal.
    pub root_digest: Option<String>,
    /// RFC 3339, UTC
    pub seal_time: Option<String>,
    /// Pages read while the gate was frozen.
    pub frozen_pages: Option<u64>,
}

/// One attached process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRow {
    /// Row of the table.
    pub row: u32,
    /// Its name.
    pub instance: String,
    /// Label of its build.
    pub version: String,
    /// In its sidecar's namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// RFC 3339, UTC
    pub attach_time: Option<String>,
    /// The last generation that it owned; 0 if none.
    pub last_generation: u64,
    /// Its lock is held: it lives. Null where that cannot be told.
    pub alive: Option<bool>,
}

/// One series with its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    /// Family's name.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// counter, histogram, gauge, ...
    pub kind: String,
    /// Of a counter or a gauge, and the sum of a histogram; null if it is not finite.
    pub value: Option<f64>,
    /// Of a counter, exactly.
    pub count: Option<u64>,
    /// Observations in each bucket of a histogram, `+Inf` last.
    pub buckets: Option<Vec<u64>>,
}

/// One cell without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Its name.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// Schemas of its parts, the writer's own first.
    pub schemas: Vec<u32>,
    /// Bytes of all parts.
    pub len_bytes: Option<u64>,
    /// In which it was written.
    pub generation: Option<u64>,
    /// Why there is no value to be read.
    pub fault: Option<String>,
}

/// One time series without its samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// Its number.
    pub number: u32,
    /// By name, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// Samples in the chunks that this build can decode.
    pub samples: u64,
    /// Bytes of these chunks.
    pub chunk_bytes: u64,
    /// Of the first sample, Unix milliseconds; null if there is none.
    pub first_ms: Option<i64>,
    /// Of the last one.
    pub last_ms: Option<i64>,
    /// Chunks by encoding; one that this build does not know as "encoding-N".
    pub chunks: BTreeMap<String, u64>,
    /// Why it cannot be read.
    pub fault: Option<String>,
}

/// A run of pages of the owned area in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageRun {
    /// First page.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// verified, dirty, unverifiable, corrupt or empty
    pub state: String,
    /// CRC in the table of a corrupt page.
    pub expected: Option<String>,
    /// CRC of its bytes.
    pub found: Option<String>,
}
