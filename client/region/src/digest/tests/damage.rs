//! Reboots, and bytes that nobody of this format wrote: an error or an odd region, never a panic or a hang.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn file() -> (tempfile::TempDir, Arc<Mapping>) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = RegionSpec { instances_max: 4, lanes_max: 4, slots_max: 16, ..RegionSpec::new("r", 16 << 20) };
    let mapping = Mapping::create_file(dir.path(), &spec).unwrap();
    mapping.ensure(owned(&mapping, 0), 16 * PAGE).unwrap();
    (dir, mapping)
}

#[test]
fn after_a_reboot_a_new_generation_is_vacant_and_what_differs_is_unverifiable() {
    let (_dir, mapping) = file();
    let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    for page in 0..3 {
        write(&a, g, owned(&mapping, page), page + 1).unwrap();
    }
    round(&mut keeper);
    // Dirty when the power went; and one of which the disk holds something else.
    write(&a, g, owned(&mapping, 1), 9).unwrap();
    mapping.word(owned(&mapping, 2)).unwrap().fetch_xor(4, Ordering::Relaxed);
    drop((a, keeper));
    another_boot(&mapping);

    let (mut keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    let expected = Recovery { generation: 3, rebooted: true, unverified_pages: 2, ..Recovery::default() };
    assert_eq!(recovery, expected);
    assert_eq!((keeper.superblock().owner_incarnation, keeper.dirty_pages()), (0, 0));
    assert_sound(&keeper);
    let states = page_states(&mapping).unwrap();
    let unverifiable = states.iter().filter(|(_, state)| *state == PageState::Unverifiable);
    assert_eq!(unverifiable.map(|(run, _)| run.end - run.start).sum::<u64>(), 2);
    assert_eq!(mapping.word(owned(&mapping, 1)).unwrap().load(Ordering::Relaxed), 9, "kept as it was found");

    // Its next owner's write makes a page verifiable again.
    let b = attach(&mut keeper, "v2");
    switch_to(&mut keeper, b.incarnation());
    let g = b.learn().unwrap();
    write(&b, g, owned(&mapping, 1), 10).unwrap();
    assert_eq!(switch_to(&mut keeper, 0).frozen_pages, 1);
    drop((b, keeper));
    another_boot(&mapping);
    let (_, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    assert_eq!((recovery.generation, recovery.unverified_pages), (6, 1));
}

#[test]
fn after_a_reboot_the_generation_is_above_all_that_was_ever_named() {
    for (gate, expected) in [(GateWord::open(1, 0), 3), (GateWord::frozen(40, 9), 41), (GateWord::DETACHED, 3)] {
        let (_dir, mapping) = file();
        // A candidate of generation 2, written but never committed.
        let next = Superblock { sequence: 2, generation: 2, owner_incarnation: 7, ..Superblock::default() };
        superblock::write(&mapping, &next).unwrap();
        GatePage::of(&mapping).unwrap().word().store(gate.raw(), Ordering::Relaxed);
        another_boot(&mapping);
        let (keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
        assert_eq!((recovery.generation, keeper.superblock().sequence), (expected, 3), "{gate}");
        assert_eq!(crate::gate::gate_word(&mapping).unwrap(), GateWord::open(expected, 0));
    }
    let (_dir, mapping) = file();
    for slot in 0..2 {
        mapping
            .word(mapping.segment(SegmentKind::Superblocks).offset + slot * PAGE + 8)
            .unwrap()
            .store(3, Ordering::Relaxed);
    }
    another_boot(&mapping);
    assert_eq!(Keeper::open(mapping).unwrap_err().reason(), "REGION_CORRUPT");
}

/// What was open when the host went is kept: a sealed generation that nobody has opened was not committed.
#[test]
fn a_reset_remembers_which_generation_was_open() {
    for committed in [false, true] {
        let (_dir, mapping) = file();
        let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
        let a = attach(&mut keeper, "v1");
        switch_to(&mut keeper, a.incarnation());
        if committed {
            switch_to(&mut keeper, a.incarnation());
        } else {
            sealed(&mut keeper, BUDGET, |sealed| drop(sealed));
        }
        let open = keeper.superblock().generation;
        assert_eq!(open, if committed { 3 } else { 2 });
        drop((a, keeper));
        another_boot(&mapping);
        let (keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
        assert_eq!((recovery.generation, keeper.superblock().former_generation), (4, open));
        // A reset that was cut short before it adopted the boot is done again, and remembers the same.
        drop(keeper);
        another_boot(&mapping);
        let (keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
        assert_eq!((recovery.generation, keeper.superblock().former_generation), (5, open));
        assert!(keeper.superblock().opened_by_reset());
    }
}

#[test]
fn used_up_generations_are_said_to_be_after_a_reboot() {
    let last = crate::gate::word::GENERATION_MAX;
    for (recorded, words) in [
        (last, format!("all {last} generations are used up")),
        (2, format!("gate generation at byte 16384: {last:#x}, expected a generation near 2")),
    ] {
        let (_dir, mapping) = file();
        let newest = Superblock { sequence: 2, generation: recorded, ..Superblock::default() };
        superblock::write(&mapping, &newest).unwrap();
        GatePage::of(&mapping).unwrap().word().store(GateWord::open(last, 0).raw(), Ordering::Relaxed);
        another_boot(&mapping);
        let found = Keeper::open(mapping).unwrap_err().to_string();
        let (words, _) = words.split_once(" at byte").unwrap_or((&words, ""));
        assert!(found.starts_with(words), "{found}");
    }
}

#[test]
fn marks_that_are_not_allocated_make_every_page_dirty() {
    let (mapping, mut keeper) = region(4);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    let pages = Tables::of(&mapping);
    let ready = (0..pages.pages).filter(|page| pages.is_ready(*page)).count() as u64;
    // What a writer does that finds no mark, the page itself being there by no writer of this format.
    let epoch = GatePage::of(&mapping).unwrap().epoch().load(Ordering::Relaxed);
    GatePage::of(&mapping).unwrap().all_dirty().store(epoch, Ordering::Relaxed);
    mapping.word(owned(&mapping, 3)).unwrap().store(8, Ordering::Relaxed);
    assert_eq!(keeper.dirty_pages(), ready);
    assert_eq!(round(&mut keeper), ready);
    assert_eq!(keeper.dirty_pages(), 0);
    write(&a, g, owned(&mapping, 0), 1).unwrap();
    assert_eq!(switch_to(&mut keeper, 0).frozen_pages, 1);
}

/// Segments that any instance may write to, and that the keeper reads.
const HOSTILE: [SegmentKind; 7] = [
    SegmentKind::Gate,
    SegmentKind::Superblocks,
    SegmentKind::Slots,
    SegmentKind::Instances,
    SegmentKind::MarkSummary,
    SegmentKind::Marks,
    SegmentKind::PageCrcs,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any words in any of the gate's and the digest's structures: whoever opens, verifies, digests, freezes or enters gets an
    /// answer, in time.
    #[test]
    fn any_bytes_get_an_answer(
        noise in prop::collection::vec((prop::sample::select(&HOSTILE[..]), 0..512u64, prop_oneof![any::<u64>(), 0..4u64]), 1..12),
        reopen: bool,
    ) {
        let (mapping, mut keeper) = region(8);
        let a = attach(&mut keeper, "v1");
        switch_to(&mut keeper, a.incarnation());
        let g = a.learn().unwrap();
        a.set_freeze_wait_max(Duration::from_millis(5));
        write(&a, g, owned(&mapping, 1), 1).unwrap();
        for (kind, word, value) in noise {
            if let Ok(word) = mapping.word(mapping.segment(kind).offset + 8 * word) {
                word.store(value, Ordering::Relaxed);
            }
        }
        let start = Instant::now();
        if reopen {
            drop(keeper);
            match Keeper::open(Arc::clone(&mapping)) {
                Ok((reopened, _)) => keeper = reopened,
                Err(why) => {
                    prop_assert!(!why.to_string().is_empty());
                    return Ok(());
                }
            }
        }
        let _ = write(&a, g, owned(&mapping, 1), 2);
        let _ = (a.owner(), a.gate(), keeper.verify(&mut |_, _| {}).len(), keeper.dirty_pages());
        if keeper.begin_round().is_ok() {
            let _ = keeper.round_step(100);
        }
        let _ = keeper.record_totals();
        if let Ok(frozen) = keeper.freeze(Duration::from_millis(20))
            && let Ok(sealed) = frozen.seal(Next::default())
        {
            let _ = sealed.commit();
        }
        let _ = keeper.read_blackout(1);
        prop_assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
