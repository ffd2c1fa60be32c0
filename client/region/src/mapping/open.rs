//! How a mapping comes to be: created, opened by path, received as a descriptor, or on the heap.
//!
//! A new file gets its name last, so a crash while it is made leaves a dot-file that nobody opens.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, OFlag, RenameFlags, fcntl, renameat2};

use super::{Mapping, RegionSpec};
use crate::error::{Corrupt, Error, Misuse};
use crate::layout::{EXTENT, Header, PAGE, Segment, SegmentKind, UncheckedHeader, align_up};
use crate::os;
use crate::sync::Ordering;

impl Mapping {
    /// Creates `dir/<name>`, complete before it has its name; mode 0600.
    ///
    /// # Errors
    /// `Misuse` for a spec or a file system that a region cannot have, `Full` without space, `Io` (also where the name
    /// exists already).
    pub fn create_file(dir: &Path, spec: &RegionSpec) -> Result<Arc<Self>, Error> {
        let header = Header::new(spec, os::random_bytes()?, os::clock::unix_ms())?;
        let path = dir.join(&spec.name);
        let folder = File::open(dir).map_err(|e| Error::io("open directory", Some(dir), e))?;
        os::fs::check_fit(folder.as_fd(), dir)?;
        let tag = u64::from_le_bytes(os::random_bytes()?);
        let draft = Draft(dir.join(format!(".{}.{tag:016x}.tmp", spec.name)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft.0)
            .map_err(|e| Error::io("create", Some(&draft.0), e))?;
        let fixed = fixed_bytes(&header);
        file.set_len(header.virtual_len).map_err(|e| Error::io("set length", Some(&draft.0), e))?;
        os::fs::allocate(file.as_fd(), 0, fixed).map_err(|e| match e {
            nix::Error::ENOSPC | nix::Error::EDQUOT => crate::error::Full::Region {
                needed_bytes: fixed,
                free_bytes: os::fs::free_bytes(file.as_fd()),
                limit_bytes: spec.limit_bytes,
            }
            .into(),
            e => Error::io("fallocate", Some(&draft.0), e),
        })?;
        let map = map_file(&file, header.virtual_len, false, Some(&draft.0))?;
        let mapping = Mapping::new(map, Some(file), header, false)?;
        mapping.format(fixed)?;
        renameat2(nix::fcntl::AT_FDCWD, &draft.0, nix::fcntl::AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE)
            .map_err(|e| Error::io("name", Some(&path), e))?;
        Ok(mapping)
    }

    /// Opens the region file at `path`; its header is verified fully before anything else is read.
    ///
    /// # Errors
    /// `Corrupt` for a foreign, truncated or damaged file, `Incompatible` for another format, `Io`.
    pub fn open_file(path: &Path, read_only: bool) -> Result<Arc<Self>, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|e| Error::io("open", Some(path), e))?;
        Self::open(file, read_only, Some(path))
    }

    /// Maps the region behind a received descriptor; read-only if the descriptor is.
    ///
    /// # Errors
    /// As [`Mapping::open_file`]; `Corrupt` too if the region has another UUID than the one expected.
    pub fn from_fd(fd: OwnedFd, expected_uuid: Option<[u8; 16]>) -> Result<Arc<Self>, Error> {
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|e| Error::io("fcntl F_GETFL", None, e))?;
        let mode = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
        if mode == OFlag::O_WRONLY {
            return Err(Misuse::Argument { what: "region descriptor", found: "opened for writing only".into() }.into());
        }
        let mapping = Self::open(File::from(fd), mode == OFlag::O_RDONLY, None)?;
        match expected_uuid {
            Some(expected) if expected != mapping.uuid() => {
                let (expected, found) = (hex(&expected), hex(&mapping.uuid()));
                Err(Corrupt::Identity { what: "region uuid", expected, found }.into())
            }
            _ => Ok(mapping),
        }
    }

    /// A region in this process' own memory: for one process, and for tests.
    ///
    /// # Errors
    /// `Misuse` for a spec that a region cannot have, `Io` without address space.
    pub fn heap(spec: &RegionSpec) -> Result<Arc<Self>, Error> {
        let header = Header::new(spec, os::random_bytes()?, os::clock::unix_ms())?;
        let fixed = fixed_bytes(&header);
        let mut options = MmapOptions::new();
        let map = options.len(header.virtual_len as usize).no_reserve_swap().map_anon();
        let map = map.map_err(|e| Error::io("mmap", None, e))?;
        let mapping = Mapping::new(MmapRaw::from(map), None, header, false)?;
        mapping.format(fixed)?;
        Ok(mapping)
    }

    fn open(file: File, read_only: bool, path: Option<&Path>) -> Result<Arc<Self>, Error> {
        let meta = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        if !meta.is_file() {
            let found =
                format!("{} is not a regular file", path.map_or("the descriptor".into(), |p| p.display().to_string()));
            return Err(Misuse::Argument { what: "region file", found }.into());
        }
        let mut first = vec![0; meta.len().min(PAGE) as usize];
        file.read_exact_at(&mut first, 0).map_err(|e| Error::io("read header", path, e))?;
        let header = UncheckedHeader::new(&first, meta.len()).check()?;
        let map = map_file(&file, header.virtual_len, read_only, path)?;
        let mapping = Mapping::new(map, Some(file), header, read_only)?;
        mapping.check_fixed()?;
        Ok(mapping)
    }

    /// The fixed segments must be ready: everything relies on it from here on.
    fn check_fixed(&self) -> Result<(), Error> {
        for kind in SegmentKind::ALL.into_iter().filter(|kind| kind.is_fixed()) {
            let Segment { offset, len } = self.segment(kind);
            self.check(kind.name(), offset, Some(len), 8)?;
        }
        Ok(())
    }

    fn format(&self, fixed: u64) -> Result<(), Error> {
        self.granted().store(fixed / EXTENT, Ordering::Relaxed);
        for extent in 0..fixed / EXTENT {
            self.bitmap_words()[(extent / 64) as usize].fetch_or(1 << (extent % 64), Ordering::Relaxed);
        }
        self.copy_in(0, &self.header.encode())?;
        crate::recover::format(self)
    }
}

/// The first bytes of the file, up to the end of the fixed segments' last extent.
fn fixed_bytes(header: &Header) -> u64 {
    let fixed = SegmentKind::ALL.into_iter().filter(|kind| kind.is_fixed());
    align_up(fixed.map(|kind| header.segment(kind).end()).max().unwrap_or(PAGE), EXTENT)
}

fn map_file(file: &File, len: u64, read_only: bool, path: Option<&Path>) -> Result<MmapRaw, Error> {
    let mut options = MmapOptions::new();
    options.len(len as usize);
    let map = if read_only { options.map_raw_read_only(file) } else { options.map_raw(file) };
    map.map_err(|e| Error::io("mmap", path, e))
}

pub(super) fn identity(file: &File) -> Result<(u64, u64), Error> {
    let meta = file.metadata().map_err(|e| Error::io("stat", None, e))?;
    Ok((meta.dev(), meta.ino()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A file that has no name yet for others; gone unless renamed.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing by this name, which is as well.
        let _ = std::fs::remove_file(&self.0);
    }
}
