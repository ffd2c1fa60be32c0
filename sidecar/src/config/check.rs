//! What a configuration means on this host: `heirloom serve --check`, and the start of the daemon itself.

use std::fmt;
use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use heirloom_region::arbiter::QUARANTINE_DEATHS_MAX;
use serde::Serialize;

use super::{Config, ConfigError, RegionPolicy};
use crate::serve::tls;

/// The longest path of a Unix socket, without the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A freeze budget is twice the freeze timeout and capped at 500 ms.
const FREEZE_TIMEOUT_MAX: Duration = Duration::from_millis(250);

/// One line of `--check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Key of the configuration, such as `server.socket`.
    pub key: String,
    /// False: the daemon would not start.
    pub ok: bool,
    /// What was found, and what was expected if it is not good.
    pub message: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Config {
    /// Judges every value against this host, and changes nothing.
    #[must_use]
    pub fn check(&self) -> Vec<Verdict> {
        let server = &self.server;
        let mut out = vec![
            verdict(
                "server.socket",
                socket(&server.socket).and_then(|said| socket(&self.descriptor_socket()).map(|_| said)),
            ),
            verdict("server.grpc_listen", self.grpc_listen()),
            verdict("server.http_listen", listen(&server.http_listen)),
            verdict("server.http_token_file", token(&server.http_token_file)),
            verdict("server.region_dir", directory(&server.region_dir)),
            verdict("server.message_max", at_least("message size", server.message_max.0, 64 << 10)),
            verdict(
                "log.level",
                self.log
                    .level
                    .parse::<tracing_subscriber::EnvFilter>()
                    .map(|_| self.log.level.clone())
                    .map_err(|e| e.to_string()),
            ),
        ];
        out.extend(self.remote_write.check());
        out.extend(policy("region", &self.region));
        for name in self.regions.keys() {
            let key = format!("regions.{name}");
            match heirloom_region::name::region(name) {
                Ok(_) => out.extend(policy(&key, &self.policy(name))),
                Err(e) => out.push(verdict(&key, Err(e.to_string()))),
            }
        }
        out
    }

    /// The first verdict that forbids a start.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with that verdict.
    pub fn checked(&self) -> Result<(), ConfigError> {
        match self.check().into_iter().find(|v| !v.ok) {
            Some(verdict) => Err(ConfigError::Refused(verdict)),
            None => Ok(()),
        }
    }

    fn grpc_listen(&self) -> Result<String, String> {
        let found = listen(&self.server.grpc_listen)?;
        if !self.server.grpc_listen.is_empty() {
            tls::load(&self.tls).map_err(|e| e.to_string())?;
        }
        Ok(found)
    }
}

pub(super) fn verdict(key: &str, result: Result<String, String>) -> Verdict {
    let ok = result.is_ok();
    Verdict { key: key.to_owned(), ok, message: result.unwrap_or_else(|message| message) }
}

fn socket(path: &Path) -> Result<String, String> {
    // What every other verb takes for `--socket`; a directory called "https:" would be made of it.
    if let Some(scheme) =
        ["https://", "http://"].into_iter().find(|s| path.as_os_str().as_bytes().starts_with(s.as_bytes()))
    {
        return Err(format!("expected a path (TCP is server.grpc_listen), found {scheme}"));
    }
    let length = path.as_os_str().len();
    if length == 0 || length > SOCKET_PATH_BYTES_MAX {
        return Err(format!("expected a path of 1 to {SOCKET_PATH_BYTES_MAX} bytes, found {length}"));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(format!("expected a socket or nothing at {}, found another file", path.display()))
        }
        Ok(_) => Ok(match UnixStream::connect(path) {
            Ok(_) => format!("{} (a living process listens there: a start is refused while it does)", path.display()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                format!("{} (a stale socket, which a start replaces)", path.display())
            }
            Err(e) => return Err(format!("{}: cannot tell whether anybody listens: {e}", path.display())),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path.display().to_string()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn listen(address: &str) -> Result<String, String> {
    if address.is_empty() {
        return Ok("off".into());
    }
    match address.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(found)) => Ok(found.to_string()),
        Ok(None) => Err(format!("expected HOST:PORT, found \"{address}\", which has no address")),
        Err(e) => Err(format!("expected HOST:PORT, found \"{address}\": {e}")),
    }
}

fn token(path: &Path) -> Result<String, String> {
    if path.as_os_str().is_empty() {
        return Ok("off".into());
    }
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match text.trim().len() {
        0..16 => {
            Err(format!("{}: expected a secret of at least 16 bytes, found {}", path.display(), text.trim().len()))
        }
        _ => Ok(path.display().to_string()),
    }
}

fn directory(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(path.display().to_string()),
        Ok(_) => Err(format!("expected a directory at {}, found a file", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(format!("{} (will be created)", path.display())),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn at_least(what: &str, found: u64, least: u64) -> Result<String, String> {
    if found < least {
        Err(format!("expected a {what} of at least {least}, found {found}"))
    } else {
        Ok(found.to_string())
    }
}

fn policy(key: &str, policy: &RegionPolicy) -> Vec<Verdict> {
    let at = |name: &str| format!("{key}.{name}");
    let freeze = match policy.freeze_timeout {
        d if d.is_zero() || d > FREEZE_TIMEOUT_MAX => {
            Err(format!("expected more than 0 and at most 250ms, found {d:?}"))
        }
        d => Ok(format!("{d:?}")),
    };
    let deaths = match policy.quarantine_deaths {
        deaths @ 0..=QUARANTINE_DEATHS_MAX => Ok(deaths.to_string()),
        deaths => Err(format!("expected at most {QUARANTINE_DEATHS_MAX}, which a region remembers, found {deaths}")),
    };
    vec![
        verdict(&at("limit"), at_least("limit", policy.limit.0, 4 << 20)),
        verdict(&at("freeze_timeout"), freeze),
        verdict(&at("history_max"), at_least("history", policy.history_max.into(), 2)),
        verdict(&at("instances_max"), at_least("number of instances", policy.instances_max.into(), 2)),
        verdict(&at("lanes_max"), at_least("number of lanes", policy.lanes_max.into(), 1)),
        verdict(&at("slots_max"), at_least("number of slots", policy.slots_max.into(), 2)),
        verdict(&at("quarantine_deaths"), deaths),
        verdict(&at("replicas_max"), at_least("number of replicas", policy.replicas_max.into(), 1)),
    ]
}
