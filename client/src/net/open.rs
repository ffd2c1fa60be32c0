//! Asking for a kept socket.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use heirloom_region::error::{Error, Misuse};
use heirloom_region::sockets::{self, GROUP_MAX, Kept, Kind, Shape};

use super::listener::Listener;
use crate::session::Session;

/// How to open a listener; see [`Region::listener`](crate::Region::listener).
#[must_use = "call open()"]
#[derive(Debug)]
pub struct OpenListener<'r> {
    session: &'r Arc<Session>,
    name: String,
    address: String,
}

impl<'r> OpenListener<'r> {
    pub(crate) fn new(session: &'r Arc<Session>, name: &str, address: String) -> Self {
        Self { session, name: name.to_owned(), address }
    }

    /// The kept listening socket, TCP or Unix stream as its address says. In order: kept here, kept by the sidecar, given to
    /// the sidecar by systemd under this name, bound.
    ///
    /// # Errors
    /// [`Error::Misuse`] name, address, or another address, type or number under this name; [`Error::Io`] bind;
    /// [`Error::Full`] descriptors, with the limit; [`Error::NotReady`] while no sidecar is there to say whether the name is kept.
    pub async fn open(self) -> Result<Listener, Error> {
        let group = self.open_group(1).await?;
        group.into_iter().next().ok_or_else(|| misuse("group", "no socket"))
    }

    /// A group of `n` TCP sockets on one address (`SO_REUSEPORT`), in the same order in every instance, so that no
    /// socket's queue of connections is left to nobody.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_group(self, n: usize) -> Result<Vec<Listener>, Error> {
        let kind = match self.address.starts_with(['/', '@']) || self.address.starts_with("unix:") {
            true => Kind::Unix,
            false => Kind::Tcp,
        };
        let (session, name) = (self.session.clone(), self.name.clone());
        let kept = self.kept(kind, n).await?;
        let kind = kept.shape.kind;
        Ok(kept.sockets.into_iter().map(|socket| Listener::new(&session, &name, kind, socket)).collect())
    }

    /// The bare sockets, for a server that wants them: `std::net::TcpListener::from(fd)`, UDP too. They are non-blocking and
    /// shared with other versions: use them during a term, and leave that flag alone.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_fds(self, kind: Kind, n: usize) -> Result<Vec<OwnedFd>, Error> {
        let kept = self.kept(kind, n).await?;
        let copies = kept.sockets.iter().map(|socket| socket.try_clone());
        copies.collect::<Result<_, _>>().map_err(|e| Error::io("dup", None, e))
    }

    async fn kept(self, kind: Kind, n: usize) -> Result<Kept, Error> {
        self.session.refuse_a_fork()?;
        let asked = Shape { kind, address: canonical(kind, &self.address)?, count: n };
        if !(1..=GROUP_MAX).contains(&n) || (kind == Kind::Unix && n != 1) {
            return Err(misuse("number of sockets", &format!("{n}, of {kind}")));
        }
        let (net, name) = (self.session.net.clone(), self.name);
        // There it has timers, whoever awaits it.
        let opening = self.session.control.spawn(async move {
            let kept = net.open(&name, &asked).await?;
            // Only now that it is kept: what waits in its queue from here on cannot be lost with this process.
            kept.sockets.iter().try_for_each(|socket| sockets::listen(kept.shape.kind, socket)).map(|()| kept)
        });
        match opening.await {
            Ok(kept) => kept,
            Err(e) => Err(Error::io("open a kept socket", None, std::io::Error::other(e.to_string()))),
        }
    }
}

fn misuse(what: &'static str, found: &str) -> Error {
    Misuse::Argument { what, found: found.to_owned() }.into()
}

/// The text that is compared: of two that mean the same, the same.
fn canonical(kind: Kind, address: &str) -> Result<String, Error> {
    if kind != Kind::Unix {
        let parsed: Result<std::net::SocketAddr, _> = address.parse();
        return parsed
            .map(|it| it.to_string())
            .map_err(|_| misuse("address", &format!("{address}, no IP address with port")));
    }
    let path = address.strip_prefix("unix:").unwrap_or(address);
    match path.starts_with('@') {
        true => Ok(path.to_owned()),
        false => match std::path::absolute(Path::new(path)).ok().and_then(|it| it.to_str().map(str::to_owned)) {
            Some(path) => Ok(path),
            None => Err(misuse("address", path)),
        },
    }
}
