//! Reaching the sidecar: a Unix socket, or TCP with mutual TLS. Plain TCP is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom_proto::v1::control_service_client::ControlServiceClient;
use heirloom_proto::v1::{ErrorReason, GetServerInfoRequest};
use heirloom_proto::{Failure, reason};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Response, Status};

use super::failed::{Asked, Failed, chain, is_lost, root};
use crate::args::Global;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A sidecar that is stopped accepts connections and says nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(5);
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub(crate) type Client = ControlServiceClient<Channel>;

/// The address of a sidecar, and how to speak with it.
#[derive(Clone, Debug)]
pub(crate) struct Sidecar {
    global: Global,
}

impl Sidecar {
    pub(crate) fn new(global: &Global) -> Self {
        Sidecar { global: global.clone() }
    }

    pub(crate) fn address(&self) -> &str {
        self.global.address()
    }

    /// A connected client.
    ///
    /// # Errors
    /// Exit 5 if nobody answers, 3 if this user may not open the socket, 2 if the address or the TLS files are no good.
    pub(crate) async fn client(&self) -> Result<Client, Failed> {
        let address = self.address();
        let channel = match address.split_once("://") {
            Some(("https", _)) => self.admitted(self.over_tls().await?).await?,
            Some(("unix", path)) => over_socket(Path::new(path)).await?,
            None => over_socket(Path::new(address)).await?,
            Some((scheme, _)) => {
                let refused = Failed::usage("the sidecar is reached by a socket's path or by https");
                return Err(refused.expected("PATH or https://HOST:PORT").found(format!("{scheme}://")));
            }
        };
        Ok(Client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn over_tls(&self) -> Result<Channel, Failed> {
        let address = self.address();
        let wrong = |e: tonic::transport::Error| Failed::usage(format!("{address}: {}", chain(&e)));
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.global.tls_ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem(ca)?));
        }
        if let (Some(cert), Some(key)) = (&self.global.tls_cert, &self.global.tls_key) {
            tls = tls.identity(Identity::from_pem(pem(cert)?, pem(key)?));
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(wrong)?.tls_config(tls).map_err(wrong)?;
        tuned(endpoint).connect().await.map_err(|e| Failed::unreachable(address, chain(&e)))
    }

    /// With TLS 1.3 a server may turn a client away after the client believes to be connected. So something harmless is asked
    /// first: a caller who is not let in must hear that nothing was sent, not that the outcome is unknown.
    async fn admitted(&self, channel: Channel) -> Result<Channel, Failed> {
        let mut client = Client::new(channel.clone());
        let asked = tokio::time::timeout(CONNECT_WITHIN, client.get_server_info(GetServerInfoRequest {})).await;
        match asked {
            Err(_) => Err(Failed::unreachable(self.address(), "no answer")),
            // A reason means that the sidecar itself has answered.
            Ok(Err(status)) if Failure::from_status(&status).is_none() => {
                Err(Failed::unreachable(self.address(), if is_lost(&status) { root(&status) } else { chain(&status) }))
            }
            Ok(_) => Ok(channel),
        }
    }

    /// What a status of this sidecar means; a connection that broke is told with its address.
    pub(crate) fn failed(&self, status: &Status, asked: Asked) -> Failed {
        let failed = Failed::of_status(status, asked);
        if !is_lost(status) {
            return failed;
        }
        let address = self.address();
        let message = format!("the sidecar at {address} was lost before it answered");
        Failed { message, ..failed }.expected(format!("an answer of the sidecar at {address}"))
    }

    /// Awaits an answer that the sidecar has at once.
    pub(crate) async fn answer<T>(
        &self,
        asked: Asked,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(ANSWER_WITHIN, call).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| self.failed(&status, asked)),
            Err(_) if asked == Asked::ToRead => Err(Failed::unreachable(
                self.address(),
                format!("no answer in {}", humantime::format_duration(ANSWER_WITHIN)),
            )),
            Err(_) => Err(Failed::unknown(format!("the sidecar at {} did not answer", self.address()))),
        }
    }
}

fn pem(path: &PathBuf) -> Result<Vec<u8>, Failed> {
    std::fs::read(path).map_err(|e| Failed::usage(format!("{}: {e}", path.display())).expected("a readable PEM file"))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(CONNECT_WITHIN).http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(ANSWER_WITHIN)
}

/// Connects once by hand, so that the kernel's own word is what people read; tonic reconnects by the same path later.
async fn over_socket(path: &Path) -> Result<Channel, Failed> {
    let address = path.display().to_string();
    let first = match tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => return Err(denied(path)),
        Ok(Err(e)) => return Err(Failed::unreachable(&address, e)),
        Err(_) => return Err(Failed::unreachable(&address, "no answer")),
    };
    let first = Arc::new(Mutex::new(Some(first)));
    let again: PathBuf = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (first, again) = (Arc::clone(&first), again.clone());
        async move {
            let ready = first.lock().ok().and_then(|mut slot| slot.take());
            let stream = match ready {
                Some(stream) => stream,
                None => UnixStream::connect(again).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = tuned(Endpoint::from_static("http://sidecar.invalid"));
    endpoint.connect_with_connector(connector).await.map_err(|e| Failed::unreachable(&address, chain(&e)))
}

fn denied(path: &Path) -> Failed {
    let failure = Failure::new(ErrorReason::CallerDenied, format!("this user may not open {}", path.display()));
    let uid = nix::unistd::geteuid();
    debug_assert_eq!(failure.exit_code(), reason::exit::REFUSED);
    failure.expected("a user or group that the socket's mode allows").found(format!("uid {uid}")).into()
}
