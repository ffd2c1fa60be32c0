//! What connections come from: a kept listener, or one of this instance's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::strays::Resolve;
use crate::net::{Listener, Stream};
use crate::term::Term;
use crate::work::InFlight;

/// Pause after a failed accept: the process is out of descriptors, say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// What [`serve`](super::serve()) accepts from; made from either kind of listener.
#[derive(Clone, Debug)]
pub struct Door(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Own(Arc<TcpListener>),
    Kept(Listener),
}

impl From<&Arc<TcpListener>> for Door {
    fn from(own: &Arc<TcpListener>) -> Self {
        Door(Kind::Own(own.clone()))
    }
}

impl From<&Listener> for Door {
    fn from(kept: &Listener) -> Self {
        Door(Kind::Kept(kept.clone()))
    }
}

/// A connection; that of a kept listener is counted until it is closed.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) from: SocketAddr,
    pub(super) _counted: Option<InFlight>,
}

impl Door {
    /// Where strays go: whoever connects to a kept listener meets the owner.
    pub(super) fn resolve(&self) -> Option<Resolve> {
        let Kind::Kept(kept) = &self.0 else { return None };
        let mut address = kept.local_addr().ok().flatten()?;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(Arc::new(move |_| Some(address)))
    }

    /// The next connection of the term. Cancel-safe: one that was not given out stays in the queue.
    pub(super) async fn accept(&self, term: &Term) -> Accepted {
        match &self.0 {
            Kind::Own(own) => accept(own).await,
            Kind::Kept(kept) => {
                let conn = kept.during(term).accept().await;
                let (stream, from, counted) = conn.into_parts();
                // A Unix socket's clients have no address.
                let from = from.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
                Accepted { stream, from, _counted: Some(counted) }
            }
        }
    }

    /// As [`Self::accept`], when the term is over: what is kept is the next owner's then.
    pub(super) async fn accept_late(&self) -> Accepted {
        match &self.0 {
            Kind::Own(own) => accept(own).await,
            Kind::Kept(_) => std::future::pending().await,
        }
    }
}

async fn accept(listener: &TcpListener) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => return Accepted { stream: Stream::Tcp(stream), from, _counted: None },
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
