//! How much of this process strangers may hold: connections to HTTP, which is open to whoever reaches its address, are
//! bounded, so that idle ones leave descriptors for those who hand over; and a listener that cannot accept pauses instead of
//! asking again at once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt as _};

use super::with::With;

/// Connections to HTTP at once; more wait in the backlog.
pub(super) const HTTP_CONNECTIONS_MAX: usize = 512;
/// After a failed accept, which mostly is one for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Takes as many descriptors as this process may have: an instance costs two, and the usual soft limit is for `select`.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The same connections, with a pause after each that could not be accepted.
pub(super) fn paced<T: Send + 'static>(
    incoming: impl Stream<Item = io::Result<T>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = io::Result<T>> + Send>> {
    Box::pin(incoming.then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
        accepted
    }))
}

/// A listener with so many connections at once.
pub(super) struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Limited {
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> Self {
        Limited { listener, room: Arc::new(Semaphore::new(connections_max)) }
    }
}

impl axum::serve::Listener for Limited {
    type Io = With<TcpStream, Option<OwnedSemaphorePermit>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        // Nobody closes the semaphore.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        (With { stream, held: room }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_for_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut limited = Limited::new(listener, 1);
        let _clients = [TcpStream::connect(to).await.unwrap(), TcpStream::connect(to).await.unwrap()];
        let (first, _) = limited.accept().await;
        let early = tokio::time::timeout(Duration::from_millis(50), limited.accept()).await;
        assert!(early.is_err(), "there is no room yet");
        drop(first);
        tokio::time::timeout(Duration::from_secs(10), limited.accept()).await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_listener_that_cannot_accept_pauses() {
        let errors = std::iter::repeat_with(|| Err::<(), _>(io::Error::other("no descriptors"))).take(3);
        let begin = tokio::time::Instant::now();
        let all: Vec<_> = paced(tokio_stream::iter(errors.collect::<Vec<_>>())).collect().await;
        assert!(all.len() == 3 && begin.elapsed() >= 3 * ACCEPT_AGAIN);
    }
}
