//! The daemon as a library: `heirloom serve`, and what tests and demos run in their own process.
//!
//! ```text
//! Unix socket ─ gRPC ┐                       ┌ arbiter thread ─ region shop
//! Unix socket.fd ────┼ peer ─ hosts ─ host ──┼ arbiter thread ─ region cart.0
//! TCP + mutual TLS ──┤                       └ …
//! HTTP ──────────────┘
//! ```
//!
//! Nothing here is truth. Who owns stands in the region, and the arbiters decide; if this process dies anywhere, data
//! planes go on, and the next one finds the regions by their files, thaws them and takes their instances back.

mod convert;
mod descriptors;
mod exposition;
mod follower;
mod grpc_control;
mod grpc_instance;
mod host;
mod hosts;
mod http;
mod http_guard;
mod http_input;
mod http_metrics;
mod http_options;
mod http_seats;
mod http_serve;
mod journal;
mod limit;
mod listeners;
pub mod log;
mod notify;
mod own_metrics;
mod peer;
pub(crate) mod region_files;
mod region_metrics;
mod remote_write;
mod run;
mod socket;
mod sockets;
mod switch;
pub(crate) mod tls;
mod too_large;
pub(crate) mod verify;
mod with;

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub use run::{Running, run, signalled, start};
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

/// The wall clock, in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
