use std::path::Path;

use heirloom_proto::v1::control_service_client::ControlServiceClient;
use heirloom_proto::v1::instance_service_client::InstanceServiceClient;
use heirloom_proto::v1::{self};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::support::Daemon;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key of `name`.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

async fn daemon(ours: &Authority, dir: &Path) -> Daemon {
    let (cert, key) = ours.sign("sidecar");
    for (file, text) in [("cert.pem", cert), ("key.pem", key), ("ca.pem", ours.pem())] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    Daemon::with(|config| {
        config.server.grpc_listen = "127.0.0.1:0".into();
        config.tls.cert = dir.join("cert.pem");
        config.tls.key = dir.join("key.pem");
        config.tls.client_ca = dir.join("ca.pem");
    })
    .await
}

async fn connect(
    daemon: &Daemon,
    ours: &Authority,
    identity: Option<(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(ours.pem()));
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let uri = format!("https://{}", daemon.running.grpc().unwrap());
    Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await
}

/// A client learns in TLS 1.3 only after its first flight that it was refused: connecting or calling fails.
async fn calls(channel: Result<Channel, tonic::transport::Error>) -> bool {
    match channel {
        Ok(channel) => ControlServiceClient::new(channel).get_server_info(v1::GetServerInfoRequest {}).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn only_a_certificate_of_the_right_authority_is_let_in() {
    let (ours, theirs, dir) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let daemon = daemon(&ours, dir.path()).await;
    assert!(!calls(connect(&daemon, &ours, None).await).await, "no certificate");
    assert!(!calls(connect(&daemon, &ours, Some(theirs.sign("deploy"))).await).await, "a stranger's");
    assert!(calls(connect(&daemon, &ours, Some(ours.sign("deploy"))).await).await, "one of ours");
    let plain = Endpoint::from_shared(format!("http://{}", daemon.running.grpc().unwrap())).unwrap().connect().await;
    assert!(!calls(plain).await, "no TLS");
}

#[tokio::test]
async fn instances_attach_over_the_unix_socket_alone() {
    let (ours, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let daemon = daemon(&ours, dir.path()).await;
    let channel = connect(&daemon, &ours, Some(ours.sign("deploy"))).await.unwrap();
    let refused = InstanceServiceClient::new(channel).attach(tokio_stream::empty()).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
