//! Which superblock is current, and what no bytes may do.

use proptest::prelude::*;

use super::*;

fn block(sequence: u64, generation: u64) -> Superblock {
    Superblock { sequence, generation, owner_incarnation: 77, root_digest: 5, attempt: 3, ..Default::default() }
}

fn pair(even: Option<Superblock>, odd: Option<Superblock>) -> Pair {
    let words = [even, odd].map(|b| b.map_or([0; SUPERBLOCK_WORDS], |b| b.encode()));
    Pair::decode(4096, 4096, &words)
}

/// The design's choice, case by case: (even slot, odd slot, gate's generation) -> the current sequence.
#[test]
fn the_current_one_is_the_highest_valid_not_above_the_gate() {
    let b = |s, g| Some(block(s, g));
    #[rustfmt::skip]
    let table = [
        ("a new region",                             None,     b(1, 1), 1, Some(1)),
        ("two in order",                             b(2, 2),  b(1, 1), 2, Some(2)),
        ("two in order, odd newer",                  b(2, 2),  b(3, 3), 3, Some(3)),
        ("a candidate above the gate does not count", b(2, 3), b(1, 2), 2, Some(1)),
        ("after its commit it does",                 b(2, 3),  b(1, 2), 3, Some(2)),
        ("only a candidate: nothing of the gate's",  b(2, 3),  None,    2, None),
        ("below the gate within one boot",           b(2, 2),  b(1, 1), 3, None),
        ("not adjacent",                             b(8, 2),  b(1, 1), 2, None),
        ("neither valid",                            None,     None,    1, None),
        ("the newer one torn",                       None,     b(1, 1), 2, None),
        ("a torn candidate beside the current",      None,     b(5, 4), 4, Some(5)),
        ("parity of another slot",                   b(1, 1),  None,    1, None),
        ("a higher sequence of a lower generation",  b(2, 1),  b(1, 2), 2, None),
    ];
    for (what, even, odd, gate, expected) in table {
        let found = pair(even, odd).current(gate).map(|s| s.sequence);
        assert_eq!(found.clone().ok(), expected, "{what}: {found:?}");
    }
}

#[test]
fn a_candidate_never_takes_the_current_slot() {
    let mut current = block(1, 1);
    for _ in 0..5 {
        let next = Superblock { sequence: current.sequence + 1, generation: current.generation + 1, ..current };
        assert_ne!(next.slot(), current.slot());
        current = next;
    }
}

#[test]
fn a_torn_write_is_invalid_at_every_word() {
    let old = block(2, 2).encode();
    let new = block(4, 4).encode();
    for cut in 0..CRC_WORD {
        let page: Vec<AtomicU64> = old.iter().map(|w| AtomicU64::new(*w)).collect();
        page[CRC_WORD].store(!new[CRC_WORD], Ordering::Relaxed);
        (0..cut).for_each(|i| page[i].store(new[i], Ordering::Relaxed));
        assert!(Superblock::decode(0, 0, &load(&page)).is_err(), "cut at {cut}");
    }
    let page: Vec<AtomicU64> = old.iter().map(|w| AtomicU64::new(*w)).collect();
    store(&page, &new);
    assert_eq!(Superblock::decode(0, 0, &load(&page)).unwrap(), block(4, 4));
}

proptest! {
    #[test]
    fn arbitrary_words_never_panic(a: [u64; SUPERBLOCK_WORDS], b: [u64; SUPERBLOCK_WORDS], gate: u32) {
        let pair = Pair::decode(0, 4096, &[a, b]);
        let _ = (pair.current(u64::from(gate)), pair.newest(), pair.highest_generation());
    }

    #[test]
    fn one_flipped_bit_is_found(sequence in 1..1000u64, generation in 1..1000u64, bit in 0..(64 * SUPERBLOCK_WORDS)) {
        let good = block(sequence, generation);
        let mut words = good.encode();
        prop_assert_eq!(Superblock::decode(good.slot(), 0, &words).unwrap(), good);
        words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(Superblock::decode(good.slot(), 0, &words).is_err());
    }
}
