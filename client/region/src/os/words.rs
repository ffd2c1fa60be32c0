//! A few words that two processes share, to decide between them who holds a thing; and bytes that pass by descriptor.
//!
//! Both lie in sealed memory files: a peer can write any value, but can neither shrink one (which would be SIGBUS here) nor
//! take it away. A killed peer leaves each word as it was after its last instruction.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Error, Misuse};
use crate::os::Registered;

/// Words in one set.
pub const WORDS: usize = 512;
const BYTES: usize = WORDS * 8;

/// [`WORDS`] words, zero at first, mapped in every process that has the descriptor.
#[derive(Debug)]
pub struct SharedWords {
    _registered: Registered,
    page: MmapRaw,
}

impl SharedWords {
    /// New words, and the descriptor that shares them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create() -> Result<(Self, OwnedFd), Error> {
        let file = sealed(&[0; BYTES])?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps words that another process created.
    ///
    /// # Errors
    /// [`Error::Misuse`] if it is no file of so many words that stays as long as it is; [`Error::Io`].
    pub fn open(file: &OwnedFd) -> Result<Self, Error> {
        check_seals(file)?;
        let found = len(file)?;
        match found == BYTES as u64 {
            true => Self::map(file),
            false => Err(wrong("shared words", format!("{found} bytes, not {BYTES}"))),
        }
    }

    fn map(file: &OwnedFd) -> Result<Self, Error> {
        let page = MmapOptions::new().len(BYTES).map_raw(file).map_err(|e| Error::io("mmap", None, e))?;
        let registered = Registered::new(page.as_ptr(), BYTES as u64)?;
        page.advise(Advice::DontFork).map_err(|e| Error::io("madvise DONTFORK", None, e))?;
        Ok(Self { _registered: registered, page })
    }

    /// The word with this index, if there is one.
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: the index is within the mapping, which is page-aligned, writable, sealed against shrinking and lives as long
        // as `self`; in a forked child the fork handler has put private zero pages there. All access is atomic.
        (index < WORDS).then(|| unsafe { &*self.page.as_mut_ptr().cast::<AtomicU64>().add(index) })
    }
}

/// Puts bytes into a file that nobody can change any more.
///
/// # Errors
/// [`Error::Io`].
pub fn put(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let file = sealed(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).map_err(|e| Error::io("fcntl F_ADD_SEALS", None, e))?;
    Ok(file)
}

/// Reads what [`put`] wrote, which is `expected` bytes.
///
/// # Errors
/// [`Error::Misuse`] if it is not; [`Error::Io`].
pub fn take(file: OwnedFd, expected: u64) -> Result<Vec<u8>, Error> {
    check_seals(&file)?;
    let found = len(&file)?;
    if found != expected {
        return Err(wrong("passed file", format!("{found} bytes, not {expected}")));
    }
    let mut bytes = vec![0; found as usize];
    std::fs::File::from(file).read_exact_at(&mut bytes, 0).map_err(|e| Error::io("read", None, e))?;
    Ok(bytes)
}

fn sealed(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"heirloom", flags).map_err(|e| Error::io("memfd_create", None, e))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).map_err(|e| Error::io("write", None, e))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|e| Error::io("fcntl F_ADD_SEALS", None, e))?;
    Ok(file.into())
}

fn wrong(what: &'static str, found: String) -> Error {
    Misuse::Argument { what, found }.into()
}

fn check_seals(file: &OwnedFd) -> Result<(), Error> {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|e| Error::io("fcntl F_GET_SEALS", None, e))?;
    match SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
        true => Ok(()),
        false => Err(wrong("passed file", format!("seals {seals:#x}, none against shrinking"))),
    }
}

fn len(file: &OwnedFd) -> Result<u64, Error> {
    let file = file.try_clone().map_err(|e| Error::io("dup", None, e))?;
    std::fs::File::from(file).metadata().map(|meta| meta.len()).map_err(|e| Error::io("fstat", None, e))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_sides_see_one_word_and_one_swap_wins() {
        let (ours, file) = SharedWords::create().unwrap();
        let theirs = SharedWords::open(&file).unwrap();
        let (a, b) = (ours.get(WORDS - 1).unwrap(), theirs.get(WORDS - 1).unwrap());
        a.store(5, Ordering::Release);
        assert!(b.compare_exchange(5, 6, Ordering::AcqRel, Ordering::Acquire).is_ok());
        assert_eq!(a.compare_exchange(5, 7, Ordering::AcqRel, Ordering::Acquire), Err(6));
        assert!(ours.get(WORDS).is_none());
    }

    #[test]
    fn what_can_shrink_or_has_another_length_is_refused() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        SharedWords::open(&file).expect_err("a file without seals");
        assert!(SharedWords::open(&put(b"short").unwrap()).unwrap_err().to_string().contains("4096"));
        assert_eq!(take(put(b"bytes").unwrap(), 5).unwrap(), b"bytes");
        assert!(take(put(b"bytes").unwrap(), 6).is_err());
    }
}
