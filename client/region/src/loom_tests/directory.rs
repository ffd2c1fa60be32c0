//! A directory's entries: unique, and whole once they can be found.

use std::sync::Arc;

use loom::thread;

use super::bounds;
use crate::digest::tests::region;
use crate::directory::entry::{Decoded, Entry};
use crate::directory::{Directory, Key, Kind, Lookup};
use crate::mapping::Mapping;
use crate::sync::modelled::{Memory, explore};

fn entry(payload: u64) -> Entry {
    Entry { payload, ..Entry::new(Kind::Counter, "visits") }
}

fn insert(mapping: &Mapping, payload: u64) -> u64 {
    let found = Directory::shared(mapping).find_or_insert(&Key::object("visits", &[]), || Ok(entry(payload)));
    let Decoded::Known(entry) = found.unwrap() else { panic!("another kind") };
    entry.payload
}

#[test]
fn loom_directory_entry() {
    let (mapping, _keeper) = region(4);
    // Space and the index' extent are ready.
    let other = Directory::shared(&mapping)
        .find_or_insert(&Key::object("other", &[]), || Ok(Entry { payload: 7, ..Entry::new(Kind::Counter, "other") }));
    other.unwrap();
    mapping.ensure(mapping.segment(crate::layout::SegmentKind::SharedIndex).offset, 4096 * 8).unwrap();
    explore("directory entry", bounds(Memory::C11, 2), move || {
        let at = |payload| {
            let mapping = Arc::clone(&mapping);
            thread::spawn(move || insert(&mapping, payload))
        };
        let (one, two) = (at(100), at(200));
        let seen = match Directory::shared(&mapping).find(&Key::object("visits", &[])).expect("whole, or not there") {
            Lookup::Found(Decoded::Known(entry)) => Some(entry.payload),
            Lookup::Vacant(_) => None,
            other => panic!("{other:?}"),
        };
        let (one, two) = (one.join().unwrap(), two.join().unwrap());
        assert_eq!(one, two, "one entry");
        assert!(seen.is_none_or(|seen| seen == one) && [100, 200].contains(&one));
    });
}
