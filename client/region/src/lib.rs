//! The memory-mapped region: its layout, the writer gate, the digest, the objects, and the pure handover machine.
//!
//! This crate knows no protocol and no runtime. It is the one home of the format and of all unsafe code.
#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("Heirloom regions need Linux on a 64-bit little-endian machine");

pub mod alloc;
pub mod arbiter;
mod cache;
mod create;
mod deaths;
pub mod digest;
pub mod directory;
pub mod error;
pub mod gate;
pub mod history;
pub mod inspect;
pub mod instances;
pub mod layout;
#[cfg(all(loom, test))]
mod loom_tests;
pub mod mapping;
pub mod name;
pub mod objects;
pub mod os;
pub mod process;
pub mod recover;
pub mod series;
pub mod sockets;
pub mod sync;
