//! Binding a new socket, and making a bound one listen.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, UnixAddr, setsockopt,
    sockopt,
};

use super::{GROUP_MAX, Kind, Shape, file_of, inspect};
use crate::error::{Error, Misuse};

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds what `shape` asks for, and says what it has become: port 0 has a number then. Nothing listens yet.
///
/// # Errors
/// [`Misuse::Argument`] for an address that is none of its kind; [`Error::Io`] as the system says it, `AddrInUse` too.
pub fn bind(shape: &Shape) -> Result<(Shape, Vec<OwnedFd>), Error> {
    let wrong = |what, found: &dyn ToString| Error::from(Misuse::Argument { what, found: found.to_string() });
    if !(1..=GROUP_MAX).contains(&shape.count) || (shape.kind == Kind::Unix && shape.count != 1) {
        return Err(wrong("number of sockets", &shape.count));
    }
    let mut shape = shape.clone();
    let mut sockets = Vec::with_capacity(shape.count);
    for _ in 0..shape.count {
        let socket = match shape.kind {
            Kind::Unix => bind_unix(&shape.address)?,
            kind => {
                let address = shape.address.parse().map_err(|_| wrong("address", &shape.address))?;
                bind_ip(kind, address, shape.count > 1)?
            }
        };
        // The others of a group share the port that the first one got.
        shape.address = inspect(&socket)?.1;
        sockets.push(socket);
    }
    Ok((shape, sockets))
}

/// Makes a kept socket non-blocking and lets it listen; one that does already goes on with what waits. UDP never listens.
///
/// # Errors
/// [`Error::Io`].
pub fn listen(kind: Kind, socket: impl AsFd) -> Result<(), Error> {
    // A service manager's may block.
    let flags = fcntl(&socket, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let set = flags.and_then(|flags| fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)));
    set.map_err(|e| Error::io("fcntl O_NONBLOCK", None, e))?;
    if kind == Kind::Udp {
        return Ok(());
    }
    let backlog = Backlog::new(BACKLOG).map_err(|e| Error::io("listen", None, e))?;
    socket::listen(&socket, backlog).map_err(|e| Error::io("listen", None, e))
}

fn new(family: AddressFamily, kind: SockType, protocol: Option<SockProtocol>) -> Result<OwnedFd, Error> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(family, kind, flags, protocol).map_err(|e| Error::io("socket", None, e))
}

fn bind_ip(kind: Kind, address: SocketAddr, group: bool) -> Result<OwnedFd, Error> {
    let option = |e| Error::io("setsockopt", None, e);
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let sort = if kind == Kind::Udp { SockType::Datagram } else { SockType::Stream };
    let socket = new(family, sort, None)?;
    if kind == Kind::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(option)?;
    }
    if group {
        setsockopt(&socket, sockopt::ReusePort, &true).map_err(option)?;
    }
    let fd = socket.as_raw_fd();
    let bound = match address {
        SocketAddr::V4(v4) => socket::bind(fd, &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => socket::bind(fd, &SockaddrIn6::from(v6)),
    };
    bound.map_err(|e| Error::io("bind", Some(Path::new(&address.to_string())), e))?;
    Ok(socket)
}

fn bind_unix(address: &str) -> Result<OwnedFd, Error> {
    let at = |e| Error::io("bind", Some(Path::new(address)), e);
    let name = match (file_of(address), address.strip_prefix('@')) {
        (Some(path), _) => UnixAddr::new(path),
        (None, Some(name)) => UnixAddr::new_abstract(name.as_bytes()),
        (None, None) => Err(nix::Error::EINVAL),
    };
    let name = name.map_err(|_| Misuse::Argument { what: "address", found: address.to_owned() })?;
    let socket = new(AddressFamily::Unix, SockType::Stream, None)?;
    match socket::bind(socket.as_raw_fd(), &name) {
        Err(nix::Error::EADDRINUSE) => match file_of(address) {
            Some(path) => {
                replace_the_dead(path).map_err(at)?;
                socket::bind(socket.as_raw_fd(), &name).map_err(|e| at(e.into()))?;
            }
            None => return Err(at(nix::Error::EADDRINUSE.into())),
        },
        bound => bound.map_err(|e| at(e.into()))?,
    }
    Ok(socket)
}

/// Removes a socket's file that nobody answers at. A kept socket that does not listen yet answers nobody either; but who
/// binds a name has it to itself, so that one is of another name, and two names at one path are refused by their owner.
fn replace_the_dead(path: &Path) -> io::Result<()> {
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use());
    }
    // Non-blocking: one that answers may have a full queue.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match socket::connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(nix::Error::ECONNREFUSED) => std::fs::remove_file(path),
        Err(nix::Error::ENOENT) => Ok(()),
        _ => Err(in_use()),
    }
}
