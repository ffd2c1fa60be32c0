//! The control API over its Unix socket, without the command line: for status codes, and for calls by the thousand.

use heirloom_proto::v1::control_service_client::ControlServiceClient;
use heirloom_proto::v1::{HandoverRecord, HandoverRequest, handover_request::Target};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::host::Host;

/// A connection to one sidecar.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    /// Every method of the service; run its futures with [`Control::run`].
    pub client: ControlServiceClient<Channel>,
}

impl Control {
    /// Connects to a host's sidecar.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn connect(host: &Host) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = Endpoint::try_from(format!("unix:{}", host.socket().display())).expect("a socket's path");
        let channel = runtime.block_on(endpoint.connect()).expect("connect to the sidecar");
        Control { runtime, client: ControlServiceClient::new(channel) }
    }

    /// Runs one call to its end.
    pub fn run<T>(&mut self, call: impl AsyncFnOnce(&mut ControlServiceClient<Channel>) -> T) -> T {
        self.runtime.block_on(call(&mut self.client))
    }

    /// Hands `region` over to `version` and gives the last record.
    ///
    /// # Errors
    /// The status, if it was not committed.
    pub fn handover(&mut self, region: &str, version: &str) -> Result<HandoverRecord, Status> {
        let request = HandoverRequest {
            name: heirloom_proto::names::region(region),
            target: Some(Target::TargetVersion(version.to_owned())),
            ..Default::default()
        };
        self.run(async |client| {
            let mut events = client.handover(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = events.message().await? {
                last = event.handover;
            }
            last.ok_or_else(|| Status::internal("no event at all"))
        })
    }
}

/// Code and reason of a refusal, as tests compare them.
///
/// # Panics
/// If it carries no `ErrorInfo`.
#[track_caller]
pub fn refusal(status: &Status) -> (Code, String) {
    use tonic_types::StatusExt;
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("expected an ErrorInfo, found {status:?}"));
    assert_eq!(info.domain, "heirloom");
    (status.code(), info.reason)
}
