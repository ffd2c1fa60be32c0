//! Time series: Prometheus' samples, labels and matchers, over the region.
//!
//! ```text
//!  Region::series() ──► Store ──open(&term, labels)──► SeriesRef ──append / appender──► samples      the owner
//!                         │ Deref
//!  Observer::series() ► Reader ──select(matchers, range)──► Selection ──► Series ──► samples, chunks   anybody
//! ```
//!
//! Samples lie in the region as XOR chunks, bit for bit Prometheus', so what one version appended the next goes on with in the
//! same chunk: a switch copies nothing and rebuilds nothing. What is found by labels other than the exact ones goes through an
//! index that each process makes for itself ([`Reader::warm`]); it grows with the region's append-only directory of series and
//! is not part of a switch either.
//!
//! A series' identity is its labels. None of them is added by Heirloom, so an upgrade makes no new series.
//!
//! What this is *not*: it evaluates no PromQL, keeps no histogram samples and no exemplars, and takes no sample older than its
//! series' last.

mod dialect;
mod index;
mod labels;
mod matcher;
mod pattern;
mod postings;
mod reader;
mod selection;
mod store;

use heirloom_region::series::SeriesId;
pub use heirloom_region::series::{
    AppendError, Appended, Chunk, Commit, Encoding, Expired, Interrupted, Rejected, Sample,
};
pub use labels::{Labels, NAME};
pub use matcher::Matcher;
pub use reader::Reader;
pub use selection::{Selection, Series};
pub use store::{Appender, Store};

/// Milliseconds since the Unix epoch.
pub type TimestampMs = i64;

/// One series of one region: small, `Copy`, good for as long as this process is attached, over any switch. Numbers are never
/// given to other labels, so a reference never means another series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesRef {
    /// The attachment that it came from.
    home: u64,
    id: SeriesId,
}

/// Every handle is `Clone + Send + Sync + 'static`.
const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    const fn result<T: Send + 'static>() {}
    handle::<Store>();
    handle::<Reader>();
    handle::<Series>();
    result::<Appender>();
    result::<Selection>();
};
