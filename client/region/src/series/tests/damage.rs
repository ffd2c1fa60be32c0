//! Bytes are input: whatever they say, nobody panics, hangs or reads out of bounds.

use super::*;
use crate::alloc::OwnedAreas;
use crate::sync::{AtomicU64, Ordering};

/// Everything that reads, and then an owner that writes.
fn use_all(ground: &Ground, owner: &SeriesStore, g: Generation) {
    // As one who has not looked at anything yet.
    let shared = Arc::new(Shared::new(&ground.mapping));
    let store = SeriesStore { process: Arc::clone(owner.process()), shared };
    let _ = store.count();
    for id in (0..6).map(SeriesId::new) {
        let _ = (store.labels(id), store.chunks(id, i64::MIN..=i64::MAX));
        let _ = store.stamp(id);
        // A reader that goes on where it was: nothing comes twice, and each step has an end.
        let mut after = None;
        for _ in 0..20 {
            let Ok(tail) = store.tail(id, after, 2) else { break };
            assert!(tail.chunks.chunks.len() <= 2);
            let Some(last) = tail.chunks.chunks.last() else { break };
            assert!(after.is_none_or(|after| last.max_ms > after), "series {id} was read again");
            after = Some(last.max_ms);
        }
    }
    let _ = store.find(&[("__name__", "requests"), ("instance", "a:9090"), ("n", "1")]);
    inspect::faults(&ground.mapping);
    inspect::object_counts(&ground.mapping);
    taken(&ground.mapping);
    for id in (0..6).map(SeriesId::new) {
        for n in 0..130 {
            let _ = store.append(g, id, at(1 << 50 | n, f64::from_bits(noise(n as u64))));
        }
    }
    let _ = store.open_series(g, &[("__name__", "new")]);
    let _ = store.expire(g, 0);
}

/// All words that the series have written.
fn words(mapping: &Mapping) -> Vec<&AtomicU64> {
    let arena = OwnedAreas::of(mapping).arena;
    let end = taken(mapping).into_iter().map(|(at, len)| at + len).max().unwrap();
    let ready = (arena.offset..end).step_by(8).filter_map(|at| mapping.word(at).ok());
    ready.filter(|word| word.load(Ordering::Relaxed) != 0).collect()
}

#[test]
fn no_word_makes_anybody_panic_or_hang() {
    let mut ground = Ground::of(&RegionSpec { series_max: 3000, ..spec() });
    let (store, g) = ground.owned();
    store.set_retention(None, Some(3 * 64 * 1024));
    let ids: Vec<_> = (0..5).map(|n| open(&store, g, n)).collect();
    for n in 0..700 {
        for id in &ids {
            store.append(g, *id, nth(id.get(), n)).unwrap();
        }
    }
    let mapping = Arc::clone(&ground.mapping);
    let words = words(&mapping);
    let before: Vec<_> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    for n in 0..600 {
        let at = noise(n) as usize % words.len();
        let value = match n % 4 {
            0 => noise(n ^ 77),
            1 => before[at] ^ 1 << (noise(n + 1) % 64),
            2 => u64::MAX,
            _ => before[noise(n + 2) as usize % words.len()],
        };
        words[at].store(value, Ordering::Relaxed);
        use_all(&ground, &store, g);
        words.iter().zip(&before).for_each(|(word, before)| word.store(*before, Ordering::Relaxed));
    }
}

#[test]
fn damage_is_named_with_the_series_that_has_it() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let id = open(&store, g, 0);
    for n in 0..130 {
        store.append(g, id, nth(0, n)).unwrap();
    }
    assert!(inspect::faults(&ground.mapping).is_empty());
    let row = store.row(id).unwrap();
    let fault = |word: usize, value: u64, says: &str| {
        let before = row.words[word].swap(value, Ordering::Relaxed);
        let faults = inspect::faults(&ground.mapping);
        assert_eq!(faults.len(), 1, "{says}");
        assert_eq!(faults[0].structure, r#"series {__name__="requests",instance="a:9090",n="0"}"#);
        assert!(faults[0].error.to_string().contains(says), "{}", faults[0].error);
        // Nobody writes on top of it.
        let fresh = ground.store();
        assert!(fresh.append(g, id, nth(0, 500)).is_err());
        row.words[word].store(before, Ordering::Relaxed);
    };
    let commit = row.words[layout::row::COMMIT].load(Ordering::Relaxed);
    fault(layout::row::COMMIT, commit | 0xffff, "expected at most");
    fault(layout::row::COMMIT, commit | 0xffff_0000, "bits");
    let side = layout::CommitWord(commit).side();
    fault(side.start, u64::MAX, "expected a buffer of a slab");
    fault(layout::row::ENTRY, 0, "expected the entry");
}

#[test]
fn a_chunk_of_an_unknown_encoding_is_skipped_whole_and_named() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let id = open(&store, g, 0);
    for n in 0..130 {
        store.append(g, id, nth(0, n)).unwrap();
    }
    // A newer build went on with another encoding.
    let row = store.row(id).unwrap();
    let side = layout::CommitWord(row.words[layout::row::COMMIT].load(Ordering::Relaxed)).side();
    let buffer = layout::BufferRef(row.words[side.start].load(Ordering::Relaxed)).with_encoding(77);
    row.words[side.start].store(buffer.0, Ordering::Relaxed);
    let got = store.chunks(id, i64::MIN..=i64::MAX).unwrap();
    assert_eq!(got.skipped, [Encoding(77)]);
    assert_eq!(samples(&got).len(), 120);
    assert!(inspect::faults(&ground.mapping).is_empty());
    let other = ground.store();
    let g = ground.own(&other);
    let e = other.append(g, id, nth(0, 500)).unwrap_err();
    assert!(e.to_string().ends_with("schema 77, this build reads [1]"), "{e}");
}
