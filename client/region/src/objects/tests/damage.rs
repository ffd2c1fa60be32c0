//! Bytes in the region are input: whatever they are, readers end, and say what is wrong.

use proptest::prelude::*;

use super::*;
use crate::directory::Directory;
use crate::error::Error;
use crate::inspect;
use crate::layout::{SegmentKind, control};
use crate::sync::Ordering;

fn filled() -> (Arc<Mapping>, Arc<Process>) {
    let m = heap(&spec());
    let p = attach(&m);
    for name in ["a", "b", "c"] {
        open_counter(&p, &desc(name)).unwrap().inc();
        open_histogram(&p, &desc(&format!("h_{name}")), &[1.0, 2.0]).unwrap().observe(1.0);
        open_updown(&p, &desc(&format!("u_{name}"))).unwrap().inc();
        open_gauge(&p, &desc(&format!("g_{name}"))).unwrap();
    }
    (m, p)
}

fn read_all(m: &Mapping) {
    inspect::metrics(m);
    inspect::cells(m);
    inspect::object_counts(m);
    inspect::faults(m);
    inspect::monotone_totals(m, &mut inspect::Catalog::default());
    inspect::Cells::default().look(m, std::iter::empty()).for_each(drop);
}

#[test]
fn a_kind_of_the_future_is_counted_and_kept() {
    let (m, p) = filled();
    let directory = Directory::shared(&m);
    let (at, slot) = directory
        .filled()
        .find(|(_, slot)| {
            matches!(directory.read(*slot), Ok((crate::directory::entry::Decoded::Known(e), _))
                if e.name == "a" && e.kind == crate::directory::Kind::Counter)
        })
        .unwrap();
    // The same entry as a newer build would have written it: kind 77.
    let words = m.words(directory.offset(slot), 7).unwrap();
    let len = words[0].load(Ordering::Relaxed) & 0xffff_ffff;
    let words = m.words(directory.offset(slot), len).unwrap();
    words[0].store(len | 77 << 32 | 9 << 48, Ordering::Relaxed);
    words[6].store(0, Ordering::Relaxed);
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
    words[6].store(crc32fast::hash(&bytes).into(), Ordering::Relaxed);
    assert_eq!(inspect::object_counts(&m)["kind-77"], 1);
    assert!(inspect::faults(&m).is_empty());
    assert_eq!(inspect::metrics(&m).iter().map(|f| f.samples.len()).sum::<usize>(), 11);
    let e = open_counter(&p, &desc("a")).unwrap_err();
    assert_eq!(e.reason(), "KIND_MISMATCH");
    assert_eq!(m.word(at).unwrap().load(Ordering::Relaxed), slot);
}

#[test]
fn a_damaged_entry_is_named_and_harms_no_other() {
    let (m, p) = filled();
    let directory = Directory::shared(&m);
    for (_, slot) in directory.filled() {
        let word = m.word(directory.offset(slot) + 16).unwrap();
        word.fetch_xor(1 << 40, Ordering::Relaxed);
        let faults = inspect::faults(&m);
        assert!(faults.iter().any(|f| f.offset == directory.offset(slot)), "{faults:?}");
        let opened = ["a", "b", "c"].map(|name| open_counter(&p, &desc(name)));
        assert!(opened.iter().filter(|r| r.is_err()).count() <= 1);
        for e in opened.into_iter().filter_map(Result::err) {
            assert!(matches!(e, Error::Corrupt(_)), "{e}");
        }
        read_all(&m);
        word.fetch_xor(1 << 40, Ordering::Relaxed);
    }
    assert!(inspect::faults(&m).is_empty());
}

#[test]
fn an_entry_that_could_not_be_read_is_read_when_it_can_be() {
    let (m, p) = filled();
    let (mut keeper, _) = Keeper::open(Arc::clone(&m)).unwrap();
    switch_to(&mut keeper, p.incarnation());
    let cell = open_cell(&p, &CellSpec { name: "basket", labels: &[], bytes_max: 64 }).unwrap();
    cell.write(p.learn().unwrap(), &[Part { schema: 1, codec: 0, bytes: b"tea".to_vec() }], None).unwrap();
    let (shared, owned) = (Directory::shared(&m), Directory::owned(&m));
    let entries = shared.filled().map(|(_, slot)| shared.offset(slot));
    let offsets: Vec<u64> = entries.chain(owned.filled().map(|(_, slot)| owned.offset(slot))).collect();
    let flip = |at: u64| _ = m.word(at + 16).unwrap().fetch_xor(1 << 40, Ordering::Relaxed);
    offsets.iter().for_each(|at| flip(*at));
    let (mut catalog, mut cells) = (inspect::Catalog::default(), inspect::Cells::default());
    assert!(catalog.read(&m).is_empty() && cells.look(&m, std::iter::empty()).next().is_none());
    assert_eq!(catalog.bad_entries(), 24);
    offsets.iter().for_each(|at| flip(*at));
    assert_eq!(catalog.read(&m).iter().map(|f| f.samples.len()).collect::<Vec<_>>(), [1; 12]);
    assert_eq!(catalog.bad_entries(), 0);
    assert!(cells.look(&m, std::iter::empty()).eq([("basket", &[1][..])]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_a_reader_panic(
        damage in prop::collection::vec((0usize..5, 0u64..2048, prop_oneof![any::<u64>(), 0u64..100, Just(u64::MAX)]), 1..40),
    ) {
        let (m, p) = filled();
        for (segment, word, value) in damage {
            let at = match segment {
                0 => m.segment(SegmentKind::SharedArena).offset,
                1 => m.segment(SegmentKind::SharedIndex).offset,
                2 => m.segment(SegmentKind::LaneTable).offset,
                3 => m.segment(SegmentKind::Lanes).offset,
                _ => m.control(control::OBJECTS) - word * 8 + word % 64 * 8,
            };
            if let Ok(word) = m.word(at + word * 8) {
                word.store(value, Ordering::Relaxed);
            }
        }
        read_all(&m);
        for name in ["a", "h_a", "new"] {
            if let Ok(c) = open_counter(&p, &desc(name)) {
                c.inc();
                c.total();
            }
            if let Ok(h) = open_histogram(&p, &desc(name), &[1.0, 2.0]) {
                h.observe(1.0);
                h.counts();
            }
            if let Ok(u) = open_updown(&p, &desc(name)) {
                u.inc();
                u.total();
            }
            let _ = open_gauge(&p, &desc(name)).map(|g| g.value());
        }
        let _ = reclaim::reclaim_all_lanes(&m, 7, &|_| true);
    }
}
