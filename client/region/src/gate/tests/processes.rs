//! The gate between processes: writers with and without the barrier, keepers killed and stopped wherever they are.
//!
//! The other processes are this test binary again: [`another_process`] does nothing unless the environment gives it a part.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::digest::Sealed;
use crate::instances::Seat;
use crate::os::membarrier;

const PART: &str = "HEIRLOOM_TEST_PART";
const REGION: &str = "HEIRLOOM_TEST_REGION";
const SEAT: &str = "HEIRLOOM_TEST_SEAT";
const STOP: &str = "HEIRLOOM_TEST_STOP";
const ASYMMETRIC: bool = true;
const SYMMETRIC: bool = false;

/// A child that dies with its test, however that ends.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Other {
    fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child is ours and not yet waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
    /// Waits until the child has said `word`, among what its test harness says.
    fn says(&mut self, word: &str) {
        let (mut got, mut byte) = (Vec::new(), [0]);
        while !got.ends_with(word.as_bytes()) {
            let read = self.0.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended, having said {:?}", String::from_utf8_lossy(&got));
            got.push(byte[0]);
        }
    }
    fn ends_well(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn play(part: &str, region: &Path, barrier: bool, more: &[(&str, String)], pass: Option<&OwnedFd>) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["gate::tests::processes::another_process", "--exact", "--nocapture", "--test-threads=1", "--quiet"]);
    command.env(PART, part).env(REGION, region).stdout(Stdio::null()).envs(more.iter().map(|(k, v)| (k, v)));
    if !barrier {
        command.env(membarrier::DISABLE_VARIABLE, "1");
    }
    if let Some(fd) = pass.map(AsRawFd::as_raw_fd) {
        // SAFETY: fcntl is async-signal-safe; only the child's copy becomes inheritable.
        unsafe {
            command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
    }
    if part.starts_with("freeze") {
        command.stdout(Stdio::piped());
    }
    Other(command.spawn().unwrap())
}

/// What a child does, by its part. As an ordinary test, nothing.
#[test]
fn another_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let mapping = Mapping::open_file(Path::new(&std::env::var_os(REGION).unwrap()), false).unwrap();
    match part.as_str() {
        "write" => write_as_child(mapping),
        "hand over" => hand_over_as_child(mapping),
        "freeze" => freeze_as_child(mapping, false),
        "freeze and seal" => freeze_as_child(mapping, true),
        "no barrier" => {
            let (mut keeper, _) = Keeper::open(mapping).unwrap();
            let e = keeper.freeze(BUDGET).unwrap_err();
            assert!(e.to_string().starts_with("barrier: membarrier GLOBAL_EXPEDITED"), "{e}");
            assert!(keeper.begin_round().is_err());
        }
        part => panic!("no part {part}"),
    }
}

fn write_as_child(mapping: Arc<Mapping>) {
    let seat: Vec<u64> = std::env::var(SEAT).unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    // SAFETY: the parent passed this descriptor, and nothing else in this process knows it.
    let liveness = unsafe { OwnedFd::from_raw_fd(seat[2] as i32) };
    let process = Process::attach(mapping, Seat { row: seat[0] as u32, incarnation: seat[1] }, Some(liveness)).unwrap();
    let stop = PathBuf::from(std::env::var_os(STOP).unwrap());
    let go = AtomicBool::new(true);
    thread::scope(|scope| {
        for n in 0..2 {
            let (process, go, number) = (&process, &go, 2 * seat[0] + n);
            scope.spawn(move || {
                let acknowledged = write_until(process, number, || go.load(Ordering::Relaxed));
                assert_eq!(acknowledged, counted(process.mapping(), number), "acknowledged against kept");
            });
        }
        while !stop.exists() {
            thread::sleep(Duration::from_millis(2));
        }
        go.store(false, Ordering::Relaxed);
    });
}

fn hand_over_as_child(mapping: Arc<Mapping>) {
    let (mut keeper, _) = Keeper::open(mapping).unwrap();
    let owners: Vec<u64> = crate::instances::rows(keeper.mapping()).map(|row| row.unwrap().seat.incarnation).collect();
    for nth in keeper.superblock().generation.. {
        hand_over(&mut keeper, owners[nth as usize % owners.len()], nth);
    }
}

fn freeze_as_child(mapping: Arc<Mapping>, seal: bool) {
    let say = |word: &str| {
        // Past the test harness, which would hold it back. SAFETY: a whole buffer to a descriptor of ours.
        assert_eq!(unsafe { libc::write(1, word.as_ptr().cast(), word.len()) }, word.len() as isize);
    };
    let (mut keeper, _) = Keeper::open(mapping).unwrap();
    let stop = || {
        say("frozen");
        // SAFETY: stops this process until its parent wants it to go on.
        unsafe { libc::raise(libc::SIGSTOP) };
    };
    let done = if seal {
        crate::digest::tests::sealed(&mut keeper, BUDGET, |sealed| {
            stop();
            sealed.commit().is_ok()
        })
    } else {
        // The parent is in no section.
        let frozen = keeper.freeze(BUDGET).unwrap();
        stop();
        // It wakes up after its time-out, so it may not even get as far as the commit.
        frozen.seal(Next::default()).and_then(Sealed::commit).is_ok()
    };
    say(if done { "done" } else { "late" });
}

/// A region file with room for two instances, and its path.
fn file() -> (tempfile::TempDir, Arc<Mapping>, PathBuf) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = RegionSpec { instances_max: 4, lanes_max: 4, slots_max: 16, ..RegionSpec::new("r", 16 << 20) };
    let mapping = Mapping::create_file(dir.path(), &spec).unwrap();
    mapping.ensure(owned(&mapping, 0), PAGES * 4096).unwrap();
    let path = dir.path().join("r");
    (dir, mapping, path)
}

/// Two writing processes; keepers that are killed at any moment, one after the other.
fn writers_outlive_keepers(barriers: [bool; 2], keeper_barrier: bool) {
    let (dir, mapping, path) = file();
    let stop = dir.path().join("stop");
    let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let writers = barriers.map(|barrier| {
        let (seat, liveness) = keeper.seat(&NewInstance::default()).unwrap();
        let liveness = liveness.unwrap();
        let words = format!("{} {} {}", seat.row, seat.incarnation, liveness.as_raw_fd());
        let more = [(SEAT, words), (STOP, stop.display().to_string())];
        play("write", &path, barrier, &more, Some(&liveness))
    });
    drop(keeper);
    let start = Instant::now();
    let (mut kills, mut random) = (0, 88_172_645_463_325_252_u64);
    let first = gate_word(&mapping).unwrap().generation().get();
    let generation = || gate_word(&mapping).unwrap().generation().get();
    while start.elapsed() < Duration::from_millis(2500) || generation() < first + 20 {
        assert!(start.elapsed() < Duration::from_secs(60), "only {} commits after {kills} kills", generation() - first);
        let mut keeper = play("hand over", &path, keeper_barrier, &[], None);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(50_000 + random % 150_000);
        let began = Instant::now();
        while began.elapsed() < life {
            // A keeper ends by our signal alone; a seal that is not right would end it otherwise.
            assert!(keeper.0.try_wait().unwrap().is_none(), "the keeper failed");
            thread::sleep(Duration::from_millis(1));
        }
        keeper.signal(libc::SIGKILL);
        assert_eq!(keeper.0.wait().unwrap().signal(), Some(libc::SIGKILL));
        kills += 1;
    }
    // Without any keeper the writers go on, and then stop in order.
    File::create(&stop).unwrap();
    writers.into_iter().for_each(Other::ends_well);
    assert_eq!(violations(&mapping), 0, "an old generation wrote after a new one");
    let (mut keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    assert!(recovery.generation >= first + 20 && !recovery.rebooted);
    switch_to(&mut keeper, 0);
    assert_sound(&keeper);
    for row in 0..2 {
        assert!(keeper.instance_dead(row));
        keeper.reclaim(row).unwrap();
    }
    assert_eq!(slots_claimed(&mapping).unwrap(), 0);
}

#[test]
fn nothing_is_lost_over_killed_keepers_with_the_barrier() {
    writers_outlive_keepers([ASYMMETRIC, ASYMMETRIC], ASYMMETRIC);
}

#[test]
fn nothing_is_lost_over_killed_keepers_without_the_barrier() {
    writers_outlive_keepers([SYMMETRIC, SYMMETRIC], SYMMETRIC);
}

#[test]
fn nothing_is_lost_where_one_has_the_barrier_and_the_other_has_not() {
    writers_outlive_keepers([SYMMETRIC, ASYMMETRIC], ASYMMETRIC);
}

/// A region that this process owns, whose keeper freezes it and then stops.
fn frozen_by_another(part: &str, test: impl FnOnce(&Mapping, &Process, Generation, &mut Other)) {
    let (_dir, mapping, path) = file();
    let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let process = attach(&mut keeper, "v1");
    switch_to(&mut keeper, process.incarnation());
    let term = process.learn().unwrap();
    write(&process, term, owned(&mapping, 1), 1).unwrap();
    drop(keeper);
    let mut other = play(part, &path, process.is_asymmetric(), &[], None);
    other.says("frozen");
    test(&mapping, &process, term, &mut other);
    other.signal(libc::SIGKILL);
    other.0.wait().unwrap();
    // Whatever it was, a new keeper finds a region that switches.
    let start = Instant::now();
    let mut keeper = loop {
        match Keeper::open(Arc::clone(&mapping)) {
            Ok((keeper, _)) => break keeper,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(10), "{e}"),
        }
    };
    assert_eq!(keeper.generation(), term);
    switch_to(&mut keeper, 0);
    assert!(matches!(write(&process, term, owned(&mapping, 1), 1), Err(WriteError::Fenced(_))));
}

#[test]
fn a_writer_thaws_a_stopped_freezer_within_the_budget_and_its_late_commit_fails() {
    for part in ["freeze", "freeze and seal"] {
        frozen_by_another(part, |mapping, process, term, other| {
            assert!(gate_word(mapping).unwrap().is_frozen() && !crate::recover::keeper_is_dead(mapping));
            let start = Instant::now();
            write(process, term, owned(mapping, 1), 2).unwrap();
            let waited = start.elapsed();
            // The budget is twice the time-out; the rest is what a busy machine adds.
            assert!(waited > BUDGET && waited < 2 * BUDGET + Duration::from_secs(2), "{waited:?}");
            other.signal(libc::SIGCONT);
            other.says("late");
            assert_eq!(process.learn().unwrap(), term);
            assert_eq!(mapping.word(owned(mapping, 1)).unwrap().load(Ordering::Relaxed), 2);
        });
    }
}

#[test]
fn a_killed_freezer_is_thawed_as_soon_as_its_death_is_proved() {
    frozen_by_another("freeze and seal", |mapping, process, term, other| {
        other.signal(libc::SIGKILL);
        other.0.wait().unwrap();
        let start = Instant::now();
        write(process, term, owned(mapping, 1), 2).unwrap();
        assert!(start.elapsed() < BUDGET, "the budget was waited for");
        *other = Other(Command::new("sleep").arg("60").spawn().unwrap());
    });
}

#[test]
fn a_freezer_without_the_barrier_gives_up_where_somebody_relies_on_it() {
    let (_dir, mapping, path) = file();
    let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let process = attach(&mut keeper, "v1");
    if !process.is_asymmetric() {
        return; // This kernel has no barrier at all.
    }
    drop(keeper);
    play("no barrier", &path, SYMMETRIC, &[], None).ends_well();
    assert_eq!(gate_word(&mapping).unwrap(), GateWord::open(1, 1), "opened again");
}
