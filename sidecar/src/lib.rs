//! The sidecar daemon and the `heirloom` command line.
//!
//! [`run_cli`] is the whole binary, [`serve`] the daemon as a library, [`config`] what the daemon can be told, and
//! [`output`] what the command line and the HTTP twins print as JSON.
#![forbid(unsafe_code)]

pub mod config;
pub mod output;
pub mod serve;
