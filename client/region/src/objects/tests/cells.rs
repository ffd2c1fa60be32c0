//! Cells and gauges: whole values, over switches, races and damage.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use super::*;
use crate::digest::Keeper;
use crate::digest::rounds::RoundStep;
use crate::error::{Corrupt, Error, Full, Generation, Misuse, WriteError};
use crate::inspect::{self, Value};
use crate::sync::Ordering;

fn owner(m: &Arc<Mapping>) -> (Keeper, Arc<Process>, Generation) {
    let (mut keeper, _) = Keeper::open(Arc::clone(m)).unwrap();
    let p = attach(m);
    let generation = install(&mut keeper, &p);
    (keeper, p, generation)
}

fn install(keeper: &mut Keeper, p: &Process) -> Generation {
    switch_to(keeper, p.incarnation());
    p.learn().unwrap()
}

fn open<'a>(p: &Arc<Process>, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> Cell {
    open_cell(p, &CellSpec { name, labels, bytes_max: 1 << 20 }).unwrap()
}

fn part(bytes: &[u8]) -> [Part; 1] {
    [Part { schema: 1, codec: 0, bytes: bytes.to_vec() }]
}

fn bytes(cell: &Cell) -> Vec<u8> {
    cell.read().unwrap().unwrap().parts[0].bytes.clone()
}

#[test]
fn a_cell_is_born_by_the_owners_first_write_and_passed_on() {
    let m = heap(&spec());
    let (mut keeper, p, g2) = owner(&m);
    let next = attach(&m);
    let cell = open(&p, "sessions", &[("b", "2"), ("a", "1")]);
    let reader = open(&next, "sessions", &[("a", "1"), ("b", "2")]);
    assert_eq!((cell.read().unwrap(), cell.stamp().unwrap()), (None, Stamp::UNBORN));
    assert!(inspect::cells(&m).is_empty());
    let parts = [part(b"new")[0].clone(), Part { schema: 7, codec: 3, bytes: vec![] }];
    let first = cell.write(g2, &parts, Some(Stamp::UNBORN)).unwrap().unwrap();
    let seen = reader.read().unwrap().unwrap();
    assert_eq!((&seen.parts[..], seen.stamp, seen.generation), (&parts[..], first, g2));
    assert_eq!(cell.write(g2, &part(b"x"), Some(Stamp::UNBORN)).unwrap(), None);
    let second = cell.write(g2, &part(b"y"), Some(first)).unwrap().unwrap();
    assert_ne!(first, second);
    open(&p, "more", &[]).write(g2, &part(b""), None).unwrap();
    assert_eq!(cell.write(g2, &part(b"z"), Some(first)).unwrap(), None);

    let g3 = install(&mut keeper, &next);
    let e = cell.write(g2, &part(b"late"), None).unwrap_err();
    assert!(matches!(e, WriteError::Fenced(_)), "{e}");
    assert!(open(&p, "unborn", &[]).write(g2, &part(b"late"), None).is_err());
    assert_eq!((bytes(&reader), reader.stamp().unwrap()), (b"y".to_vec(), second));
    assert!(reader.write(g3, &part(b"next"), Some(second)).unwrap().is_some());
    assert_eq!(bytes(&cell), b"next");
    let cells = inspect::cells(&m);
    assert_eq!((cells.len(), &*cells[1].name, cells[1].labels.len()), (2, "sessions", 2));
    let summary = cells[1].value.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((&summary.schemas[..], summary.len_bytes, summary.generation), (&[(1, 0)][..], 4, g3));
    assert_eq!(inspect::object_counts(&m)["cell"], 2);
}

/// Names, each with a list of schemas.
type Forms = Vec<(String, Vec<u32>)>;

/// What the keeper finds, and the same by a look without anything kept.
fn schemas(keeper: &mut Keeper) -> (Forms, Forms) {
    let m = Arc::clone(keeper.mapping());
    let own = |(name, schemas): (&str, &[u32])| (name.to_owned(), schemas.to_vec());
    let kept = keeper.cell_schemas().map(own).collect();
    (kept, inspect::Cells::default().look(&m, std::iter::empty()).map(own).collect())
}

#[test]
fn schemas_are_looked_at_again_where_something_was_written() {
    let m = heap(&spec());
    let (mut keeper, p, g) = owner(&m);
    let in_schemas = |schemas: &[u32]| -> Vec<Part> {
        schemas.iter().map(|&schema| Part { schema, codec: 0, bytes: vec![] }).collect()
    };
    // So many that their headers lie on many pages.
    let cells: Vec<Cell> = (0..200).map(|i| open(&p, "session", &[("number", &i.to_string())])).collect();
    cells.iter().for_each(|cell| _ = cell.write(g, &in_schemas(&[1]), None).unwrap());
    let form = |schemas: &[u32]| ("session".to_owned(), schemas.to_vec());
    assert_eq!(schemas(&mut keeper).0, [form(&[1])]);
    let mut random = 7_u64;
    for turn in 0..400_usize {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (random >> 33) as usize % cells.len();
        cells[at].write(g, &in_schemas(&[1 + (random >> 61) as u32, 9]), None).unwrap();
        if turn % 3 == 0 {
            keeper.begin_round().unwrap();
            while !matches!(keeper.round_step(1024).unwrap(), RoundStep::Done { .. }) {}
        }
        if turn % 5 == 0 {
            let (kept, anew) = schemas(&mut keeper);
            assert_eq!(kept, anew, "turn {turn}");
        }
    }
    assert!(schemas(&mut keeper).0.len() > 5);
    cells.iter().for_each(|cell| _ = cell.write(g, &in_schemas(&[3]), None).unwrap());
    open(&p, "more", &[]).write(g, &in_schemas(&[4]), None).unwrap();
    let (kept, anew) = schemas(&mut keeper);
    assert_eq!(kept, [("more".to_owned(), vec![4]), form(&[3])], "what no value has any longer is forgotten");
    assert_eq!(kept, anew);
}

#[test]
fn values_of_all_sizes_grow_and_shrink() {
    let m = heap(&spec());
    let (mut keeper, p, mut generation) = owner(&m);
    let cell = open(&p, "c", &[]);
    for (i, len) in
        [0, 1, 7, 8, 100, 16_351, 16_352, 16_353, 40_000, 3, 500_000, 10, 999_000, 0].into_iter().enumerate()
    {
        let value = vec![i as u8; len];
        cell.write(generation, &part(&value), None).unwrap();
        assert_eq!(bytes(&cell), value);
        // The switch compares the root with a full recomputation: no page was left unmarked.
        generation = install(&mut keeper, &p);
    }
    let used = m.used_bytes();
    for _ in 0..20 {
        cell.write(generation, &part(&vec![1; 999_000]), None).unwrap();
    }
    // Four buffers, each grown once more at most.
    assert!(m.used_bytes() - used <= 4 << 20, "{} bytes", m.used_bytes() - used);
    assert!(inspect::faults(&m).is_empty());
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let m = heap(&spec());
    let (_keeper, p, generation) = owner(&m);
    let small = open_cell(&p, &CellSpec { name: "c", labels: &[], bytes_max: 100 }).unwrap();
    small.write(generation, &part(b"kept"), None).unwrap();
    let e = small.write(generation, &part(&[0; 101]), None).unwrap_err();
    let WriteError::Full(Full::Value { name, len_bytes, limit_bytes: 100 }) = e else { panic!("{e}") };
    assert_eq!((name.as_str(), len_bytes), ("c", 128));
    assert_eq!(bytes(&small), b"kept");
    let e = open_cell(&p, &CellSpec { name: "c", labels: &[], bytes_max: 1 << 40 }).unwrap_err();
    assert!(matches!(e, Error::Misuse(Misuse::Argument { what: "bytes_max", .. })), "{e}");
    let e = open_cell(&p, &CellSpec { name: "a b", labels: &[], bytes_max: 1 }).unwrap_err();
    assert_eq!(e.reason(), "INVALID_NAME");
    let huge = open_cell(&p, &CellSpec { name: "h", labels: &[], bytes_max: 1 << 30 }).unwrap();
    let e = huge.write(generation, &part(&vec![1; 60 << 20]), None).unwrap_err();
    assert!(matches!(e, WriteError::Full(_)), "{e}");
    assert_eq!((huge.read().unwrap(), bytes(&small)), (None, b"kept".to_vec()));
}

#[test]
fn no_reader_takes_a_torn_value_while_owners_change() {
    let m = heap(&spec());
    let (mut keeper, p, generation) = owner(&m);
    let q = attach(&m);
    let stop = AtomicBool::new(false);
    let (reads, contended) = (AtomicU32::new(0), AtomicU32::new(0));
    open(&p, "c", &[]).write(generation, &part(&[0; 10]), None).unwrap();
    thread::scope(|s| {
        for p in [&p, &q] {
            s.spawn(|| {
                let cell = open(p, "c", &[]);
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(generation) = p.learn() else { continue };
                    n = n.wrapping_add(1);
                    let len = [64, 4096, 20_000, 100][n as usize % 4];
                    let _ = cell.write(generation, &part(&vec![n as u8; len]), None);
                }
            });
            s.spawn(|| {
                let cell = open(p, "c", &[]);
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    match cell.read() {
                        Ok(value) => {
                            let value = value.unwrap();
                            let bytes = &value.parts[0].bytes;
                            assert!(bytes.iter().all(|b| *b == bytes[0]), "torn");
                            assert!(value.stamp.1 >= last, "went back");
                            last = value.stamp.1;
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => {
                            assert!(matches!(e, Error::NotReady(_)), "{e}");
                            contended.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for i in 0..200 {
            install(&mut keeper, [&q, &p][i % 2]);
            let before = reads.load(Ordering::Relaxed);
            while reads.load(Ordering::Relaxed) + contended.load(Ordering::Relaxed) < before + 5 {
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > contended.load(Ordering::Relaxed));
    assert!(inspect::faults(&m).is_empty());
}

#[test]
fn two_threads_of_the_owner_take_turns() {
    let m = heap(&spec());
    let (_keeper, p, generation) = owner(&m);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let cell = open(&p, "sum", &[]);
                let mut done = 0;
                while done < 200 {
                    let old = cell.read().unwrap();
                    let (n, stamp) = old.map_or((0, Stamp::UNBORN), |v| (v.parts[0].schema, v.stamp));
                    let next = [Part { schema: n + 1, codec: 0, bytes: vec![] }];
                    done += u32::from(cell.write(generation, &next, Some(stamp)).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(open(&p, "sum", &[]).read().unwrap().unwrap().parts[0].schema, 800);
}

#[test]
fn damage_is_named_by_readers_and_overwritten_by_the_owner() {
    let m = heap(&spec());
    let (_keeper, p, generation) = owner(&m);
    let cell = open(&p, "c", &[]);
    for i in 0..5u8 {
        cell.write(generation, &part(&[i; 100]), None).unwrap();
    }
    let Stamp(at, _) = cell.stamp().unwrap();
    for word in 0..24 {
        for bit in [0, 3, 31, 32, 40, 63] {
            let target = m.word(at + word * 8).unwrap();
            let whole: Vec<u64> = m.words(at, 24).unwrap().iter().map(|w| w.load(Ordering::Relaxed)).collect();
            target.fetch_xor(1 << bit, Ordering::Relaxed);
            match cell.read() {
                Ok(value) => assert!(value.is_none_or(|v| v.parts[0].bytes == [4; 100])),
                Err(e) => {
                    assert!(matches!(e, Error::Corrupt(_)), "word {word} bit {bit}: {e}");
                    assert_eq!(inspect::faults(&m).len(), 1);
                }
            }
            match cell.write(generation, &part(b"healed"), None) {
                Ok(_) => assert_eq!(bytes(&cell), b"healed", "word {word} bit {bit}"),
                // Which write would be the next one nobody knows.
                Err(e) => assert!(word == 0 && matches!(e, WriteError::Corrupt(_)), "word {word} bit {bit}: {e}"),
            }
            m.words(at, 24).unwrap().iter().zip(whole).for_each(|(w, old)| w.store(old, Ordering::Relaxed));
            cell.write(generation, &part(&[4; 100]), None).unwrap();
        }
    }
    // A flipped bit of the value itself.
    let buffer = m.word(at + 8 * (8 + 4 * (cell.stamp().unwrap().1 & 3))).unwrap().load(Ordering::Relaxed);
    m.word(buffer + 16).unwrap().fetch_xor(1, Ordering::Relaxed);
    let e = cell.read().unwrap_err();
    assert!(matches!(e, Error::Corrupt(Corrupt::Checksum { what: "cell", .. })), "{e}");
}

#[test]
fn a_gauge_keeps_the_owners_last_value() {
    let m = heap(&spec());
    let (mut keeper, p, g2) = owner(&m);
    let q = attach(&m);
    let (a, b) = (open_gauge(&p, &desc("g")).unwrap(), open_gauge(&q, &desc("g")).unwrap());
    assert_eq!(b.value(), 0.0);
    a.set(g2, 1.5).unwrap();
    a.add(g2, 1.0).unwrap();
    assert!(matches!(b.set(g2, 9.0), Err(WriteError::Fenced(_))));
    let g3 = install(&mut keeper, &q);
    assert!(matches!(a.add(g2, 9.0), Err(WriteError::Fenced(_))));
    assert_eq!((a.value(), b.value()), (2.5, 2.5));
    b.add(g3, -3.5).unwrap();
    assert_eq!(inspect::metrics(&m)[0].samples[0].value, Value::Gauge(-1.0));
    install(&mut keeper, &p);
}
