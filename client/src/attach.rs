//! How a process attaches.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::path::{Path, PathBuf};
use std::pin::Pin;
#[cfg(feature = "embedded")]
use std::sync::Arc;
use std::time::Duration;

use heirloom_region::error::Error;

use crate::build;
use crate::control;
#[cfg(feature = "embedded")]
use crate::in_process::InProcess;
use crate::serving::Attachment;
use crate::wait::wait;

/// Where a sidecar listens, if nobody says otherwise.
pub(crate) const SOCKET: &str = "/run/heirloom/heirloom.sock";
/// How long a sidecar is waited for, if nobody says otherwise.
const WAIT: Duration = Duration::from_secs(10);

/// Starts to attach to the region of `service`: `shop`, or `shop.0` for replica 0 of it.
///
/// Await the builder, or call [`Attach::wait`].
///
/// ```no_run
/// # async fn f() -> Result<(), heirloom_client::Error> {
/// let shop = heirloom_client::attach("shop").version("2.0.0").await?;
/// # Ok(()) }
/// ```
pub fn attach(service: impl Into<String>) -> Attach {
    Attach::new(service.into(), Target::Sidecar)
}

/// How to attach. Setters take and return `self`; a later call replaces an earlier one; who runs the process has the last
/// word: `HEIRLOOM_SERVICE`, `_VERSION`, `_REPLICA` and `_SOCKET` win over what the code says (with a sidecar; an embedded
/// arbiter's instances are all of one process).
#[must_use = "await it, or call wait()"]
#[derive(Clone)]
pub struct Attach {
    pub(crate) target: Target,
    pub(crate) service: String,
    pub(crate) version: Option<String>,
    pub(crate) replica: String,
    pub(crate) socket: PathBuf,
    pub(crate) if_absent: IfAbsent,
    pub(crate) freeze_wait_max: Option<Duration>,
    pub(crate) bytes_max: Option<u64>,
}

/// Who arbitrates.
#[derive(Clone)]
pub(crate) enum Target {
    Sidecar,
    #[cfg(feature = "embedded")]
    Embedded(Arc<InProcess>),
}

impl Attach {
    pub(crate) fn new(service: String, target: Target) -> Self {
        Self {
            target,
            service,
            version: None,
            replica: String::new(),
            socket: SOCKET.into(),
            if_absent: IfAbsent::Wait(WAIT),
            freeze_wait_max: None,
            bytes_max: None,
        }
    }
    /// Label of this build, shown everywhere and accepted as a handover's target.
    /// Default: the first 12 hex digits of the executable's build id.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }
    /// One of several like regions of this service on the host: `0` is region `shop.0`; `auto` lets the sidecar choose (the
    /// oldest vacant one, one to upgrade, a new one). Default: none, the one region `shop`.
    pub fn replica(mut self, replica: impl fmt::Display) -> Self {
        self.replica = replica.to_string();
        self
    }
    /// Where the sidecar listens. Default: `/run/heirloom/heirloom.sock`.
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.socket = path.as_ref().to_owned();
        self
    }
    /// What to do when no sidecar answers. Default: [`IfAbsent::Wait`] for 10 s, then an error.
    pub fn if_absent(mut self, choice: IfAbsent) -> Self {
        self.if_absent = choice;
        self
    }
    /// Longest time that an owned write blocks its thread while the gate is frozen; then it fails with
    /// [`WriteError::Frozen`](crate::WriteError::Frozen). Default: the freeze budget, after which the gate opens anyhow.
    /// Zero: never blocks.
    pub fn freeze_wait_max(mut self, limit: Duration) -> Self {
        self.freeze_wait_max = Some(limit);
        self
    }
    /// Largest size of the region, if this call is the one that creates it. Default: the sidecar's setting.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = Some(bytes);
        self
    }
    /// The same as `.await`, on a thread without an executor.
    ///
    /// # Errors
    /// As for the future: [`Error::NotReady`] no sidecar in time; [`Error::Denied`]; [`Error::Incompatible`] format;
    /// [`Error::Full`] instance table; [`Error::Corrupt`] region in quarantine; [`Error::Misuse`] name; [`Error::Io`].
    ///
    /// # Panics
    /// As [`wait`](crate::wait()): on an async runtime's worker thread.
    pub fn wait(self) -> Result<Attachment, Error> {
        wait(self.into_future())
    }

    /// Lets the environment have the last word.
    pub(crate) fn with_environment(mut self, get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| get(name).filter(|value| !value.is_empty());
        self.service = get("HEIRLOOM_SERVICE").unwrap_or(self.service);
        self.version = get("HEIRLOOM_VERSION").or(self.version);
        self.replica = get("HEIRLOOM_REPLICA").unwrap_or(self.replica);
        self.socket = get("HEIRLOOM_SOCKET").map_or(self.socket, PathBuf::from);
        self
    }
    pub(crate) fn version_or_build(&self) -> String {
        self.version.clone().unwrap_or_else(build::label)
    }
}

impl IntoFuture for Attach {
    type Output = Result<Attachment, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;
    fn into_future(self) -> Self::IntoFuture {
        let how = match self.target {
            Target::Sidecar => self.with_environment(|name| std::env::var(name).ok()),
            #[cfg(feature = "embedded")]
            Target::Embedded(_) => self,
        };
        Box::pin(control::start(how))
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attach")
            .field("service", &self.service)
            .field("version", &self.version)
            .field("replica", &self.replica)
            .field("if_absent", &self.if_absent)
            .finish_non_exhaustive()
    }
}

/// What [`attach`] does when no sidecar answers.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfAbsent {
    /// Fail at once.
    Fail,
    /// Try for so long, then fail.
    Wait(Duration),
    /// Try for so long, then run on a private region for the life of this process: same API, `Link::Local`, owner at
    /// once, nothing handed over, never merged into a shared region later. Logged as a warning, counted
    /// (`heirloom_local_fallbacks_total` in [`encode_local_metrics`](crate::Region::encode_local_metrics)), never silent.
    Local(Duration),
}

impl IfAbsent {
    pub(crate) fn patience(self) -> Duration {
        match self {
            IfAbsent::Fail => Duration::ZERO,
            IfAbsent::Wait(d) | IfAbsent::Local(d) => d,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_the_last_word() {
        let how = attach("shop").version("1").socket("/a");
        let env = |name: &str| match name {
            "HEIRLOOM_SERVICE" => Some("store".to_owned()),
            "HEIRLOOM_REPLICA" => Some("auto".to_owned()),
            "HEIRLOOM_VERSION" => Some(String::new()),
            "HEIRLOOM_SOCKET" => Some("/b".to_owned()),
            _ => None,
        };
        let how = how.with_environment(env);
        assert_eq!((how.service.as_str(), how.replica.as_str()), ("store", "auto"));
        assert_eq!((how.version_or_build().as_str(), how.socket.as_path()), ("1", Path::new("/b")));
    }
}
