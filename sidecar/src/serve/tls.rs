//! Mutual TLS of the optional TCP listener.
//!
//! Without a client certificate signed by `tls.client_ca` no byte of gRPC is read: there is no anonymous caller here.
//! The caller's name in records and logs is the subject of its certificate, or its serial number if the subject is empty.

use std::fs;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::config::Tls;

/// Why the certificates were not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// TCP is on, and one of the three keys is empty.
    #[error("tls.{key}: expected a file, because server.grpc_listen is set; found nothing")]
    Missing {
        /// `cert`, `key` or `client_ca`.
        key: &'static str,
    },
    /// A file could not be read.
    #[error("tls.{key}: {}: {source}", path.display())]
    Unreadable {
        /// `cert`, `key` or `client_ca`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("tls.{key}: {}: expected {expected} in PEM, found none", path.display())]
    NotPem {
        /// `cert`, `key` or `client_ca`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// A certificate or a private key.
        expected: &'static str,
    },
}

/// Reads the three files.
///
/// # Errors
/// [`TlsError`] names the key and the file.
pub(crate) fn load(tls: &Tls) -> Result<ServerTlsConfig, TlsError> {
    let cert = pem("cert", &tls.cert, "a certificate", "-----BEGIN CERTIFICATE-----")?;
    let key = pem("key", &tls.key, "a private key", "PRIVATE KEY-----")?;
    let client_ca = pem("client_ca", &tls.client_ca, "a certificate", "-----BEGIN CERTIFICATE-----")?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(client_ca))
        .timeout(std::time::Duration::from_secs(10)))
}

fn pem(key: &'static str, path: &Path, expected: &'static str, marker: &str) -> Result<String, TlsError> {
    if path.as_os_str().is_empty() {
        return Err(TlsError::Missing { key });
    }
    let text = fs::read_to_string(path).map_err(|source| TlsError::Unreadable { key, path: path.into(), source })?;
    if !text.contains(marker) {
        return Err(TlsError::NotPem { key, path: path.into(), expected });
    }
    Ok(text)
}

/// What a client certificate calls its holder.
pub(crate) fn subject(der: &[u8]) -> String {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return "certificate".into() };
    match certificate.subject().to_string() {
        subject if subject.is_empty() => format!("serial:{}", certificate.raw_serial_as_string()),
        subject => subject,
    }
}
