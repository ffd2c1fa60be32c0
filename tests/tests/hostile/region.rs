//! A region whose bytes are wrong, and one whose bytes go wrong while it is used.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom_region::digest::{Keeper, Next, RoundStep};
use heirloom_region::error::Error;
use heirloom_region::inspect;
use heirloom_region::instances::{self, NewInstance};
use heirloom_region::layout::RegionSpec;
use heirloom_region::mapping::Mapping;
use heirloom_region::objects::{open_cell, open_counter, open_gauge, open_histogram, open_updown};
use heirloom_region::process::Process;
use heirloom_region::series::{SeriesId, SeriesStore};
use heirloom_tests::random::Random;
use heirloom_tests::steps::{BOUNDS, CELL, base, cell, desc, part, sample, samples, switch};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::mutate::mutate;

const LIMIT_BYTES: u64 = 8 << 20;

fn spec() -> RegionSpec {
    let spec = RegionSpec::new("shop", LIMIT_BYTES);
    RegionSpec { instances_max: 4, lanes_max: 6, slots_max: 12, series_max: 64, history_max: 4, ..spec }
}

/// A region with something of everything in it.
fn make(dir: &Path) -> Arc<Mapping> {
    let mapping = Mapping::create_file(dir, &spec()).expect("a region");
    let (mut keeper, _) = Keeper::open(Arc::clone(&mapping)).expect("nobody else");
    let (seat, liveness) = keeper.seat(&NewInstance::default()).expect("a seat");
    let owner = Process::attach(Arc::clone(&mapping), seat, liveness).expect("attached");
    switch(&mut keeper, seat.incarnation).expect("the owner");
    base(&owner, owner.learn().expect("it owns"), 130).expect("room");
    keeper.history().put(1, b"a record").expect("room");
    owner.abandon();
    mapping
}

/// Where there is data in the file.
fn ranges(file: &File) -> Vec<(i64, i64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return found,
            Err(why) => panic!("lseek: {why}"),
        };
        at = lseek(file, start, Whence::SeekHole).expect("the end is a hole");
        found.push((start, at));
    }
}

/// Changes a few bytes, mostly where something is written.
fn damage(file: &File, ranges: &[(i64, i64)], random: &mut Random) {
    let (start, end) = ranges[random.below(ranges.len() as u64) as usize];
    // Structures stand at the starts of segments; data is thin behind them.
    let span = [256, 4096, 1 << 16, (end - start) as u64][random.below(4) as usize].min((end - start) as u64);
    let at = start as u64 + random.below(span) / 8 * 8;
    let mut bytes = vec![0; 64.min((end as u64 - at) as usize)];
    file.read_exact_at(&mut bytes, at).expect("data");
    mutate(&mut bytes, random);
    file.write_all_at(&bytes, at).expect("room");
}

/// A damaged file: opened, verified, recovered, read, written, handed over.
pub(crate) fn file(seed: u64) {
    let mut random = Random::seeded(seed);
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    drop(make(dir.path()));
    let path = dir.path().join("shop");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("the file");
    let ranges = ranges(&file);
    for _ in 0..=random.below(6) {
        damage(&file, &ranges, &mut random);
    }
    if random.below(16) == 0 {
        file.set_len(random.below(ranges[ranges.len() - 1].1 as u64)).expect("shorter");
    }
    named(Mapping::open_file(&path, true).map(drop));
    let Ok(mapping) = Mapping::open_file(&path, false).inspect_err(name) else { return };
    heirloom_region::digest::verify_file(&mapping, &mut |_, _| ());
    read(&mapping);
    named(go_on(&mapping, 2));
    read(&mapping);
}

/// A region that is used while its bytes change.
pub(crate) fn live(seed: u64) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let mapping = make(dir.path());
    let file = OpenOptions::new().read(true).write(true).open(dir.path().join("shop")).expect("the file");
    let ranges = ranges(&file);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::seeded(seed);
            while !stop.load(Ordering::Relaxed) {
                damage(&file, &ranges, &mut random);
                std::thread::yield_now();
            }
        });
        named(go_on(&mapping, 4));
        heirloom_region::digest::verify_file(&mapping, &mut |_, _| ());
        read(&mapping);
        stop.store(true, Ordering::Relaxed);
    });
}

/// What a keeper and owners do, until something is refused.
fn go_on(mapping: &Arc<Mapping>, handovers: u32) -> Result<(), Error> {
    let (mut keeper, _) = Keeper::open(Arc::clone(mapping))?;
    for row in instances::rows(mapping) {
        named(row.map_err(Error::from).and_then(|row| keeper.reclaim(row.seat.row)));
    }
    keeper.verify(&mut |_, _| ());
    for _ in 0..handovers {
        let (seat, liveness) = keeper.seat(&NewInstance::default())?;
        let p = Process::attach(Arc::clone(mapping), seat, liveness)?;
        named(handover(&mut keeper, seat.incarnation));
        p.set_freeze_wait_max(std::time::Duration::from_millis(50));
        named(write(&p));
        named(keeper.history().put(keeper.history().next_number(), b"a record"));
        p.abandon();
        named(keeper.reclaim(seat.row));
    }
    Ok(())
}

fn handover(keeper: &mut Keeper, owner: u64) -> Result<(), Error> {
    keeper.begin_round()?;
    for _ in 0..8 {
        if !matches!(keeper.round_step(1024)?, RoundStep::More) {
            break;
        }
    }
    named(keeper.record_totals());
    let next = Next { owner_incarnation: owner, schema_fingerprint: 0 };
    let budget = std::time::Duration::from_millis(20);
    if let Ok(sealed) = keeper.freeze(budget).and_then(|frozen| frozen.seal(next)) {
        // What was refused is open again.
        let _ = sealed.commit().map_err(|why| assert!(!why.to_string().is_empty()));
    }
    Ok(())
}

fn write(p: &Arc<Process>) -> Result<(), Error> {
    let term = p.learn()?;
    named(open_counter(p, &desc("count")).map(|counter| counter.inc()));
    named(open_counter(p, &desc("fresh")).map(|counter| counter.inc()));
    named(open_histogram(p, &desc("took"), &BOUNDS).map(|histogram| histogram.observe(0.1)));
    named(open_updown(p, &desc("open")).map(|updown| updown.add(1)));
    named(open_gauge(p, &desc("level")).map(|gauge| drop(gauge.set(term, 9.0))));
    for name in ["basket", "fresh"] {
        named(open_cell(p, &cell(name)).map(|cell| drop(cell.write(term, &[part(CELL[0])], None))));
    }
    let store = SeriesStore::open(p)?;
    for name in ["heat", "fresh"] {
        if let Ok(id) = store.open_series(term, &[("__name__", name)]) {
            for n in 200..203 {
                let _ = store.append(term, id, sample(n));
            }
        }
    }
    Ok(())
}

fn read(mapping: &Arc<Mapping>) {
    inspect::metrics(mapping);
    inspect::cells(mapping);
    inspect::object_counts(mapping);
    inspect::faults(mapping);
    let Ok(p) = Process::observer(Arc::clone(mapping)).inspect_err(name) else { return };
    named(open_cell(&p, &cell("basket")).and_then(|cell| cell.read()).map(drop));
    named(p.owner().map(drop));
    let Ok(store) = SeriesStore::open(&p).inspect_err(name) else { return };
    named(store.find(&[("__name__", "heat")]).map_err(Error::from).map(drop));
    for number in 0..store.count().unwrap_or(0).min(70) {
        let id = SeriesId::new(number);
        named(store.labels(id).map_err(Error::from).map(drop));
        named(store.chunks(id, i64::MIN..=i64::MAX).and_then(|chunks| samples(&chunks)).map(drop));
        named(store.stamp(id).map_err(Error::from).map(drop));
        for after in [None, Some(0), Some(i64::MAX)] {
            named(store.tail(id, after, 1).and_then(|tail| samples(&tail.chunks)).map(drop));
        }
    }
}

/// An error has a word for programs and words for people.
fn name(error: &Error) {
    assert!(!error.reason().is_empty() && !error.to_string().is_empty(), "{error:?}");
}

fn named(result: Result<(), Error>) {
    let _ = result.inspect_err(name);
}
