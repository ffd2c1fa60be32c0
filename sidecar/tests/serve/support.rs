//! A daemon on a directory of its own, and small clients for it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use heirloom_proto::v1::attach_request::{self, Hello};
use heirloom_proto::v1::attach_response::{self, Welcome};
use heirloom_proto::v1::control_service_client::ControlServiceClient;
use heirloom_proto::v1::instance_service_client::InstanceServiceClient;
use heirloom_proto::v1::{self, AttachRequest, AttachResponse};
use heirloom_proto::{Failure, frame};
use heirloom_region::mapping::Mapping;
use heirloom_region::process::{Process, Seat};
use heirloom_sidecar::config::{ByteCount, Config};
use heirloom_sidecar::serve::{self, Running};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// How long anything may take here.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Daemon {
    pub(crate) running: Running,
    pub(crate) config: Config,
    pub(crate) dir: TempDir,
}

/// A configuration on `dir`, with HTTP on a free port.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.server.socket = dir.join("run/h.sock");
    config.server.region_dir = dir.join("regions");
    config.server.http_listen = "127.0.0.1:0".into();
    config.server.shutdown_timeout = Duration::from_secs(5);
    config.region.limit = ByteCount(16 << 20);
    config
}

/// Regions must lie on a file system that can hold them; the temporary directory may be copy-on-write.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("heirloom-").tempdir_in("/dev/shm").expect("a tmpfs at /dev/shm")
}

impl Daemon {
    pub(crate) async fn start() -> Daemon {
        Daemon::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Daemon {
        let dir = directory();
        let mut config = config(dir.path());
        change(&mut config);
        let running = serve::start(config.clone()).await.expect("it starts");
        Daemon { running, config, dir }
    }

    /// Stops, and starts again on the same directory.
    pub(crate) async fn again(self) -> Daemon {
        let Daemon { running, config, dir } = self;
        running.stop().await;
        let running = serve::start(config.clone()).await.expect("it starts again");
        Daemon { running, config, dir }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.config.server.socket.display());
        Endpoint::from_shared(uri).unwrap().connect().await.expect("the socket answers")
    }

    pub(crate) async fn control(&self) -> ControlServiceClient<Channel> {
        ControlServiceClient::new(self.channel().await)
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.running.http().expect("HTTP is on")
    }

    /// Attaches as `hello` says and maps the region.
    pub(crate) async fn attach(&self, hello: Hello) -> Result<Attached, Status> {
        let (to, outgoing) = mpsc::channel(64);
        to.send(say(attach_request::Message::Hello(hello))).await.unwrap();
        let mut client = InstanceServiceClient::new(self.channel().await);
        let mut from = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let Some(attach_response::Message::Welcome(welcome)) = from.message().await?.and_then(|m| m.message) else {
            panic!("the first message is Welcome");
        };
        let ended = tokio::spawn(agree(from, to.clone()));
        Ok(Attached { to, ended, welcome, process: None })
    }

    /// Attaches an instance of `service` that is ready to own.
    pub(crate) async fn ready(&self, service: &str, version: &str) -> Attached {
        let mut attached = self.attach(hello(service, version)).await.expect("it may attach");
        attached.map();
        attached.say(attach_request::Message::Ready(attach_request::Ready { ready: true, ..Default::default() })).await;
        attached
    }
}

pub(crate) fn hello(service: &str, version: &str) -> Hello {
    Hello {
        service: service.into(),
        version: version.into(),
        region_format_majors: vec![heirloom_region::layout::MAJOR.into()],
        ..Hello::default()
    }
}

fn say(message: attach_request::Message) -> AttachRequest {
    AttachRequest { message: Some(message) }
}

/// Agrees to every hook until the stream ends.
async fn agree(mut from: Streaming<AttachResponse>, to: mpsc::Sender<AttachRequest>) -> Result<(), Status> {
    while let Some(message) = from.message().await? {
        if let Some(attach_response::Message::HookCall(call)) = message.message {
            let result = attach_request::HookResult { call_id: call.call_id, ok: true, veto_message: String::new() };
            let _ = to.send(say(attach_request::Message::HookResult(result))).await;
        }
    }
    Ok(())
}

/// An instance in this process.
pub(crate) struct Attached {
    to: mpsc::Sender<AttachRequest>,
    /// How the sidecar ended the stream.
    pub(crate) ended: JoinHandle<Result<(), Status>>,
    pub(crate) welcome: Welcome,
    pub(crate) process: Option<Arc<Process>>,
}

impl Attached {
    pub(crate) async fn say(&self, message: attach_request::Message) {
        self.to.send(say(message)).await.expect("the stream is up");
    }

    /// Redeems the ticket.
    pub(crate) fn descriptors(&self) -> Vec<OwnedFd> {
        let stream = UnixStream::connect(&self.welcome.descriptor_socket).unwrap();
        let answer = frame::request(&stream, &self.welcome.descriptor_ticket, SOON).expect("the ticket is good");
        assert_eq!(answer.uuid.as_slice(), self.welcome.region_uid);
        answer.descriptors
    }

    /// Maps the region with the descriptors of the ticket.
    pub(crate) fn map(&mut self) -> &Arc<Process> {
        let mut descriptors = self.descriptors().into_iter();
        let region = descriptors.next().expect("the region");
        let uuid = self.welcome.region_uid.as_slice().try_into().unwrap();
        let mapping = Mapping::from_fd(region, Some(uuid)).expect("it is a region");
        let seat = Seat { row: self.welcome.row, incarnation: self.welcome.incarnation };
        let process = Process::attach(mapping, seat, descriptors.next()).expect("the seat is ours");
        self.process.insert(process)
    }

    pub(crate) fn instance(&self) -> &str {
        heirloom_proto::names::short(&self.welcome.instance)
    }
}

/// The region once `wanted` holds of it.
pub(crate) async fn until(daemon: &Daemon, region: &str, wanted: impl Fn(&v1::Region) -> bool) -> v1::Region {
    let mut control = daemon.control().await;
    let request = v1::WatchRegionsRequest { name: format!("regions/{region}"), after_sequence: 0 };
    let mut events = control.watch_regions(request).await.expect("it can be watched").into_inner();
    let mut last = None;
    let waiting = async {
        while let Some(event) = events.message().await.expect("the stream is up") {
            let region = event.region.expect("an event has its region");
            if wanted(&region) {
                return region;
            }
            last = Some(region);
        }
        panic!("the stream ended");
    };
    match tokio::time::timeout(SOON, waiting).await {
        Ok(region) => region,
        Err(_) => panic!("never seen; last was {last:?}"),
    }
}

/// The reason that a call was refused with.
pub(crate) fn failure<T: std::fmt::Debug>(answer: Result<T, Status>) -> Failure {
    let status = answer.expect_err("it must be refused");
    Failure::from_status(&status).unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"))
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Sends one request; `head` is the request line without version, and further header lines.
pub(crate) async fn http(address: SocketAddr, head: &str, body: &str) -> Answer {
    let (line, more) = head.split_once('\n').unwrap_or((head, ""));
    let host = if more.to_ascii_lowercase().contains("host:") { String::new() } else { format!("Host: {address}\r\n") };
    let more: String = more.lines().map(|l| format!("{}\r\n", l.trim())).collect();
    let request = format!(
        "{} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {}\r\n{more}\r\n{body}",
        line.trim(),
        body.len()
    );
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let text = tokio::task::spawn_blocking(exchange).await.unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let status = headers.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body =
        if headers.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    Answer { status, headers: headers.to_ascii_lowercase(), body }
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((len, rest)) = text.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).expect("a chunk's length");
        out.push_str(&rest[..len]);
        text = rest[len..].trim_start_matches("\r\n");
        if len == 0 {
            break;
        }
    }
    out
}
