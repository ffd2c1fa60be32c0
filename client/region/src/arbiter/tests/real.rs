//! The arbiter over real regions: on the heap with threads, and in a file with processes that are really killed.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fake::{Asked, One, status, until};
use crate::arbiter::*;
use crate::digest::Keeper;
use crate::error::{Generation, WriteError};
use crate::instances::Seat;
use crate::layout::RegionSpec;
use crate::mapping::Mapping;
use crate::objects::{CellSpec, MetricDesc, Part, open_cell, open_counter};
use crate::process::Process;

const LIMIT: u64 = 64 << 20;

struct Real {
    mapping: Arc<Mapping>,
    arbiter: Arbiter,
}

impl Real {
    fn over(mapping: Arc<Mapping>, policy: Policy) -> Self {
        let (keeper, _) = Keeper::open(Arc::clone(&mapping)).expect("a keeper");
        let arbiter = Arbiter::spawn(keeper, policy, Box::new(|_| ())).expect("a thread");
        Self { mapping, arbiter }
    }
    fn heap() -> Self {
        Self::over(Mapping::heap(&RegionSpec::new("shop", LIMIT)).expect("memory"), Policy::default())
    }
    fn file(dir: &std::path::Path) -> Self {
        Self::over(Mapping::create_file(dir, &RegionSpec::new("shop", LIMIT)).expect("a file"), Policy::default())
    }
    fn one(&self, hello: Hello) -> One {
        One::attach(&self.arbiter, hello).expect("a seat")
    }
    /// An instance that is this process.
    fn here(&self, version: &str) -> (One, Arc<Process>) {
        let mut one = self.one(Hello { version: version.into(), ..Hello::default() });
        let liveness = one.welcome.liveness.take();
        let process = Process::attach(Arc::clone(&self.mapping), seat(&one), liveness).expect("attached");
        one.ready();
        (one, process)
    }
    fn ask(&self, to: &One, options: SwitchOptions) -> Asked {
        let request = SwitchRequest { target: Target::Instance(to.name().into()), options };
        Asked::new(|observer, reply| self.arbiter.handover(request, "uid:0".into(), observer, reply))
    }
    fn until(&self, holds: impl Fn(&RegionStatus) -> bool) -> RegionStatus {
        until(&self.arbiter, std::thread::sleep, holds)
    }
    fn until_owner(&self, one: &One) -> RegionStatus {
        self.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == one.id()))
    }
    fn hand_over(&self, from: &One, to: &One) -> Record {
        let asked = self.ask(to, SwitchOptions::default());
        to.agree(Hook::Prepare);
        from.agree(Hook::Flush);
        asked.record()
    }
}

fn seat(one: &One) -> Seat {
    Seat { row: one.welcome.row.expect("a row"), incarnation: one.id() }
}

fn write(process: &Arc<Process>, generation: Generation, n: u64) -> Result<(), WriteError> {
    let spec = CellSpec { name: "basket", labels: &[], bytes_max: 64 };
    let cell = open_cell(process, &spec).expect("a cell");
    let part = Part { schema: 1, codec: 1, bytes: n.to_le_bytes().to_vec() };
    cell.write(generation, &[part], None).map(|_| ())
}

#[test]
fn ownership_goes_to_and_fro_under_writers_and_nothing_is_lost() {
    let real = Real::heap();
    let (old, old_process) = real.here("1.0.0");
    old.agree(Hook::Prepare);
    real.until_owner(&old);
    let (new, new_process) = real.here("2.0.0");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |process: &Arc<Process>| {
        let (process, stop) = (Arc::clone(process), Arc::clone(&stop));
        std::thread::spawn(move || {
            let desc = MetricDesc { name: "written_total", help: "", unit: "", labels: &[] };
            let counter = open_counter(&process, &desc).expect("a counter");
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(generation) = process.learn() else {
                    std::thread::yield_now();
                    continue;
                };
                while !stop.load(Ordering::Relaxed) && write(&process, generation, written).is_ok() {
                    written += 1;
                    counter.inc();
                }
            }
            (written, counter)
        })
    };
    let writers = [writer(&old_process), writer(&new_process)];
    let mut pair = (&old, &new);
    for n in 0..40 {
        let record = real.hand_over(pair.0, pair.1);
        assert_eq!((record.outcome, record.generation), (Outcome::Committed, 3 + n), "{record:?}");
        assert!(record.figures.gate_closed_us > 0 && record.root_digest == status(&real.arbiter).root_digest);
        pair = (pair.1, pair.0);
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = writers.into_iter().map(|w| w.join().expect("no panic")).collect();
    let written: u64 = done.iter().map(|(written, _)| written).sum();
    assert_eq!(done[0].1.total(), written, "no increment is lost");
    let report = Arbiter::ask(super::SOON, |reply| real.arbiter.verify(Box::new(|_, _| ()), reply)).expect("an answer");
    assert_eq!(report.expect("nothing runs").faults, []);
}

#[test]
fn a_writer_that_stays_in_its_section_aborts_and_never_tears() {
    let real = Real::heap();
    let (old, old_process) = real.here("1.0.0");
    old.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&old).generation);
    let (new, _new_process) = real.here("2.0.0");
    let section = old_process.enter(generation).expect("open");
    let precopy_timeout = Some(Duration::from_millis(50));
    let asked = real.ask(&new, SwitchOptions { precopy_timeout, ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.reason, record.phase), (Some(Reason::FreezeTimeout), Phase::Precopy));
    drop(section);
    write(&old_process, generation, 1).expect("the owner goes on");
    assert_eq!(real.hand_over(&old, &new).outcome, Outcome::Committed);
    assert!(matches!(write(&old_process, generation, 2), Err(WriteError::Fenced(_))));
}

#[test]
fn a_cell_of_a_newer_schema_keeps_the_old_version_from_owning() {
    let real = Real::heap();
    let (owner, process) = real.here("2.0.0");
    owner.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&owner).generation);
    write(&process, generation, 1).expect("open");
    let (old, _) = real.here("1.0.0");
    let needs = vec![Need { object: "basket".into(), kind: "cell".into(), readable: vec![0], written: vec![0] }];
    old.say(FromInstance::Declare(needs));
    let refusal = real.ask(&old, SwitchOptions::default()).refusal();
    assert_eq!(refusal.reason, Reason::SchemaUnreadable);
    assert!(refusal.message.contains("basket"), "{refusal}");
}

#[test]
fn another_arbiter_takes_the_same_region_up() {
    let Real { mapping, arbiter } = Real::heap();
    let real = Real { mapping, arbiter };
    let (one, process) = real.here("1.0.0");
    one.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&one).generation);
    let (mapping, arbiter) = (Arc::clone(&real.mapping), real.arbiter.clone());
    let resume = Some((one.name().to_owned(), one.welcome.resume_token));
    drop((one, real));
    arbiter.shutdown();
    write(&process, generation, 1).expect("the data plane needs no arbiter");
    let real = Real::over(mapping, Policy::default());
    assert_eq!(status(&real.arbiter).owner.expect("alive").incarnation, process.incarnation());
    let back = real.one(Hello { version: "1.0.0".into(), resume, ..Hello::default() });
    back.ready();
    let (new, _new_process) = real.here("2.0.0");
    let record = real.hand_over(&back, &new);
    assert_eq!((record.number, record.generation), (2, 3));
}

/// Random bytes all over a region, page 0 apart: the arbiter answers whatever it finds.
#[test]
fn hostile_bytes_do_not_stop_the_arbiter() {
    for seed in 1..12_u64 {
        let real = Real::heap();
        let (old, _old_process) = real.here("1.0.0");
        old.agree(Hook::Prepare);
        real.until_owner(&old);
        let (new, _new_process) = real.here("2.0.0");
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for segment in &real.mapping.header().segments {
            for _ in 0..64 {
                let offset = segment.offset + next() % segment.len.min(1 << 16) / 8 * 8;
                if segment.offset > 0 {
                    // What is not allocated cannot be reached by anyone.
                    let _ = real.mapping.copy_in(offset, &next().to_le_bytes());
                }
            }
        }
        status(&real.arbiter);
        let limit = Some(Duration::from_millis(50));
        let options = SwitchOptions {
            prepare_timeout: limit,
            precopy_timeout: limit,
            flush_timeout: limit,
            ..SwitchOptions::default()
        };
        let asked = real.ask(&new, options);
        new.say(FromInstance::HookResult { call_id: 0, ok: true, veto: String::new() });
        // Committed, aborted or refused: but an answer, and one that stays.
        let answer = asked.done();
        let seen = status(&real.arbiter);
        if let Ok(record) = &answer {
            assert_eq!(record.outcome == Outcome::Committed, seen.generation > 2, "seed {seed}: {record:?}");
        }
        let report = Arbiter::ask(super::SOON, |reply| real.arbiter.verify(Box::new(|_, _| ()), reply));
        assert!(report.is_some(), "seed {seed}");
    }
}

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
    command.args(["--exact", "arbiter::tests::real::child", "--nocapture"]).env(CHILD, arguments);
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
