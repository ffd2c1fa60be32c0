use super::*;
use crate::error::{Corrupt, Misuse};
use crate::layout::plan::segment_len_min;
use proptest::prelude::*;

fn header() -> Header {
    Header::new(&RegionSpec::new("shop.0", 64 << 20), [3; 16], 1_700_000_000_000).unwrap()
}

fn check(page: &[u8], len: u64) -> Result<Header, Error> {
    UncheckedHeader::new(page, len).check()
}

/// The page with `bytes` at `at`, and a right CRC.
fn with(at: usize, bytes: &[u8]) -> [u8; PAGE as usize] {
    let mut page = header().encode();
    page[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut page);
    page
}

fn seal(page: &mut [u8; PAGE as usize]) {
    let crc = crc32(&page[..field::CRC]);
    page[field::CRC..].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_is_encoded_is_read_back() {
    let h = header();
    assert_eq!(check(&h.encode(), h.virtual_len).unwrap(), h);
    assert_eq!(check(&h.encode(), u64::MAX).unwrap(), h, "a longer file is no fault");
}

#[test]
fn each_kind_of_wrong_file_has_its_own_error() {
    let len = header().virtual_len;
    let text = |page: &[u8], len: u64| check(page, len).unwrap_err().to_string();
    assert_eq!(text(b"", 0), "region header: 0 bytes, expected 4096");
    assert_eq!(text(&header().encode()[..100], 100), "region header: 100 bytes, expected 4096");
    assert_eq!(
        text(&[b'x'; 4096], len),
        r#"not a heirloom region: the first bytes are "xxxxxxxx", expected "HEIRLOOM""#
    );
    assert_eq!(
        text(b"\xc6\"HE\n\\MO", 8),
        r#"not a heirloom region: the first bytes are "\xc6\"HE\n\\MO", expected "HEIRLOOM""#,
        "escaped once"
    );
    assert_eq!(text(&header().encode(), len - 1), format!("region file: {} bytes, expected {len}", len - 1));
    assert_eq!(text(&with(field::MAJOR, &[2, 0, 9, 0]), len), "region format 2.9, this build reads 1.x");
    let swapped = text(&with(field::BYTE_ORDER, &[0x0a, 0x0b, 0x0c, 0x0d]), len);
    assert!(swapped.starts_with("region format byte order mark 0x0d0c0b0a"), "{swapped}");
    assert!(text(&with(field::FINGERPRINT, &[1]), len).contains("this build reads layout"));
    assert!(check(&with(field::MINOR, &[7, 0]), len).unwrap().minor == 7, "a newer minor is read");
    let flipped = {
        let mut page = header().encode();
        page[field::UUID] ^= 1;
        check(&page, len).unwrap_err()
    };
    assert!(matches!(flipped, Error::Corrupt(Corrupt::Checksum { what: "region header", .. })), "{flipped}");
}

#[test]
fn every_flipped_bit_is_refused() {
    let (page, len) = (header().encode(), header().virtual_len);
    for bit in 0..page.len() * 8 {
        let mut page = page;
        page[bit / 8] ^= 1 << (bit % 8);
        let found = check(&page, len);
        assert!(found.is_err(), "bit {bit}");
    }
}

#[test]
fn fields_that_no_writer_makes_are_named() {
    let len = header().virtual_len;
    let row = |i: usize, at: usize| field::SEGMENTS + i * field::SEGMENT_ROW + ROW_FIELDS[at];
    let cases: [(usize, Vec<u8>, &str); 10] = [
        (field::LIMIT_BYTES, 5u64.to_le_bytes().into(), "limit_bytes"),
        (field::LIMIT_BYTES, u64::MAX.to_le_bytes().into(), "limit_bytes"),
        (field::INSTANCES_MAX, u32::MAX.to_le_bytes().into(), "instances_max"),
        (field::VIRTUAL_LEN, (1u64 << 60).to_le_bytes().into(), "virtual_len"),
        (field::SEGMENT_COUNT, u32::MAX.to_le_bytes().into(), "segment_count"),
        (field::SEGMENT_COUNT, 15u32.to_le_bytes().into(), "HISTORY"),
        (field::NAME_LEN, 101u32.to_le_bytes().into(), "name_len"),
        (field::NAME, vec![0xff], "name"),
        (row(0, 2), u64::MAX.to_le_bytes().into(), "segment offset"),
        (row(0, 2), (2 * PAGE).to_le_bytes().into(), "segment offset"),
    ];
    for (at, bytes, what) in cases {
        let e = check(&with(at, &bytes), len).unwrap_err();
        assert!(e.to_string().starts_with(what), "{what}: {e}");
    }
    let e = check(&with(row(5, 3), &PAGE.to_le_bytes()), len).unwrap_err();
    assert!(e.to_string().starts_with("segment len"), "slots too short for slots_max: {e}");
    let e = check(&with(row(7, 3), &(u64::MAX - 4095).to_le_bytes()), len).unwrap_err();
    assert!(matches!(e, Error::Corrupt(Corrupt::OutOfBounds { .. })), "{e}");
    let e = check(&with(row(3, 4), &[9]), len).unwrap_err();
    assert!(e.to_string().contains("segment EXTENTS"), "{e}");
}

#[test]
fn an_unknown_segment_is_kept() {
    let mut h = header();
    let (offset, len) = (h.virtual_len, EXTENT);
    h.virtual_len += EXTENT;
    h.segments.push(SegmentEntry { kind: 9000, version: 3, offset, len, fingerprint: 12, flags: 1 });
    assert_eq!(check(&h.encode(), h.virtual_len).unwrap(), h);
}

#[test]
fn a_spec_is_checked_before_anything_is_made() {
    let spec = RegionSpec { lanes_max: 0, ..RegionSpec::new("r", 4 << 20) };
    let e = Header::new(&spec, [0; 16], 0).unwrap_err();
    assert!(matches!(e, Error::Misuse(Misuse::Argument { what: "lanes_max", .. })), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever stands in page 0, sealed with a right CRC or not, gets an error or a header whose segments lie in the file.
    #[test]
    fn any_mutation_is_an_error_or_a_sound_header(
        mutations in prop::collection::vec((0usize..PAGE as usize, any::<u8>()), 1..12),
        row_words in prop::collection::vec((0usize..16, 0usize..6, any::<u64>()), 0..4),
        right_crc: bool,
        len in prop_oneof![Just(u64::MAX), 0..1u64 << 40],
    ) {
        let mut page = header().encode();
        for (row, column, value) in row_words {
            let at = field::SEGMENTS + row * field::SEGMENT_ROW + ROW_FIELDS[column];
            let width = if column == 5 || column < 2 { 4 } else { 8 };
            page[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        for (at, value) in mutations {
            // The first fields get others' errors; what lies behind them is what shall be reached.
            page[at.max(field::UUID + 16 + 8)] = value;
        }
        if right_crc {
            seal(&mut page);
        }
        if let Ok(h) = check(&page, len) {
            prop_assert!(h.virtual_len <= len);
            for kind in SegmentKind::ALL {
                let s = h.segment(kind);
                prop_assert!(s.end() <= h.virtual_len && s.offset >= PAGE && s.len >= segment_len_min(kind, &h.limits));
            }
        }
    }
}
