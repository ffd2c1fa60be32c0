//! Time series, as Prometheus keeps them in its head: XOR chunks of float samples, appended by the owner, read by all.
//!
//! [`xor`] is the encoding alone, over private memory.

mod types;
pub mod xor;

pub use types::{
    AppendError, Appended, Chunk, Chunks, Commit, Encoding, Interrupted, LabelSet, Rejected, Sample, SeriesId,
};
