//! What the directory of the regions allows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use heirloom_region::os::{fs, liveness};
use nix::fcntl::OFlag;
use nix::sys::statfs::{Statfs, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Uid, User};

use super::super::print::bytes;
use super::{good, missing, warning};
use crate::output::Check;

const FREE_MIN: u64 = 64 << 20;
/// Users above are people to systemd; their shared memory goes with their last session.
const SYSTEM_UID_MAX: u32 = 999;

pub(super) fn checks(region_dir: &Path) -> Vec<Check> {
    let there = nearest(region_dir);
    if !there.is_dir() {
        let advice = "give --region-dir a directory, or a place where one can be made";
        return vec![missing("region directory", format!("{} is not a directory", there.display()), advice)];
    }
    let mut checks = Vec::new();
    match File::open(&there) {
        Ok(dir) => {
            checks.extend(directory(&dir, region_dir, &there));
            checks.push(locks(&there));
        }
        Err(e) => {
            let advice = "give --region-dir a directory that this user may use";
            checks.push(missing("region directory", format!("{}: {e}", there.display()), advice));
        }
    }
    checks.push(remove_ipc(region_dir));
    checks
}

/// The directory itself, or the one in which it would be made; or a file that stands in the way.
fn nearest(region_dir: &Path) -> PathBuf {
    let there = region_dir.ancestors().find(|p| p.symlink_metadata().is_ok());
    match there {
        Some(there) => there.to_path_buf(),
        // Every absolute path has "/" above it, so this one is relative.
        None => PathBuf::from("."),
    }
}

fn directory(dir: &File, region_dir: &Path, there: &Path) -> Vec<Check> {
    let name = "region directory";
    let stat = match fstatfs(dir) {
        Ok(stat) => stat,
        Err(e) => return vec![missing(name, format!("{}: {e}", there.display()), "statfs must work")],
    };
    let note = if there == region_dir { "" } else { ", not made yet" };
    let found = format!("{} on {}{note}", region_dir.display(), kind(&stat));
    let check = match fs::check_fit(dir.as_fd(), there) {
        Err(e) => missing(name, e, "choose tmpfs, ext4 or xfs"),
        Ok(()) if stat.filesystem_type() == TMPFS_MAGIC => good(name, found),
        Ok(()) => warning(name, found, "a region on disk survives a reboot but is written back; tmpfs is the default"),
    };
    vec![check, space(&stat)]
}

fn kind(stat: &Statfs) -> String {
    if stat.filesystem_type() == TMPFS_MAGIC {
        "tmpfs".to_owned()
    } else {
        format!("file system {:#x}", stat.filesystem_type().0)
    }
}

fn space(stat: &Statfs) -> Check {
    let block = u64::try_from(stat.block_size()).unwrap_or(0);
    let free = stat.blocks_available().saturating_mul(block);
    let total = stat.blocks().saturating_mul(block);
    let found = format!("{} free of {}", bytes(free), bytes(total));
    if free < FREE_MIN {
        return warning(
            "space",
            found,
            "a region that cannot grow answers REGION_FULL; mount a larger tmpfs (size=) or --shm-size",
        );
    }
    good("space", found)
}

/// Tries a lock on a file without a name in the very directory.
fn locks(there: &Path) -> Check {
    let name = "OFD locks";
    let tried = || -> io::Result<bool> {
        let flags = OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags.bits()).open(there)?;
        let text = |e: heirloom_region::error::Error| io::Error::other(e.to_string());
        let held = liveness::take(file.as_fd(), liveness::Holder::Sidecar).map_err(text)?;
        Ok(held.is_some() && !liveness::is_free(file.as_fd(), liveness::Holder::Sidecar).map_err(text)?)
    };
    match tried() {
        Ok(true) => good(name, "a held lock is seen"),
        Ok(false) => missing(name, "a held lock is not seen", "deaths cannot be proved on this file system"),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            warning(name, format!("{}: {e}", there.display()), "run doctor as the user that runs the sidecar")
        }
        Err(e) => missing(name, format!("{}: {e}", there.display()), "fcntl F_OFD_SETLK must work there"),
    }
}

/// systemd-logind removes a person's files in /dev/shm at the end of the last session.
fn remove_ipc(region_dir: &Path) -> Check {
    let name = "RemoveIPC";
    let uid = Uid::effective();
    if !Path::new("/run/systemd/system").exists() {
        return good(name, "no systemd here");
    }
    if uid.as_raw() <= SYSTEM_UID_MAX {
        return good(name, format!("uid {uid} is a system user"));
    }
    if !region_dir.starts_with("/dev/shm") {
        return good(name, "the region directory is not in /dev/shm");
    }
    let user = User::from_uid(uid).ok().flatten().map(|u| u.name).unwrap_or_default();
    if Path::new("/var/lib/systemd/linger").join(&user).exists() {
        return good(name, format!("{user} lingers"));
    }
    if is_switched_off() {
        return good(name, "switched off in logind.conf");
    }
    let advice =
        "regions vanish with the last session of this user: loginctl enable-linger, RemoveIPC=no, or a system user";
    warning(name, format!("uid {uid} is no system user"), advice)
}

fn is_switched_off() -> bool {
    let mut files = vec![PathBuf::from("/etc/systemd/logind.conf")];
    if let Ok(more) = std::fs::read_dir("/etc/systemd/logind.conf.d") {
        let mut more: Vec<_> = more.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    // The last word counts.
    let words: Vec<_> = texts.collect();
    let last =
        words.iter().flat_map(|t| t.lines()).filter_map(|line| line.trim().strip_prefix("RemoveIPC=")).next_back();
    matches!(last, Some("no" | "false" | "0" | "off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_way_is_no_region_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for wanted in [file.clone(), file.join("regions")] {
            let found = checks(&wanted);
            assert_eq!(found[0].found, format!("{} is not a directory", file.display()), "{found:?}");
        }
        assert_eq!(nearest(&dir.path().join("a/b")), dir.path());
        assert_eq!(nearest(Path::new("none/such")), Path::new("."));
    }
}
