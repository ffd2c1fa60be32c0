//! A kept listening socket, and accepting from it during a term.
//!
//! Between terms the socket is in no event queue of this process: otherwise each connection would wake every version that
//! keeps it. It is put there when a term's first accept asks, and the kernel then reports what waits already.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use heirloom_region::error::Generation;
use heirloom_region::sockets::{self, Kind};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;

use super::conn::{Conn, Stream};
use crate::session::Session;
use crate::term::Term;
use crate::work::{InFlight, NOT_MOVABLE};

/// Pause after a failed accept: the process is out of descriptors, say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// `accept(2)`'s errors for want of room: ENFILE, EMFILE, ENOMEM, ENOBUFS.
const FULL: [i32; 4] = [23, 24, 12, 105];

/// A bound, listening socket that outlives this process. Clones are the same socket.
#[derive(Clone)]
pub struct Listener {
    inner: Arc<Inner>,
}

struct Inner {
    session: Weak<Session>,
    name: String,
    kind: Kind,
    socket: Arc<OwnedFd>,
    /// In an event queue, for the term of this generation.
    live: Mutex<Option<(Generation, Arc<Live>)>>,
    /// Where its events are awaited: the runtime that opened it, else the control thread's.
    runtime: Handle,
}

enum Live {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn new(session: &Arc<Session>, name: &str, kind: Kind, socket: Arc<OwnedFd>) -> Self {
        let runtime = Handle::try_current().unwrap_or_else(|_| session.control.clone());
        let (session, name) = (Arc::downgrade(session), name.to_owned());
        Self { inner: Arc::new(Inner { session, name, kind, socket, live: Mutex::default(), runtime }) }
    }

    /// Waits for a connection; `None`: the term is over, and the next owner accepts. Cancel-safe: a connection that was not
    /// given out stays in the queue. Several tasks may wait at once.
    ///
    /// On any executor; with [`wait`](crate::wait()) on none.
    ///
    /// # Errors
    /// What `accept(2)` gives beyond the errors of one connection; a full descriptor table is waited out, with a warning.
    pub async fn accept(&self, term: &Term) -> io::Result<Option<Conn>> {
        let ended = term.ended();
        let accepting = async {
            loop {
                if !term.is_current() {
                    // Sealed, or given up: `ended` follows. What waits is the next owner's from here on.
                    std::future::pending::<()>().await;
                }
                match self.accept_one(term).await {
                    Ok(conn) => return Ok(conn),
                    Err(error) => self.wait_out(error).await?,
                }
            }
        };
        let _retires = Retires { inner: &self.inner, term };
        tokio::select! {
            biased;
            () = ended => Ok(None),
            accepted = accepting => accepted.map(Some),
        }
    }

    /// A listener for servers that own their accept loop: accepts while `term` lasts, then waits for ever.
    pub fn during(&self, term: &Term) -> During {
        During { listener: self.clone(), term: term.clone() }
    }

    /// Where it is bound; `None` for a Unix socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        if self.inner.kind == Kind::Unix {
            return Ok(None);
        }
        let (_, address) = sockets::inspect(&self.inner.socket).map_err(|e| io::Error::other(e.to_string()))?;
        address.parse().map(Some).map_err(io::Error::other)
    }

    /// The name that it is kept under.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    async fn accept_one(&self, term: &Term) -> io::Result<Conn> {
        let live = self.inner.live(term.generation())?;
        let (stream, from) = match &*live {
            Live::Tcp(listener) => {
                let (stream, from) = self.inner.entered(listener.accept()).await?;
                (Stream::Tcp(stream), Some(from))
            }
            Live::Unix(listener) => (Stream::Unix(self.inner.entered(listener.accept()).await?.0), None),
        };
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the attachment of this listener is gone");
        let session = self.inner.session.upgrade().ok_or_else(gone)?;
        Ok(Conn::new(stream, from, InFlight::left_for(&session, "connections", NOT_MOVABLE)))
    }

    /// An error of one connection is no error of the listener, and a full table gets room again.
    async fn wait_out(&self, error: io::Error) -> io::Result<()> {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return Ok(());
        }
        if !error.raw_os_error().is_some_and(|e| FULL.contains(&e)) {
            return Err(error);
        }
        tracing::warn!(name = self.inner.name, %error, "connections wait to be accepted");
        // On the listener's runtime, since the caller's executor may have no timers.
        let _ = self.inner.runtime.spawn(tokio::time::sleep(ACCEPT_AGAIN)).await;
        Ok(())
    }
}

/// Takes the socket out of the event queue when nobody accepts any more in a term that is over, however that ends.
struct Retires<'a> {
    inner: &'a Inner,
    term: &'a Term,
}

impl Drop for Retires<'_> {
    fn drop(&mut self) {
        if !self.term.is_current() {
            self.inner.retire(self.term.generation());
        }
    }
}

impl Inner {
    /// Runs what makes sockets within the runtime that watches them, whatever executor polls.
    async fn entered<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _there = self.runtime.enter();
            future.as_mut().poll(cx)
        })
        .await
    }

    fn live(&self, generation: Generation) -> io::Result<Arc<Live>> {
        let mut live = self.lock();
        if let Some((of, now)) = &*live
            && *of == generation
        {
            return Ok(now.clone());
        }
        let copy = self.socket.try_clone()?;
        let _there = self.runtime.enter();
        let new = Arc::new(match self.kind {
            Kind::Unix => Live::Unix(UnixListener::from_std(copy.into())?),
            _ => Live::Tcp(TcpListener::from_std(copy.into())?),
        });
        *live = Some((generation, new.clone()));
        Ok(new)
    }

    fn retire(&self, generation: Generation) {
        let mut live = self.lock();
        if live.as_ref().is_some_and(|(of, _)| *of <= generation) {
            *live = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Generation, Arc<Live>)>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("name", &self.inner.name).field("kind", &self.inner.kind).finish()
    }
}

/// See [`Listener::during`].
#[derive(Debug)]
pub struct During {
    listener: Listener,
    term: Term,
}

impl During {
    /// The next connection of the term; pends for ever once it is over. Cancel-safe.
    pub async fn accept(&mut self) -> Conn {
        loop {
            match self.listener.accept(&self.term).await {
                Ok(Some(conn)) => return conn,
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    tracing::error!(name = self.listener.name(), %error, "accept");
                    let _ = self.listener.inner.runtime.spawn(tokio::time::sleep(ACCEPT_AGAIN)).await;
                }
            }
        }
    }
}

#[cfg(feature = "axum")]
impl ::axum::serve::Listener for During {
    type Io = Conn;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Conn, Option<SocketAddr>) {
        let conn = During::accept(self).await;
        let from = conn.from();
        (conn, from)
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.listener.local_addr()
    }
}
