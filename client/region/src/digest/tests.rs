//! Switches, rounds and recovery on the heap.

mod damage;

use std::sync::Arc;
use std::time::Duration;

use super::marks::Tables;
use super::*;
use crate::alloc::OwnedAreas;
use crate::error::{Generation, WriteError};
use crate::instances::NewInstance;
use crate::layout::{HISTORY_SLOT, PAGE, RegionSpec, SegmentKind, align_up};
use crate::process::Process;

pub(crate) const BUDGET: Duration = Duration::from_millis(200);

/// A region on the heap, its keeper, and OWNED ready for `pages` pages.
pub(crate) fn region(pages: u64) -> (Arc<Mapping>, Keeper) {
    let mapping = Mapping::heap(&RegionSpec::new("r", 64 << 20)).unwrap();
    mapping.ensure(owned(&mapping, 0), pages * PAGE).unwrap();
    let (keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    assert_eq!(recovery, Recovery { generation: 1, ..Recovery::default() });
    (mapping, keeper)
}

/// A page of the owned area's arena, where no directory is.
pub(crate) fn owned(mapping: &Mapping, page: u64) -> u64 {
    align_up(OwnedAreas::of(mapping).arena.offset, PAGE) + page * PAGE
}

/// What `verify` calls the page.
fn name_of(mapping: &Mapping, page: u64) -> String {
    format!("owned page {}", (owned(mapping, page) - mapping.segment(SegmentKind::Owned).offset) / PAGE)
}

pub(crate) fn assert_sound(keeper: &Keeper) {
    let faults = keeper.verify(&mut |_, _| {});
    assert!(faults.is_empty(), "{} faults: {:?}", faults.len(), faults[0]);
}

pub(crate) fn attach(keeper: &mut Keeper, version: &str) -> Arc<Process> {
    let (seat, liveness) = keeper.seat(&NewInstance { version: version.into(), ..NewInstance::default() }).unwrap();
    Process::attach(Arc::clone(keeper.mapping()), seat, liveness).unwrap()
}

/// Gives the region to `owner`. Tries again where a busy machine let a budget run out: such a switch has only been aborted.
pub(crate) fn switch_to(keeper: &mut Keeper, owner: u64) -> Committed {
    let next = Next { owner_incarnation: owner, schema_fingerprint: 0 };
    for _ in 0..100 {
        match keeper.freeze(BUDGET).and_then(|frozen| frozen.seal(next)).and_then(Sealed::commit) {
            Ok(switched) => {
                assert_eq!(switched.recomputed_root, Some(switched.root_digest), "a page was missed");
                return switched;
            }
            Err(e) => assert_out_of_time(e),
        }
    }
    panic!("no switch in 100 tries");
}

/// A busy machine may let any budget run out.
fn assert_out_of_time(e: FreezeError) {
    use FreezeError::{Late, Lost, Overrun, Stuck};
    assert!(matches!(e, Lost { .. } | Stuck { .. } | Overrun { .. } | Late { .. }), "{e}");
}

/// Freezes and seals, and does something with it; tries again as [`switch_to`] does.
pub(crate) fn sealed<R>(keeper: &mut Keeper, budget: Duration, mut then: impl FnMut(Sealed<'_>) -> R) -> R {
    for _ in 0..100 {
        match keeper.freeze(budget).and_then(|frozen| frozen.seal(Next::default())) {
            Ok(sealed) => return then(sealed),
            Err(e) => assert_out_of_time(e),
        }
    }
    panic!("no seal in 100 tries");
}

/// One owned write of a word, as objects make it.
pub(crate) fn write(process: &Process, generation: Generation, at: u64, value: u64) -> Result<(), WriteError> {
    let word = process.mapping().word(at).unwrap();
    let section = process.enter(generation)?;
    section.mark(at, 8);
    word.store(value, Ordering::Relaxed);
    drop(section);
    Ok(())
}

fn round(keeper: &mut Keeper) -> u64 {
    keeper.begin_round().unwrap();
    loop {
        match keeper.round_step(3).unwrap() {
            RoundStep::Done { pages } => return pages,
            RoundStep::More => {}
            RoundStep::GraceBlocked { rows } => panic!("nobody writes, but {rows:?}"),
        }
    }
}

#[test]
fn ownership_goes_from_nobody_to_one_to_the_other_and_the_old_one_is_fenced() {
    let (mapping, mut keeper) = region(8);
    let (a, b) = (attach(&mut keeper, "v1"), attach(&mut keeper, "v2"));
    assert_eq!(a.learn().unwrap_err().reason(), "NOT_OWNER");
    assert_eq!(a.owner().unwrap(), (Generation::new(1), None));
    switch_to(&mut keeper, a.incarnation());
    let two = a.learn().unwrap();
    assert_eq!(two, Generation::new(2));
    write(&a, two, owned(&mapping, 3), 7).unwrap();
    let (_, owner) = b.owner().unwrap();
    assert_eq!(owner.unwrap().peer.unwrap().version, "v1");
    assert!(matches!(write(&b, two, owned(&mapping, 3), 8), Err(WriteError::Fenced(f)) if !f.owns_again));

    let switched = switch_to(&mut keeper, b.incarnation());
    assert_eq!((switched.generation, switched.frozen_pages), (Generation::new(3), 1));
    let Err(WriteError::Fenced(fenced)) = write(&a, two, owned(&mapping, 3), 9) else { panic!("not fenced") };
    assert_eq!((fenced.term, fenced.current, fenced.owns_again), (two, Generation::new(3), false));
    assert_eq!(mapping.word(owned(&mapping, 3)).unwrap().load(Ordering::Relaxed), 7);
    assert_eq!(crate::gate::fenced_writes(&mapping).unwrap(), 2);

    // Back again: the old term stays over, and says that there is a new one.
    switch_to(&mut keeper, a.incarnation());
    assert!(matches!(write(&a, two, owned(&mapping, 3), 9), Err(WriteError::Fenced(f)) if f.owns_again));
    let four = a.learn().unwrap();
    write(&a, four, owned(&mapping, 3), 10).unwrap();
    assert_sound(&keeper);
}

#[test]
fn rounds_leave_to_the_freeze_only_what_was_written_since() {
    let (mapping, mut keeper) = region(2000);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    for page in (0..2000).step_by(7) {
        write(&a, g, owned(&mapping, page) + 8, page).unwrap();
    }
    assert_eq!(keeper.dirty_pages(), 286);
    assert_eq!(round(&mut keeper), 286);
    assert_eq!(keeper.dirty_pages(), 0);
    write(&a, g, owned(&mapping, 1999), 1).unwrap();
    write(&a, g, owned(&mapping, 0), 1).unwrap();
    let switched = switch_to(&mut keeper, a.incarnation());
    assert_eq!(switched.frozen_pages, 2);
    assert_eq!(keeper.dirty_pages(), 0, "a commit completes a round");
    assert_eq!(keeper.working_root(), switched.root_digest);
}

#[test]
fn a_dropped_freeze_or_seal_opens_the_gate_and_its_candidate_is_overwritten() {
    let (mapping, mut keeper) = region(4);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    let before = keeper.superblock();
    let mut last = 1;
    for nth in 0..4 {
        if nth % 2 == 0 {
            // Nobody is in a section, so there is nothing to wait for.
            let frozen = keeper.freeze(BUDGET).unwrap();
            assert_eq!(frozen.word(), GateWord::frozen(2, last + 1));
            drop(frozen);
        } else {
            sealed(&mut keeper, BUDGET, |sealed| assert_eq!(sealed.candidate().sequence, before.sequence + 1));
        }
        write(&a, g, owned(&mapping, 1), nth).unwrap();
        assert!(a.gate().is_open() && a.gate().attempt() > last, "attempts never repeat");
        last = a.gate().attempt();
    }
    drop(keeper);
    let (mut keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    assert_eq!(recovery, Recovery { generation: 2, candidate: true, ..Recovery::default() });
    assert_eq!(keeper.superblock(), before);
    assert_eq!(switch_to(&mut keeper, a.incarnation()).generation, Generation::new(3));
    assert_eq!(a.learn().unwrap(), Generation::new(3));
}

#[test]
fn a_commit_after_a_thaw_fails_and_the_next_switch_misses_nothing() {
    let (mapping, mut keeper) = region(64);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    write(&a, g, owned(&mapping, 5), 1).unwrap();
    sealed(&mut keeper, BUDGET, |sealed| {
        let frozen = crate::gate::gate_word(&mapping).unwrap();
        assert!(GatePage::of(&mapping).unwrap().thaw(frozen));
        write(&a, g, owned(&mapping, 5), 2).unwrap();
        write(&a, g, owned(&mapping, 6), 2).unwrap();
        let lost = sealed.commit().unwrap_err();
        let is_lost = |expected, found| expected == frozen && found == frozen.thawed();
        assert!(matches!(lost, FreezeError::Lost { expected, found } if is_lost(expected, found)), "{lost}");
    });
    assert_eq!(a.learn().unwrap(), g);
    switch_to(&mut keeper, a.incarnation());
    assert_sound(&keeper);
}

#[test]
fn a_freezer_that_is_past_its_budget_commits_nothing_though_nobody_has_thawed() {
    let (mapping, mut keeper) = region(64);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    let budget = Duration::from_millis(20);
    sealed(&mut keeper, budget, |sealed| {
        // Longer than the budget, however much of it the check of the seal gave back.
        let frozen = std::time::Instant::now();
        while frozen.elapsed() < BUDGET {
            std::hint::spin_loop();
        }
        assert!(crate::gate::gate_word(&mapping).unwrap().is_frozen());
        let late = sealed.commit().unwrap_err();
        assert!(matches!(late, FreezeError::Late { took, budget } if took > budget), "{late}");
    });
    assert!(a.gate().is_open());
    assert_eq!(a.learn().unwrap(), g);
    write(&a, g, owned(&mapping, 6), 2).unwrap();
    switch_to(&mut keeper, a.incarnation());
    assert_sound(&keeper);
}

#[test]
fn words_that_no_writer_announces_are_named() {
    let (mapping, mut keeper) = region(8);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    write(&a, g, owned(&mapping, 2), 1).unwrap();
    assert_sound(&keeper);
    let section = a.enter(g).unwrap();
    assert_sound(&keeper);
    drop(section);
    let gate = mapping.segment(SegmentKind::Gate).offset;
    let slot = mapping.segment(SegmentKind::Slots).offset + 9 * crate::layout::SLOT;
    let mark = Tables::of(&mapping).mark_offset(owned(&mapping, 2)) / 8 * 8;
    // The gate's all-dirty epoch, a section of the open generation in nobody's slot, one of a generation to come, and marks.
    for (at, hostile, name) in [
        (gate + 256, 1 << 40, "all-dirty epoch"),
        (slot, g.get() << 32 | 1, "gate slot"),
        (slot, 9 << 32 | 1, "gate slot"),
        (mark, u64::MAX, "page mark"),
    ] {
        let word = mapping.word(at).unwrap();
        let before = word.swap(hostile, Ordering::Relaxed);
        let faults = keeper.verify(&mut |_, _| {});
        assert!(faults.iter().any(|fault| fault.structure == name), "{name}: {faults:?}");
        word.store(before, Ordering::Relaxed);
    }
    assert_sound(&keeper);
}

#[test]
fn a_flipped_bit_is_found_unless_the_page_is_dirty() {
    let (mapping, mut keeper) = region(8);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    write(&a, g, owned(&mapping, 2), 1).unwrap();
    round(&mut keeper);
    let word = mapping.word(owned(&mapping, 2) + 80).unwrap();
    word.fetch_xor(1 << 9, Ordering::Relaxed);
    let faults = keeper.verify(&mut |_, _| {});
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!((&faults[0].structure, faults[0].offset_bytes), (&name_of(&mapping, 2), owned(&mapping, 2)));
    // Its owner writes to it: what it holds is its owner's business again.
    write(&a, g, owned(&mapping, 2), 1).unwrap();
    assert_sound(&keeper);
    word.fetch_xor(1 << 9, Ordering::Relaxed);
    // A page that nobody has marked has to be empty.
    mapping.word(owned(&mapping, 4)).unwrap().store(1, Ordering::Relaxed);
    assert_eq!(keeper.verify(&mut |_, _| {})[0].structure, name_of(&mapping, 4));
}

/// A boot record as another boot of the host left it.
fn another_boot(mapping: &Mapping) {
    let former = [5u8; 16];
    mapping.copy_in(mapping.control(control::BOOT), &former).unwrap();
    let crc = mapping.word(mapping.control(control::BOOT) + 16).unwrap();
    crc.store(crate::layout::crc32(&former).into(), Ordering::Release);
}

#[test]
fn what_a_reboot_left_is_unverifiable_from_inside_and_from_outside_and_no_fault() {
    // On the heap nothing is left by a reboot.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = Mapping::create_file(dir.path(), &RegionSpec::new("r", 8 << 20)).unwrap();
    mapping.ensure(owned(&mapping, 0), 8 * PAGE).unwrap();
    let (mut keeper, _) = Keeper::open(Arc::clone(&mapping)).unwrap();
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    for page in [2, 3, 6] {
        write(&a, g, owned(&mapping, page), 1).unwrap();
    }
    round(&mut keeper);
    // Written after the last round, and never written back, whoever may tell which.
    write(&a, g, owned(&mapping, 2), 2).unwrap();
    mapping.word(owned(&mapping, 3) + 8).unwrap().fetch_xor(1, Ordering::Relaxed);
    drop((a, keeper));
    another_boot(&mapping);
    let expected = Vec::from_iter([(owned(&mapping, 2), owned(&mapping, 4))].map(|(from, to)| from..to));
    let from_outside = verify_file(&mapping, &mut |_, _| {});
    assert_eq!((&from_outside.faults, &from_outside.unverifiable), (&vec![], &expected));

    let (keeper, recovery) = Keeper::open(Arc::clone(&mapping)).unwrap();
    assert_eq!((recovery.rebooted, recovery.unverified_pages), (true, 2));
    for found in [keeper.verification().run(&mut |_, _| {}), verify_file(&mapping, &mut |_, _| {})] {
        assert_eq!((&found.faults, &found.unverifiable), (&vec![], &expected));
    }
    let states = page_states(&mapping).unwrap();
    assert_eq!(states.iter().filter(|(_, state)| *state == PageState::Unverifiable).count(), 1);
}

#[test]
fn a_check_in_slices_finds_everything_and_says_how_far_it_is() {
    let (mapping, mut keeper) = region(1500);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let g = a.learn().unwrap();
    for page in [1, 1400] {
        write(&a, g, owned(&mapping, page), 1).unwrap();
    }
    round(&mut keeper);
    let mut check = keeper.verification();
    assert!(check.step());
    let (checked, total) = check.progress();
    assert!(checked > 0 && checked < total && total >= 1500 * PAGE, "{checked} of {total}");
    // A switch between two slices is no fault, nor is what is written meanwhile.
    switch_to(&mut keeper, a.incarnation());
    write(&a, a.learn().unwrap(), owned(&mapping, 1450), 1).unwrap();
    mapping.word(owned(&mapping, 1400) + 8).unwrap().fetch_xor(1, Ordering::Relaxed);
    // A control record, too.
    keeper.history().put(1, b"{}").unwrap();
    let slot = mapping.segment(SegmentKind::History).offset + HISTORY_SLOT;
    for half in [slot, slot + HISTORY_SLOT / 2] {
        mapping.word(half + 24).unwrap().fetch_xor(1, Ordering::Relaxed);
    }
    let found = check.run(&mut |checked, total| assert!(checked <= total));
    let words: Vec<_> = found.faults.iter().map(|f| (f.structure.as_str(), f.reason())).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert_eq!(words[0], (name_of(&mapping, 1400).as_str(), "DIGEST_MISMATCH"));
    assert_eq!(words[1].1, "REGION_CORRUPT");
    assert_eq!(found.checked_bytes, total);
    let from_outside = verify_file(&mapping, &mut |_, _| {});
    assert_eq!(from_outside.faults, found.faults, "and so does a look from outside");
}

#[test]
fn what_is_rewritten_faster_than_it_is_read_counts_as_left() {
    for pages in [20, 300] {
        let (mapping, mut keeper) = region(pages);
        let a = attach(&mut keeper, "v1");
        switch_to(&mut keeper, a.incarnation());
        let term = a.learn().unwrap();
        let rewrite = || (0..pages).for_each(|page| write(&a, term, owned(&mapping, page), page).unwrap());
        rewrite();
        keeper.begin_round().unwrap();
        rewrite();
        while keeper.round_step(64).unwrap() == RoundStep::More {}
        assert_eq!((keeper.left_pages(), keeper.dirty_pages()), (pages, pages), "none was read, all are dirty");
    }
}
