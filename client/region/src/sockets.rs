//! Sockets that outlive the process that bound them: their names, what they are, and who binds.
//!
//! A kept socket is one open file description in many processes: the sidecar and every attached instance hold a
//! descriptor of it. So the kernel's queue of connections is one, whoever accepts; it ends when the last of them does. Invariants:
//! - one name is one [`Shape`] for as long as anybody keeps it: another address, type or number is an error that says both;
//! - a descriptor is looked at before it is kept ([`inspect`]): what is not a socket, or another, never enters a [`Table`];
//! - a TCP or Unix socket is kept *bound* and listens only when its keepers know of it ([`listen`], which each who opens
//!   it calls): so a loser of a race, or a process killed in between, takes no connection with it;
//! - sockets are non-blocking, since that flag belongs to the description and so to all who hold it;
//! - a name's file (Unix) stays when an instance leaves; a file that nobody answers at is replaced by the next to bind.
//!
//! Nothing here waits, and nothing is written to a region: if the process dies, its descriptors are closed, no more.

mod bind;
mod room;
mod table;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt};

use crate::error::{Error, Misuse};

pub use bind::{bind, listen};
pub use room::{Room, fits, full, need, room};
pub use table::{Kept, Table};

/// Sockets in one group.
pub const GROUP_MAX: usize = 1024;
const NAME_RULE: &str = "[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}";

/// What kind of socket is kept.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// TCP, listening.
    Tcp,
    /// Unix stream, listening.
    Unix,
    /// UDP, bound.
    Udp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Tcp => "TCP",
            Kind::Unix => "Unix stream",
            Kind::Udp => "UDP",
        })
    }
}

/// Type, address and number of what is kept under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its type.
    pub kind: Kind,
    /// `127.0.0.1:80`, `[::1]:80`, `/run/shop.sock`, `@abstract`. Port 0, where asked for, stands for any.
    pub address: String,
    /// How many there are: more than one share an address by `SO_REUSEPORT`.
    pub count: usize,
}

/// Checks a socket's name.
///
/// # Errors
/// [`Misuse::Name`].
pub fn name(name: &str) -> Result<(), Misuse> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    match first && name.len() <= 63 && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Misuse::Name { what: "socket name", found: name.to_owned(), rule: NAME_RULE }),
    }
}

impl Shape {
    /// Checks that what is asked for is what is kept.
    ///
    /// # Errors
    /// [`Misuse::Socket`], with both.
    pub fn check(&self, name: &str, asked: &Shape) -> Result<(), Misuse> {
        let differs = |what, kept: &dyn ToString, asked: &dyn ToString| {
            Err(Misuse::Socket { name: name.to_owned(), what, expected: kept.to_string(), found: asked.to_string() })
        };
        if self.kind != asked.kind {
            return differs("type", &self.kind, &asked.kind);
        }
        if !same_address(&self.address, &asked.address) {
            return differs("address", &self.address, &asked.address);
        }
        match self.count == asked.count {
            true => Ok(()),
            false => differs("number", &self.count, &asked.count),
        }
    }
}

/// Whether `asked` is `kept`, or any port of its host.
fn same_address(kept: &str, asked: &str) -> bool {
    let any_port = || Some((asked.strip_suffix(":0")?, kept.rsplit_once(':')?.0));
    kept == asked || any_port().is_some_and(|(asked, kept)| asked == kept)
}

/// What a descriptor is, as far as it can be kept.
///
/// # Errors
/// [`Misuse::Argument`] for what is no socket, or of a type that is not kept.
pub fn inspect(socket: impl AsFd) -> Result<(Kind, String), Error> {
    let wrong = |found: String| Error::from(Misuse::Argument { what: "descriptor", found });
    let sort = match getsockopt(&socket, sockopt::SockType) {
        Ok(sort) => sort,
        Err(nix::Error::ENOTSOCK) => return Err(wrong("not a socket".into())),
        Err(e) => return Err(Error::io("getsockopt SO_TYPE", None, e)),
    };
    use std::os::fd::AsRawFd as _;
    let address: SockaddrStorage =
        getsockname(socket.as_fd().as_raw_fd()).map_err(|e| Error::io("getsockname", None, e))?;
    let kind = match (sort, address.family()) {
        (SockType::Stream, Some(AddressFamily::Inet | AddressFamily::Inet6)) => Kind::Tcp,
        (SockType::Stream, Some(AddressFamily::Unix)) => Kind::Unix,
        (SockType::Datagram, Some(AddressFamily::Inet | AddressFamily::Inet6)) => Kind::Udp,
        (sort, family) => return Err(wrong(format!("a socket of type {sort:?}, family {family:?}"))),
    };
    Ok((kind, text(&address).ok_or_else(|| wrong("a socket without an address".into()))?))
}

fn text(address: &SockaddrStorage) -> Option<String> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*v4).to_string());
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        return Some(std::net::SocketAddrV6::from(*v6).to_string());
    }
    let unix = address.as_unix_addr()?;
    match (unix.path(), unix.as_abstract()) {
        (Some(path), _) => Some(path.to_str()?.to_owned()),
        (None, Some(name)) => Some(format!("@{}", std::str::from_utf8(name).ok()?)),
        (None, None) => None,
    }
}

/// Checks that `sockets` are what `shape` says, each of them another.
///
/// # Errors
/// [`Misuse::Socket`], [`Misuse::Argument`], with what was found.
pub fn check(name: &str, shape: &Shape, sockets: &[impl AsFd]) -> Result<(), Error> {
    let mut seen = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let (kind, address) = inspect(socket)?;
        shape.check(name, &Shape { kind, address, count: sockets.len() })?;
        seen.push(identity(socket)?);
    }
    seen.sort_unstable();
    match seen.windows(2).any(|pair| pair[0] == pair[1]) {
        false => Ok(()),
        true => {
            let found = "one socket twice".to_owned();
            Err(Misuse::Argument { what: "descriptors of a group", found }.into())
        }
    }
}

/// Tells whether two descriptors are of one socket.
///
/// # Errors
/// [`Error::Io`].
pub fn identity(socket: impl AsFd) -> Result<u64, Error> {
    let owned = socket.as_fd().try_clone_to_owned().map_err(|e| Error::io("dup", None, e))?;
    // Sockets have inodes of their own, and no two living ones share one.
    std::fs::File::from(owned).metadata().map(|meta| meta.ino()).map_err(|e| Error::io("fstat", None, e))
}

/// Checks that a descriptor is a connection of a kind that is moved.
///
/// # Errors
/// [`Misuse::Argument`] if it is not.
pub fn connection(socket: impl AsFd) -> Result<Kind, Error> {
    use std::os::fd::AsRawFd as _;
    let wrong = |found: String| Error::from(Misuse::Argument { what: "connection", found });
    let sort = getsockopt(&socket, sockopt::SockType).map_err(|e| wrong(format!("no socket: {e}")))?;
    let address: SockaddrStorage =
        getsockname(socket.as_fd().as_raw_fd()).map_err(|e| Error::io("getsockname", None, e))?;
    match (sort, address.family()) {
        _ if getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false) => Err(wrong("a listening socket".into())),
        (SockType::Stream, Some(AddressFamily::Inet | AddressFamily::Inet6)) => Ok(Kind::Tcp),
        (SockType::Stream, Some(AddressFamily::Unix)) => Ok(Kind::Unix),
        (sort, family) => Err(wrong(format!("a socket of type {sort:?}, family {family:?}"))),
    }
}

/// Whether a descriptor is a socket at all.
pub fn is_socket(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::SockType).is_ok()
}

/// The path of a Unix socket's file; none for an abstract one.
pub fn file_of(address: &str) -> Option<&Path> {
    address.starts_with('/').then(|| Path::new(address))
}

#[cfg(test)]
mod tests;
