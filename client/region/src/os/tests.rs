//! With real processes: what a kill, a fork, a closed descriptor and a vanished page do.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::liveness::{self, Holder};
use crate::error::{Corrupt, Error, Misuse};
use crate::instances::{self, NewInstance};
use crate::layout::{RegionSpec, SegmentKind};
use crate::mapping::{Mapping, Word};
use crate::process::Process;
use crate::recover::{DeathProof, KeeperHold, keeper_is_dead, reclaim};
use crate::sync::Ordering;

const PART: &str = "HEIRLOOM_TEST_PART";
const REGION: &str = "HEIRLOOM_TEST_REGION";

fn region(dir: &tempfile::TempDir) -> Arc<Mapping> {
    let spec = RegionSpec { instances_max: 8, lanes_max: 8, slots_max: 64, ..RegionSpec::new("r", 4 << 20) };
    Mapping::create_file(dir.path(), &spec).unwrap()
}

fn shm() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// This test binary again, playing one part of [`play`]; what it prints first is returned.
fn start(part: &str, region: &std::path::Path) -> (Child, String) {
    start_by(Command::new(std::env::current_exe().unwrap()), part, region)
}

fn start_by(mut command: Command, part: &str, region: &std::path::Path) -> (Child, String) {
    let mut child = command
        .args(["os::tests::play", "--exact", "--nocapture"])
        .env(PART, part)
        .env(REGION, region)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find_map(|line| line.split_once("says ").map(|(_, word)| word.to_owned()));
    (child, said.unwrap_or_default())
}

/// Not a test by itself: the body of the processes that the other tests start. Alone it does nothing.
#[test]
fn play() {
    let Ok(part) = std::env::var(PART) else { return };
    let mapping = Mapping::open_file(std::path::Path::new(&std::env::var(REGION).unwrap()), false).unwrap();
    let fd = mapping.fd().unwrap();
    match part.as_str() {
        "hold" => {
            let _page = liveness::take_and_hold(fd, Holder::Instance(3)).unwrap().unwrap();
            // SAFETY: the child only sleeps, until it is killed.
            let grandchild = unsafe { libc::fork() };
            if grandchild == 0 {
                sleep_for_ever();
            }
            println!("says {grandchild}");
            sleep_for_ever();
        }
        "hold and close everything" => {
            let _page = liveness::take_and_hold(fd, Holder::Instance(3)).unwrap().unwrap();
            // SAFETY: as a daemon does; nobody here uses the descriptors again.
            unsafe { libc::close_range(3, u32::MAX, 0) };
            println!("says closed");
            sleep_for_ever();
        }
        "guard" => {
            super::sigbus::install().unwrap();
            let owned = mapping.segment(SegmentKind::Owned).offset;
            mapping.ensure(owned, 8).unwrap();
            mapping.word(owned).unwrap().store(7, Ordering::Relaxed);
            std::fs::OpenOptions::new()
                .write(true)
                .open(std::env::var(REGION).unwrap())
                .unwrap()
                .set_len(8192)
                .unwrap();
            let read = mapping.word(owned).map(|word| word.load(Ordering::Relaxed));
            println!("says {:?} {:?}", read.is_ok_and(|word| word != 0), mapping.poisoned().is_some());
            std::process::exit(0);
        }
        "fault elsewhere" => {
            super::sigbus::install().unwrap();
            let file = tempfile::tempfile_in("/dev/shm").unwrap();
            file.set_len(4096).unwrap();
            let page = memmap2::MmapOptions::new().len(4096).map_raw(&file).unwrap();
            file.set_len(0).unwrap();
            // SAFETY: mapped; that it faults is the point.
            let _ = unsafe { page.as_ptr().read_volatile() };
            println!("says survived");
        }
        "attach" => {
            let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
            let process = Process::attach(mapping.clone(), seat, lock).unwrap();
            let flags = instances::read(&mapping, seat.row).unwrap().unwrap().flags;
            println!("says {} {flags} {}", process.is_asymmetric(), super::membarrier::barrier().is_ok());
            std::process::exit(0);
        }
        "keep" => {
            let _hold = KeeperHold::take(&mapping).unwrap();
            println!("says kept");
            sleep_for_ever();
        }
        other => panic!("no part {other}"),
    }
}

fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no memory is involved; works in a forked child too.
        unsafe { libc::pause() };
    }
}

/// Another test of this binary may fork while a locked descriptor of ours is open; its child holds the lock until it execs
/// or ends. So deaths are awaited, with a bound.
fn becomes(state: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if state() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

fn becomes_free(mapping: &Mapping, holder: Holder) -> bool {
    becomes(|| liveness::is_free(mapping.fd().unwrap(), holder).unwrap())
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_killed_process_frees_its_byte_though_its_child_lives() {
    let dir = shm();
    let mapping = region(&dir);
    let byte = Holder::Instance(3);
    let (child, said) = start("hold", &dir.path().join("r"));
    let grandchild = super::pidfd::open(said.parse().unwrap()).unwrap();
    assert!(!liveness::is_free(mapping.fd().unwrap(), byte).unwrap());
    assert!(liveness::take(mapping.fd().unwrap(), byte).unwrap().is_none());
    assert!(liveness::is_free(mapping.fd().unwrap(), Holder::Instance(2)).unwrap(), "its neighbour's is free");
    kill(child);
    assert!(becomes_free(&mapping, byte));
    assert!(!super::pidfd::is_dead(grandchild.as_fd()), "and nothing of the dead was kept alive by it");
    super::pidfd::send_signal(grandchild.as_fd(), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn closing_every_descriptor_kills_nobody() {
    let dir = shm();
    let mapping = region(&dir);
    let (child, said) = start("hold and close everything", &dir.path().join("r"));
    assert_eq!(said, "closed");
    assert!(!liveness::is_free(mapping.fd().unwrap(), Holder::Instance(3)).unwrap());
    kill(child);
    assert!(becomes_free(&mapping, Holder::Instance(3)));
}

#[test]
fn a_vanished_page_reads_as_zero_and_poisons_its_region_only() {
    let dir = shm();
    drop(region(&dir));
    let (mut child, said) = start("guard", &dir.path().join("r"));
    assert!(child.wait().unwrap().success());
    assert_eq!(said, "false true", "the word was gone, and the mapping says so");
    let e = Mapping::open_file(&dir.path().join("r"), false).unwrap_err();
    assert!(matches!(e, Error::Corrupt(Corrupt::Truncated { found_bytes: 8192, .. })), "{e}");
}

#[test]
fn a_fault_outside_every_region_ends_the_process_as_ever() {
    let dir = shm();
    drop(region(&dir));
    let (mut child, said) = start("fault elsewhere", &dir.path().join("r"));
    assert_eq!((said.as_str(), child.wait().unwrap().signal()), ("", Some(libc::SIGBUS)));
}

#[test]
fn the_slot_mode_published_is_what_the_kernel_allows() {
    let dir = shm();
    let mapping = region(&dir);
    let mut without = Command::new(std::env::current_exe().unwrap());
    without.env(super::membarrier::DISABLE_VARIABLE, "1");
    let (mut child, said) = start_by(without, "attach", &dir.path().join("r"));
    assert!(child.wait().unwrap().success());
    assert_eq!(
        said,
        format!("false {} false", instances::flag::SYMMETRIC),
        "and no barrier is claimed to have been made"
    );
    let (mut child, said) = start("attach", &dir.path().join("r"));
    assert!(child.wait().unwrap().success());
    let asymmetric = super::membarrier::is_available();
    let flag = if asymmetric { instances::flag::ASYMMETRIC } else { instances::flag::SYMMETRIC };
    assert_eq!(said, format!("{asymmetric} {flag} {asymmetric}"));
    assert_eq!(instances::rows(&mapping).count(), 2, "the dead keep their rows until they are reclaimed");
}

#[test]
fn one_keeper_at_a_time_and_none_after_its_death() {
    let dir = shm();
    let mapping = region(&dir);
    assert!(keeper_is_dead(&mapping));
    let (child, said) = start("keep", &dir.path().join("r"));
    assert_eq!(said, "kept");
    assert!(!keeper_is_dead(&mapping));
    let e = KeeperHold::take(&mapping).unwrap_err();
    assert_eq!(e.to_string(), "another sidecar holds the region r");
    kill(child);
    assert!(becomes_free(&mapping, Holder::Sidecar));
    let hold = KeeperHold::take(&mapping).unwrap();
    assert!(KeeperHold::take(&mapping).is_err(), "also within one process");
    drop(hold);
    assert!(becomes(|| keeper_is_dead(&mapping)));
}

#[test]
fn a_forked_child_counts_into_nothing_and_may_not_grow_the_region() {
    for file in [true, false] {
        let dir = shm();
        let mapping = if file { region(&dir) } else { Mapping::heap(&RegionSpec::new("r", 4 << 20)).unwrap() };
        let arena = mapping.segment(SegmentKind::SharedArena).offset;
        mapping.ensure(arena, 8).unwrap();
        let word = Word::new(&mapping, arena).unwrap();
        word.store(5, Ordering::Relaxed);
        // SAFETY: the child makes system calls and touches mapped memory only, then exits without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let seen = word.fetch_add(1, Ordering::Relaxed);
            let refused =
                matches!(mapping.ensure(arena + (1 << 20), 8), Err(Error::Misuse(Misuse::Forked) | Error::Corrupt(_)));
            let code = i32::from(seen != 0) | i32::from(!mapping.is_forked_child()) << 1 | i32::from(!refused) << 2;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "status {status:#x}");
        assert_eq!(word.load(Ordering::Relaxed), 5, "the parent's count");
        assert!(!mapping.is_forked_child());
    }
}

#[test]
fn a_seat_is_dead_when_its_process_lets_go_and_is_reclaimed_once() {
    let dir = shm();
    for mapping in [region(&dir), Mapping::heap(&RegionSpec::new("r", 4 << 20)).unwrap()] {
        let hold = KeeperHold::take(&mapping).unwrap();
        let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
        assert_eq!(lock.is_some(), mapping.fd().is_some());
        assert!(DeathProof::by_lock(&mapping, seat.row).unwrap().is_none(), "alive while the descriptor travels");
        let process = Process::attach(mapping.clone(), seat, lock).unwrap();
        assert!(DeathProof::by_lock(&mapping, seat.row).unwrap().is_none() && !hold.is_dead(seat.incarnation));
        let second = Process::attach(mapping.clone(), instances::Seat { incarnation: 1, ..seat }, None).unwrap_err();
        assert_eq!(second.reason(), "INVALID_FIELD");
        drop(process);
        assert!(becomes(|| DeathProof::by_lock(&mapping, seat.row).unwrap().is_some()));
        let proof = DeathProof::by_lock(&mapping, seat.row).unwrap().unwrap();
        assert!(hold.is_dead(seat.incarnation));
        reclaim(&hold, proof).unwrap();
        reclaim(&hold, proof).unwrap();
        assert_eq!(instances::rows(&mapping).count(), 0);
        let (next, _lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
        assert_eq!(next.row, seat.row);
        assert_eq!(reclaim(&hold, proof).unwrap_err().reason(), "INVALID_FIELD", "a proof is of one incarnation");
        assert!(hold.is_dead(seat.incarnation), "in no row any more");
    }
}

#[test]
fn a_row_that_cannot_be_read_proves_nobody_dead_while_someone_lives_in_it() {
    let dir = shm();
    let mapping = region(&dir);
    let hold = KeeperHold::take(&mapping).unwrap();
    let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
    let process = Process::attach(mapping.clone(), seat, lock).unwrap();
    let row = instances::Row::of(&mapping, seat.row).unwrap();
    row.incarnation().fetch_xor(1 << 40, Ordering::Relaxed);
    assert!(!hold.is_dead(seat.incarnation));
    drop(process);
    assert!(becomes(|| hold.is_dead(seat.incarnation)));
}
