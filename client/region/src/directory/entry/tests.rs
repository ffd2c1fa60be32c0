//! Entries: round trips, arbitrary words, flipped bits.

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

prop_compose! {
    fn entries()(
        kind in prop::sample::select(vec![Kind::Counter, Kind::Histogram, Kind::Family, Kind::Gauge]),
        payload: u64, words: u32, created_unix_ms: u64,
        name in "[a-z:][a-zA-Z0-9_:]{0,60}x",
        labels in prop::collection::btree_map("[a-z][a-zA-Z0-9_]{0,20}x", "\\PC{1,60}", 0..6),
        help in text(),
        bounds in prop::collection::btree_set(-1000i32..1000, 0..20),
    ) -> Entry {
        let labels = labels.into_iter().collect();
        let bounds = bounds.into_iter().map(f64::from).collect();
        Entry { kind, payload, words, created_unix_ms, name, labels, help, unit: String::new(), bounds }
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(entry in entries()) {
        let words = entry.encode().unwrap();
        prop_assert_eq!(decode(&words, 0), Ok(Decoded::Known(Box::new(entry))));
    }

    #[test]
    fn arbitrary_words_never_panic(words in prop::collection::vec(any::<u64>(), 0..40), len in 0u64..40, fix: bool) {
        let mut words = words;
        if let Some(first) = words.first_mut() {
            *first = len | (*first >> 61) << 32 | 1 << 48;
        }
        // With the checksum made right, the checks behind it are reached too.
        if fix && words.len() >= len as usize && len >= HEADER_WORDS as u64 {
            let crc = crc(&words[..len as usize]);
            words[CRC_WORD] = words[CRC_WORD] & !0xffff_ffff | u64::from(crc);
            let crc = super::crc(&words[..len as usize]);
            words[CRC_WORD] = words[CRC_WORD] & !0xffff_ffff | u64::from(crc);
        }
        let _ = decode(&words, 0);
    }

    #[test]
    fn a_flipped_bit_is_found(entry in entries(), bit: prop::sample::Index) {
        let mut words = entry.encode().unwrap();
        let bit = bit.index(words.len() * 64);
        words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(decode(&words, 0).is_err());
    }

    #[test]
    fn a_series_number_is_read_from_its_own_whole_entry_alone(
        labels in prop::collection::btree_map("[a-z][a-zA-Z0-9_]{0,20}x", "\\PC{1,60}", 1..9),
        payload: u64, created_unix_ms: u64, bit: prop::sample::Index, more in "\\PC{1,8}",
    ) {
        let labels: Vec<(String, String)> = labels.into_iter().collect();
        let entry = Entry { payload, created_unix_ms, labels: labels.clone(), ..Entry::new(Kind::Series, "") };
        let mut words = entry.encode().unwrap();
        let number = |words: &[u64], labels: &[(String, String)]| {
            let text = encoded(labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            series_number(words, entry.hash(), (labels.len(), &text))
        };
        prop_assert_eq!(number(&words, &labels), Some(payload));
        let mut others = labels.clone();
        others[0].1.push_str(&more);
        prop_assert_eq!(number(&words, &others), None);
        prop_assert_eq!(number(&words, &labels[1..]), None);
        let bit = bit.index(words.len() * 64);
        words[bit / 64] ^= 1 << (bit % 64);
        prop_assert_eq!(number(&words, &labels), None);
    }

    #[test]
    fn lengths_that_lie_are_refused(entry in entries(), word in prop::sample::select(vec![1usize, 3, 5]), value: u64) {
        let mut words = entry.encode().unwrap();
        prop_assume!(words[word] != value);
        let original = (words[3], words[5], words[1]);
        words[word] = value;
        words[CRC_WORD] = u64::from(crc(&words));
        if let Ok(Decoded::Known(e)) = decode(&words, 0) {
            prop_assert!(original != (words[3], words[5], words[1]) && e.words == words[3] as u32);
        }
    }
}

#[test]
fn a_kind_or_version_of_the_future_is_unknown_not_wrong() {
    for (kind, version) in [(77u64, 1u64), (1, 2)] {
        let mut words = vec![8 | kind << 32 | version << 48, 1, 2, 3, 4, u64::MAX, 0, 9];
        words[CRC_WORD] = u64::from(crc(&words));
        assert_eq!(decode(&words, 0), Ok(Decoded::Unknown { kind: kind as u16 }));
    }
}

#[test]
fn an_entry_over_16_kib_is_refused() {
    let labels = (0..32).map(|i| (format!("l{i:02}"), "x".repeat(1000))).collect();
    let entry = Entry { labels, ..Entry::new(Kind::Counter, "a") };
    assert!(matches!(entry.encode(), Err(Misuse::Argument { .. })));
}

#[test]
fn the_hash_is_part_of_the_format() {
    assert_eq!(key_hash(Space::Objects, "a", &[("b", "c")]), 0x8ee1_8ab3_a4d5_91d4);
    assert_ne!(key_hash(Space::Objects, "a", &[("b", "c")]), key_hash(Space::Objects, "a", &[("bc", "")]));
    assert_ne!(key_hash(Space::Objects, "a", &[]), key_hash(Space::Families, "a", &[]));
}
