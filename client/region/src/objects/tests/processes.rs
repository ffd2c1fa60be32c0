//! Several real processes on one region: this test binary again, with a part to play.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::*;
use crate::digest::Keeper;
use crate::error::{Error, Misuse, WriteError};
use crate::inspect;
use crate::objects::lane::lanes_used;

const PART: &str = "HEIRLOOM_TEST_PART";
const REGION: &str = "HEIRLOOM_TEST_REGION";
const NAMES: u32 = 100;

fn play(part: &str, region: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "objects::tests::processes::a_part_in_another_process", "--nocapture"])
        .env(PART, part)
        .env(REGION, region)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::yield_now();
    }
}

fn open_names(p: &Arc<Process>) {
    for i in 0..NAMES {
        let value = (i % 10).to_string();
        let name = format!("name_{}", i / 10);
        open_counter(p, &MetricDesc { labels: &[("i", &value)], ..desc(&name) }).unwrap().inc();
    }
}

/// Does nothing unless another test started it with a part.
#[test]
fn a_part_in_another_process() {
    let (Ok(part), Ok(region)) = (std::env::var(PART), std::env::var(REGION)) else { return };
    let p = attach(&Mapping::open_file(Path::new(&region), false).unwrap());
    match part.as_str() {
        "open" => open_names(&p),
        "count" => {
            let (counter, share) = (open_counter(&p, &desc("c")).unwrap(), open_updown(&p, &desc("u")).unwrap());
            share.add(5);
            loop {
                counter.inc();
            }
        }
        _ => {
            let cell = open_cell(&p, &CellSpec { name: "c", labels: &[], bytes_max: 1 << 20 }).unwrap();
            for n in 0u32.. {
                until("owned", || p.learn().is_ok());
                let bytes = vec![n as u8; [50, 40_000][n as usize % 2]];
                let Ok(generation) = p.learn() else { continue };
                cell.write(generation, &[Part { schema: 1, codec: 0, bytes }], None).unwrap();
            }
        }
    }
}

fn region() -> (tempfile::TempDir, Arc<Mapping>) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let m = Mapping::create_file(dir.path(), &spec()).unwrap();
    (dir, m)
}

#[test]
fn processes_that_open_the_same_names_at_once_get_one_object_each() {
    let (dir, m) = region();
    let path = dir.path().join("r");
    let mut others: Vec<Child> = (0..2).map(|_| play("open", &path)).collect();
    let p = attach(&m);
    open_names(&p);
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let families = inspect::metrics(&m);
    assert_eq!(families.len(), NAMES as usize / 10);
    for family in families {
        assert_eq!(family.samples.len(), 10);
        assert!(family.samples.iter().all(|s| s.value == inspect::Value::Counter(3)), "{family:?}");
    }
}

#[test]
fn a_killed_counters_counts_stay_and_its_lane_is_leased_again_only_after_its_reclaim() {
    let (dir, m) = region();
    let (mut keeper, _) = Keeper::open(Arc::clone(&m)).unwrap();
    let mut child = play("count", &dir.path().join("r"));
    let p = attach(&m);
    let (counter, share) = (open_counter(&p, &desc("c")).unwrap(), open_updown(&p, &desc("u")).unwrap());
    share.inc();
    until("counting", || counter.total() > 100_000);
    let before = counter.total();
    child.kill().unwrap();
    child.wait().unwrap();
    let after = counter.total();
    assert!(after >= before);
    assert_eq!((share.total(), lanes_used(&m)), (6, 2));
    let dead = instances::rows(&m).flatten().find(|row| row.seat.incarnation != p.incarnation()).unwrap();
    assert!(keeper.instance_dead(dead.seat.row));
    // A new thread gets a lane of its own, not the one of the dead.
    let other = counter.clone();
    std::thread::spawn(move || other.inc()).join().unwrap();
    assert_eq!((counter.total(), lanes_used(&m)), (after + 1, 3));
    keeper.reclaim(dead.seat.row).unwrap();
    assert_eq!((counter.total(), share.total(), lanes_used(&m)), (after + 1, 1, 2));
    let next = open_counter(&attach(&m), &desc("c")).unwrap();
    next.inc();
    assert_eq!((next.total(), lanes_used(&m)), (after + 2, 3));
}

#[test]
fn an_owner_killed_while_it_writes_leaves_the_old_or_the_new_value() {
    let (dir, m) = region();
    let (mut keeper, _) = Keeper::open(Arc::clone(&m)).unwrap();
    let p = attach(&m);
    let cell = open_cell(&p, &CellSpec { name: "c", labels: &[], bytes_max: 1 << 20 }).unwrap();
    for _ in 0..5 {
        let start = cell.stamp().unwrap().1;
        let mut child = play("write", &dir.path().join("r"));
        let mut writer = None;
        until("attached", || {
            writer = instances::rows(&m).flatten().find(|row| row.seat.incarnation != p.incarnation());
            writer.is_some()
        });
        let writer = writer.unwrap().seat;
        switch_to(&mut keeper, writer.incarnation);
        until("written", || cell.stamp().unwrap().1 > start + 300);
        child.kill().unwrap();
        child.wait().unwrap();
        let value = cell.read().unwrap().unwrap();
        let bytes = &value.parts[0].bytes;
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        keeper.reclaim(writer.row).unwrap();
        switch_to(&mut keeper, p.incarnation());
        let generation = p.learn().unwrap();
        let parts = [Part { schema: 1, codec: 0, bytes: vec![9; 3] }];
        assert!(cell.write(generation, &parts, Some(value.stamp)).unwrap().is_some());
        assert!(inspect::faults(&m).is_empty());
    }
}

#[test]
fn a_forked_child_counts_nothing_and_is_told_so_when_it_opens() {
    let (_dir, m) = region();
    let p = attach(&m);
    let (counter, gauge) = (open_counter(&p, &desc("c")).unwrap(), open_gauge(&p, &desc("g")).unwrap());
    let cell = open_cell(&p, &CellSpec { name: "c", labels: &[], bytes_max: 100 }).unwrap();
    counter.inc();
    // SAFETY: the child only touches what it inherited, allocates nothing that matters, and leaves by `_exit`.
    let fork = unsafe { nix::unistd::fork() }.unwrap();
    let nix::unistd::ForkResult::Parent { child } = fork else {
        counter.inc();
        let generation = crate::error::Generation::new(1);
        let refused = matches!(open_counter(&p, &desc("d")), Err(Error::Misuse(Misuse::Forked)))
            && matches!(
                open_cell(&p, &CellSpec { name: "d", labels: &[], bytes_max: 1 }),
                Err(Error::Misuse(Misuse::Forked))
            )
            && matches!(gauge.set(generation, 1.0), Err(WriteError::Misuse(Misuse::Forked)))
            && matches!(cell.write(generation, &[], None), Err(WriteError::Misuse(Misuse::Forked)));
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) }
    };
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
    assert_eq!(counter.total(), 1);
}
