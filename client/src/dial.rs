//! Reaching the sidecar: one connection, one stream, and the descriptors that belong to it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heirloom_proto::Failure;
use heirloom_proto::frame::{self, FrameError};
use heirloom_proto::v1::attach_request::{self, Hello};
use heirloom_proto::v1::attach_response::{self, Welcome};
use heirloom_proto::v1::instance_service_client::InstanceServiceClient;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_region::error::{Corrupt, Denied, Error, Full, Incompatible, Misuse, NotFound, NotReady};
use heirloom_region::sockets::is_socket;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

use crate::link::Live;

/// For one whole attempt; a new region is created and an old one recovered in it.
const ATTEMPT: Duration = Duration::from_secs(10);
/// A sidecar that is stopped does not close its sockets; this finds out, and the link is lost until it is back.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// An attached stream.
pub(crate) struct Dialled {
    pub(crate) welcome: Welcome,
    pub(crate) live: Live,
    /// Of one that has come back; a new one finds it among its descriptors.
    pub(crate) sockets: Option<OwnedFd>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No sidecar, or one that is stopping: try again.
    Absent(String),
    /// The sidecar does not know who we were.
    Unknown(String),
    /// Trying again would not help.
    Refused(Error),
}

impl From<Error> for DialError {
    fn from(error: Error) -> Self {
        DialError::Refused(error)
    }
}

/// Connects, says hello and waits for the welcome.
pub(crate) async fn dial(socket: &Path, hello: Hello) -> Result<Dialled, DialError> {
    let attempt = async {
        let mut client = connect(socket).await?;
        let (outgoing, queue) = mpsc::unbounded_channel();
        let first = v1::AttachRequest { message: Some(attach_request::Message::Hello(hello)) };
        let _ = outgoing.send(first);
        let stream = client.attach(UnboundedReceiverStream::new(queue)).await.map_err(|s| refusal(&s))?;
        let mut incoming = stream.into_inner();
        let first = incoming.message().await.map_err(|s| refusal(&s))?;
        match first.and_then(|m| m.message) {
            Some(attach_response::Message::Welcome(welcome)) => {
                let sockets = match welcome.resumed && !welcome.descriptor_ticket.is_empty() {
                    // Without it the link is as good as before; kept sockets then wait for the next one.
                    true => descriptors(&welcome).await.ok().and_then(|(_, all)| all.into_iter().find(is_socket)),
                    false => None,
                };
                let live = Live::sidecar(incoming, outgoing, welcome.notes_ready);
                Ok(Dialled { welcome, live, sockets })
            }
            Some(_) => Err(protocol(socket, "the first message is not a welcome").into()),
            None => Err(DialError::Absent("the sidecar ended the stream".into())),
        }
    };
    match tokio::time::timeout(ATTEMPT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Absent(format!("no answer within {ATTEMPT:?}"))),
    }
}

async fn connect(socket: &Path) -> Result<InstanceServiceClient<tonic::transport::Channel>, DialError> {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, WouldBlock};
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        NotFound | ConnectionRefused | WouldBlock => DialError::Absent(e.to_string()),
        PermissionDenied => {
            let what = format!("open {}", socket.display());
            DialError::Refused(Denied { uid: crate::build::uid(), what }.into())
        }
        _ => DialError::Refused(Error::io("connect to", Some(socket), e)),
    })?;
    // The connection is made already, so that its error is the system's own; a second one is never made.
    let mut made = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = made.take().map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    // The authority is never resolved.
    let channel = Endpoint::from_static("http://heirloom")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|e| DialError::Absent(e.to_string()))?;
    Ok(InstanceServiceClient::new(channel))
}

/// Fetches the descriptors that belong to a welcome, with the region's UUID.
pub(crate) async fn descriptors(welcome: &Welcome) -> Result<([u8; 16], Vec<OwnedFd>), Error> {
    let (path, ticket) = (PathBuf::from(&welcome.descriptor_socket), welcome.descriptor_ticket.clone());
    let ask = move || {
        let stream = StdStream::connect(&path).map_err(|e| Error::io("connect to", Some(&path), e))?;
        frame::request(&stream, &ticket, ATTEMPT).map_err(|e| match e {
            FrameError::Io(e) => Error::io("ask for descriptors at", Some(&path), e),
            other => Error::io("ask for descriptors at", Some(&path), io::Error::other(other)),
        })
    };
    // A blocking thread of the control runtime; it is bounded by the frame's own deadline.
    let answer = tokio::task::spawn_blocking(ask).await.map_err(|e| protocol(Path::new(""), &e.to_string()))??;
    Ok((answer.uuid, answer.descriptors))
}

pub(crate) fn protocol(socket: &Path, what: &str) -> Error {
    Error::io("speak with the sidecar at", Some(socket), io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// The error that a status stands for: the same word on both sides.
fn refusal(status: &tonic::Status) -> DialError {
    let Some(failure) = Failure::from_status(status) else {
        return match status.code() {
            tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => {
                DialError::Absent(status.message().to_owned())
            }
            _ => DialError::Refused(Error::io("attach", None, io::Error::other(status.to_string()))),
        };
    };
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let number = |t: &Option<String>| t.as_deref().and_then(|t| t.parse().ok()).unwrap_or_default();
    let (expected, found, message) = (&failure.expected, &failure.found, failure.message.clone());
    DialError::Refused(match failure.reason {
        ErrorReason::ShuttingDown | ErrorReason::Unreachable => return DialError::Absent(message),
        ErrorReason::InstanceNotFound => return DialError::Unknown(message),
        ErrorReason::CallerDenied | ErrorReason::CallerUnknown => {
            Denied { uid: crate::build::uid(), what: message }.into()
        }
        ErrorReason::FormatIncompatible => Incompatible::Format { expected: text(expected), found: text(found) }.into(),
        ErrorReason::TableFull => Full::Table { table: "instances", limit: number(expected) }.into(),
        ErrorReason::RegionFull => {
            // "N bytes of LIMIT", "N bytes".
            let word = |t: &Option<String>, at| number(&text(t).split(' ').nth(at).map(str::to_owned));
            let (needed_bytes, limit_bytes) = (word(expected, 0), word(expected, 3));
            Full::Region { needed_bytes, free_bytes: word(found, 0), limit_bytes }.into()
        }
        ErrorReason::RegionCorrupt | ErrorReason::DigestMismatch | ErrorReason::RegionQuarantined => {
            Corrupt::Quarantined { why: message }.into()
        }
        ErrorReason::InvalidName => Misuse::Name {
            what: "service, replica or version",
            found: found.clone().unwrap_or(message),
            rule: "a service is [a-z][a-z0-9-]{0,62}, a replica a label of it, a version 1 to 63 bytes",
        }
        .into(),
        ErrorReason::InvalidField => Misuse::Argument { what: "attach", found: message }.into(),
        ErrorReason::RegionNotFound => {
            let found = found.clone().or_else(|| failure.region.clone()).unwrap_or(message);
            NotFound::Region { expected: text(expected), found }.into()
        }
        ErrorReason::HandoverInProgress => NotReady::Busy { handover: failure.handover.unwrap_or_default() }.into(),
        _ => Error::io("attach", None, io::Error::other(failure)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_not_there_is_named_with_those_that_are() {
        let sent = Failure::new(ErrorReason::RegionNotFound, "there is no region cart").region("cart");
        let DialError::Refused(error) = refusal(&sent.expected("one of shop").found("cart").to_status()) else {
            panic!("another error")
        };
        assert_eq!((error.reason(), error.is_retryable()), ("REGION_NOT_FOUND", false));
        assert_eq!(error.to_string(), "no region cart, expected one of shop");
    }

    #[test]
    fn the_figures_of_a_full_region_cross_the_wire() {
        let sent =
            Failure::new(ErrorReason::RegionFull, "region full").expected("4096 bytes of 65536").found("17 bytes");
        let DialError::Refused(Error::Full(found)) = refusal(&sent.to_status()) else { panic!("another error") };
        assert_eq!(found, Full::Region { needed_bytes: 4096, free_bytes: 17, limit_bytes: 65536 });
    }
}
