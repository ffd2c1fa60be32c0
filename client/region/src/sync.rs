//! The atomics that the region is made of, behind one name, so that a model checker can take their place.
//!
//! Everything shared between processes is a word of one of these types, reached through a raw pointer into the mapping.

pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

const _: () = assert!(size_of::<AtomicU64>() == 8 && align_of::<AtomicU64>() == 8);
const _: () = assert!(size_of::<AtomicU32>() == 4 && align_of::<AtomicU32>() == 4);
