//! Time series, as Prometheus keeps them in its head: XOR chunks of float samples, appended by the owner, read by all.
//!
//! - [`xor`] the encoding, also over private memory
//! - [`SeriesStore`] the handle; `names` labels and numbers; `append` writing; `view` reading; `tail` reading on; `expire` retention
//! - `head` what a process keeps of a series; `slab` head buffers; `log` and `record` sealed chunks; `root` where all of it hangs; `layout`
//!
//! **Where.** All lies in the digested owned area. A *root*, found by an entry of the owned directory, leads to blocks of 64-byte
//! *rows*, one for each series by its number. An entry of the directory holds the labels, once, and the number. A row leads to
//! the *head*, the chunk that is appended to, in a buffer of a slab, and to the newest *sealed* chunk in a log of blocks; each
//! sealed chunk leads to the one before it.
//!
//! ```text
//! row  commit {count:16, bits:16, tag:32} | side 0: buffer, sealed | side 1: buffer, sealed | entry | last_ms | 0
//! ```
//!
//! **Invariants.**
//! 1. The commit word says how many samples and bits of the head there are, and by its tag's parity which side is meant. Each
//!    change of a series is one Release store of that word, in a gate section, after the marks and after what it refers to.
//! 2. Within a tag the counted bits never change: an append stores whole words, whose counted bits are as they were, beyond the
//!    count. Whatever changes otherwise (a larger buffer, a sealed chunk, a head that is emptied) fills the other side and turns
//!    to the next tag.
//! 3. Nothing that an older tag refers to is written over before the newer commit word is stored and a Release fence (that of
//!    the next mark) was passed. So a reader that finds the tag unchanged after an Acquire fence has copied what was committed.
//! 4. A sealed chunk never changes until its block's tag is raised.
//!
//! **Crash.** Killed at any instruction, an append is in or not: before the commit word's store the bits beyond the count are
//! nobody's; after it, all is there. The same holds for growing (the same samples in another buffer) and sealing (the same
//! samples, head empty). What was taken and not yet referred to is a buffer, found again by its owner's number (`slab`), or
//! space in a block until that is recycled (`log`). No state of the appender is in the region: it is decoded from the head
//! when a process finds another commit word than the one it knows, which is how a rollback never writes with a stale one.
//!
//! **Not done.** No out-of-order samples, no histograms: other encodings have their own number beside each chunk, and are
//! skipped whole and named by a build that does not know them.

mod append;
mod check;
mod expire;
mod head;
pub(crate) mod layout;
mod log;
mod names;
mod record;
mod root;
mod slab;
mod store;
mod tail;
mod types;
mod view;
pub mod xor;

pub(crate) use check::{check_root, taken};
pub use expire::Expired;
pub use store::SeriesStore;
pub(crate) use store::Shared;
pub use tail::{Stamp, Tail};
pub use types::{
    AppendError, Appended, Chunk, Chunks, Commit, Encoding, Interrupted, LabelSet, Rejected, Sample, SeriesId,
};
pub(crate) use view::View;

#[cfg(test)]
mod tests;
