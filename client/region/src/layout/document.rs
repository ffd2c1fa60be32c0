//! `FORMAT.md` says what the code does: its checked tables are compared with the constants.

use super::header::field;
use super::*;

/// Rows of the table under the heading `title`, cells trimmed.
fn table(title: &str) -> Vec<Vec<String>> {
    let text = include_str!("../../FORMAT.md");
    let section = text.split("\n## ").find(|s| s.starts_with(title)).unwrap_or_else(|| panic!("no section {title}"));
    let rows = section.lines().filter(|l| l.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn numbers(title: &str) -> Vec<(String, u64)> {
    table(title).into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
}

fn named(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

#[test]
fn the_sizes_are_the_codes() {
    let code = [
        ("page", PAGE),
        ("extent", EXTENT),
        ("instance row", INSTANCE_ROW),
        ("gate slot", SLOT),
        ("lane row", LANE_ROW),
        ("lane strip", LANE_STRIP),
        ("history slot", HISTORY_SLOT),
    ];
    assert_eq!(numbers("Sizes"), named(&code));
}

#[test]
fn the_series_are_the_codes() {
    use crate::series::layout::{BLOCK, BLOCK_HEADER, CLASSES, RECORD_HEADER, ROW, ROWS, SLAB};
    let code = [
        ("series row", ROW),
        ("rows of a block", ROW * ROWS),
        ("slab of head buffers", SLAB),
        ("smallest head buffer", CLASSES[0]),
        ("largest head buffer", CLASSES[CLASSES.len() - 1]),
        ("block of sealed chunks", BLOCK),
        ("its header", BLOCK_HEADER),
        ("a sealed chunk's header, at most", RECORD_HEADER),
    ];
    assert_eq!(numbers("Series"), named(&code));
}

#[test]
fn page_0_is_the_codes() {
    let code = [
        ("magic", 0),
        ("major", field::MAJOR),
        ("minor", field::MINOR),
        ("byte order", field::BYTE_ORDER),
        ("page size", field::PAGE_SIZE),
        ("extent size", field::EXTENT_SIZE),
        ("uuid", field::UUID),
        ("fingerprint", field::FINGERPRINT),
        ("limit bytes", field::LIMIT_BYTES),
        ("virtual length", field::VIRTUAL_LEN),
        ("created", field::CREATED_UNIX_MS),
        ("instances max", field::INSTANCES_MAX),
        ("lanes max", field::LANES_MAX),
        ("slots max", field::SLOTS_MAX),
        ("series max", field::SERIES_MAX),
        ("history max", field::HISTORY_MAX),
        ("segment count", field::SEGMENT_COUNT),
        ("name length", field::NAME_LEN),
        ("name", field::NAME),
        ("segments", field::SEGMENTS),
        ("crc", field::CRC),
    ];
    let code: Vec<_> = code.iter().map(|(name, n)| (*name, *n as u64)).collect();
    assert_eq!(numbers("Page 0"), named(&code));
    assert!(include_str!("../../FORMAT.md").contains(&format!("format {MAJOR}.{MINOR}")));
}

#[test]
fn the_segments_are_the_codes() {
    let unit = |kind| match kind {
        SegmentKind::Gate | SegmentKind::Superblocks => PAGE,
        SegmentKind::Control => control::LEN,
        SegmentKind::Extents => EXTENT,
        SegmentKind::Instances => INSTANCE_ROW,
        SegmentKind::Slots => SLOT,
        SegmentKind::LaneTable => LANE_ROW,
        SegmentKind::Lanes => LANE_STRIP,
        SegmentKind::History => HISTORY_SLOT,
        SegmentKind::MarkSummary | SegmentKind::Marks => 4,
        SegmentKind::SharedIndex | SegmentKind::SharedArena | SegmentKind::Owned => 8,
        SegmentKind::PageCrcs | SegmentKind::Totals => 8,
    };
    let code: Vec<_> = SegmentKind::ALL
        .map(|kind| vec![kind.name().to_owned(), (kind as u32).to_string(), unit(kind).to_string()])
        .into();
    let text: Vec<_> = table("Segments").into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(text, code);
}
