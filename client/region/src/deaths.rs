//! Owners that died and were not about to leave: kept in the region, so that a region which kills its owners is held back
//! also where the arbiter is started anew between their deaths.
//!
//! Entries in the control area, two words each:
//!
//! ```text
//! word 0  when, in milliseconds of the wall clock     1  {crc:32, generation:32}
//! ```
//!
//! The CRC is over generation and time. A note replaces an empty entry, one of a generation to come, or that of the lowest
//! generation, with the second word made invalid first and published last: a kill in between loses that one death. Only the
//! keeper writes.

use crate::layout::{control, crc32};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering, fence};

/// Deaths that are kept.
pub(crate) const DEATHS_MAX: usize = 16;
const DEATHS: u64 = control::KEEPER + 256;

const _: () = assert!(DEATHS + 16 * DEATHS_MAX as u64 <= control::OBJECTS);

/// What is kept, by generation: which, and when.
pub(crate) fn read(mapping: &Mapping) -> Vec<(u64, u64)> {
    let mut deaths: Vec<_> = entries(mapping).iter().filter_map(decode).collect();
    deaths.sort_unstable();
    deaths
}

/// Keeps the death of the owner of `generation`, once.
pub(crate) fn note(mapping: &Mapping, generation: u64, unix_ms: u64) {
    let entries = entries(mapping);
    if read(mapping).iter().any(|(known, _)| *known == generation) {
        return;
    }
    // One of a generation to come is nobody's.
    let age = |entry: &&[AtomicU64; 2]| decode(entry).filter(|(known, _)| *known < generation);
    let Some([time, check]) = entries.iter().min_by_key(age) else { return };
    check.store(0, Ordering::Relaxed);
    // Pairs with the Acquire load in `decode`: who sees the new time also sees the check gone.
    fence(Ordering::Release);
    time.store(unix_ms, Ordering::Relaxed);
    check.store(check_of(generation, unix_ms), Ordering::Release);
}

/// Forgets all: somebody has looked at it.
pub(crate) fn forget(mapping: &Mapping) {
    entries(mapping).iter().for_each(|[_, check]| check.store(0, Ordering::Release));
}

fn entries(mapping: &Mapping) -> &[[AtomicU64; 2]] {
    let words = mapping.words(mapping.control(DEATHS), 2 * DEATHS_MAX as u64);
    words.map_or(&[], |words| words.as_chunks::<2>().0)
}

fn decode([time, check]: &[AtomicU64; 2]) -> Option<(u64, u64)> {
    let check = check.load(Ordering::Acquire);
    let (generation, unix_ms) = (check & u64::from(u32::MAX), time.load(Ordering::Relaxed));
    (generation != 0 && check == check_of(generation, unix_ms)).then_some((generation, unix_ms))
}

fn check_of(generation: u64, unix_ms: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..].copy_from_slice(&unix_ms.to_le_bytes());
    u64::from(crc32(&bytes)) << 32 | generation & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RegionSpec;

    #[test]
    fn the_newest_deaths_are_kept_once_each_and_noise_is_none() {
        let mapping = Mapping::heap(&RegionSpec::new("r", 4 << 20)).unwrap();
        assert_eq!(read(&mapping), []);
        for generation in 1..=20 {
            note(&mapping, generation, 100 * generation);
            note(&mapping, generation, 7);
        }
        let expected: Vec<_> = (5..=20).map(|generation| (generation, 100 * generation)).collect();
        assert_eq!(read(&mapping), expected);
        // As a kill between the two words leaves it, and as nobody leaves it.
        let torn = entries(&mapping).iter().find(|entry| decode(entry) == Some((9, 900))).unwrap();
        torn[0].store(901, Ordering::Relaxed);
        assert_eq!(read(&mapping).len(), DEATHS_MAX - 1);
        note(&mapping, 21, 2100);
        assert_eq!((read(&mapping).len(), read(&mapping)[0].0), (DEATHS_MAX, 5), "the torn one's place is free");
        for noise in [0, 1, u64::MAX, 1 << 32] {
            entries(&mapping).iter().flatten().for_each(|word| word.store(noise, Ordering::Relaxed));
            assert_eq!(read(&mapping), []);
        }
        note(&mapping, 3, 4);
        assert_eq!(read(&mapping), [(3, 4)]);
        forget(&mapping);
        assert_eq!(read(&mapping), []);
    }

    #[test]
    fn deaths_of_generations_to_come_keep_no_place() {
        let mapping = Mapping::heap(&RegionSpec::new("r", 4 << 20)).unwrap();
        for (n, [time, check]) in (1u64..).zip(entries(&mapping)) {
            time.store(n, Ordering::Relaxed);
            check.store(check_of(u64::from(u32::MAX) - n, n), Ordering::Relaxed);
        }
        assert_eq!(read(&mapping).len(), DEATHS_MAX);
        (4..7).for_each(|generation| note(&mapping, generation, 10));
        assert_eq!(read(&mapping)[..3], [(4, 10), (5, 10), (6, 10)]);
    }
}
