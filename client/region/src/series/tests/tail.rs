//! Reading on finds each sample once, in order, and says what went before it was read.

use std::time::Duration;

use super::*;

/// Reads on in pieces of `chunks_max` chunks until nothing is left; gives what was found.
fn read_on(store: &SeriesStore, id: SeriesId, after_ms: &mut Option<i64>, chunks_max: usize) -> (Vec<Sample>, u32) {
    let (mut all, mut gaps) = (Vec::new(), 0);
    for _ in 0..100_000 {
        let tail = store.tail(id, *after_ms, chunks_max).unwrap();
        assert!(tail.chunks.chunks.len() <= chunks_max);
        gaps += u32::from(tail.has_gap);
        let new = samples(&tail.chunks).into_iter().filter(|s| after_ms.is_none_or(|after| s.timestamp_ms > after));
        all.extend(new);
        *after_ms = all.last().map(|s| s.timestamp_ms).or(*after_ms);
        if tail.is_whole {
            assert_eq!(tail.stamp, store.stamp(id).unwrap());
            return (all, gaps);
        }
    }
    panic!("the series has no end");
}

#[test]
fn pieces_of_any_size_make_the_whole() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    for kind in 0..4 {
        let id = open(&store, g, kind);
        let empty = store.stamp(id).unwrap();
        for n in 0..3000 {
            store.append(g, id, nth(kind, n)).unwrap();
        }
        assert_ne!(store.stamp(id).unwrap(), empty);
        for chunks_max in [1, 2, 7, 1000] {
            let (found, gaps) = read_on(&store, id, &mut None, chunks_max);
            assert!(found == all(&store, id) && gaps == 0, "series {kind}, {chunks_max} chunks a time");
        }
    }
}

#[test]
fn a_stamp_changes_with_every_sample_and_with_nothing_else() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let (id, other) = (open(&store, g, 0), open(&store, g, 1));
    let (mut after, mut read) = (None, Vec::new());
    for n in 0..1000 {
        let before = store.stamp(id).unwrap();
        store.append(g, other, nth(1, n)).unwrap();
        assert_eq!(store.stamp(id).unwrap(), before);
        store.append(g, id, nth(0, n)).unwrap();
        assert_ne!(store.stamp(id).unwrap(), before);
        if n % 7 == 0 {
            let (new, gaps) = read_on(&store, id, &mut after, 3);
            assert_eq!(gaps, 0, "at {n}");
            read.extend(new);
        }
    }
    read.extend(read_on(&store, id, &mut after, 3).0);
    assert_eq!(read, all(&store, id));
    assert!(store.stamp(SeriesId::new(2)).is_err() && store.tail(SeriesId::new(2), None, 1).is_err());
}

#[test]
fn what_retention_takes_before_it_is_read_is_a_gap_and_what_it_takes_after_is_none() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    store.set_retention(Some(Duration::from_secs(1000)), None);
    let (read, late, gone, back) = (open(&store, g, 0), open(&store, g, 1), open(&store, g, 2), open(&store, g, 3));
    let loud = |n: i64| at(n * 1000, f64::from_bits(noise(n as u64)));
    for id in [late, gone, back] {
        store.append(g, id, loud(0)).unwrap();
    }
    store.append(g, gone, loud(1)).unwrap();
    let mut after = None;
    for n in 0..30_000 {
        store.append(g, read, loud(n)).unwrap();
        if n > 0 {
            store.append(g, late, loud(n)).unwrap();
        }
        if n % 100 == 0 {
            store.expire(g, n * 1000).unwrap();
            assert_eq!(read_on(&store, read, &mut after, 2).1, 0, "at {n}");
        }
    }
    // Read last when it had one sample, and most of what came since has gone.
    let tail = store.tail(late, Some(0), 10).unwrap();
    assert!(tail.has_gap && tail.chunks.chunks[0].min_ms > 1000);
    // Nothing is left of it, and one sample was never read; of the other, all was.
    let tail = store.tail(gone, Some(0), 10).unwrap();
    assert!(tail.has_gap && tail.chunks.chunks.is_empty() && tail.sealed_ms == Some(1000));
    assert!(!store.tail(gone, Some(1000), 10).unwrap().has_gap);
    // It was away for longer than the retention, and comes back.
    store.append(g, back, loud(30_000)).unwrap();
    let tail = store.tail(back, Some(0), 10).unwrap();
    assert!(!tail.has_gap && samples(&tail.chunks) == [loud(30_000)]);
    // Who has read nothing yet misses nothing.
    assert!(!store.tail(late, None, 10).unwrap().has_gap);
}
