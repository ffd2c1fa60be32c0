//! Who calls: the kernel's word on a Unix socket, a verified certificate on TCP, and nothing that a message says.
//!
//! Credentials are taken when a connection is accepted. Its pidfd pins the process, so what `/proc` says about the pid
//! is believed only while the pidfd shows that the process still lives.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Status};

use super::tls;
use super::with::With;
use crate::config::Server;

/// A process at the other end of a Unix socket.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// In the sidecar's pid namespace; 0 if not visible there.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, as far as `/proc` shows them.
    groups: Vec<u32>,
    /// When the process started, in clock ticks since boot; 0 if not visible.
    pub(crate) start_ticks: u64,
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
}

impl Peer {
    /// Asks the kernel about the other end of `stream`.
    pub(crate) fn of(stream: &impl AsFd) -> io::Result<Peer> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let pidfd = getsockopt(stream, sockopt::PeerPidfd).ok();
        let (mut start_ticks, mut groups) = (0, Vec::new());
        if pid != 0 {
            let (ticks, found) = (start_ticks_of(pid), groups_of(pid));
            // Without a pidfd (Linux before 6.5) the pid may belong to another process by now: groups give no access.
            let pinned = pidfd.as_ref().is_some_and(|fd| !exited(fd));
            start_ticks = if pinned || pidfd.is_none() { ticks.unwrap_or(0) } else { 0 };
            groups = if pinned { found.unwrap_or_default() } else { Vec::new() };
        }
        Ok(Peer {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups,
            start_ticks,
            pidfd: pidfd.map(Arc::new),
        })
    }

    /// True if both are the same process, as far as the kernel tells.
    pub(crate) fn same_process(&self, other: &Peer) -> bool {
        (self.pid, self.uid, self.start_ticks) == (other.pid, other.uid, other.start_ticks)
    }
}

fn exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

fn start_ticks_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; field 22 is the 20th behind it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn groups_of(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:"))?;
    Some(line.split_ascii_whitespace().filter_map(|g| g.parse().ok()).collect())
}

/// Who may call on this host.
#[derive(Clone, Debug)]
pub(crate) struct AllowList {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl AllowList {
    pub(crate) fn new(server: &Server) -> Self {
        let own = nix::unistd::geteuid().as_raw();
        let uids = server.allow_uids.iter().copied().chain([0, own]).collect();
        AllowList { uids, gids: server.allow_gids.iter().copied().collect() }
    }

    /// For tests: root and the own uid are not added.
    #[cfg(test)]
    pub(crate) fn only(uids: &[u32]) -> Self {
        AllowList { uids: uids.iter().copied().collect(), gids: BTreeSet::new() }
    }

    pub(crate) fn allows(&self, peer: &Peer) -> bool {
        self.allows_uid(peer.uid) || self.gids.contains(&peer.gid) || peer.groups.iter().any(|g| self.gids.contains(g))
    }

    pub(crate) fn allows_uid(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid in {:?}", self.uids)?;
        if self.gids.is_empty() { Ok(()) } else { write!(f, " or gid in {:?}", self.gids) }
    }
}

/// Who makes a call, as records and logs name it; stands in the extensions of every request that is let in.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Over the Unix socket.
    Local(Peer),
    /// Over TCP: the subject of a certificate that `client_ca` signed.
    Certificate(String),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local(peer) => write!(f, "uid:{}", peer.uid),
            Caller::Certificate(name) => write!(f, "{name}"),
        }
    }
}

/// An accepted Unix connection with what the kernel said about its peer.
pub(crate) type PeerStream = With<UnixStream, Result<Peer, Arc<str>>>;

impl PeerStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let peer = Peer::of(&stream).map_err(|e| e.to_string().into());
        With { stream, held: peer }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Result<Peer, Arc<str>>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.held.clone()
    }
}

/// Lets a call on the Unix socket in, or answers `CALLER_DENIED`.
#[derive(Clone)]
pub(crate) struct LocalGuard(pub(crate) Arc<AllowList>);

impl tonic::service::Interceptor for LocalGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = match request.extensions().get::<Result<Peer, Arc<str>>>() {
            Some(Ok(peer)) => peer.clone(),
            Some(Err(e)) => {
                return Err(denied(ErrorReason::CallerUnknown, &self.0, &format!("no peer credentials: {e}")));
            }
            None => return Err(denied(ErrorReason::CallerUnknown, &self.0, "no peer credentials")),
        };
        if !self.0.allows(&peer) {
            tracing::warn!(pid = peer.pid, uid = peer.uid, gid = peer.gid, expected = %self.0, "caller denied");
            return Err(denied(ErrorReason::CallerDenied, &self.0, &format!("uid {} gid {}", peer.uid, peer.gid)));
        }
        request.extensions_mut().insert(Caller::Local(peer));
        Ok(request)
    }
}

fn denied(reason: ErrorReason, allowed: &AllowList, found: &str) -> Status {
    Failure::new(reason, "this caller may not use the sidecar").expected(allowed).found(found).into()
}

/// Names a caller on TCP by its certificate; TLS has verified it before.
#[derive(Clone)]
pub(crate) struct CertificateGuard;

impl tonic::service::Interceptor for CertificateGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let Some(name) = info.and_then(TlsConnectInfo::peer_certs).and_then(|c| c.first().map(|c| tls::subject(c)))
        else {
            let failure = Failure::new(ErrorReason::CallerUnknown, "this caller is not known");
            return Err(failure.expected("a client certificate signed by tls.client_ca").found("none").into());
        };
        request.extensions_mut().insert(Caller::Certificate(name));
        Ok(request)
    }
}
