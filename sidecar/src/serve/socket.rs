//! Unix sockets that nobody can reach before their permissions are set, and the locks that keep one sidecar from
//! another's sockets and regions.
//!
//! A socket is bound in a private directory beside its place, gets its mode there, and is renamed: at its path it is
//! never open to more callers than configured, and a path always leads to a socket that listens. What a killed sidecar
//! left is replaced; a socket that still answers is not. Both steps stand under a lock that the kernel releases with
//! the process, so two starts cannot both find the same stale file.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::ServeError;
use crate::config::SocketMode;

/// A listening socket that removes its file when dropped, if it is still its own.
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    pub(crate) file: BoundFile,
}

/// The file of a bound socket.
pub(crate) struct BoundFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// What a bound socket's file looks like from afar.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) path: PathBuf,
    inode: (u64, u64),
}

impl Mark {
    /// True while the path still leads to this very socket.
    pub(crate) fn is_there(&self) -> bool {
        inode(&self.path).is_ok_and(|found| found == self.inode)
    }
}

impl BoundFile {
    /// For somebody who looks whether it is still there.
    pub(crate) fn mark(&self) -> Mark {
        Mark { path: self.path.clone(), inode: self.inode }
    }
}

impl Drop for BoundFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds `path` with `mode`; replaces what a dead sidecar left.
///
/// # Errors
/// [`ServeError::SocketInUse`] if somebody answers there, [`ServeError::Io`] otherwise.
pub(crate) fn bind(path: &Path, mode: SocketMode) -> Result<Bound, ServeError> {
    let parent = parent(path);
    make_directory(parent)?;
    refuse_the_living(path)?;
    let private = parent.join(format!(".h{}", std::process::id()));
    let at = |what: &str| ServeError::io(format!("{what} {}", path.display()));
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private).map_err(at("create the socket's directory for"))?;
    let hidden = private.join("s");
    let bound = UnixListener::bind(&hidden).map_err(at("bind")).and_then(|listener| {
        fs::set_permissions(&hidden, Permissions::from_mode(mode.0)).map_err(at("set the mode of"))?;
        listener.set_nonblocking(true).map_err(at("set non-blocking"))?;
        let inode = inode(&hidden).map_err(at("look at"))?;
        fs::rename(&hidden, path).map_err(at("put in place"))?;
        Ok(Bound { listener, file: BoundFile { path: path.into(), inode } })
    });
    let _ = fs::remove_dir_all(&private);
    bound
}

fn refuse_the_living(path: &Path) -> Result<(), ServeError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ServeError::io(format!("look at {}", path.display()))(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ServeError::io(format!("find out who listens on {}", path.display()))(e)),
        Ok(stream) => {
            let pid = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)
                .map_or(0, |c| c.pid());
            Err(ServeError::SocketInUse { path: path.into(), pid })
        }
    }
}

/// An exclusive lock by file, held while this lives; the file says whose it is.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock at `path` for what `what` calls it.
///
/// # Errors
/// [`ServeError::Busy`] names the holder.
pub(crate) fn lock(path: &Path, what: &str) -> Result<Lock, ServeError> {
    make_directory(parent(path))?;
    let at = || ServeError::io(format!("lock {}", path.display()));
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(32).read_to_string(&mut holder);
            return Err(ServeError::Busy { what: what.to_owned(), holder: format!("pid {}", holder.trim()) });
        }
        Err(TryLockError::Error(e)) => return Err(at()(e)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(at())?;
    Ok(Lock { _file: file })
}

/// Creates a directory with its parents, or does nothing.
pub(crate) fn make_directory(path: &Path) -> Result<(), ServeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(ServeError::io(format!("create {}", path.display())))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_its_mode_and_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/h.sock");
        let bound = bind(&path, SocketMode(0o660)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "the private directory is gone");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.sock");
        drop(UnixListener::bind(&path).unwrap());
        let living = bind(&path, SocketMode(0o660)).expect("nobody answers at a stale socket");
        let refused = bind(&path, SocketMode(0o660)).err().expect("somebody answers");
        assert!(
            matches!(refused, ServeError::SocketInUse { pid, .. } if pid == std::process::id() as i32),
            "{refused}"
        );
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        assert!(matches!(bind(&other, SocketMode(0o660)), Err(ServeError::NotASocket { .. })));
        drop(living);
    }

    #[test]
    fn a_file_that_took_the_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.sock");
        let bound = bind(&path, SocketMode(0o660)).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.lock");
        let held = lock(&path, "the socket").unwrap();
        let refused = lock(&path, "the socket").unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(held);
        lock(&path, "the socket").unwrap();
    }
}
