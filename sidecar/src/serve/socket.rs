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

/// An exclusive lock by file, held while this lives; the file says whose it is, and goes with the lock.
///
/// The file is removed while it is still locked, and who has locked a file then looks whether the path still leads to it: of
/// those that wait at a file that is being removed none believes that it holds what the path now names.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn is_at_its_path(&self) -> bool {
        let here = self.file.metadata().map(|m| (m.dev(), m.ino()));
        here.is_ok_and(|here| inode(&self.path).is_ok_and(|found| found == here))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_at_its_path() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How often a file is locked that goes away meanwhile, before that is an error.
const LOCK_TRIES: u32 = 64;

/// Takes the lock at `path` for what `what` calls it.
///
/// # Errors
/// [`ServeError::Busy`] names the holder.
pub(crate) fn lock(path: &Path, what: &str) -> Result<Lock, ServeError> {
    make_directory(parent(path))?;
    for _ in 0..LOCK_TRIES {
        let mut lock = try_lock(path, what)?;
        if lock.is_at_its_path() {
            lock.file
                .set_len(0)
                .and_then(|()| lock.file.rewind())
                .and_then(|()| writeln!(lock.file, "{}", std::process::id()))
                .map_err(ServeError::io(format!("write {}", path.display())))?;
            return Ok(lock);
        }
    }
    Err(ServeError::Busy { what: what.to_owned(), holder: "one sidecar after the other that did not stay".into() })
}

/// Locks whatever file is at `path` now.
fn try_lock(path: &Path, what: &str) -> Result<Lock, ServeError> {
    let at = || ServeError::io(format!("lock {}", path.display()));
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at())?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { path: path.into(), file }),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(32).read_to_string(&mut holder);
            Err(ServeError::Busy { what: what.to_owned(), holder: format!("pid {}", holder.trim()) })
        }
        Err(TryLockError::Error(e)) => Err(at()(e)),
    }
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
        assert!(path.exists(), "who is refused removes nothing");
        drop(held);
        assert!(!path.exists(), "the file goes with the lock");
        lock(&path, "the socket").unwrap();
    }

    #[test]
    fn a_lock_is_never_held_twice_though_its_file_comes_and_goes() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.lock");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Ok(held) = lock(&path, "the socket") else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else holds it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[test]
    fn a_lock_file_that_took_the_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.lock");
        let held = lock(&path, "the socket").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(held);
        assert!(path.exists());
    }
}
