//! Starting, running and stopping.
//!
//! Order of the start: locks, regions (thaw first), descriptor socket, gRPC, HTTP, READY; so that nobody is served by half
//! a sidecar. Order of the stop: NOT_SERVING, no new connections, streams of watchers and instances end, arbiters end (a
//! running handover aborts), then what is still open has until `shutdown_timeout`. Data planes notice nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heirloom_proto::v1::control_service_server::ControlServiceServer;
use heirloom_proto::v1::instance_service_server::InstanceServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::descriptors::{self, TICKET_LIFETIME, Tickets};
use super::grpc_control::Control;
use super::grpc_instance::Instances;
use super::hosts::Hosts;
use super::http::{self, Ends, Http};
use super::http_guard::Guard;
use super::journal::Journal;
use super::peer::{AllowList, CertificateGuard, LocalGuard, PeerStream};
use super::socket::{self, BoundFile, Lock};
use super::{ServeError, notify, tls, unix_ms};
use crate::config::Config;

/// How often regions are looked at for memory that failed under them.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Dead peers are noticed by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A daemon that serves until it is stopped. Dropping it cuts everything off at once.
pub struct Running {
    hosts: Arc<Hosts>,
    health: HealthReporter,
    stopping: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    servers: JoinSet<Result<(), ServeError>>,
    helpers: JoinSet<()>,
    shutdown_timeout: Duration,
    socket: PathBuf,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    _files: [BoundFile; 2],
    _locks: [Lock; 2],
}

impl Running {
    /// The gRPC socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The bound TCP address of gRPC, if it is on.
    #[must_use]
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// The bound address of HTTP, if it is on.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Serves until `shutdown` completes, then stops in order.
    ///
    /// # Errors
    /// [`ServeError::Ended`] if a server ends by itself.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let early = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = self.servers.join_next() => Err(match ended {
                Ok(Ok(())) => ServeError::Ended { what: "a server", message: "without a reason".into() },
                Ok(Err(error)) => error,
                Err(panic) => ServeError::Ended { what: "a server", message: panic.to_string() },
            }),
        };
        self.stop().await;
        early
    }

    /// Stops in order, within `shutdown_timeout`.
    pub async fn stop(mut self) {
        tracing::info!("stopping; data planes go on");
        notify::stopping();
        self.ready.send_replace(false);
        for service in SERVICES {
            self.health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        self.stopping.send_replace(true);
        let ordered = async {
            self.hosts.shutdown().await;
            while self.servers.join_next().await.is_some() {}
        };
        if tokio::time::timeout(self.shutdown_timeout, ordered).await.is_err() {
            tracing::warn!(timeout = ?self.shutdown_timeout, "calls were still open and are cut off");
        }
        self.servers.shutdown().await;
        self.helpers.shutdown().await;
    }
}

/// Names under which health is asked; the empty one is the whole server.
const SERVICES: [&str; 3] = ["", "heirloom.v1.ControlService", "heirloom.v1.InstanceService"];

/// Serves until `shutdown` completes.
///
/// # Errors
/// [`ServeError`] if it cannot start, or ends by itself.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    start(config).await?.until(shutdown).await
}

/// Completes at SIGTERM or SIGINT.
///
/// # Errors
/// If handlers cannot be installed.
pub fn signalled() -> Result<impl Future<Output = ()>, ServeError> {
    let install = |kind| signal(kind).map_err(ServeError::io("install a signal handler"));
    let (mut term, mut int) = (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Starts; on return everything that is configured is served.
///
/// # Errors
/// [`ServeError`]; nothing is left behind.
pub async fn start(config: Config) -> Result<Running, ServeError> {
    config.checked()?;
    heirloom_region::os::sigbus::install()
        .map_err(|e| ServeError::Ended { what: "SIGBUS guard", message: e.to_string() })?;
    let server = &config.server;
    let socket_lock = socket::lock(&with_suffix(&server.socket, ".lock"), "the socket")?;
    let regions_lock = socket::lock(&server.region_dir.join(".sidecar.lock"), "the region directory")?;
    let start_unix_ms = unix_ms();
    let journal = Arc::new(Journal::new(start_unix_ms * 1000));
    let opening = config.clone();
    let hosts = tokio::task::spawn_blocking(move || Hosts::open(&opening, journal)).await;
    let hosts = Arc::new(hosts.map_err(|e| ServeError::Ended { what: "recovery", message: e.to_string() })??);

    let (stopping, stop) = watch::channel(false);
    let (ready, is_ready) = watch::channel(true);
    let (health, _) = tonic_health::server::health_reporter();
    let tickets = Tickets::lasting(TICKET_LIFETIME);
    let allow = AllowList::new(server);
    let mut start = Starting { config: &config, allow, stop, servers: JoinSet::new(), health };
    for service in SERVICES {
        start.health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let control = Control {
        hosts: Arc::clone(&hosts),
        region_dir: server.region_dir.display().to_string(),
        start_unix_ms,
        stopping: start.stop.clone(),
    };
    let descriptor_socket = config.descriptor_socket();
    let instances = Instances {
        hosts: Arc::clone(&hosts),
        tickets: tickets.clone(),
        descriptor_socket: std::path::absolute(&descriptor_socket)
            .unwrap_or(descriptor_socket.clone())
            .display()
            .to_string(),
        stopping: start.stop.clone(),
    };
    let mut helpers = JoinSet::new();
    let fd = socket::bind(&descriptor_socket, server.socket_mode)?;
    helpers.spawn(descriptors::serve(UnixListener::from_std(fd.listener).map_err(ServeError::io("listen"))?, tickets));
    let http = start.http(&control, is_ready).await?;
    let grpc = start.tcp(&control).await?;
    let unix = start.unix(control, instances)?;
    helpers.spawn(look_after(Arc::clone(&hosts)));
    if let Some(period) = notify::watchdog_period() {
        helpers.spawn(stay_alive(period));
    }
    let regions = hosts.all().len();
    tracing::info!(socket = %server.socket.display(), ?grpc, ?http, regions, "serving");
    notify::ready(&format!("serving {regions} regions"));
    let Starting { servers, health, .. } = start;
    Ok(Running {
        hosts,
        health,
        stopping,
        ready,
        servers,
        helpers,
        shutdown_timeout: server.shutdown_timeout,
        socket: server.socket.clone(),
        grpc,
        http,
        _files: [fd.file, unix],
        _locks: [socket_lock, regions_lock],
    })
}

struct Starting<'a> {
    config: &'a Config,
    allow: AllowList,
    stop: watch::Receiver<bool>,
    servers: JoinSet<Result<(), ServeError>>,
    health: HealthReporter,
}

impl Starting<'_> {
    /// Completes when the sidecar stops.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move { drop(stop.wait_for(|stop| *stop).await) }
    }

    fn unix(&mut self, control: Control, instances: Instances) -> Result<BoundFile, ServeError> {
        let bound = socket::bind(&self.config.server.socket, self.config.server.socket_mode)?;
        let listener = UnixListener::from_std(bound.listener).map_err(ServeError::io("listen"))?;
        let incoming = UnixListenerStream::new(listener).map(|accepted| accepted.map(PeerStream::new));
        let size = self.message_max();
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .layer(InterceptorLayer::new(LocalGuard(Arc::new(self.allow.clone()))))
            .add_service(self.control(control))
            .add_service(
                InstanceServiceServer::new(instances).max_decoding_message_size(size).max_encoding_message_size(size),
            )
            .add_service(self.health_service())
            .add_service(reflection()?)
            .add_service(reflection_alpha()?);
        let serving = router.serve_with_incoming_shutdown(incoming, self.stopped());
        self.servers.spawn(async move { serving.await.map_err(|e| ended("gRPC on the Unix socket", &e)) });
        Ok(bound.file)
    }

    async fn tcp(&mut self, control: &Control) -> Result<Option<SocketAddr>, ServeError> {
        let listen = &self.config.server.grpc_listen;
        if listen.is_empty() {
            return Ok(None);
        }
        let tls = tls::load(&self.config.tls)?;
        let listener = TcpListener::bind(listen).await.map_err(ServeError::io(format!("listen on {listen}")))?;
        let address = listener.local_addr().map_err(ServeError::io("find the bound address"))?;
        let router = Server::builder()
            .tls_config(tls)
            .map_err(|e| ended("TLS", &e))?
            .http2_keepalive_interval(Some(KEEPALIVE))
            .layer(InterceptorLayer::new(CertificateGuard))
            .add_service(self.control(control.clone()))
            .add_service(self.health_service())
            .add_service(reflection()?);
        let serving = router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), self.stopped());
        self.servers.spawn(async move { serving.await.map_err(|e| ended("gRPC on TCP", &e)) });
        Ok(Some(address))
    }

    async fn http(
        &mut self,
        control: &Control,
        ready: watch::Receiver<bool>,
    ) -> Result<Option<SocketAddr>, ServeError> {
        let server = &self.config.server;
        let listen = &server.http_listen;
        if listen.is_empty() {
            return Ok(None);
        }
        let listener = TcpListener::bind(listen).await.map_err(ServeError::io(format!("listen on {listen}")))?;
        let address = listener.local_addr().map_err(ServeError::io("find the bound address"))?;
        let token = match server.http_token_file.as_os_str().is_empty() {
            true => None,
            false => Some(
                std::fs::read_to_string(&server.http_token_file)
                    .map_err(ServeError::io("read server.http_token_file"))?,
            ),
        };
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
        let guard = Guard { allow: self.allow.clone(), token: token.map(|t| t.trim().to_owned()), host };
        let router = http::router(Http { control: control.clone(), guard, ready, address });
        let make = router.into_make_service_with_connect_info::<Ends>();
        let serving = axum::serve(listener, make).with_graceful_shutdown(self.stopped());
        self.servers.spawn(async move { serving.await.map_err(|e| ended("HTTP", &e)) });
        Ok(Some(address))
    }

    fn message_max(&self) -> usize {
        usize::try_from(self.config.server.message_max.0).unwrap_or(usize::MAX)
    }

    fn control(&self, control: Control) -> ControlServiceServer<Control> {
        let size = self.message_max();
        ControlServiceServer::new(control).max_decoding_message_size(size).max_encoding_message_size(size)
    }

    fn health_service(
        &self,
    ) -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health + use<>> {
        let service = tonic_health::server::HealthService::from_health_reporter(self.health.clone());
        tonic_health::pb::health_server::HealthServer::new(service)
    }
}

fn descriptor_sets() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(heirloom_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    ServeError,
> {
    descriptor_sets().build_v1().map_err(|e| ended("reflection", &e))
}

/// Older tools, grpcurl among them, ask for this one first.
fn reflection_alpha() -> Result<
    tonic_reflection::server::v1alpha::ServerReflectionServer<impl tonic_reflection::server::v1alpha::ServerReflection>,
    ServeError,
> {
    descriptor_sets().build_v1alpha().map_err(|e| ended("reflection", &e))
}

fn ended(what: &'static str, error: &dyn std::error::Error) -> ServeError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    ServeError::Ended { what, message }
}

async fn look_after(hosts: Arc<Hosts>) {
    let mut said = usize::MAX;
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        hosts.set_aside_the_poisoned().await;
        let regions = hosts.all().len();
        if regions != said {
            said = regions;
            notify::status(&format!("serving {regions} regions"));
        }
    }
}

async fn stay_alive(period: Duration) {
    loop {
        notify::alive();
        tokio::time::sleep(period).await;
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
