//! The one place of the tests that needs `unsafe`: children that come from a fork, a descriptor that was left to us, and
//! `TCP_INFO`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd, OwnedFd, RawFd};

use nix::sys::wait::{WaitStatus, waitpid};
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

/// Asks `question` in a forked child and gives its answer, which is the child's exit code.
///
/// # Errors
/// If the kernel refuses, or the child was killed.
pub fn ask_in_forked_child(question: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: glibc keeps its allocator usable in the child of a process with threads. `question` takes no lock that another
    // thread of ours may have held: what it calls is refused before any. The child ends without running any destructor.
    match unsafe { fork() }.map_err(io::Error::from)? {
        ForkResult::Child => {
            let answer = question();
            // SAFETY: ends the process at once; nothing of it is used afterwards.
            unsafe { nix::libc::_exit(i32::from(answer)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => u8::try_from(code).map_err(io::Error::other),
            other => Err(io::Error::other(format!("expected an exit code, found {other:?}"))),
        },
    }
}

/// The descriptor that the parent left open for this process, and named to it and to nobody else.
pub fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: open, because the parent cleared its close-on-exec flag, and owned by nobody else here: the caller is told of it
    // once, on its command line.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What the kernel says of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// 1: established.
    pub state: u8,
    /// Sent and acknowledged, with one for the SYN of who connected.
    pub bytes_acked: u64,
    /// Received, in order.
    pub bytes_received: u64,
}

/// `TCP_INFO`.
///
/// # Errors
/// What the kernel says: no TCP socket, say.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    // The layout of `struct tcp_info` in linux/tcp.h, which only grows.
    const BYTES: usize = 136;
    let (mut info, mut len) = ([0_u8; BYTES], BYTES as nix::libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes into `info`, which has so many, and the length it wrote into `len`.
    let done = unsafe {
        nix::libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < BYTES {
        return Err(io::Error::other(format!("TCP_INFO: {len} bytes, not {BYTES}")));
    }
    let word = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().expect("8 bytes"));
    Ok(TcpInfo { state: info[0], bytes_acked: word(120), bytes_received: word(128) })
}
