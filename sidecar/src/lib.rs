//! The sidecar daemon and the `heirloom` command line.
//!
//! [`run_cli`] is the whole binary. [`output`] is what it prints as JSON.
#![forbid(unsafe_code)]

pub mod output;
