//! What a process can say about itself: its build, its user.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Hex digits of a build's default label.
const DIGITS: usize = 12;
/// A program header of type PT_NOTE.
const NOTE: u32 = 4;
/// A note of type NT_GNU_BUILD_ID.
const BUILD_ID: u32 = 3;
/// More headers, or a larger note, than a linker makes.
const HEADERS_MAX: u16 = 1024;
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// The user that this process acts as.
pub(crate) fn uid() -> u32 {
    fs::metadata("/proc/self").map_or(0, |meta| meta.uid())
}

/// The first digits of the executable's build id; where the linker made none, of a hash of the executable.
pub(crate) fn label() -> String {
    let exe = || File::open("/proc/self/exe");
    let id = exe().and_then(|file| build_id(&file)).ok().flatten();
    id.or_else(|| exe().and_then(hash).ok()).unwrap_or_else(|| "unknown".to_owned())
}

/// `None`: no such note, or no 64-bit little-endian ELF file.
fn build_id(exe: &File) -> io::Result<Option<String>> {
    let mut head = [0; 64];
    exe.read_exact_at(&mut head, 0)?;
    if head[..6] != *b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let (table, size, count) = (u64_at(&head, 32), u16_at(&head, 54), u16_at(&head, 56));
    for n in 0..count.min(HEADERS_MAX) {
        let mut header = [0; 56];
        exe.read_exact_at(&mut header, table.saturating_add(u64::from(n) * u64::from(size)))?;
        let len = u64_at(&header, 32);
        if u32_at(&header, 0) != NOTE || len > NOTE_BYTES_MAX {
            continue;
        }
        let mut notes = vec![0; len as usize];
        exe.read_exact_at(&mut notes, u64_at(&header, 8))?;
        if let Some(id) = find_in(&notes) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Notes are `{name length, length, type}`, then name and bytes, each padded to 4.
fn find_in(mut notes: &[u8]) -> Option<String> {
    while notes.len() >= 12 {
        let pad = |n: u32| (n as usize).checked_next_multiple_of(4);
        let (name, len, kind) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8));
        let from = 12usize.checked_add(pad(name)?)?;
        let bytes = notes.get(from..from.checked_add(len as usize)?)?;
        if kind == BUILD_ID && notes.get(12..16) == Some(b"GNU\0") && !bytes.is_empty() {
            return Some(bytes.iter().take(DIGITS / 2).map(|b| format!("{b:02x}")).collect());
        }
        notes = notes.get(from.checked_add(pad(len)?)?..)?;
    }
    None
}

/// FNV-1a, 64 bits: it tells builds apart and nothing more.
fn hash(mut exe: File) -> io::Result<String> {
    let (mut hash, mut buffer) = (0xcbf2_9ce4_8422_2325_u64, vec![0; 1 << 16]);
    loop {
        match exe.read(&mut buffer)? {
            0 => return Ok(format!("{hash:016x}")[..DIGITS].to_owned()),
            n => {
                for byte in &buffer[..n] {
                    hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_a_label() {
        let label = label();
        assert_eq!(label.len(), DIGITS, "{label}");
        assert!(label.bytes().all(|b| b.is_ascii_hexdigit()), "{label}");
        assert_eq!(label, super::label());
    }

    #[test]
    fn a_build_id_is_found_among_notes() {
        let mut notes = vec![4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
        notes.extend(b"GNU\0\x09\0\0\0");
        notes.extend([4, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0]);
        notes.extend(b"GNU\0\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(find_in(&notes).as_deref(), Some("010203040506"));
        for end in 0..notes.len() {
            assert_eq!(find_in(&notes[..end]), None);
        }
        assert_eq!(find_in(&[0xff; 64]), None);
    }
}
