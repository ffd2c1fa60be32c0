//! The one place of the tests that needs `unsafe`: a child that lives on after its parent.

use std::io;

use nix::unistd::{ForkResult, fork, pause};

/// Forks a child that does nothing until it is killed. It holds whatever a forked child of a service holds: descriptors, and
/// the mappings that the region crate lets through. Gives its pid.
///
/// # Errors
/// If the kernel refuses.
pub fn fork_idle_child() -> io::Result<u32> {
    // SAFETY: the child calls nothing but `pause`, which is async-signal-safe: no lock, no allocation, no return into Rust code
    // that might need the threads that did not come along.
    match unsafe { fork() }.map_err(io::Error::from)? {
        ForkResult::Child => loop {
            pause();
        },
        ForkResult::Parent { child } => u32::try_from(child.as_raw()).map_err(io::Error::other),
    }
}
