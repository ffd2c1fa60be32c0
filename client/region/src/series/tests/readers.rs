//! Readers beside an owner who appends, seals and recycles as fast as it can.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const SERIES: u32 = 3;

/// Noise, so that chunks are large and blocks are recycled soon; its time says which it is.
fn loud(id: SeriesId, n: u64) -> Sample {
    at(n as i64 * 10, f64::from_bits(noise(n * 64 + u64::from(id.get()))))
}

/// Checks that what a reader got is a run without a gap; gives the numbers of its first and last sample.
fn run_of(id: SeriesId, got: &[Sample]) -> (u64, u64) {
    let (first, last) = (got[0].timestamp_ms as u64 / 10, got[got.len() - 1].timestamp_ms as u64 / 10);
    assert_eq!(got.len() as u64, last - first + 1, "a gap");
    for (n, sample) in (first..).zip(got) {
        assert_eq!(*sample, loud(id, n));
    }
    (first, last)
}

#[test]
fn a_reader_gets_a_run_without_a_gap_that_ends_where_the_owner_was_or_later() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mapping = Mapping::create_file(dir.path(), &spec()).unwrap();
    let keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let mut ground = Ground { mapping, keeper };
    let mut term = ground.owned();
    let ids: Vec<_> = (0..SERIES).map(|n| open(&term.0, term.1, n)).collect();
    let appended: Vec<_> = ids.iter().map(|_| AtomicU64::new(0)).collect();
    let (stop, recycled) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // A mapping of its own, as another process has it.
            let reader = Mapping::open_file(&dir.path().join("r"), true).unwrap();
            let reader = SeriesStore::open(&Process::observer(reader).unwrap()).unwrap();
            let (ids, appended, stop, recycled) = (&ids, &appended, &stop, &recycled);
            scope.spawn(move || {
                let mut firsts = vec![0; ids.len()];
                while !stop.load(Ordering::Relaxed) {
                    for (i, id) in ids.iter().enumerate() {
                        let before = appended[i].load(Ordering::Acquire);
                        let got = all(&reader, *id);
                        if before == 0 {
                            continue;
                        }
                        let (first, last) = run_of(*id, &got);
                        assert!(last + 1 >= before, "{last} of {before}");
                        // What was recycled does not come back.
                        assert!(first >= firsts[i]);
                        recycled.fetch_max(first, Ordering::Relaxed);
                        firsts[i] = first;
                    }
                }
            });
        }
        // The owner changes too: each of them finds out what the one before did.
        let stores = [term.0.clone(), ground.store()];
        for turn in 0..12 {
            let (store, g) = (&term.0, term.1);
            store.set_retention(None, Some(4 * 64 * 1024));
            for n in 0..20_000 / 12 {
                for (i, id) in ids.iter().enumerate() {
                    let next = appended[i].load(Ordering::Relaxed);
                    assert_eq!(store.append(g, *id, loud(*id, next)).unwrap(), Appended::New, "{turn} {n}");
                    appended[i].store(next + 1, Ordering::Release);
                }
            }
            let next = stores[turn % 2].clone();
            let g = ground.own(&next);
            term = (next, g);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(recycled.load(Ordering::Relaxed) > 0, "nothing was recycled under the readers");
    assert!(inspect::faults(&ground.mapping).is_empty());
}
