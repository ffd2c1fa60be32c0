//! Owners that are processes of their own, and really killed.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::people::{One, status};
use super::real::{Real, seat, write};
use crate::arbiter::*;
use crate::instances::Seat;
use crate::mapping::Mapping;
use crate::process::Process;

const CHILD: &str = "HEIRLOOM_TEST_ARBITER_CHILD";

/// Not a test of its own: the body of a child process that owns and never leaves its section.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let mut arguments = arguments.split(' ');
    let mut next = || arguments.next().expect("an argument");
    let (path, row, incarnation) = (next().to_owned(), next().parse().expect("row"), next().parse().expect("id"));
    let fd: i32 = next().parse().expect("a descriptor");
    // SAFETY: the parent left exactly this descriptor open for us, and nobody else here knows it.
    let liveness = unsafe { OwnedFd::from_raw_fd(fd) };
    let mapping = Mapping::open_file(path.as_ref(), false).expect("a region");
    let process = Process::attach(mapping, Seat { row, incarnation }, Some(liveness)).expect("attached");
    println!("attached");
    let generation = loop {
        match process.learn() {
            Ok(generation) => break generation,
            Err(_) => std::thread::yield_now(),
        }
    };
    let _section = process.enter(generation).expect("the owner's section");
    println!("inside");
    loop {
        std::thread::park();
    }
}

/// A child process in the seat of `one`; awaits the line `attached`.
fn spawn_child(real: &Real, dir: &std::path::Path, one: &mut One) -> (Child, Lines) {
    let liveness = one.welcome.liveness.take().expect("a descriptor");
    let fd = liveness.as_raw_fd();
    let path = dir.join(real.mapping.name());
    let arguments = format!("{} {} {} {fd}", path.display(), seat(one).row, one.id());
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "arbiter::tests::killed::child", "--nocapture"]).env(CHILD, arguments);
    // SAFETY: between fork and exec only one system call is made, which may be.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a child");
    drop(liveness);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    await_line(&mut lines, "attached");
    (child, lines)
}

type Lines = std::io::Lines<BufReader<ChildStdout>>;

fn await_line(lines: &mut Lines, word: &str) {
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with(word))), "the child ended before it said {word}");
}

fn hello_of(child_pid: u32) -> Hello {
    Hello { version: "1.0.0".into(), pid: child_pid, ..Hello::default() }
}

#[test]
fn force_kills_an_owner_that_does_not_quiesce_and_waits_for_proof() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
    let real = Real::file(dir.path());
    let mut old = real.one(hello_of(0));
    let (mut child, mut lines) = spawn_child(&real, dir.path(), &mut old);
    // Its pidfd comes with the stream: it comes back with one, as over a socket.
    let pidfd = crate::os::pidfd::open(child.id()).expect("alive");
    let resume = Some((old.name().to_owned(), old.welcome.resume_token));
    let old = One::attach_with(&real.arbiter, Hello { resume, ..hello_of(0) }, Some(pidfd)).expect("resumed");
    old.ready();
    old.agree(Hook::Prepare);
    real.until_owner(&old);
    await_line(&mut lines, "inside");
    let (new, new_process) = real.here("2.0.0");
    let precopy_timeout = Some(Duration::from_millis(100));
    let options = SwitchOptions { precopy_timeout, force: true, ..SwitchOptions::default() };
    let asked = real.ask(&new, options);
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.outcome, record.forced), (Outcome::Committed, true), "{record:?}");
    assert!(!child.wait().expect("reaped").success());
    let generation = new_process.learn().expect("it owns");
    assert_eq!(generation.get(), record.generation);
    write(&new_process, generation, 1).expect("and writes");
    let status = status(&real.arbiter);
    assert_eq!((status.instances.len(), status.state), (1, State::Owned));
}

#[test]
fn a_killed_owner_without_a_handle_is_found_dead_by_its_lock() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
    let real = Real::file(dir.path());
    let mut old = real.one(hello_of(0));
    let (mut child, mut lines) = spawn_child(&real, dir.path(), &mut old);
    old.ready();
    old.agree(Hook::Prepare);
    real.until_owner(&old);
    await_line(&mut lines, "inside");
    let (new, new_process) = real.here("2.0.0");
    child.kill().expect("alive");
    child.wait().expect("reaped");
    new.agree(Hook::Prepare);
    let seen = real.until_owner(&new);
    assert_eq!((seen.generation, seen.instances.len()), (3, 1));
    assert_eq!(new_process.learn().expect("it owns").get(), 3);
    let newest = Arbiter::ask(super::SOON, |reply| real.arbiter.history(1, None, reply)).expect("an answer");
    assert_eq!((newest[0].kind, newest[0].cause), (Kind::Promotion, Cause::OwnerDied));
}
