//! Changes to valid bytes: flipped bits, odd values in words, moved and repeated pieces, cuts.

use heirloom_tests::random::Random;

/// Values that lengths, offsets and counts are wrong with.
const ODD: [u64; 14] =
    [0, 1, 2, 7, 8, 255, 4095, 4096, 65_535, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX - 7, u64::MAX];

/// Changes `bytes` in one to eight places, at most to their own length.
pub(crate) fn mutate(bytes: &mut [u8], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() as u64) as usize;
        let end = (at + 1 + random.below(16) as usize).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.number() as u8,
            2 => {
                let word = at / 8 * 8;
                let odd = ODD[random.below(ODD.len() as u64) as usize].to_le_bytes();
                let len = (bytes.len() - word).min(8);
                bytes[word..word + len].copy_from_slice(&odd[..len]);
            }
            3 => {
                // Off by a little, where a length or an offset is.
                bytes[at] = bytes[at].wrapping_add(random.below(5) as u8).wrapping_sub(2);
            }
            4 => bytes[at..end].fill([0, 0xff][random.below(2) as usize]),
            _ => {
                let from = random.below((bytes.len() - (end - at) + 1) as u64) as usize;
                bytes.copy_within(from..from + (end - at), at);
            }
        }
    }
}

/// The same, and perhaps cut or lengthened.
pub(crate) fn mutated(valid: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    mutate(&mut bytes, random);
    match random.below(6) {
        0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend((0..random.below(64)).map(|_| 0xa5)),
        _ => {}
    }
    bytes
}
