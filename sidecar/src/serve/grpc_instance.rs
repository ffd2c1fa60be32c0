//! `heirloom.v1.InstanceService`: one stream per attached instance, on the Unix socket alone.
//!
//! The stream carries requests, not truth. When it breaks nothing is reclaimed: the instance is alive until the kernel
//! says otherwise, and comes back as the same one. Who the process is comes from the socket, not from its Hello.

use std::sync::Arc;
use std::time::Duration;

use heirloom_proto::v1::attach_request::{self, Hello};
use heirloom_proto::v1::attach_response::{self, Welcome};
use heirloom_proto::v1::instance_service_server::InstanceService;
use heirloom_proto::v1::{AttachRequest, AttachResponse, ErrorReason};
use heirloom_proto::{Failure, names};
use heirloom_region::arbiter::{self, Outbox, ToInstance};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::descriptors::{Parcel, Ticket, Tickets, reopen};
use super::grpc_control::{stopped, stopping_failure};
use super::host::Host;
use super::hosts::{Hosts, Place, Wish, bad_name};
use super::peer::{Caller, Peer};
use super::sockets::Channel;
use super::switch::EventStream;
use super::{convert, too_large};

/// How long a new stream may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages to an instance that wait; one that reads none of so many is treated as gone.
const OUTBOX_MAX: usize = 256;

#[derive(Clone)]
pub(crate) struct Instances {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) tickets: Tickets,
    pub(crate) descriptor_socket: String,
    pub(crate) stopping: watch::Receiver<bool>,
}

struct Post {
    region: String,
    out: mpsc::Sender<Result<AttachResponse, Status>>,
    /// Goes with the post: that the arbiter has let go is what ends the stream.
    _held: oneshot::Sender<()>,
}

impl Outbox for Post {
    fn send(&mut self, message: ToInstance) -> bool {
        self.out.try_send(Ok(convert::to_instance(&self.region, message))).is_ok()
    }
}

/// An instance whose stream is up.
struct Link {
    host: Arc<Host>,
    instance: String,
    incarnation: u64,
    number: u64,
    /// Goes with the stream, redeemed or not.
    _ticket: Option<Ticket>,
    /// As long as the stream: one that comes back gets another.
    _sockets: Option<Channel>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.host.unlink(&self.instance, self.number, self.incarnation);
    }
}

#[tonic::async_trait]
impl InstanceService for Instances {
    type AttachStream = EventStream<AttachResponse>;

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let Some(Caller::Local(peer)) = request.extensions().get::<Caller>().cloned() else {
            let failure = Failure::new(ErrorReason::CallerUnknown, "instances attach over the Unix socket");
            return Err(failure.expected("peer credentials").found("none").into());
        };
        let mut incoming = request.into_inner();
        let hello = hello(&mut incoming).await?;
        let (out, outbox) = mpsc::channel(OUTBOX_MAX);
        let (held, let_go) = oneshot::channel();
        let (welcome, link) = self.welcome(hello, peer, out.clone(), held).await?;
        tokio::spawn(listen(incoming, link, self.stopping.clone(), let_go, out));
        let first =
            tokio_stream::once(Ok(AttachResponse { message: Some(attach_response::Message::Welcome(welcome)) }));
        Ok(Response::new(Box::pin(first.chain(ReceiverStream::new(outbox)))))
    }
}

async fn hello(incoming: &mut Streaming<AttachRequest>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
    let found = match first {
        Ok(Ok(Some(AttachRequest { message: Some(attach_request::Message::Hello(hello)) }))) => return Ok(hello),
        Ok(Ok(Some(_))) => "another message",
        Ok(Ok(None)) => "the end of the stream",
        Ok(Err(status)) => return Err(too_large::failure(&status).map_or(status, Status::from)),
        Err(_) => "nothing",
    };
    Err(Failure::new(ErrorReason::InvalidField, "an Attach stream begins with Hello")
        .expected("Hello")
        .found(found)
        .into())
}

impl Instances {
    async fn welcome(
        &self,
        hello: Hello,
        peer: Peer,
        out: mpsc::Sender<Result<AttachResponse, Status>>,
        held: oneshot::Sender<()>,
    ) -> Result<(Welcome, Link), Failure> {
        check_format(&hello)?;
        let resume = resume(&hello)?;
        let Place { host, chosen } = match &resume {
            // Who comes back comes back to its region, whatever would be chosen now.
            Some((region, _, _)) => Place { host: self.hosts.host(region).map_err(forgotten)?, chosen: None },
            None => self.hosts.place(&wish(&hello)).await?,
        };
        let region = host.name.clone();
        // Linked before the arbiter answers: the old stream's end must not be taken for the new one's.
        let early = resume.as_ref().map(|(_, instance, _)| host.link(instance));
        let resumes = resume.is_some();
        let read_only = hello.read_only;
        let to_arbiter = arbiter::Hello {
            version: hello.version,
            pid: peer.pid,
            uid: peer.uid,
            start_ticks: peer.start_ticks,
            resume: resume.map(|(_, instance, token)| (instance, token)),
            read_only,
        };
        let pidfd = peer.pidfd.as_ref().and_then(|fd| fd.try_clone().ok());
        let outbox = Box::new(Post { region: region.clone(), out, _held: held });
        let answer = host.ask_for(|arbiter, reply| arbiter.attach(to_arbiter, pidfd, outbox, reply)).await;
        drop(chosen);
        let given = match (answer, &early) {
            (Ok(given), _) => given,
            (Err(failure), None) => return Err(failure),
            (Err(failure), Some(early)) => {
                host.unlink_refused(early);
                return Err(failure);
            }
        };
        let number = early.unwrap_or_else(|| host.link(&given.instance)).number;
        tracing::info!(
            region,
            instance = given.instance,
            pid = peer.pid,
            uid = peer.uid,
            resumes,
            read_only,
            "attached"
        );
        let (instance, incarnation) = (given.instance.clone(), given.incarnation);
        let mut link = Link { host, instance, incarnation, number, _ticket: None, _sockets: None };
        let uuid = link.host.mapping.uuid();
        let mut welcome = Welcome {
            instance: names::instance(&region, &given.instance),
            resume_token: given.resume_token.to_vec(),
            incarnation: given.incarnation,
            row: given.row.unwrap_or_default(),
            region_uid: uuid.to_vec(),
            resumed: resumes,
            notes_ready: true,
            ..Welcome::default()
        };
        let io = |e: std::io::Error| Failure::new(ErrorReason::Io, format!("descriptors: {e}")).region(&*region);
        let mut descriptors = Vec::new();
        if !resumes {
            let fd = link.host.mapping.fd().ok_or_else(|| link.host.gone())?;
            descriptors.push(reopen(fd, read_only).map_err(io)?);
            descriptors.extend(given.liveness);
        }
        if !read_only {
            let who = (link.incarnation, peer.uid);
            let (channel, theirs) = Channel::open(Arc::clone(&link.host.sockets), who).map_err(io)?;
            link._sockets = Some(channel);
            descriptors.push(theirs);
        }
        if !descriptors.is_empty() {
            let ticket = self.tickets.issue(Parcel { peer, uuid, descriptors }).map_err(io)?;
            welcome.descriptor_socket = self.descriptor_socket.clone();
            welcome.descriptor_ticket = ticket.secret().to_vec();
            link._ticket = Some(ticket);
        }
        Ok((welcome, link))
    }
}

/// Nobody can come back to a region that is not here.
fn forgotten(failure: Failure) -> Failure {
    match failure.reason {
        ErrorReason::RegionNotFound => Failure { reason: ErrorReason::InstanceNotFound, ..failure },
        _ => failure,
    }
}

fn wish(hello: &Hello) -> Wish<'_> {
    Wish {
        service: &hello.service,
        replica: &hello.replica,
        version: &hello.version,
        read_only: hello.read_only,
        limit_bytes: hello.limit_bytes,
    }
}

fn check_format(hello: &Hello) -> Result<(), Failure> {
    let ours = u32::from(heirloom_region::layout::MAJOR);
    if hello.region_format_majors.contains(&ours) {
        return Ok(());
    }
    let failure = Failure::new(ErrorReason::FormatIncompatible, "the instance does not read regions of this sidecar");
    Err(failure.expected(format!("region format {ours}")).found(format!("{:?}", hello.region_format_majors)))
}

/// Region, instance and token of who comes back.
fn resume(hello: &Hello) -> Result<Option<(String, String, [u8; 16])>, Failure> {
    if hello.resume_instance.is_empty() {
        return Ok(None);
    }
    let (region, instance) = names::parse_instance(&hello.resume_instance)
        .ok_or_else(|| bad_name(&hello.resume_instance, "regions/{region}/instances/{instance}"))?;
    let token = hello.resume_token.as_slice().try_into().map_err(|_| {
        Failure::new(ErrorReason::InvalidField, "resume_token").expected("16 bytes").found(hello.resume_token.len())
    })?;
    Ok(Some((region.to_owned(), instance.to_owned(), token)))
}

/// Passes on what the instance says until its stream ends, the arbiter has let it go (it has left, or read nothing for too
/// long), the region is set aside, or the sidecar stops.
async fn listen(
    mut incoming: Streaming<AttachRequest>,
    link: Link,
    mut stopping: watch::Receiver<bool>,
    mut let_go: oneshot::Receiver<()>,
    out: mpsc::Sender<Result<AttachResponse, Status>>,
) {
    let end = tokio::select! {
        // First: an arbiter that ends lets go, too.
        biased;
        () = stopped(&mut stopping) => Some(stopping_failure()),
        failure = link.host.set_aside() => Some(failure),
        _ = &mut let_go => None,
        () = out.closed() => None,
        end = pass_on(&mut incoming, &link) => end.map(|failure| failure.region(&*link.host.name)),
    };
    if let Some(failure) = end {
        let _ = out.try_send(Err(failure.to_status()));
    }
}

/// One message after the other, each once the arbiter has taken the one before: a flood of one instance fills its own stream
/// and not the queue that the region's instances share.
async fn pass_on(incoming: &mut Streaming<AttachRequest>, link: &Link) -> Option<Failure> {
    loop {
        let message = match incoming.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return None,
            Err(status) => return too_large::failure(&status),
        };
        if matches!(message.message, Some(attach_request::Message::Hello(_))) {
            let failure = Failure::new(ErrorReason::InvalidField, "Hello comes once");
            return Some(failure.expected("another message").found("a second Hello"));
        }
        // What a later release says beyond this is passed over: its instances attach here, too.
        if let Some(message) = convert::from_instance(message) {
            let (taken, was_taken) = oneshot::channel();
            link.host.arbiter.message_taken(
                link.incarnation,
                message,
                Box::new(move |()| taken.send(()).unwrap_or_default()),
            );
            // Dropped by an arbiter that is gone, which ends the stream elsewhere.
            let _ = was_taken.await;
        }
    }
}
