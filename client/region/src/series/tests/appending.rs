//! Appending and reading back, over owners.

use super::*;

#[test]
fn what_was_appended_is_there_bit_for_bit_and_as_prometheus_would_cut_it() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let ids: Vec<_> = (0..8).map(|n| open(&store, g, n)).collect();
    let n = 1000;
    for i in 0..n {
        for id in &ids {
            assert_eq!(store.append(g, *id, nth(id.get(), i)).unwrap(), Appended::New);
        }
    }
    for id in ids {
        let expected: Vec<_> = (0..n).map(|i| nth(id.get(), i)).collect();
        let chunks = store.chunks(id, i64::MIN..=i64::MAX).unwrap();
        assert_eq!(samples(&chunks), expected);
        let mut encoder = Encoder::new();
        let mut cut = chunks.chunks.iter();
        for sample in expected {
            if encoder.count() == 120 || encoder.to_bytes().len() > 1005 {
                assert_eq!(cut.next().unwrap().bytes, encoder.to_bytes());
                encoder = Encoder::new();
            }
            assert!(encoder.push(sample));
        }
        let last = cut.next().unwrap();
        assert_eq!((&last.bytes, last.count, cut.next()), (&encoder.to_bytes(), encoder.count(), None));
        // A range gives whole chunks, and all of them that it touches.
        let [first, second] = [0, 1].map(|i| chunks.chunks[i].clone());
        let touched = store.chunks(id, first.max_ms..=second.min_ms).unwrap();
        assert_eq!(touched.chunks, [first.clone(), second]);
        assert!(store.chunks(id, i64::MIN..=first.min_ms - 1).unwrap().chunks.is_empty());
    }
    assert!(inspect::faults(&ground.mapping).is_empty());
    assert_eq!(inspect::object_counts(&ground.mapping)["series"], 8);
    ground.own(&store);
}

#[test]
fn a_series_is_found_by_its_labels_in_every_process_and_numbers_are_dense() {
    let mut ground = Ground::of(&RegionSpec { series_max: 2000, ..spec() });
    let reader = ground.store();
    assert_eq!((reader.count().unwrap(), reader.find(&[("a", "b")]).unwrap()), (0, None));
    let (store, g) = ground.owned();
    for n in 0..2000 {
        assert_eq!(open(&store, g, n).get(), n);
    }
    assert_eq!(open(&store, g, 1999).get(), 1999);
    let e = store.open_series(g, &[("__name__", "one_more")]).unwrap_err();
    assert_eq!(e.to_string(), "time series full: 2000");
    assert_eq!(reader.count().unwrap(), 2000);
    let labels = reader.labels(SeriesId::new(1025)).unwrap();
    let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("__name__", "requests"), ("instance", "a:9090"), ("n", "1025")]);
    assert_eq!(reader.find(&labels).unwrap(), Some(SeriesId::new(1025)));
    assert!(reader.labels(SeriesId::new(2000)).is_err());
    assert!(reader.open_series(g, &[("b", "c")]).is_err(), "it does not own");
    for bad in [&[][..], &[("b", "1"), ("a", "1")], &[("a", "1"), ("a", "1")], &[("a", "")], &[("", "a")]] {
        assert!(matches!(store.open_series(g, bad), Err(WriteError::Misuse(_))), "{bad:?}");
    }
    // Prometheus takes any UTF-8.
    assert_eq!(store.find(&[("__name__", "männer.über")]).unwrap(), None);
    assert!(inspect::faults(&ground.mapping).is_empty());
}

#[test]
fn samples_are_refused_as_by_prometheus() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let id = open(&store, g, 0);
    let rejected = |sample| match store.append(g, id, sample) {
        Err(AppendError::Rejected(why)) => why,
        other => panic!("{other:?}"),
    };
    for i in 0..300 {
        store.append(g, id, at(i * 10, i as f64)).unwrap();
        // In the head, right after a chunk was sealed, and by one who has to look first.
        for store in [&store, &SeriesStore::open(store.process()).unwrap()] {
            assert_eq!(store.append(g, id, at(i * 10, i as f64)).unwrap(), Appended::Duplicate);
        }
        let conflict =
            Rejected::Conflict { timestamp_ms: i * 10, expected: (i as f64).to_bits(), found: (-1f64).to_bits() };
        assert_eq!(rejected(at(i * 10, -1.0)), conflict);
        let last_ms = i * 10;
        assert_eq!(rejected(at(last_ms - 1, 0.0)), Rejected::OutOfOrder { found_ms: last_ms - 1, last_ms });
    }
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    store.append(g, id, at(5000, stale)).unwrap();
    assert_eq!(store.append(g, id, at(5000, stale)).unwrap(), Appended::Duplicate);
    assert!(matches!(rejected(at(5000, f64::NAN)), Rejected::Conflict { .. }));
    assert_eq!(all(&store, id).len(), 301);
    let e = store.append(g, SeriesId::new(1), at(0, 0.0)).unwrap_err();
    assert!(matches!(e, AppendError::Write(WriteError::Misuse(_))), "{e}");
}

#[test]
fn owners_take_turns_and_none_writes_with_a_stale_appender() {
    let mut ground = Ground::new();
    let stores = [ground.store(), ground.store(), ground.store()];
    let mut g = ground.own(&stores[0]);
    let ids: Vec<_> = (0..12).map(|n| open(&stores[0], g, n)).collect();
    let mut next = vec![0; ids.len()];
    for turn in 0..60u64 {
        let store = &stores[noise(turn) as usize % 3];
        g = ground.own(store);
        for (id, next) in ids.iter().zip(&mut next) {
            // Now a few, now whole chunks, now exactly to a chunk's end.
            let few = [0, 1, 7, 119, 120, 240, 120 - *next % 120][noise(turn * 31 + u64::from(id.get())) as usize % 7];
            for _ in 0..few {
                assert_eq!(store.append(g, *id, nth(id.get(), *next)).unwrap(), Appended::New);
                *next += 1;
            }
            if let Some(last) = next.checked_sub(1) {
                assert_eq!(store.append(g, *id, nth(id.get(), last)).unwrap(), Appended::Duplicate);
            }
        }
        for other in &stores {
            let e = other.append(Generation::new(g.get() - 1), ids[0], nth(0, next[0])).unwrap_err();
            assert!(matches!(e, AppendError::Write(WriteError::Fenced(_))), "{e}");
        }
    }
    for (id, next) in ids.iter().zip(next) {
        let expected: Vec<_> = (0..next).map(|i| nth(id.get(), i)).collect();
        assert_eq!(all(&stores[0], *id), expected);
    }
    assert!(inspect::faults(&ground.mapping).is_empty());
}

#[test]
fn a_batch_says_what_became_of_each_and_ends_where_the_term_does() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let ids: Vec<_> = (0..300).map(|n| open(&store, g, n)).collect();
    let scrape = |t: i64| ids.iter().map(|id| (*id, at(t, f64::from(id.get())))).collect::<Vec<_>>();
    assert_eq!(store.append_batch(g, &scrape(10)).unwrap(), Commit { appended: 300, ..Commit::default() });
    let mut second = scrape(20);
    second[7] = (ids[7], at(5, 0.0));
    second[8] = (ids[8], at(10, 8.0));
    second.extend((0..500).map(|i| (ids[3], at(21 + i, 1.0))));
    let rejected = vec![(7, Rejected::OutOfOrder { found_ms: 5, last_ms: 10 })];
    assert_eq!(store.append_batch(g, &second).unwrap(), Commit { appended: 798, duplicates: 1, rejected });
    assert_eq!(all(&store, ids[3]).len(), 502);
    let mut third = scrape(1000);
    third[200].0 = SeriesId::new(300);
    let e = store.append_batch(g, &third).unwrap_err();
    assert_eq!((e.committed, e.commit.appended), (200, 200));
    assert!(e.to_string().starts_with("200 samples of a batch were taken, the next was not: series"), "{e}");
    assert_eq!((all(&store, ids[199]).len(), all(&store, ids[201]).len()), (3, 2));
    let other = ground.store();
    ground.own(&other);
    let e = store.append_batch(g, &scrape(2000)).unwrap_err();
    assert!(e.committed == 0 && matches!(e.error, WriteError::Fenced(_)), "{e}");
}

#[test]
fn threads_of_an_owner_append_side_by_side() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let ids: Vec<_> = (0..16).map(|n| open(&store, g, n)).collect();
    let shared = open(&store, g, 99);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (store, ids) = (store.clone(), &ids);
            scope.spawn(move || {
                for i in 0..2000 {
                    let mine = ids.iter().filter(|id| id.get() % 4 == t);
                    let batch: Vec<_> = mine.map(|id| (*id, nth(id.get(), i))).collect();
                    assert_eq!(store.append_batch(g, &batch).unwrap().appended, 4);
                    // All of them want this one.
                    let _ = store.append(g, shared, nth(0, i));
                    open(&store, g, 16 + t * 10 + i as u32 % 10);
                }
            });
        }
    });
    for id in ids {
        assert_eq!(all(&store, id), (0..2000).map(|i| nth(id.get(), i)).collect::<Vec<_>>());
    }
    let shared = all(&store, shared);
    assert!(shared.len() >= 500 && shared.is_sorted_by_key(|sample| sample.timestamp_ms));
    assert_eq!(store.count().unwrap(), 17 + 40);
    assert!(inspect::faults(&ground.mapping).is_empty());
    ground.own(&store);
}
