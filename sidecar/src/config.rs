//! The sidecar's configuration. Precedence: flag, environment, file, default.
//!
//! An unknown key is an error that names the file, the line and the key: a mistyped deadline must not silently be the
//! default. Sizes and durations are refused without a unit for the same reason. Everything here is plain data; what a
//! value means for this host (is the directory there, does the certificate parse) is said by [`Config::check`].

mod check;
mod remote_write;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::Verdict;
pub use remote_write::RemoteWrite;
pub use units::{ByteCount, SocketMode};

/// Where the configuration is read from if neither flag nor environment says otherwise; it may be absent there.
pub const DEFAULT_PATH: &str = "/etc/heirloom/heirloom.toml";

/// Everything `heirloom serve` can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sockets, addresses, directories, and who may call.
    pub server: Server,
    /// Certificates of the optional TCP listener.
    pub tls: Tls,
    /// Log format and level.
    pub log: Log,
    /// Policy of every region.
    pub region: RegionPolicy,
    /// Where the regions' samples are sent.
    pub remote_write: RemoteWrite,
    /// Exceptions for single regions, by name.
    pub regions: BTreeMap<String, RegionOverride>,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The gRPC Unix socket. Descriptors pass over a second one beside it, with `.fd` appended.
    pub socket: PathBuf,
    /// Permissions of both sockets.
    pub socket_mode: SocketMode,
    /// Who may call besides root and the sidecar's own uid.
    pub allow_uids: Vec<u32>,
    /// Members of these groups may call, too.
    pub allow_gids: Vec<u32>,
    /// TCP address of `ControlService` with mutual TLS; empty: off.
    pub grpc_listen: String,
    /// TCP address of HTTP; empty: off.
    pub http_listen: String,
    /// A file with a secret for HTTP verbs from other hosts (`Authorization: Bearer …`); empty: only local callers.
    pub http_token_file: PathBuf,
    /// Where region files lie.
    pub region_dir: PathBuf,
    /// Largest gRPC message, both ways.
    pub message_max: ByteCount,
    /// How long open calls may take to end when the sidecar stops.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
}

/// `[tls]`: all three or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM certificate chain of the sidecar.
    pub cert: PathBuf,
    /// PEM private key of the sidecar.
    pub key: PathBuf,
    /// PEM certificates of who may sign clients.
    pub client_ca: PathBuf,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level or a filter as in `RUST_LOG`, which wins.
    pub level: String,
}

/// How log records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// What happens to a region whose owner died unplanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vacancy {
    /// The eligible standby becomes the owner.
    Promote,
    /// It waits for an explicit handover.
    Hold,
}

/// A length of time in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Within(#[serde(with = "humantime_serde")] pub Duration);

/// Generates the policy, its override for one region, and the merge of the two from one list of keys.
macro_rules! policy {
    ($($(#[$attribute:meta])* $key:ident: $type:ty = $default:expr;)*) => {
        /// `[region]`: the policy of every region.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RegionPolicy { $($(#[$attribute])* pub $key: $type,)* }

        /// `[regions.NAME]`: any key of `[region]`, for one region.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RegionOverride {
            $($(#[$attribute])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
        }

        impl Default for RegionPolicy {
            fn default() -> Self {
                RegionPolicy { $($key: $default,)* }
            }
        }

        impl RegionPolicy {
            fn with(&self, over: &RegionOverride) -> RegionPolicy {
                RegionPolicy { $($key: over.$key.clone().unwrap_or_else(|| self.$key.clone()),)* }
            }
        }
    };
}

policy! {
    /// Bytes that the region may use; fixed when it is created.
    limit: ByteCount = ByteCount(1 << 30);
    /// After the unplanned death of an owner.
    vacancy: Vacancy = Vacancy::Promote;
    /// Handover records kept; fixed when the region is created.
    history_max: u32 = 1000;
    /// Processes attached at once; fixed when the region is created.
    instances_max: u32 = 64;
    /// Counting threads with a lane of their own; fixed when the region is created.
    lanes_max: u32 = 64;
    /// Writing threads with a gate slot of their own; fixed when the region is created.
    slots_max: u32 = 1024;
    /// Series that may be created; fixed when the region is created.
    series_max: u32 = 100_000;
    /// Regions that `HEIRLOOM_REPLICA=auto` may make for one service.
    replicas_max: u32 = 16;
    /// Unplanned deaths of owners within `quarantine_within` that hold the region; at most 16. 0: never.
    quarantine_deaths: u32 = 3;
    /// See `quarantine_deaths`.
    #[serde(with = "humantime_serde")]
    quarantine_within: Duration = Duration::from_secs(60);
    /// How long a handover waits for its target to become eligible.
    #[serde(with = "humantime_serde")]
    ready_timeout: Duration = Duration::ZERO;
    /// How long the prepare hook may take.
    #[serde(with = "humantime_serde")]
    prepare_timeout: Duration = Duration::from_secs(30);
    /// How long pre-copy rounds may take to converge.
    #[serde(with = "humantime_serde")]
    precopy_timeout: Duration = Duration::from_secs(30);
    /// How long the flush hook may take.
    #[serde(with = "humantime_serde")]
    flush_timeout: Duration = Duration::from_secs(10);
    /// The longest blackout risked before the handover aborts.
    #[serde(with = "humantime_serde")]
    freeze_timeout: Duration = Duration::from_millis(50);
    /// When a drain is reported as late; it is never cut.
    #[serde(with = "humantime_serde")]
    drain_timeout: Duration = Duration::from_secs(300);
    /// The same for one kind of what is in flight, where that is sooner: `drain_timeouts = { requests = "10s" }`.
    drain_timeouts: BTreeMap<String, Within> = BTreeMap::new();
}

impl Default for Server {
    fn default() -> Self {
        Server {
            socket: "/run/heirloom/heirloom.sock".into(),
            socket_mode: SocketMode(0o660),
            allow_uids: vec![],
            allow_gids: vec![],
            grpc_listen: String::new(),
            http_listen: "127.0.0.1:7431".into(),
            http_token_file: PathBuf::new(),
            region_dir: "/dev/shm/heirloom".into(),
            message_max: ByteCount(4 << 20),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, level: "info".into() }
    }
}

/// What flags and the environment say; each set field wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--socket`, `HEIRLOOM_SOCKET`
    pub socket: Option<PathBuf>,
    /// `--region-dir`, `HEIRLOOM_REGION_DIR`
    pub region_dir: Option<PathBuf>,
    /// `--grpc-listen`
    pub grpc_listen: Option<String>,
    /// `--http-listen`
    pub http_listen: Option<String>,
    /// `--log-format`, `HEIRLOOM_LOG_FORMAT`
    pub log_format: Option<LogFormat>,
    /// `--remote-write-url`
    pub remote_write_url: Option<String>,
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: expected a readable configuration file: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The text is not TOML, or a key or value is not known.
    #[error("{origin}:{line}: {message}")]
    Invalid {
        /// The file, or what the text was called.
        origin: String,
        /// Counted from 1.
        line: usize,
        /// Names the key, what was expected and what was found.
        message: String,
    },
    /// The values do not fit together or this host.
    #[error("{0}")]
    Refused(Verdict),
}

impl Config {
    /// Reads `path`, or [`DEFAULT_PATH`] if it exists, or takes the defaults; then applies `overrides`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] if a named file cannot be read, [`ConfigError::Invalid`] for its first fault.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut config = match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(&text, &file.display().to_string())?,
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => Config::default(),
            Err(source) => return Err(ConfigError::Unreadable { path: file.into(), source }),
        };
        config.apply(overrides);
        Ok(config)
    }

    /// Reads TOML; `origin` is what errors call the text.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with line and key.
    pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
            ConfigError::Invalid { origin: origin.to_owned(), line, message: e.message().to_owned() }
        })
    }

    /// Lets `overrides` win over what was read.
    pub fn apply(&mut self, overrides: Overrides) {
        let Overrides { socket, region_dir, grpc_listen, http_listen, log_format, remote_write_url } = overrides;
        let server = &mut self.server;
        server.socket = socket.unwrap_or_else(|| std::mem::take(&mut server.socket));
        server.region_dir = region_dir.unwrap_or_else(|| std::mem::take(&mut server.region_dir));
        server.grpc_listen = grpc_listen.unwrap_or_else(|| std::mem::take(&mut server.grpc_listen));
        server.http_listen = http_listen.unwrap_or_else(|| std::mem::take(&mut server.http_listen));
        self.log.format = log_format.unwrap_or(self.log.format);
        let url = &mut self.remote_write.url;
        *url = remote_write_url.unwrap_or_else(|| std::mem::take(url));
    }

    /// The policy of one region: `[region]`, with `[regions.NAME]` over it.
    #[must_use]
    pub fn policy(&self, region: &str) -> RegionPolicy {
        self.regions.get(region).map_or_else(|| self.region.clone(), |over| self.region.with(over))
    }

    /// The socket over which region descriptors pass.
    #[must_use]
    pub fn descriptor_socket(&self) -> PathBuf {
        let mut name = self.server.socket.clone().into_os_string();
        name.push(".fd");
        name.into()
    }
}

#[cfg(test)]
mod tests;
