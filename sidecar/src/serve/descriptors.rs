//! How descriptors reach an instance: a one-time ticket from its `Welcome`, redeemed on a second Unix socket.
//!
//! gRPC cannot carry descriptors, and a path would need the file's permissions. A ticket is 16 random bytes, works once
//! and within [`TICKET_LIFETIME`], and only for the very process that attached, by the kernel's word on both sockets.
//! What is not redeemed is closed: a liveness descriptor that stayed open here would hold the lock of the dead.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heirloom_proto::frame;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::peer::Peer;

/// How long a ticket may wait.
pub(crate) const TICKET_LIFETIME: Duration = Duration::from_secs(10);
/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Exchanges at once.
const EXCHANGES_MAX: usize = 32;

/// What a ticket stands for.
pub(crate) struct Parcel {
    pub(crate) peer: Peer,
    pub(crate) uuid: [u8; 16],
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// All tickets that wait.
#[derive(Clone)]
pub(crate) struct Tickets {
    lifetime: Duration,
    waiting: Arc<Mutex<HashMap<[u8; 16], Parcel>>>,
}

/// Takes its ticket back when dropped, if nobody has redeemed it.
pub(crate) struct Ticket {
    tickets: Tickets,
    secret: [u8; 16],
}

impl Ticket {
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tickets.lock().remove(&self.secret);
    }
}

impl Tickets {
    /// Tickets that each live so long.
    pub(crate) fn lasting(lifetime: Duration) -> Self {
        Tickets { lifetime, waiting: Arc::default() }
    }

    /// Lets `parcel` wait for its owner.
    ///
    /// # Errors
    /// If the kernel has no random bytes.
    pub(crate) fn issue(&self, parcel: Parcel) -> io::Result<Ticket> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|e| io::Error::other(e.to_string()))?;
        self.lock().insert(secret, parcel);
        let tickets = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(tickets.lifetime).await;
            tickets.lock().remove(&secret);
        });
        Ok(Ticket { tickets: self.clone(), secret })
    }

    /// Gives the parcel to who may have it. A wrong caller does not spend the ticket.
    fn redeem(&self, secret: &[u8], caller: &Peer) -> Option<Parcel> {
        let secret: [u8; 16] = secret.try_into().ok()?;
        let mut waiting = self.lock();
        if !waiting.get(&secret)?.peer.same_process(caller) {
            tracing::warn!(pid = caller.pid, uid = caller.uid, "a descriptor ticket was shown by another process");
            return None;
        }
        waiting.remove(&secret)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Parcel>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the descriptor socket until dropped.
pub(crate) async fn serve(listener: UnixListener, tickets: Tickets) {
    let slots = Arc::new(Semaphore::new(EXCHANGES_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let tickets = tickets.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = exchange(stream, &tickets) {
                        tracing::debug!(%error, "descriptors were not passed");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the descriptor socket does not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn exchange(stream: UnixStream, tickets: &Tickets) -> Result<(), frame::FrameError> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let caller = Peer::of(&stream)?;
    let secret = frame::receive_request(&stream, EXCHANGE_TIMEOUT)?;
    match tickets.redeem(&secret, &caller) {
        Some(parcel) => {
            let descriptors: Vec<BorrowedFd<'_>> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
            frame::answer(&stream, parcel.uuid, &descriptors, EXCHANGE_TIMEOUT)
        }
        None => frame::refuse(&stream, EXCHANGE_TIMEOUT),
    }
}

/// A fresh open file description of the same file, so that no offset, flag or lock is shared with ours; read-only if asked.
///
/// # Errors
/// What the kernel says; `/proc` must be mounted.
pub(crate) fn reopen(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    OpenOptions::new().read(true).write(!read_only).open(path).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    fn peer() -> Peer {
        Peer::of(&StdStream::pair().unwrap().0).unwrap()
    }

    fn parcel(file: &std::fs::File) -> Parcel {
        Parcel { peer: peer(), uuid: [7; 16], descriptors: vec![reopen(file.as_fd(), true).unwrap()] }
    }

    #[tokio::test]
    async fn a_ticket_works_once_and_for_its_process_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"region").unwrap();
        let path = dir.path().join("h.fd");
        let tickets = Tickets::lasting(TICKET_LIFETIME);
        let server = tokio::spawn(serve(UnixListener::bind(&path).unwrap(), tickets.clone()));

        let ticket = tickets.issue(parcel(&file)).unwrap();
        let (secret, to) = (ticket.secret().to_vec(), path.clone());
        let answer = tokio::task::spawn_blocking(move || {
            let ask = || frame::request(&StdStream::connect(&to).unwrap(), &secret, EXCHANGE_TIMEOUT);
            (ask(), ask(), frame::request(&StdStream::connect(&to).unwrap(), &[1; 16], EXCHANGE_TIMEOUT))
        });
        let (first, again, invented) = answer.await.unwrap();
        let first = first.unwrap();
        assert_eq!((first.uuid, first.descriptors.len()), ([7; 16], 1));
        let mut received = std::fs::File::from(first.descriptors.into_iter().next().unwrap());
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "region");
        assert!(received.write_all(b"x").is_err(), "it was given for reading");
        assert!(matches!((again, invented), (Err(frame::FrameError::Refused), Err(frame::FrameError::Refused))));
        server.abort();
    }

    #[tokio::test]
    async fn another_process_does_not_spend_a_ticket_and_a_lost_stream_takes_it_back() {
        let file = tempfile::tempfile().unwrap();
        let tickets = Tickets::lasting(TICKET_LIFETIME);
        let ticket = tickets.issue(parcel(&file)).unwrap();
        let mut other = peer();
        other.pid = 1;
        assert!(tickets.redeem(ticket.secret(), &other).is_none());
        assert_eq!(tickets.lock().len(), 1);
        drop(ticket);
        assert_eq!(tickets.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_ticket_expires() {
        let file = tempfile::tempfile().unwrap();
        let tickets = Tickets::lasting(Duration::from_millis(1));
        let _ticket = tickets.issue(parcel(&file)).unwrap();
        for _ in 0..1000 {
            if tickets.lock().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the ticket is still there");
    }
}
