//! The handles through which a service counts and keeps state.
//!
//! Opening resolves a name once, through the directory; after that a handle writes without a system call or a lock.
//! Counters, histograms and up-down gauges are written by every instance, each thread in its own lane ([`lane`]), and
//! need no owner. Gauges and cells are written by the owner, through the gate, and are digested.

pub mod cell;
pub mod counter;
pub mod gauge;
pub mod histogram;
pub mod lane;
mod local;
mod open;
pub mod reclaim;
pub(crate) mod settle;
pub mod updown;

pub use cell::{Cell, CellSpec, CellValue, Part, Stamp, open_cell};
pub use counter::{Counter, FloatCounter};
pub use gauge::Gauge;
pub use histogram::Histogram;
pub(crate) use local::{Local, lock};
pub(crate) use open::check_place;
pub use open::{
    DEFAULT_BUCKETS, MetricDesc, open_counter, open_float_counter, open_gauge, open_histogram, open_updown,
};
pub use updown::{Share, UpDownGauge};

#[cfg(test)]
mod tests;
