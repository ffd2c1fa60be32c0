//! The daemon as a library: `heirloom serve`, and what tests and demos run in their own process.

mod exposition;
pub mod log;
mod notify;
mod peer;
mod socket;
pub(crate) mod tls;

use std::io;
use std::path::PathBuf;

pub use tls::TlsError;

use crate::config::ConfigError;

/// Why the daemon did not start, or did not stop in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration does not fit this host.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another sidecar serves it.
    #[error("{what} is held by another sidecar: expected nobody, found {holder}")]
    Busy {
        /// The socket, the directory or the region.
        what: String,
        /// Who, as far as known.
        holder: String,
    },
    /// Somebody answers at the socket's path.
    #[error("{}: expected nobody to answer, found pid {pid}", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
        /// Who listens there.
        pid: i32,
    },
    /// Something that is no socket lies at its path, and stays.
    #[error("{}: expected a socket or nothing, found another file", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("{what} ended: {message}")]
    Ended {
        /// Which.
        what: &'static str,
        /// Why.
        message: String,
    },
}

impl ServeError {
    /// For `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
        let what = what.into();
        move |source| ServeError::Io { what, source }
    }
}
