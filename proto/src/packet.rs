//! Packets: whole messages with descriptors over a `SOCK_SEQPACKET` pair.
//!
//! gRPC carries no descriptors and a stream has no borders. A packet arrives whole or not at all, with its descriptors,
//! in order; so nobody who dies while sending leaves half of one, and a send can be given up at any moment. Invariants:
//! - descriptors are owned from the first moment, come with `MSG_CMSG_CLOEXEC`, and are closed with a packet that fails;
//! - `MSG_CTRUNC` is told to the receiver ([`Packet::dropped`]), never shown as a shorter list;
//! - a packet has at most [`BYTES_MAX`] bytes and [`DESCRIPTORS_MAX`] descriptors: longer lists go in batches, which the
//!   messages count.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes in one packet; well below what the kernel's default buffers take.
pub const BYTES_MAX: usize = 64 << 10;
/// Descriptors in one packet; the kernel's own limit is 253.
pub const DESCRIPTORS_MAX: usize = 250;

/// One packet.
#[derive(Debug)]
pub struct Packet<M> {
    /// What it says.
    pub message: M,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
    /// Descriptors were sent that this process has no room for: it is at its limit of open files.
    pub dropped: bool,
}

/// Two ends of a new connection, `CLOEXEC` and non-blocking.
///
/// # Errors
/// What the system says: no descriptors, say.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// One end, on a tokio runtime.
#[derive(Debug)]
pub struct Post {
    /// A stream by its type alone: none of its own calls is made, only its readiness is awaited.
    socket: UnixStream,
}

impl Post {
    /// Watches `socket` on the current runtime.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)? })
    }

    /// Sends one packet, as soon as there is room. Cancel-safe: all of it was sent, or nothing.
    ///
    /// # Errors
    /// `InvalidInput` if it is too large; what the system says, `BrokenPipe` if the other end is gone.
    pub async fn send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message, descriptors.len())?;
        self.socket.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), &bytes, descriptors)).await
    }

    /// Sends one packet if there is room now: of use outside the runtime that watches the socket, since it wakes nobody.
    ///
    /// # Errors
    /// As [`send`](Self::send), and `WouldBlock`.
    pub fn try_send(&self, message: &impl Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message, descriptors.len())?;
        self.socket.try_io(Interest::WRITABLE, || send(self.socket.as_fd(), &bytes, descriptors))
    }

    /// Receives the next packet, into `scratch` first; `None` when the other end is gone and nothing is left. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for bytes that are no message; what the system says. The next call gives the next packet.
    pub async fn receive<M: Message + Default>(&self, scratch: &mut Vec<u8>) -> io::Result<Option<Packet<M>>> {
        scratch.resize(BYTES_MAX, 0);
        let received = self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd(), scratch)).await?;
        let Some((len, descriptors, dropped)) = received else { return Ok(None) };
        let message = M::decode(&scratch[..len]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(Packet { message, descriptors, dropped }))
    }
}

fn encode(message: &impl Message, descriptors: usize) -> io::Result<Vec<u8>> {
    let bytes = message.encode_to_vec();
    if bytes.is_empty() || bytes.len() > BYTES_MAX || descriptors > DESCRIPTORS_MAX {
        let found = format!("{} bytes and {descriptors} descriptors", bytes.len());
        let expected = format!("1 to {BYTES_MAX} bytes, at most {DESCRIPTORS_MAX} descriptors");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("packet: expected {expected}, found {found}")));
    }
    Ok(bytes)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the count was checked before");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retried(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)).map(drop)
}

/// Length, descriptors, and whether some were dropped; `None` at the end.
fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>, bool)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut reset = false;
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            // Said once, of an end that closed with packets of ours unread; what it had sent before is still here.
            Err(Errno::CONNRESET) if !reset => reset = true,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            descriptors.extend(came);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        let found = format!("a packet of more than {} bytes", into.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, found));
    }
    Ok(Some((message.bytes, descriptors, message.flags.contains(ReturnFlags::CTRUNC))))
}

fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::v1::{FetchSocket, SocketsSynced};

    fn posts() -> (Post, Post) {
        let (a, b) = pair().unwrap();
        (Post::new(a).unwrap(), Post::new(b).unwrap())
    }

    fn named(name: &str) -> FetchSocket {
        FetchSocket { name: name.to_owned() }
    }

    #[tokio::test]
    async fn packets_keep_their_borders_their_order_and_their_descriptors() {
        let (a, b) = posts();
        let files: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| tempfile::tempfile().unwrap()).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        a.send(&named("first"), &borrowed).await.unwrap();
        a.send(&named("second"), &[]).await.unwrap();
        drop(a);
        let mut scratch = Vec::new();
        let first = b.receive::<FetchSocket>(&mut scratch).await.unwrap().unwrap();
        assert_eq!((first.message.name.as_str(), first.descriptors.len(), first.dropped), ("first", 250, false));
        let flags = rustix::io::fcntl_getfd(&first.descriptors[7]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let second = b.receive::<FetchSocket>(&mut scratch).await.unwrap().unwrap();
        assert_eq!((second.message.name.as_str(), second.descriptors.len()), ("second", 0));
        assert!(b.receive::<FetchSocket>(&mut scratch).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_was_sent_before_an_end_died_arrives_though_it_left_packets_unread() {
        let (a, b) = posts();
        b.send(&named("never read"), &[]).await.unwrap();
        a.send(&named("last word"), &[]).await.unwrap();
        drop(a);
        let mut scratch = Vec::new();
        assert_eq!(b.receive::<FetchSocket>(&mut scratch).await.unwrap().unwrap().message.name, "last word");
        assert!(b.receive::<FetchSocket>(&mut scratch).await.unwrap().is_none());
        assert_eq!(b.send(&named("x"), &[]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_anything_is_sent() {
        let (a, b) = posts();
        let large = named(&"x".repeat(BYTES_MAX));
        assert_eq!(a.send(&large, &[]).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // An empty packet would be taken for the end.
        assert_eq!(a.send(&SocketsSynced {}, &[]).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        a.send(&named("fits"), &[]).await.unwrap();
        assert!(b.receive::<FetchSocket>(&mut Vec::new()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_full_socket_is_told_at_once_or_waited_for() {
        let (a, b) = posts();
        let mut sent = 0;
        let full = loop {
            tokio::task::yield_now().await; // the runtime sees that there is room
            match a.try_send(&named("doorbell"), &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut scratch = Vec::new();
        let last = named("last");
        let (waited, _) = tokio::join!(a.send(&last, &[]), async {
            for _ in 0..sent {
                assert!(b.receive::<FetchSocket>(&mut scratch).await.unwrap().is_some());
            }
        });
        waited.unwrap();
        assert_eq!(b.receive::<FetchSocket>(&mut scratch).await.unwrap().unwrap().message.name, "last");
    }

    #[tokio::test]
    async fn rubbish_is_an_error_and_the_next_packet_is_read() {
        let (a, b) = pair().unwrap();
        let b = Post::new(b).unwrap();
        rustix::net::send(&a, &[0xff; 64], SendFlags::empty()).unwrap();
        send(a.as_fd(), &named("after").encode_to_vec(), &[a.as_fd()]).unwrap();
        let mut scratch = Vec::new();
        assert_eq!(b.receive::<FetchSocket>(&mut scratch).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let after = b.receive::<FetchSocket>(&mut scratch).await.unwrap().unwrap();
        assert_eq!(after.message.name, "after");
        assert_ne!(after.descriptors[0].as_raw_fd(), a.as_raw_fd());
    }
}
