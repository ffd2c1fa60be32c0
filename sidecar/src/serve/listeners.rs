//! The listening ends: gRPC on the Unix socket, gRPC on TCP, HTTP. Each is a task that ends when the sidecar stops.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heirloom_proto::v1::control_service_server::ControlServiceServer;
use heirloom_proto::v1::instance_service_server::InstanceServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;
use tower::util::MapResponseLayer;

use super::grpc_control::Control;
use super::grpc_instance::Instances;
use super::http::{self, Http};
use super::http_guard::Guard;
use super::http_serve::{self, Bounds};
use super::limit::paced;
use super::peer::{AllowList, CertificateGuard, LocalGuard, PeerStream};
use super::socket::{self, BoundFile};
use super::{ServeError, tls, too_large};
use crate::config::Config;

/// Dead peers are noticed by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// What the listeners share while they are set up.
pub(super) struct Starting<'a> {
    pub(super) config: &'a Config,
    pub(super) allow: AllowList,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) servers: JoinSet<Result<(), ServeError>>,
    pub(super) health: HealthReporter,
}

impl Starting<'_> {
    /// Completes when the sidecar stops.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move { drop(stop.wait_for(|stop| *stop).await) }
    }

    pub(super) fn unix(&mut self, control: Control, instances: Instances) -> Result<BoundFile, ServeError> {
        let bound = socket::bind(&self.config.server.socket, self.config.server.socket_mode)?;
        let listener = UnixListener::from_std(bound.listener).map_err(ServeError::io("listen"))?;
        let incoming = paced(UnixListenerStream::new(listener)).map(|accepted| accepted.map(PeerStream::new));
        let size = self.message_max();
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .layer(MapResponseLayer::new(too_large::named))
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

    pub(super) async fn tcp(&mut self, control: &Control) -> Result<Option<SocketAddr>, ServeError> {
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
            .layer(MapResponseLayer::new(too_large::named))
            .layer(InterceptorLayer::new(CertificateGuard))
            .add_service(self.control(control.clone()))
            .add_service(self.health_service())
            .add_service(reflection()?);
        let serving = router.serve_with_incoming_shutdown(paced(TcpListenerStream::new(listener)), self.stopped());
        self.servers.spawn(async move { serving.await.map_err(|e| ended("gRPC on TCP", &e)) });
        Ok(Some(address))
    }

    pub(super) async fn http(
        &mut self,
        control: &Control,
        ready: watch::Receiver<bool>,
        missing: watch::Receiver<Vec<PathBuf>>,
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
        let router = http::router(Http { control: control.clone(), guard, ready, missing, address });
        let serving = http_serve::serve(listener, Bounds::default(), router, self.stopped());
        self.servers.spawn(async move {
            serving.await;
            Ok(())
        });
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
