//! Bit for bit: what goes in comes out, known vectors, and hostile bytes.

use proptest::prelude::*;

use super::bits::Count;
use super::*;

/// Prometheus' marker of a series that went away.
const STALE: u64 = 0x7ff0_0000_0000_0002;

fn encode(samples: &[(i64, u64)]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for (timestamp_ms, value) in samples {
        assert!(encoder.push(Sample { timestamp_ms: *timestamp_ms, value: f64::from_bits(*value) }));
    }
    encoder.to_bytes()
}

fn decode(chunk: &[u8]) -> Result<Vec<(i64, u64)>, BadChunk> {
    Decoder::new(chunk).map(|s| s.map(|s| (s.timestamp_ms, s.value.to_bits()))).collect()
}

/// Bits as text, for vectors that a reader can follow.
fn bits(text: &str) -> Vec<u8> {
    let bits: Vec<u8> = text.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
    bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |acc, (i, bit)| acc | bit << (7 - i))).collect()
}

#[test]
fn the_bits_are_those_that_the_format_says() {
    let one = 1f64.to_bits();
    let chunk = encode(&[(-1, 0), (0, 0), (1, one), (3, one ^ 1 << 52), (-10_000, 1), (10_000_000_000, 0)]);
    let text = [
        // The count, a zigzag varint, the value.
        "00000000 00000110",
        "00000001",
        &"0".repeat(64),
        // A difference of 1, the same value.
        "00000001 0",
        // No change of difference; a new window: 2 leading zeros, 10 bits.
        "0 11 00010 001010 1111111111",
        // A change of 1 in 14 bits; within the window.
        "10 00000000000001 10 0000000001",
        // -10 005 does not fit 14 bits; nor does the value the window.
        "110 11101100011101011 11 00010 111110",
        &format!("{:062b}", one ^ 1 << 52 ^ 1),
        // 64 bits; within the window.
        "1111",
        &format!("{:064b}", 10_000_010_000i64 + 10_003),
        "10",
        &format!("{:062b}", 1),
    ];
    assert_eq!(chunk, bits(&text.concat()));
}

#[test]
fn a_change_of_difference_takes_the_narrowest_class_that_holds_it() {
    let classes = [(1 << 13, 16), (-(1 << 13) + 1, 16), (1 << 16, 20), (-(1 << 16) + 1, 20), (1 << 19, 24)];
    let wider = [((1 << 13) + 1, 20), (-(1 << 13), 20), ((1 << 16) + 1, 24), (-(1 << 19), 68), (i64::MIN, 68)];
    for (change, expected) in classes.into_iter().chain(wider) {
        let mut state = State::EMPTY;
        for (i, t) in [0, 1000].into_iter().enumerate() {
            state.encode(i as u32, t, 0, &mut Count::default());
        }
        let t = 2000i64.wrapping_add(change);
        assert_eq!(state.measure(2, t, 0), expected + 1, "{change}");
        let samples = [(0, 0), (1000, 0), (t, 0)];
        assert_eq!(decode(&encode(&samples)).unwrap(), samples);
    }
}

#[test]
fn a_whole_window_is_written_as_64_bits_and_31_leading_zeros_are_the_most() {
    for changed in [1 << 63 | 1, 1, u64::MAX, 1 << 32, STALE, 1 << 31] {
        let samples = [(5, 0), (6, changed), (7, 0), (8, changed >> 1)];
        assert_eq!(decode(&encode(&samples)).unwrap(), samples);
    }
}

#[test]
fn what_a_restarted_prometheus_went_on_with_is_read() {
    // The second sample says "the last window" where there was none: all 64 bits.
    let text = ["00000000 00000010 00000000", &"0".repeat(64), "00000001 10", &format!("{:064b}", STALE)];
    assert_eq!(decode(&bits(&text.concat())).unwrap(), [(0, 0), (1, STALE)]);
}

#[test]
fn hostile_bytes_are_errors_that_name_what_was_found() {
    let errors = |chunk: &[u8]| decode(chunk).unwrap_err();
    assert_eq!(errors(&[]), BadChunk::NoCount { found_bytes: 0 });
    assert_eq!(errors(&[0, 1]), BadChunk::Count { found: 1, most: 0, bits: 0 });
    let three = encode(&[(0, 0), (1, 1), (2, 2)]);
    let mut counted = three.clone();
    counted[0] = 0xff;
    assert!(matches!(errors(&counted), BadChunk::Count { found: 0xff03, .. }));
    let e = errors(&three[..three.len() - 1]);
    assert_eq!(e.to_string(), "sample 2 of a chunk: 31 bits for its value, expected at least 33");
    let longer = [&three[..], &[0, 0]].concat();
    let (expected_bytes, found_bytes) = (three.len(), longer.len());
    assert_eq!(errors(&longer), BadChunk::Length { expected_bytes, found_bytes });
    let varint = [&[0, 1], &[0xff; 18][..]].concat();
    assert_eq!(errors(&varint), BadChunk::Varint { sample: 0 });
    let text = ["00000000 00000010 00000000", &"0".repeat(64), "00000001 11 11111 111111", &"0".repeat(64)];
    assert_eq!(errors(&bits(&text.concat())), BadChunk::Window { sample: 1, leading: 31, width: 63 });
    // After an error nothing more comes.
    assert_eq!(Decoder::new(&varint).samples(), 1);
    let mut decoder = Decoder::new(&varint);
    assert!(decoder.next().unwrap().is_err() && decoder.next().is_none());
    let mut full = Encoder::new();
    let sample = Sample { timestamp_ms: 0, value: 0.0 };
    assert!((0..u16::MAX).all(|_| full.push(sample)) && !full.push(sample) && full.count() == u16::MAX);
    assert_eq!(decode(&encode(&[])).unwrap(), []);
}

fn values() -> impl Strategy<Value = u64> {
    let special = [STALE, f64::NAN.to_bits(), f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits(), 1 << 63, u64::MAX];
    prop_oneof![
        any::<u64>(),
        (0..1000u32).prop_map(|n| f64::from(n).to_bits()),
        proptest::sample::select(special.to_vec()),
        Just(0)
    ]
}

fn timestamps() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), 14_990..15_010i64, Just(15_000), -600_000..600_000i64]
}

proptest! {
    #[test]
    fn samples_come_back_bit_for_bit(start: i64, steps in prop::collection::vec((timestamps(), values()), 0..200)) {
        let mut t = start;
        let samples: Vec<_> = steps.into_iter().map(|(step, v)| { t = t.wrapping_add(step); (t, v) }).collect();
        let chunk = encode(&samples);
        prop_assert_eq!(decode(&chunk).unwrap(), samples.clone());
        // The state after the last sample is the encoder's, and the bits are all there are.
        let mut decoder = Decoder::new(&chunk);
        let mut state = State::EMPTY;
        let mut bits = Count::default();
        for (i, (t, v)) in samples.iter().enumerate() {
            decoder.next().unwrap().unwrap();
            let measured = state.measure(i as u32, *t, *v);
            let before = bits.0;
            state.encode(i as u32, *t, *v, &mut bits);
            prop_assert_eq!(measured, bits.0 - before);
            prop_assert!(measured <= SAMPLE_BITS_MAX);
            prop_assert_eq!(decoder.bits_taken(), bits.0 as usize);
            prop_assert_eq!(decoder.state(), state);
        }
    }

    #[test]
    fn counters_come_back(start in 0..1u64 << 40, steps in prop::collection::vec((-3..3i64, 0..1000u64), 0..120)) {
        let (mut t, mut v) = (1_790_000_000_000, start);
        let counted = steps.into_iter().map(|(jitter, n)| {
            t += 15_000 + jitter;
            v += n;
            (t, (v as f64).to_bits())
        });
        let samples: Vec<_> = counted.collect();
        prop_assert_eq!(decode(&encode(&samples)).unwrap(), samples);
    }

    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let decoder = Decoder::new(&bytes);
        let samples = usize::from(decoder.samples());
        prop_assert!(decoder.count() <= samples + 1);
    }

    #[test]
    fn a_damaged_chunk_ends(at: prop::sample::Index, with: u8, steps in prop::collection::vec(values(), 1..100)) {
        let samples: Vec<_> = steps.into_iter().enumerate().map(|(i, v)| (i as i64 * 1000, v)).collect();
        let mut chunk = encode(&samples);
        let at = at.index(chunk.len());
        chunk[at] ^= with;
        prop_assert!(Decoder::new(&chunk).count() <= 1 << 16);
    }
}
