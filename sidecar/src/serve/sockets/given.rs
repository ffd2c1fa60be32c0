//! Sockets from the service manager (`LISTEN_FDS`, sd_listen_fds(3)): kept for the region that they are named after.
//!
//! `FileDescriptorName=shop.http` is socket `http` of region `shop`, `shop.0.http` of replica `shop.0`; `http` alone is of
//! the first region that opens that name. Several of one name are a group, in their order. The service manager keeps them
//! too, so after a restart of the sidecar they come again, and are the same ones that instances put back.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use heirloom_region::error::{Error, Misuse};
use heirloom_region::sockets::{self, Shape};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

type ByName = BTreeMap<String, Vec<Arc<OwnedFd>>>;

/// What was given and is not yet any region's.
#[derive(Default)]
pub(crate) struct Given {
    sockets: Mutex<ByName>,
}

impl Given {
    /// What this process was given; taken at the first call. What is no socket is left alone, with a warning.
    pub(crate) fn here() -> Arc<Self> {
        static HERE: OnceLock<Arc<Given>> = OnceLock::new();
        Arc::clone(HERE.get_or_init(|| Arc::new(Self::take_all())))
    }

    fn take_all() -> Self {
        let listed = match sd_notify::listen_fds_with_names(false) {
            Ok(listed) => listed.collect(),
            Err(error) => {
                tracing::error!(%error, "LISTEN_FDS cannot be read");
                Vec::new()
            }
        };
        Self::of(listed)
    }

    fn of(listed: Vec<(RawFd, String)>) -> Self {
        let mut sockets = ByName::new();
        for (fd, name) in listed {
            let taken = take(fd).and_then(|socket| sockets::inspect(&socket).map(|_| socket));
            match taken {
                Ok(socket) => sockets.entry(name).or_default().push(Arc::new(socket)),
                Err(error) => tracing::warn!(fd, name, %error, "the service manager gave what cannot be kept"),
            }
        }
        Self { sockets: Mutex::new(sockets) }
    }

    /// Those named after this region, by their names in it.
    pub(super) fn of_region(&self, region: &str) -> Vec<(String, Vec<Arc<OwnedFd>>)> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let in_region = |full: &str| full.rsplit_once('.').is_some_and(|(of, _)| of == region);
        let full: Vec<_> = sockets.keys().filter(|full| in_region(full)).cloned().collect();
        let taken = full.into_iter().filter_map(|full| {
            let name = full.rsplit_once('.')?.1.to_owned();
            Some((name, sockets.remove(&full)?))
        });
        taken.collect()
    }

    /// The one of this name that no region has yet, if it is what is asked for.
    pub(super) fn take(&self, name: &str, asked: &Shape) -> Option<Vec<Arc<OwnedFd>>> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let found = shape(sockets.get(name)?).ok()?;
        match found.check(name, asked) {
            Ok(()) => sockets.remove(name),
            Err(differs) => {
                tracing::warn!(%differs, "the service manager gave another socket");
                None
            }
        }
    }
}

/// A descriptor of this process that nothing here owns, as one that is: its double.
fn take(fd: RawFd) -> Result<OwnedFd, Error> {
    let io = |e: rustix::io::Errno| Error::io("take a descriptor of the service manager", None, e);
    let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(io)?;
    pidfd_getfd(this, fd, PidfdGetfdFlags::empty()).map_err(io)
}

/// What given sockets are.
pub(super) fn shape(sockets: &[Arc<OwnedFd>]) -> Result<Shape, Error> {
    let first = sockets.first().ok_or(Misuse::Argument { what: "sockets", found: "none".into() })?;
    let (kind, address) = sockets::inspect(first)?;
    Ok(Shape { kind, address, count: sockets.len() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use heirloom_region::sockets::Kind;

    use super::*;

    #[test]
    fn given_sockets_belong_to_the_region_they_are_named_after() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let (two, three) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let file = tempfile::tempfile().unwrap();
        let listed = vec![
            (one.as_raw_fd(), "shop.http".to_owned()),
            (two.as_raw_fd(), "shop.0.http".to_owned()),
            (three.as_raw_fd(), "admin".to_owned()),
            (file.as_raw_fd(), "file".to_owned()),
        ];
        let given = Given::of(listed);
        let of_shop = given.of_region("shop");
        assert_eq!(of_shop.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["http"]);
        assert_eq!(shape(&of_shop[0].1).unwrap().address, one.local_addr().unwrap().to_string());
        assert_eq!(given.of_region("shop.0").len(), 1);
        let asked = |address: String| Shape { kind: Kind::Tcp, address, count: 1 };
        let address = three.local_addr().unwrap().to_string();
        assert!(given.take("admin", &asked("127.0.0.1:1".into())).is_none(), "another address");
        assert!(given.take("admin", &asked(address.clone())).is_some());
        assert!(given.take("admin", &asked(address)).is_none(), "once");
        assert!(given.take("file", &asked("127.0.0.1:1".into())).is_none());
    }
}
