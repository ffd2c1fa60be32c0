//! What the kernel and whatever stands before it allow.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use heirloom_region::os::{membarrier, pidfd};
use nix::sys::resource::{Resource, getrlimit};

use super::{good, missing, warning};
use crate::output::Check;

const FILES_MIN: u64 = 1024;
/// The first kernel with pidfd_open, F_OFD locks on tmpfs and membarrier's GLOBAL_EXPEDITED.
const KERNEL_MIN: (u32, u32) = (5, 4);

pub(super) fn checks() -> Vec<Check> {
    vec![kernel(), barrier(), handles(), peers(), seccomp(), files()]
}

fn kernel() -> Check {
    let name = "kernel";
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let proc_version = std::fs::read_to_string("/proc/version").unwrap_or_default();
    if proc_version.contains("gVisor") {
        return warning(
            name,
            format!("gVisor ({release})"),
            "system calls are emulated; the gate runs symmetric and switches take longer",
        );
    }
    match version(&release) {
        Some(found) if found >= KERNEL_MIN => good(name, release),
        Some(_) => missing(name, release, format!("Linux {}.{} or newer is needed", KERNEL_MIN.0, KERNEL_MIN.1)),
        None => warning(name, format!("{release:?}"), "its version could not be read"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn barrier() -> Check {
    let name = "membarrier";
    let symmetric =
        "the gate runs symmetric: an owned write costs some 2 ns more; allow membarrier in the seccomp profile";
    if !membarrier::is_available() {
        return warning(name, "GLOBAL_EXPEDITED is missing or forbidden", symmetric);
    }
    if !membarrier::register() {
        return warning(name, "registering for GLOBAL_EXPEDITED is refused", symmetric);
    }
    match membarrier::barrier() {
        Ok(()) => good(name, "GLOBAL_EXPEDITED"),
        Err(e) => warning(name, e, symmetric),
    }
}

fn handles() -> Check {
    match pidfd::open(std::process::id()) {
        Ok(handle) if !pidfd::is_dead(handle.as_fd()) => good("pidfd", "pidfd_open"),
        Ok(_) => missing("pidfd", "pidfd_open calls this living process dead", "deaths cannot be proved here"),
        Err(e) => warning("pidfd", e, "deaths are proved by OFD locks alone, and --force is not available"),
    }
}

fn peers() -> Check {
    let name = "SO_PEERPIDFD";
    let found = UnixStream::pair().map_err(|e| e.to_string());
    match found.and_then(|(stream, _other)| pidfd::of_peer(stream.as_fd()).map_err(|e| e.to_string())) {
        Ok(_) => good(name, "the peer of a socket can be held"),
        Err(e) => warning(name, e, "Linux 6.5 has it; until then processes are found by pid and start time"),
    }
}

fn seccomp() -> Check {
    let name = "seccomp";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("0") => good(name, "off"),
        Some("1") => warning(name, "strict mode", "the sidecar cannot run in strict mode"),
        Some("2") => good(name, "a filter is active; the checks above tried what is needed"),
        _ => warning(
            name,
            "not told by /proc/self/status",
            "if something above is missing, look at the container's profile",
        ),
    }
}

fn files() -> Check {
    let name = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft >= FILES_MIN => good(name, format!("{soft} (hard limit {hard})")),
        Ok((soft, hard)) => warning(
            name,
            format!("{soft} (hard limit {hard})"),
            format!("raise it to {FILES_MIN} or more: ulimit -n, LimitNOFILE="),
        ),
        Err(e) => warning(name, e, "the limit could not be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, expected) in
            [("6.12.3-amd64", Some((6, 12))), ("5.4", Some((5, 4))), ("4.4.0", Some((4, 4))), ("", None), ("x", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
