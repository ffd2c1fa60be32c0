//! Owners in other processes, killed wherever they are: this test binary again, with a part to play.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::*;
use crate::objects::{MetricDesc, open_counter};

const PART: &str = "HEIRLOOM_TEST_SERIES";
const SERIES: u32 = 40;

fn play(region: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "series::tests::processes::an_owner_in_another_process", "--nocapture"])
        .env(PART, region)
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

/// Does nothing unless another test started it with a region.
#[test]
fn an_owner_in_another_process() {
    let Some(region) = std::env::var_os(PART) else { return };
    let store = SeriesStore::open(&attach(&Mapping::open_file(Path::new(&region), false).unwrap())).unwrap();
    let acknowledged =
        open_counter(store.process(), &MetricDesc { name: "acknowledged", ..MetricDesc::default() }).unwrap();
    until("owned", || store.process().learn().is_ok());
    let g = store.process().learn().unwrap();
    for turn in 0u64.. {
        // New series too, one every few turns; all of them go on where they were.
        let known = store.count().unwrap();
        let n = if turn % 8 == 0 && known < SERIES { known } else { noise(turn) as u32 % known };
        let id = open(&store, g, n);
        let next = all(&store, id).len() as u64;
        for i in next..next + noise(turn) % 50 {
            assert_eq!(store.append(g, id, nth(n, i)).unwrap(), Appended::New);
            acknowledged.inc();
        }
        if turn % 100 == 0 {
            store.expire(g, 0).unwrap();
        }
    }
}

#[test]
fn nothing_that_an_owner_acknowledged_is_lost_when_it_is_killed() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mapping = Mapping::create_file(dir.path(), &spec()).unwrap();
    let keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let mut ground = Ground { mapping, keeper };
    let here = ground.store();
    let p = here.process();
    let acknowledged = open_counter(p, &MetricDesc { name: "acknowledged", ..MetricDesc::default() }).unwrap();
    let mut g = ground.own(&here);
    open(&here, g, 0);
    // One may have been stored and not yet acknowledged, each time.
    let mut more = 0;
    for round in 0..12u64 {
        let mut child = play(&dir.path().join("r"));
        let mut owner = None;
        until("attached", || {
            owner = instances::rows(&ground.mapping).flatten().find(|row| row.seat.incarnation != p.incarnation());
            owner.is_some()
        });
        let owner = owner.unwrap().seat;
        let start = acknowledged.total();
        crate::digest::tests::switch_to(&mut ground.keeper, owner.incarnation);
        until("appended", || acknowledged.total() > start + 500 + noise(round) % 500);
        // Readers see runs of what it wrote, while it writes.
        for id in (0..here.count().unwrap()).map(SeriesId::new) {
            let got = all(&here, id);
            assert!((0..).zip(&got).all(|(i, sample)| *sample == nth(id.get(), i)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let labels: Vec<_> = (0..here.count().unwrap()).map(|n| here.labels(SeriesId::new(n)).unwrap()).collect();
        let mut total = 0;
        for (n, labels) in labels.iter().enumerate() {
            assert_eq!(labels[2].1, n.to_string());
            let got = all(&here, SeriesId::new(n as u32));
            assert!((0..).zip(&got).all(|(i, sample)| *sample == nth(n as u32, i)));
            total += got.len() as u64;
        }
        let acknowledged = acknowledged.total();
        assert!((acknowledged + more..=acknowledged + more + 1).contains(&total), "{total} of {acknowledged}");
        more = total - acknowledged;
        ground.keeper.reclaim(owner.row).unwrap();
        // This process' state of the appender is as old as its last turn.
        g = ground.own(&here);
        let id = SeriesId::new(noise(round) as u32 % here.count().unwrap());
        let next = all(&here, id).len() as u64;
        here.append(g, id, nth(id.get(), next)).unwrap();
        more += 1;
        assert!(here.expire(g, 0).unwrap().buffers <= 2);
        assert!(inspect::faults(&ground.mapping).is_empty());
    }
    assert!(here.count().unwrap() > 5);
    ground.own(&here);
    assert!(g.get() > 12);
}
