//! The atomics that the region is made of, behind one name, so that a model checker can take their place.
//!
//! Everything shared between processes is a word of one of these types, reached through a raw pointer into the mapping. Built
//! with `--cfg loom`, in tests, the types keep their size and layout, but what is done with a word while a model runs is done with loom's
//! word for that address (`modelled`): the code that is checked is the code that runs, mapping, offsets and all.

#[cfg(not(all(loom, test)))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
#[cfg(not(all(loom, test)))]
pub(crate) use std::thread_local;

#[cfg(all(loom, test))]
pub(crate) mod modelled;
#[cfg(all(loom, test))]
pub(crate) use modelled::thread_local;
#[cfg(all(loom, test))]
pub use modelled::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

const _: () = assert!(size_of::<AtomicU64>() == 8 && align_of::<AtomicU64>() == 8);
const _: () = assert!(size_of::<AtomicU32>() == 4 && align_of::<AtomicU32>() == 4);
