//! Handles to processes that a reused pid cannot mislead: readable when the process is dead.

use crate::error::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const SO_PEERPIDFD: libc::c_int = 77;

fn owned(answer: libc::c_long, op: &'static str) -> Result<OwnedFd, Error> {
    if answer < 0 {
        return Err(Error::io(op, None, io::Error::last_os_error()));
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) })
}

/// A handle to the process that has this pid now.
///
/// # Errors
/// `Io` if there is none, or the kernel has no pidfds.
pub fn open(pid: u32) -> Result<OwnedFd, Error> {
    // SAFETY: pidfd_open takes no pointers; the descriptor is CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) }, "pidfd_open")
}

/// A handle to the process with this pid and start time: the pid is looked up, opened, and looked up again, so that a reuse
/// in between is seen.
///
/// # Errors
/// `Io` if that process is gone.
pub fn open_started_at(pid: u32, start_ticks: u64) -> Result<OwnedFd, Error> {
    let handle = open(pid)?;
    if super::boot::start_ticks(pid)? == start_ticks && !is_dead(handle.as_fd()) {
        return Ok(handle);
    }
    Err(Error::io("pidfd_open", None, io::Error::from_raw_os_error(libc::ESRCH)))
}

/// A handle to the process at the other end of a connected Unix socket, as it was when it connected.
///
/// # Errors
/// `Io` on kernels before 6.5 and for a peer that is gone.
pub fn of_peer(socket: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one int to `fd`, whose length `len` says.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut len)
    };
    owned(if answer == 0 { fd.into() } else { -1 }, "SO_PEERPIDFD")
}

/// Whether the process is dead: proof, not a guess.
pub fn is_dead(handle: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(handle, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|n| n == 1)
        && polled[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN))
}

/// Sends a signal to that very process.
///
/// # Errors
/// `Io` if it is gone, or we may not.
pub fn send_signal(handle: BorrowedFd<'_>, signal: nix::sys::signal::Signal) -> Result<(), Error> {
    // SAFETY: a null siginfo means the default one.
    let answer = unsafe {
        let info = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal as libc::c_int, info, 0)
    };
    if answer == 0 { Ok(()) } else { Err(Error::io("pidfd_send_signal", None, io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_handle_becomes_readable_when_its_process_dies_and_not_before() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let ticks = crate::os::boot::start_ticks(child.id()).unwrap();
        let handle = open_started_at(child.id(), ticks).unwrap();
        assert!(!is_dead(handle.as_fd()));
        assert!(open_started_at(child.id(), ticks + 1).is_err(), "another life of the pid");
        send_signal(handle.as_fd(), nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(is_dead(handle.as_fd()));
        assert!(send_signal(handle.as_fd(), nix::sys::signal::Signal::SIGKILL).is_err());
        assert!(open_started_at(child.id(), ticks).is_err());
    }

    #[test]
    fn the_peer_of_a_socket_is_known_where_the_kernel_tells() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        match of_peer(here.as_fd()) {
            Ok(handle) => assert!(!is_dead(handle.as_fd())),
            Err(e) => assert!(e.to_string().starts_with("SO_PEERPIDFD"), "{e}"),
        }
    }
}
