//! From a builder to a session: the steps of attaching, with a sidecar or with an embedded arbiter.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use heirloom_proto::names;
use heirloom_proto::v1::attach_request::Hello;
use heirloom_proto::v1::attach_response::Welcome;
use heirloom_region::arbiter;
use heirloom_region::error::{Error, NotReady, Peer};
use heirloom_region::mapping::Mapping;
use heirloom_region::os;
use heirloom_region::process::{Process, Seat};
use heirloom_region::sockets::is_socket;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "embedded")]
use crate::attach::Target;
use crate::attach::{Attach, IfAbsent};
use crate::dial::{self, DialError, Dialled};
use crate::in_process::InProcess;
use crate::link::{ArbiterRef, Ear, Live};
use crate::object::{Counter, Open};
use crate::role::Link;
use crate::session::{Identity, Session};

/// The region formats that this build reads.
pub(crate) const FORMAT_MAJORS: [u32; 1] = [heirloom_region::layout::MAJOR as u32];

/// A session with its link.
pub(crate) struct Opened {
    pub(crate) session: Arc<Session>,
    pub(crate) live: Live,
    pub(crate) redial: Option<Redial>,
}

/// How to come back as the same instance.
pub(crate) struct Redial {
    pub(crate) socket: PathBuf,
    pub(crate) hello: Hello,
    pub(crate) uuid: [u8; 16],
}

/// Waits between attempts: short at first, since a sidecar restarts in milliseconds.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .with_factor(1.6)
        .with_jitter()
        .without_max_times()
        .build()
}

pub(crate) async fn open(how: Attach) -> Result<Opened, Error> {
    #[cfg(feature = "embedded")]
    if let Target::Embedded(inner) = &how.target {
        return embedded(inner, ArbiterRef::Borrowed(Arc::downgrade(inner)), &how).await;
    }
    match reach(&how).await {
        Err(Error::NotReady(NotReady::Unreachable { socket, waited }))
            if matches!(how.if_absent, IfAbsent::Local(_)) =>
        {
            tracing::warn!(
                service = how.service,
                ?socket,
                ?waited,
                "no sidecar: running on a private region, which is handed over to nobody and never merged"
            );
            local(&how).await
        }
        Err(error) => Err(error),
        Ok(dialled) => seat(dialled, &how).await,
    }
}

/// Dials until a sidecar answers, or patience is over.
async fn reach(how: &Attach) -> Result<Dialled, Error> {
    let (begin, patience) = (Instant::now(), how.if_absent.patience());
    let hello = hello(how);
    for pause in backoff() {
        // The last attempt may take a moment longer than the patience: a region is created in it.
        let left = patience.saturating_sub(begin.elapsed()).max(Duration::from_secs(1));
        let why = match tokio::time::timeout(left, dial::dial(&how.socket, hello.clone())).await {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(DialError::Refused(error))) => return Err(error),
            Ok(Err(DialError::Absent(why) | DialError::Unknown(why))) => why,
            Err(_) => "no answer".to_owned(),
        };
        let left = patience.saturating_sub(begin.elapsed());
        tracing::debug!(socket = %how.socket.display(), why, "no sidecar yet");
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(pause.min(left)).await;
    }
    Err(NotReady::Unreachable { socket: how.socket.clone(), waited: begin.elapsed() }.into())
}

fn hello(how: &Attach) -> Hello {
    let pid = std::process::id();
    Hello {
        service: how.service.clone(),
        replica: how.replica.clone(),
        version: how.version_or_build(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        region_format_majors: FORMAT_MAJORS.to_vec(),
        limit_bytes: how.bytes_max.unwrap_or(0),
        pid,
        pid_start_ticks: os::boot::start_ticks(pid).unwrap_or(0),
        ..Hello::default()
    }
}

/// Takes the seat that a sidecar gave: descriptors, mapping, proof of life.
async fn seat(dialled: Dialled, how: &Attach) -> Result<Opened, Error> {
    let Dialled { welcome, live, .. } = dialled;
    let (region, instance) = who(&welcome, how)?;
    let (uuid, descriptors) = dial::descriptors(&welcome).await?;
    if uuid[..] != welcome.region_uid[..] {
        return Err(dial::protocol(&how.socket, "the descriptors are of another region than the welcome"));
    }
    // The one socket among them is the channel; a sidecar of an earlier release gives none.
    let (mut sockets, descriptors): (Vec<_>, Vec<_>) = descriptors.into_iter().partition(is_socket);
    let (channel, mut descriptors) = (sockets.pop(), descriptors.into_iter());
    let region_fd = descriptors.next().ok_or_else(|| dial::protocol(&how.socket, "no descriptor of the region"))?;
    let mapping = Mapping::from_fd(region_fd, Some(uuid))?;
    let seat = Seat { row: welcome.row, incarnation: welcome.incarnation };
    let process = Process::attach(mapping, seat, descriptors.next())?;
    set_limits(&process, how);

    let mut hello = hello(how);
    let (service, replica) = region.split_once('.').unwrap_or((&region, ""));
    (hello.service, hello.replica) = (service.to_owned(), replica.to_owned());
    (hello.resume_instance, hello.resume_token) = (welcome.instance.clone(), welcome.resume_token.clone());
    let redial = Redial { socket: how.socket.clone(), hello, uuid };

    let me = Peer { instance, version: how.version_or_build(), pid: std::process::id() };
    let identity = Identity { region, me, link: Link::Connected, sockets: None };
    let session = Session::new(process, identity, Handle::current());
    if let Some(channel) = channel {
        session.net.connect(channel);
    }
    Ok(Opened { session, live, redial: Some(redial) })
}

fn who(welcome: &Welcome, how: &Attach) -> Result<(String, String), Error> {
    let (region, instance) = names::parse_instance(&welcome.instance)
        .ok_or_else(|| dial::protocol(&how.socket, &format!("{:?} is no instance's name", welcome.instance)))?;
    Ok((region.to_owned(), instance.to_owned()))
}

fn set_limits(process: &Process, how: &Attach) {
    if let Some(limit) = how.freeze_wait_max {
        process.set_freeze_wait_max(limit);
    }
}

/// A private region on the heap, with an arbiter that lives as long as its one instance.
async fn local(how: &Attach) -> Result<Opened, Error> {
    let name = match how.replica.as_str() {
        "" | "auto" => how.service.clone(),
        replica => format!("{}.{replica}", how.service),
    };
    let inner = InProcess::on_the_heap(&name, how.bytes_max)?;
    let opened = embedded(&inner, ArbiterRef::Owned(inner.clone()), how).await?;
    let fallbacks: Counter = Open::new(&opened.session, "heirloom_local_fallbacks_total")
        .help("Processes that found no sidecar and run on a private region.")
        .open()?;
    fallbacks.inc();
    Ok(opened)
}

/// Takes a seat in a region of this process.
async fn embedded(inner: &Arc<InProcess>, arbiter: ArbiterRef, how: &Attach) -> Result<Opened, Error> {
    let pid = std::process::id();
    let version = how.version_or_build();
    let start_ticks = os::boot::start_ticks(pid).unwrap_or(0);
    let hello = arbiter::Hello { version: version.clone(), pid, start_ticks, ..arbiter::Hello::default() };
    let (ear, incoming) = mpsc::unbounded_channel();
    let (answer, welcome) = oneshot::channel();
    let reply = Box::new(move |welcome| drop(answer.send(welcome)));
    inner.arbiter().attach(hello, None, Box::new(Ear(ear)), reply);
    let welcome = match welcome.await {
        Ok(welcome) => welcome.map_err(|refusal| InProcess::error(&refusal))?,
        Err(_) => return Err(NotReady::Unreachable { socket: PathBuf::new(), waited: Duration::ZERO }.into()),
    };
    let row = welcome.row.unwrap_or(u32::MAX);
    let seat = Seat { row, incarnation: welcome.incarnation };
    let process = Process::attach(inner.mapping().clone(), seat, welcome.liveness)?;
    set_limits(&process, how);
    let me = Peer { instance: welcome.instance, version, pid };
    let identity = Identity {
        region: inner.mapping().name().to_owned(),
        me,
        link: Link::Local,
        sockets: Some(inner.sockets.clone()),
    };
    let session = Session::new(process, identity, Handle::current());
    inner.register(&session);
    Ok(Opened { session, live: Live::embedded(incoming, arbiter, welcome.incarnation), redial: None })
}
