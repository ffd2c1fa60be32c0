//! Growth: never more extents than the limit allows.

use std::sync::Arc;

use loom::thread;

use super::bounds;
use crate::layout::{EXTENT, RegionSpec, SegmentKind};
use crate::mapping::Mapping;
use crate::sync::Ordering;
use crate::sync::fence;
use crate::sync::modelled::{Memory, explore};

#[test]
fn loom_growth_stops_at_the_limit() {
    let mapping = Mapping::heap(&RegionSpec::new("r", RegionSpec::LIMIT_BYTES_MIN)).unwrap();
    let arena = mapping.segment(SegmentKind::SharedArena);
    // One extent is left, and each thread wants another; their bits do not share a word.
    let mut from = arena.offset;
    while mapping.used_bytes() + EXTENT < mapping.limit_bytes() {
        mapping.ensure(from, 8).unwrap();
        from += EXTENT;
    }
    let far = from + 32 * EXTENT;
    assert!(arena.contains(far) || mapping.segment(SegmentKind::Owned).contains(far));
    explore("growth", bounds(Memory::C11, 2), move || {
        let other = Arc::clone(&mapping);
        let other = thread::spawn(move || other.grow_once(far));
        let (mine, theirs) = (mapping.grow_once(from), other.join().unwrap());
        fence(Ordering::SeqCst);
        assert!(!(mine && theirs), "two extents, and one was left");
        assert!(mapping.used_bytes() <= mapping.limit_bytes());
    });
}
