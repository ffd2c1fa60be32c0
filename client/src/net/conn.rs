//! Accepted connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::work::InFlight;

/// A connection's socket.
#[non_exhaustive]
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream.
    Unix(UnixStream),
}

/// An accepted connection; counted as in flight (`connections`) until dropped.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    from: Option<SocketAddr>,
    guard: InFlight,
}

impl Conn {
    pub(super) fn new(stream: Stream, from: Option<SocketAddr>, guard: InFlight) -> Self {
        Self { stream, from, guard }
    }
    /// Where it comes from; `None` for a Unix socket.
    pub fn from(&self) -> Option<SocketAddr> {
        self.from
    }
    /// Says why it is left while this instance drains (`TLS`, say); until then `NOT_MOVABLE`. See [`InFlight::because`].
    pub fn because(&mut self, reason: &'static str) {
        self.guard.because(reason);
    }
    /// Its parts: what is still counted, and where it came from.
    pub fn into_parts(self) -> (Stream, Option<SocketAddr>, InFlight) {
        (self.stream, self.from, self.guard)
    }
    /// The socket, blocking, for code without a runtime; counted until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a Unix connection; what the system says.
    pub fn into_std(self) -> io::Result<(std::net::TcpStream, InFlight)> {
        let Stream::Tcp(stream) = self.stream else { return Err(io::ErrorKind::Unsupported.into()) };
        let stream = stream.into_std()?;
        // A connection is this process' alone, unlike the socket that it was accepted from.
        stream.set_nonblocking(false)?;
        Ok((stream, self.guard))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
