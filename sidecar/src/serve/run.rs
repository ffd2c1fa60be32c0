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

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::server::HealthReporter;

use super::descriptors::{self, TICKET_LIFETIME, Tickets};
use super::grpc_control::Control;
use super::grpc_instance::Instances;
use super::hosts::Hosts;
use super::journal::Journal;
use super::limit::raise_open_files;
use super::listeners::Starting;
use super::peer::AllowList;
use super::remote_write::RemoteWriter;
use super::socket::{self, BoundFile, Lock, Mark};
use super::{ServeError, notify, unix_ms};
use crate::config::Config;

/// How often regions are looked at for memory that failed under them.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

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
    raise_open_files();
    let remote_writer = RemoteWriter::new(&config)?;
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
    let (tell_missing, missing) = watch::channel(Vec::new());
    let http = start.http(&control, is_ready, missing).await?;
    let grpc = start.tcp(&control).await?;
    let unix = start.unix(control, instances)?;
    helpers.spawn(look_after(Arc::clone(&hosts), [fd.file.mark(), unix.mark()], tell_missing));
    if let Some(period) = notify::watchdog_period() {
        helpers.spawn(stay_alive(period));
    }
    let regions = hosts.all().len();
    tracing::info!(socket = %server.socket.display(), ?grpc, ?http, regions, "serving");
    notify::ready(&format!("serving {regions} regions"));
    if let Some(writer) = remote_writer {
        let (hosts, stop) = (Arc::clone(&hosts), start.stop.clone());
        start.servers.spawn(async move {
            writer.run(hosts, stop).await;
            Ok(())
        });
    }
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

/// Looks for memory that failed and for socket files that somebody removed. A removed one is told and not made again: whoever
/// removed it may have put another sidecar in its place, and the instances that are attached lose nothing meanwhile.
async fn look_after(hosts: Arc<Hosts>, sockets: [Mark; 2], missing: watch::Sender<Vec<PathBuf>>) {
    let mut said = usize::MAX;
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        hosts.set_aside_the_poisoned().await;
        let gone: Vec<_> = sockets.iter().filter(|s| !s.is_there()).map(|s| s.path.clone()).collect();
        missing.send_if_modified(|known| {
            let change = *known != gone;
            for path in gone.iter().filter(|path| !known.contains(path)) {
                tracing::error!(socket = %path.display(), "the socket's file is gone: nobody new can come; start the sidecar again");
            }
            known.clone_from(&gone);
            change
        });
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
