//! What is too old goes, and only that.

use std::time::Duration;

use super::*;
use crate::sync::Ordering;

/// Noise every second.
fn loud(n: i64) -> Sample {
    at(n * 1000, f64::from_bits(noise(n as u64)))
}

#[test]
fn by_time_old_chunks_are_not_given_old_samples_not_taken_and_blocks_used_again() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    store.set_retention(Some(Duration::from_secs(3000)), None);
    let (id, idle) = (open(&store, g, 0), open(&store, g, 1));
    store.append(g, idle, at(0, 1.0)).unwrap();
    let mut used = 0;
    let mut expired = Expired::default();
    for n in 0..60_000 {
        store.append(g, id, loud(n)).unwrap();
        if n % 500 == 0 {
            let now = store.expire(g, n * 1000).unwrap();
            expired = Expired { blocks: expired.blocks + now.blocks, heads: expired.heads + now.heads, ..now };
            let oldest_ms = store.oldest_ms().unwrap();
            let got = store.chunks(id, i64::MIN..=i64::MAX).unwrap();
            assert!(got.chunks.iter().all(|chunk| chunk.max_ms >= oldest_ms));
            // All that is within the retention is there.
            let first = samples(&got)[0].timestamp_ms;
            assert!(first <= oldest_ms.max(0) && samples(&got).len() as i64 == n - first / 1000 + 1);
        }
        if n == 30_000 {
            used = ground.mapping.used_bytes();
        }
    }
    assert_eq!(ground.mapping.used_bytes(), used, "blocks were not used again");
    assert!(expired.blocks > 5, "{expired:?}");
    // The idle series' head went, and with it its buffer; its number and labels stay.
    assert_eq!(expired.heads, 1);
    assert!(store.chunks(idle, i64::MIN..=i64::MAX).unwrap().chunks.is_empty());
    let oldest_ms = store.oldest_ms().unwrap();
    let too_old = Rejected::TooOld { found_ms: 5, oldest_ms };
    for store in [&store, &SeriesStore::open(store.process()).unwrap()] {
        assert!(matches!(store.append(g, idle, at(5, 1.0)), Err(AppendError::Rejected(why)) if why == too_old));
    }
    assert_eq!(store.append(g, idle, at(oldest_ms, 2.0)).unwrap(), Appended::New);
    assert_eq!(all(&store, idle), [at(oldest_ms, 2.0)]);
    assert!(inspect::faults(&ground.mapping).is_empty());
    ground.own(&store);
}

#[test]
fn by_size_the_oldest_block_gives_way() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    store.set_retention(None, Some(3 * 64 * 1024));
    let (id, rare) = (open(&store, g, 0), open(&store, g, 1));
    for n in 0..121 {
        store.append(g, rare, loud(n)).unwrap();
    }
    for n in 0..100_000 {
        store.append(g, id, loud(n)).unwrap();
    }
    let bytes: usize = store.chunks(id, i64::MIN..=i64::MAX).unwrap().chunks.iter().map(|c| c.bytes.len()).sum();
    assert!((2 * 64 * 1024 - 4096..=3 * 64 * 1024).contains(&bytes), "{bytes}");
    // Its sealed chunks were in a block that is another's now; its head is its own.
    let kept = all(&store, rare);
    assert!(!kept.is_empty() && kept.len() < 120 && kept.last() == Some(&loud(120)));
    store.expire(g, 0).unwrap();
    assert_eq!(all(&store, rare), kept);
    // Who takes over still knows what the last sample was.
    let other = ground.store();
    let g = ground.own(&other);
    assert_eq!(other.append(g, rare, loud(120)).unwrap(), Appended::Duplicate);
    assert_eq!(other.append(g, rare, loud(121)).unwrap(), Appended::New);
    assert!(inspect::faults(&ground.mapping).is_empty());
}

#[test]
fn no_chunk_leads_into_the_next_use_of_a_block() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    store.set_retention(None, Some(3 * 64 * 1024));
    let loud_one = open(&store, g, 0);
    // They seal a chunk where the one before is in the same block, in one before, in one that is another's meanwhile.
    let paces = [1, 3, 7, 20, 50, 100, 150, 200, 250, 300];
    let rare = paces.map(|pace| (pace, open(&store, g, pace as u32)));
    let mut longest = 0;
    for n in 0..60_000_i64 {
        store.append(g, loud_one, loud(n)).unwrap();
        for (pace, id) in rare.iter().filter(|(pace, _)| n % pace == 0) {
            store.append(g, *id, loud(n)).unwrap();
            if n / pace % 60 == 0 {
                let found = all(&store, *id);
                let first = n / pace + 1 - found.len() as i64;
                let expected: Vec<_> = (first..=n / pace).map(|k| loud(k * pace)).collect();
                assert_eq!(found, expected, "every {pace} at {n}");
                longest = longest.max(found.len());
            }
        }
    }
    assert!(longest > 240, "no chain of chunks was read: {longest}");
    assert!(inspect::faults(&ground.mapping).is_empty());
}

#[test]
fn a_full_region_refuses_and_goes_on_when_something_expired() {
    let mut ground = Ground::of(&RegionSpec::new("r", 4 << 20));
    let (store, g) = ground.owned();
    store.set_retention(Some(Duration::from_secs(1)), None);
    let id = open(&store, g, 0);
    let mut n = 0;
    let error = loop {
        match store.append(g, id, loud(n)) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Write(WriteError::Full(_))), "{error}");
    assert_eq!(all(&store, id).len() as i64, n);
    assert!(store.append(g, id, loud(n)).is_err());
    store.expire(g, n * 1000).unwrap();
    assert_eq!(store.append(g, id, loud(n)).unwrap(), Appended::New);
    assert!(inspect::faults(&ground.mapping).is_empty());
}

#[test]
fn buffers_that_a_killed_owner_left_are_found() {
    let mut ground = Ground::new();
    let (store, g) = ground.owned();
    let ids: Vec<_> = (0..50).map(|n| open(&store, g, n)).collect();
    for id in &ids {
        store.append(g, *id, at(0, 1.0)).unwrap();
    }
    // As one leaves it that was killed between the owner's number and the commit word.
    let arena = layout::arena(&ground.mapping);
    let leaked: Vec<_> = (0..50).map(|_| store.take_buffer(g, 0, 1).unwrap()).collect();
    for (buffer, id) in leaked.iter().zip(&ids) {
        let at = buffer.owner_at(arena);
        store
            .process()
            .write(g, |section| {
                section.mark(at, 4);
                ground.mapping.words32(at, 1).unwrap()[0].store(id.get() + 1, Ordering::Relaxed);
            })
            .unwrap();
    }
    let other = ground.store();
    let g = ground.own(&other);
    assert_eq!(other.expire(g, 0).unwrap(), Expired { buffers: 50, ..Expired::default() });
    assert_eq!(other.expire(g, 0).unwrap(), Expired::default());
    for id in ids {
        assert_eq!(all(&other, id), [at(0, 1.0)]);
    }
}
