//! Room in this process' table of descriptors, asked for before many are taken.

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, Full};

/// Descriptors that are left free for what the process does besides.
const SPARE: u64 = 16;

/// How full the table of descriptors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Open now.
    pub used: u64,
    /// `RLIMIT_NOFILE`, soft.
    pub limit: u64,
}

/// Looks.
///
/// # Errors
/// [`Error::Io`]; `/proc` must be mounted.
pub fn room() -> Result<Room, Error> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| Error::io("getrlimit", None, e))?;
    let open = std::fs::read_dir("/proc/self/fd").map_err(|e| Error::io("read /proc/self/fd", None, e))?;
    Ok(Room { used: open.count() as u64, limit })
}

/// Checks that `more` descriptors fit.
///
/// # Errors
/// [`Full::Table`] with the limit.
pub fn need(more: usize) -> Result<(), Error> {
    let Room { used, limit } = room()?;
    match used + more as u64 + SPARE <= limit {
        true => Ok(()),
        false => Err(Full::Table { table: "descriptors of this process (RLIMIT_NOFILE)", limit }.into()),
    }
}
