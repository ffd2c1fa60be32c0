//! Room in this process' table of descriptors, asked for before many are taken.

use std::os::fd::{AsFd, AsRawFd as _};

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, Full};

/// Descriptors that are left free for what the process does besides.
const SPARE: u64 = 16;
const TABLE: &str = "descriptors of this process (RLIMIT_NOFILE)";

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
    let limit = limit()?;
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
        false => Err(Full::Table { table: TABLE, limit }.into()),
    }
}

/// Checks that a descriptor that has just come leaves room for others. It is the lowest that was free, so the table below it is
/// full; to count all of them would cost more than what one connection's move may.
///
/// # Errors
/// [`Full::Table`] with the limit.
pub fn fits(fd: impl AsFd) -> Result<(), Error> {
    match fd.as_fd().as_raw_fd() as u64 + SPARE < limit()? {
        true => Ok(()),
        false => Err(full()),
    }
}

/// The error of a full table.
pub fn full() -> Error {
    limit().map_or_else(|error| error, |limit| Full::Table { table: TABLE, limit }.into())
}

fn limit() -> Result<u64, Error> {
    getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft).map_err(|e| Error::io("getrlimit", None, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_near_the_limit_does_not_fit() {
        let limit = limit().unwrap();
        let low = std::fs::File::open("/dev/null").unwrap();
        fits(&low).unwrap();
        let high = nix::fcntl::fcntl(&low, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC((limit - SPARE) as i32)).unwrap();
        // SAFETY: it was made in the line before, and nothing else knows it.
        let high = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(high) };
        let error = fits(&high).unwrap_err();
        assert_eq!(error.reason(), "TABLE_FULL");
        assert!(error.to_string().contains(&limit.to_string()), "{error}");
    }
}
