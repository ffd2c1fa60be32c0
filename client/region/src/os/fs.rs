//! The file system under a region: which are fit, how space is taken, how much is left.

use crate::error::{Error, Misuse};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::fstatfs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// File systems on which a shared mapping, an OFD lock or an allocated block is not what the region needs: on the
/// copy-on-write ones `fallocate` reserves nothing that a write of the mapping could use, and the others do not keep mappings
/// or locks of several processes coherent.
const UNFIT: [(i64, &str); 9] = [
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0x794c_7630, "overlayfs"),
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
];

/// The name of the file system with this magic number if a region cannot live there.
pub fn unfit(magic: i64) -> Option<&'static str> {
    UNFIT.into_iter().find(|(number, _)| *number == magic).map(|(_, name)| name)
}

/// Checks that regions can live under the open directory `dir`.
///
/// # Errors
/// `Misuse`, naming the file system found.
pub fn check_fit(dir: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let stat = fstatfs(dir).map_err(|e| Error::io("statfs", Some(path), e))?;
    // The type's width differs between C libraries; the magic numbers are 32 bits wide.
    match unfit(stat.filesystem_type().0 as u32 as i64) {
        None => Ok(()),
        Some(name) => Err(Misuse::Argument {
            what: "region directory",
            found: format!(
                "{} is on {name}; expected tmpfs, ext4, xfs or another that writes in place",
                path.display()
            ),
        }
        .into()),
    }
}

/// Bytes that the file system of `fd` still has for us, `u64::MAX` if it does not say.
pub fn free_bytes(fd: BorrowedFd<'_>) -> u64 {
    match fstatfs(fd) {
        Ok(stat) => stat.blocks_available().saturating_mul(stat.block_size() as u64),
        Err(_) => u64::MAX,
    }
}

/// Allocates the bytes, so that a later touch through a mapping cannot find the file system full. Idempotent.
///
/// The raw call: the C library's emulation would write zeroes over what others have stored meanwhile.
///
/// # Errors
/// What the system says; `ENOSPC` and `EDQUOT` mean full.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(Errno::EFBIG);
    };
    // A signal interrupts tmpfs' allocation and undoes it; a storm of signals must not loop us for ever.
    let mut last = Errno::EINTR;
    for _ in 0..1000 {
        match fallocate(fd.as_fd(), FallocateFlags::empty(), offset, len) {
            Err(Errno::EINTR) => last = Errno::EINTR,
            other => return other,
        }
    }
    Err(last)
}

/// Opens a fresh open file description of the same file.
///
/// # Errors
/// `Io` if `/proc` is not there or the file may not be opened so.
pub fn reopen(fd: BorrowedFd<'_>) -> Result<std::fs::File, Error> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = Path::new(&path);
    std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io("reopen", Some(path), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_on_write_file_systems_are_named() {
        assert_eq!(unfit(0x9123_683e), Some("btrfs"));
        assert_eq!(unfit(0x794c_7630), Some("overlayfs"));
        assert_eq!(unfit(0x0102_1994), None, "tmpfs is where regions live");
        assert_eq!(unfit(0xef53), None, "ext4 writes in place");
        let dev_shm = std::fs::File::open("/dev/shm").unwrap();
        check_fit(dev_shm.as_fd(), Path::new("/dev/shm")).unwrap();
    }
}
