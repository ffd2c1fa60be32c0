//! Regions that exist: opened by path, or received as a descriptor.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Mapping;
use crate::error::{Corrupt, Error, Misuse};
use crate::layout::{PAGE, Segment, SegmentKind, UncheckedHeader};

impl Mapping {
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
}

pub(super) fn map_file(file: &File, len: u64, read_only: bool, path: Option<&Path>) -> Result<MmapRaw, Error> {
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
