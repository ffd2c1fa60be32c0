//! Who has a descriptor of which accepted connection, as the kernel shows it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;

/// The established connections to `to` (IPv4, of this network namespace), by the server side's inode, with those of `pids` that
/// have a descriptor of it.
///
/// # Errors
/// If `/proc` does not say, of a process that is gone, say.
pub fn holders(to: SocketAddr, pids: &[u32]) -> io::Result<BTreeMap<u64, Vec<u32>>> {
    let mut all = BTreeMap::new();
    for line in fs::read_to_string("/proc/net/tcp")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1).and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
        if port == Some(to.port())
            && words.get(3) == Some(&"01")
            && let Some(inode) = words.get(9).and_then(|inode| inode.parse().ok())
        {
            all.insert(inode, Vec::new());
        }
    }
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            // One that was closed meanwhile.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let inode =
                target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(pids) = inode.and_then(|inode: u64| all.get_mut(&inode)) {
                pids.push(*pid);
            }
        }
    }
    Ok(all)
}

/// Whether there are `n` of them, each held by `pid` and by nobody else; if not, what was found.
///
/// # Errors
/// What was found.
pub fn all_held_by(pid: u32, n: u64, to: SocketAddr, pids: &[u32]) -> Result<(), String> {
    let all = holders(to, pids).map_err(|e| e.to_string())?;
    let mut found: BTreeMap<&[u32], u64> = BTreeMap::new();
    for pids in all.values() {
        *found.entry(pids).or_default() += 1;
    }
    let alone = [pid];
    let expected: BTreeMap<&[u32], u64> = (n > 0).then_some((&alone[..], n)).into_iter().collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("connections by their holders {found:?}, not {expected:?}")),
    }
}
