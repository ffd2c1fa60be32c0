//! Descriptor frames: how a region's descriptors pass over a Unix stream socket, by `SCM_RIGHTS`.
//!
//! ```text
//! request   magic "HLFD" | version u8 = 1 | 0 u8 | ticket length u16 | ticket            (no descriptors)
//! answer    magic "HLFD" | version u8 = 1 | status u8 | 0 u16 | uuid 16 B | count u32    (no descriptors)
//! batch     batch count u32                                  (that many descriptors, 1 to 250), until `count` are sent
//! ```
//!
//! Integers are little-endian. All of it is input from a peer. Invariants:
//! - every length is bounded before anything is allocated, every call has a deadline for the whole frame;
//! - a descriptor that arrives where none belongs, one too many, and all of a frame that fails are closed: received
//!   descriptors are held as `OwnedFd` from the first moment, and come with `MSG_CMSG_CLOEXEC`;
//! - `MSG_CTRUNC` (this process is at its descriptor limit) is an error, never a shorter list;
//! - reads never go past the frame, so frames can follow one another on one stream.
//!
//! The calls block: on an asynchronous runtime run them on a blocking thread.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Descriptors in one message; the kernel's own limit is 253.
pub const BATCH_MAX: usize = 250;
/// Descriptors in one answer.
pub const DESCRIPTORS_MAX: usize = 1024;
/// Bytes in a ticket.
pub const TICKET_BYTES_MAX: usize = 64;

const MAGIC: [u8; 4] = *b"HLFD";
const VERSION: u8 = 1;
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
const KERNEL_BATCH_MAX: usize = 253;

/// Why a frame did not pass. The stream is in no known state afterwards: close it.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer ended the stream.
    #[error("the peer closed the stream after {found} of {expected} bytes")]
    Closed {
        /// Bytes awaited.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A field has a value that no peer of ours sends.
    #[error("descriptor frame: {what}: expected {expected}, found {found}")]
    Field {
        /// Which field.
        what: &'static str,
        /// What is allowed.
        expected: String,
        /// What came.
        found: String,
    },
    /// The kernel dropped descriptors: this process is at its limit of open files.
    #[error("the kernel dropped descriptors of a batch: this process is at its limit of open files")]
    Truncated,
    /// The other side does not know the ticket, or it was used.
    #[error("the sidecar refused the descriptor ticket")]
    Refused,
    /// The deadline passed.
    #[error("the descriptor frame was not complete in time")]
    TimedOut,
    /// The system said no.
    #[error("descriptor socket: {0}")]
    Io(#[from] io::Error),
}

/// What an instance gets for its ticket.
#[derive(Debug)]
pub struct Answer {
    /// The region's UUID.
    pub uuid: [u8; 16],
    /// The region's descriptor first, then the others in the order sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Asks for the descriptors that belong to `ticket` and waits for them.
///
/// # Errors
/// [`FrameError::Refused`] if the ticket is not known; the others say what went wrong on the way.
pub fn request(stream: &UnixStream, ticket: &[u8], within: Duration) -> Result<Answer, FrameError> {
    let deadline = Instant::now() + within;
    send_request(stream, ticket, deadline)?;
    receive_answer(stream, deadline)
}

/// Reads one request and returns its ticket.
///
/// # Errors
/// Anything that is not exactly a request; descriptors that came with it are closed.
pub fn receive_request(stream: &UnixStream, within: Duration) -> Result<Vec<u8>, FrameError> {
    let deadline = Instant::now() + within;
    let mut head = [0; 8];
    read_plain(stream, &mut head, deadline)?;
    check_magic(&head)?;
    check("reserved byte", u64::from(head[5]), 0, 0)?;
    let len = u16::from_le_bytes([head[6], head[7]]);
    check("ticket length", u64::from(len), 1, TICKET_BYTES_MAX as u64)?;
    let mut ticket = vec![0; usize::from(len)];
    read_plain(stream, &mut ticket, deadline)?;
    Ok(ticket)
}

/// Answers a request with the region's UUID and `descriptors`, in batches.
///
/// # Errors
/// [`FrameError::Field`] if there are more than [`DESCRIPTORS_MAX`]; else what the socket said.
pub fn answer(
    stream: &UnixStream,
    uuid: [u8; 16],
    descriptors: &[BorrowedFd<'_>],
    within: Duration,
) -> Result<(), FrameError> {
    let deadline = Instant::now() + within;
    check("descriptor count", descriptors.len() as u64, 0, DESCRIPTORS_MAX as u64)?;
    write_all(stream, &answer_head(ACCEPTED, uuid, descriptors.len() as u32), &[], deadline)?;
    for batch in descriptors.chunks(BATCH_MAX) {
        write_all(stream, &(batch.len() as u32).to_le_bytes(), batch, deadline)?;
    }
    Ok(())
}

/// Answers a request whose ticket is not known.
///
/// # Errors
/// What the socket said.
pub fn refuse(stream: &UnixStream, within: Duration) -> Result<(), FrameError> {
    write_all(stream, &answer_head(REFUSED, [0; 16], 0), &[], Instant::now() + within)
}

fn send_request(stream: &UnixStream, ticket: &[u8], deadline: Instant) -> Result<(), FrameError> {
    check("ticket length", ticket.len() as u64, 1, TICKET_BYTES_MAX as u64)?;
    let mut bytes = Vec::with_capacity(8 + ticket.len());
    bytes.extend(MAGIC);
    bytes.extend([VERSION, 0]);
    bytes.extend((ticket.len() as u16).to_le_bytes());
    bytes.extend(ticket);
    write_all(stream, &bytes, &[], deadline)
}

fn receive_answer(stream: &UnixStream, deadline: Instant) -> Result<Answer, FrameError> {
    let mut head = [0; 28];
    read_plain(stream, &mut head, deadline)?;
    check_magic(&head)?;
    match head[5] {
        ACCEPTED => {}
        REFUSED => return Err(FrameError::Refused),
        found => return Err(field("status", "0 or 1", found)),
    }
    check("reserved bytes", u64::from(u16::from_le_bytes([head[6], head[7]])), 0, 0)?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&head[8..24]);
    let count = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
    check("descriptor count", u64::from(count), 0, DESCRIPTORS_MAX as u64)?;

    let count = count as usize;
    let mut descriptors = Vec::with_capacity(count);
    while descriptors.len() < count {
        let (mut said, mut came) = ([0; 4], Vec::new());
        read_exact(stream, &mut said, &mut came, deadline)?;
        let said = u32::from_le_bytes(said);
        check("batch count", u64::from(said), 1, BATCH_MAX.min(count - descriptors.len()) as u64)?;
        check("descriptors in a batch", came.len() as u64, u64::from(said), u64::from(said))?;
        descriptors.append(&mut came);
    }
    Ok(Answer { uuid, descriptors })
}

fn answer_head(status: u8, uuid: [u8; 16], count: u32) -> [u8; 28] {
    let mut head = [0; 28];
    head[..4].copy_from_slice(&MAGIC);
    head[4] = VERSION;
    head[5] = status;
    head[8..24].copy_from_slice(&uuid);
    head[24..].copy_from_slice(&count.to_le_bytes());
    head
}

fn check_magic(head: &[u8]) -> Result<(), FrameError> {
    if head[..4] != MAGIC {
        return Err(field("magic", format!("{MAGIC:02x?}"), format!("{:02x?}", &head[..4])));
    }
    check("version", u64::from(head[4]), VERSION.into(), VERSION.into())
}

fn check(what: &'static str, found: u64, min: u64, max: u64) -> Result<(), FrameError> {
    match found {
        n if (min..=max).contains(&n) => Ok(()),
        n if min == max => Err(field(what, min, n)),
        n => Err(field(what, format!("{min} to {max}"), n)),
    }
}

fn field(what: &'static str, expected: impl ToString, found: impl ToString) -> FrameError {
    FrameError::Field { what, expected: expected.to_string(), found: found.to_string() }
}

/// What is left until the deadline; never zero, which the socket would take for "for ever".
fn left(deadline: Instant) -> Result<Duration, FrameError> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(FrameError::TimedOut),
        left => Ok(left.max(Duration::from_micros(1))),
    }
}

/// Reads bytes among which no descriptor belongs.
fn read_plain(stream: &UnixStream, buffer: &mut [u8], deadline: Instant) -> Result<(), FrameError> {
    let mut strays = Vec::new();
    read_exact(stream, buffer, &mut strays, deadline)?;
    match strays.len() {
        0 => Ok(()),
        n => Err(field("descriptors", 0, n)),
    }
}

/// Fills `buffer`; descriptors that come along are owned by `came` at once, so that every way out closes them.
fn read_exact(
    stream: &UnixStream,
    buffer: &mut [u8],
    came: &mut Vec<OwnedFd>,
    deadline: Instant,
) -> Result<(), FrameError> {
    let expected = buffer.len();
    let mut read = 0;
    while read < expected {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_BATCH_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut buffer[read..])];
        let message = match rustix::net::recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => return Err(FrameError::TimedOut),
            Err(e) => return Err(FrameError::Io(e.into())),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                came.extend(descriptors);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::Truncated);
        }
        check("descriptors in a batch", came.len() as u64, 0, KERNEL_BATCH_MAX as u64)?;
        if message.bytes == 0 {
            return Err(FrameError::Closed { expected, found: read });
        }
        read += message.bytes;
    }
    Ok(())
}

/// Writes `bytes`, the descriptors with the first of them.
fn write_all(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> Result<(), FrameError> {
    let mut written = 0;
    while written < bytes.len() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if written == 0 && !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "a batch is cut to BATCH_MAX before");
        }
        let from = [IoSlice::new(&bytes[written..])];
        match rustix::net::sendmsg(stream.as_fd(), &from, &mut control, SendFlags::NOSIGNAL) {
            Ok(n) => written += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(FrameError::TimedOut),
            Err(e) => return Err(FrameError::Io(e.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
