//! What Heirloom asks of Linux, each behind a safe function: barriers, locks, process handles, futexes, fork and faults.
//!
//! Everything here either works or returns the system's error; nothing falls back in silence.

pub mod boot;
pub mod clock;
pub mod fork;
pub mod fs;
pub mod futex;
pub mod liveness;
pub mod membarrier;
pub mod pidfd;
mod registry;
pub mod sigbus;
pub mod words;

pub(crate) use registry::Registered;

use crate::error::Error;

/// Unpredictable bytes: UUIDs, incarnations, tokens.
///
/// # Errors
/// `Io` where the kernel has none to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(e) => {
            let source = e
                .raw_os_error()
                .map_or_else(|| std::io::Error::other(e.to_string()), std::io::Error::from_raw_os_error);
            Err(Error::io("getrandom", None, source))
        }
    }
}

#[cfg(test)]
mod tests;
