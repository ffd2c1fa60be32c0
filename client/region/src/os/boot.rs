//! What tells one boot of a host, and one life of a pid, from another.

use crate::error::{Corrupt, Error};
use std::path::Path;

/// The id of this boot: random, one for all processes and containers of the host.
///
/// # Errors
/// `Io` without `/proc`, `Corrupt` if the kernel's answer is not a UUID.
pub fn boot_id() -> Result<[u8; 16], Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", Some(path), e))?;
    parse_uuid(text.trim()).ok_or_else(|| {
        Corrupt::Identity { what: "boot id", expected: "a UUID".into(), found: text.escape_debug().to_string() }.into()
    })
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let nibble = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut id = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(id)
}

/// When the process with this pid (in our own namespace) started, in clock ticks since boot.
///
/// # Errors
/// `Io` if there is no such process, `Corrupt` if the kernel's answer cannot be read.
pub fn start_ticks(pid: u32) -> Result<u64, Error> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read(&path).map_err(|e| Error::io("read", Some(Path::new(&path)), e))?;
    parse_start(&text).ok_or_else(|| {
        let found = text.escape_ascii().to_string();
        Corrupt::Identity { what: "process start time", expected: "22 fields".into(), found }.into()
    })
}

/// Whether the process with this pid (in our own namespace) has the file with this device and inode mapped. No, where we may
/// not look.
pub fn has_mapped(pid: u32, (device, inode): (u64, u64)) -> bool {
    let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) else { return false };
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let wanted = (format!("{major:02x}:{minor:02x}"), inode.to_string());
    maps.split(|b| *b == b'\n').any(|line| {
        // address, permissions, offset, device, inode, path; the path may hold anything.
        let mut fields = line.split(|b| *b == b' ').filter(|field| !field.is_empty()).skip(3);
        (fields.next(), fields.next()) == (Some(wanted.0.as_bytes()), Some(wanted.1.as_bytes()))
    })
}

/// Field 22 of `stat`; the second one, the command, is in parentheses and may hold anything.
fn parse_start(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = b"12 (a) 9 (b c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_start(stat), Some(4242));
        assert_eq!(parse_start(b"12 (a) S 1 2"), None);
        assert_eq!(parse_start(b""), None);
    }

    #[test]
    fn this_boot_and_this_process_have_one_answer() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), [0; 16]);
        assert_eq!(start_ticks(std::process::id()).unwrap(), start_ticks(std::process::id()).unwrap());
        assert!(start_ticks(u32::MAX).is_err());
        assert_eq!(parse_uuid("not a uuid"), None);
    }

    #[test]
    fn who_maps_a_file_is_told_from_who_does_not() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let spec = crate::layout::RegionSpec::new("r", 4 << 20);
        let mapping = crate::mapping::Mapping::create_file(dir.path(), &spec).unwrap();
        let (file, me) = (mapping.identity(), std::process::id());
        assert!(has_mapped(me, file));
        assert!(!has_mapped(me, (file.0, file.1 ^ 1 << 40)) && !has_mapped(me, (file.0 + 1, file.1)));
        assert!(!has_mapped(u32::MAX, file));
        drop(mapping);
        assert!(!has_mapped(me, file));
    }
}
