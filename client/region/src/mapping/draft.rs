//! Regions in the making: mapped, with a header and nothing behind it.
//!
//! A draft file has a name that nobody opens, so a crash while it is made leaves a dot-file and no half region. Who makes it
//! locks it, so that a draft without a lock is one of the dead (or one that began this very moment, whose maker is told).

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::open::map_file;
use super::{Mapping, RegionSpec};
use crate::error::{Error, Full};
use crate::layout::{EXTENT, Header, PAGE, SegmentKind, align_up};
use crate::os;

/// A region file without its name; removed unless published.
pub(crate) struct Draft {
    mapping: Arc<Mapping>,
    name: PathBuf,
    removal: Removal,
}

impl Draft {
    /// Makes `dir/.<name>.<tag>.tmp`, mode 0600, its fixed segments allocated and its header written.
    pub(crate) fn new(dir: &Path, spec: &RegionSpec) -> Result<Self, Error> {
        let header = Header::new(spec, os::random_bytes()?, os::clock::unix_ms())?;
        let folder = File::open(dir).map_err(|e| Error::io("open directory", Some(dir), e))?;
        os::fs::check_fit(folder.as_fd(), dir)?;
        let tag = u64::from_le_bytes(os::random_bytes()?);
        let draft = Removal(dir.join(format!(".{}.{tag:016x}.tmp", spec.name)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft.0)
            .map_err(|e| Error::io("create", Some(&draft.0), e))?;
        // Says that somebody is at it; the kernel takes the lock back from who is killed.
        file.lock().map_err(|e| Error::io("lock", Some(&draft.0), e))?;
        let fixed = fixed_bytes(&header);
        file.set_len(header.virtual_len).map_err(|e| Error::io("set length", Some(&draft.0), e))?;
        os::fs::allocate(file.as_fd(), 0, fixed).map_err(|e| match e {
            nix::Error::ENOSPC | nix::Error::EDQUOT => Full::Region {
                needed_bytes: fixed,
                free_bytes: os::fs::free_bytes(file.as_fd()),
                limit_bytes: spec.limit_bytes,
            }
            .into(),
            e => Error::io("fallocate", Some(&draft.0), e),
        })?;
        let map = map_file(&file, header.virtual_len, false, Some(&draft.0))?;
        let mapping = Mapping::new(map, Some(file), header, false)?;
        mapping.write_header(fixed)?;
        Ok(Self { mapping, name: dir.join(&spec.name), removal: draft })
    }

    /// What is to be filled before it is published.
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Gives the file its name, unless there is one of that name.
    pub(crate) fn publish(self) -> Result<Arc<Mapping>, Error> {
        renameat2(AT_FDCWD, &self.removal.0, AT_FDCWD, &self.name, RenameFlags::RENAME_NOREPLACE)
            .map_err(|e| Error::io("name", Some(&self.name), e))?;
        // The kept descriptor of a region holds no lock. Where this one stays, nobody asks for it.
        if let Some(file) = &self.mapping.file {
            let _ = file.unlock();
        }
        Ok(self.mapping)
    }
}

impl Mapping {
    /// Anonymous memory with a header and nothing behind it.
    pub(crate) fn blank(spec: &RegionSpec) -> Result<Arc<Self>, Error> {
        let header = Header::new(spec, os::random_bytes()?, os::clock::unix_ms())?;
        let fixed = fixed_bytes(&header);
        let mut options = MmapOptions::new();
        let map = options.len(header.virtual_len as usize).no_reserve_swap().map_anon();
        let map = map.map_err(|e| Error::io("mmap", None, e))?;
        let mapping = Mapping::new(MmapRaw::from(map), None, header, false)?;
        mapping.write_header(fixed)?;
        Ok(mapping)
    }

    fn write_header(&self, fixed: u64) -> Result<(), Error> {
        for extent in 0..fixed / EXTENT {
            self.extents().grant(extent, u64::MAX);
            self.extents().make_ready(extent);
        }
        self.copy_in(0, &self.header.encode())?;
        Ok(())
    }
}

/// The first bytes of the file, up to the end of the fixed segments' last extent.
fn fixed_bytes(header: &Header) -> u64 {
    let fixed = SegmentKind::ALL.into_iter().filter(|kind| kind.is_fixed());
    align_up(fixed.map(|kind| header.segment(kind).end()).max().unwrap_or(PAGE), EXTENT)
}

/// The region that a file in a region directory is a draft of, by its name alone.
pub fn draft_of(file_name: &str) -> Option<&str> {
    let (region, tag) = file_name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let is_tag = tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (is_tag && crate::name::region(region).is_ok()).then_some(region)
}

/// Removes the draft at `path` if whoever was making it is gone. False if somebody is at it.
///
/// # Errors
/// `Io`.
pub fn remove_abandoned(path: &Path) -> Result<bool, Error> {
    use nix::fcntl::OFlag;
    let flags = OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|e| Error::io("open", Some(path), e))?;
    match file.try_lock() {
        Ok(()) => std::fs::remove_file(path).map(|()| true).map_err(|e| Error::io("remove", Some(path), e)),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", Some(path), e)),
    }
}

/// Removes the draft's name when dropped. After the rename there is nothing by this name, which is as well.
struct Removal(PathBuf);

impl Drop for Removal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
