//! The frozen gate: waits, thaws, and numbers that are used up.

use super::*;
use crate::digest::FreezeError;

#[test]
fn a_frozen_gate_makes_writers_wait_measure_and_thaw() {
    let (mapping, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let term = a.learn().unwrap();
    let budget = Duration::from_millis(30);
    // Nobody is in a section and nothing is dirty, so there is no time to run out of.
    let frozen = keeper.freeze(budget).unwrap();
    let word = frozen.word();
    let sealed = frozen.seal(Next::default()).unwrap();
    a.set_freeze_wait_max(Duration::ZERO);
    assert!(matches!(write(&a, term, owned(&mapping, 0), 1), Err(WriteError::Frozen { .. })), "zero means at once");
    a.set_freeze_wait_max(Duration::from_millis(3));
    let Err(WriteError::Frozen { waited }) = write(&a, term, owned(&mapping, 0), 1) else { panic!("not frozen") };
    assert!(waited >= Duration::from_millis(3));
    let row = crate::instances::Row::of(&mapping, a.row()).unwrap();
    assert_eq!(blackout_of(row.blackout().load(Ordering::Relaxed), word.attempt()), None, "nobody saw how long it is");
    assert_eq!(a.gate(), word);
    a.set_freeze_wait_max(Duration::from_secs(30));
    // This thread holds the freezer: nobody but the writer itself can open the gate.
    let start = Instant::now();
    write(&a, term, owned(&mapping, 0), 1).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(a.gate(), word.thawed());
    let lost = sealed.commit().unwrap_err();
    assert!(matches!(lost, FreezeError::Lost { found, .. } if found == word.thawed()), "{lost}");
    let blackout = keeper.read_blackout(word.attempt()).unwrap();
    assert!(blackout >= budget && blackout < Duration::from_secs(10), "{blackout:?}");
    assert_eq!(keeper.read_blackout(word.attempt() + 1), None);
    assert!(matches!(a.learn(), Ok(g) if g == term));
}

#[test]
fn a_watcher_thaws_where_nobody_writes() {
    let (mapping, mut keeper) = region(1);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let frozen = keeper.freeze(Duration::from_millis(10)).unwrap();
    let word = frozen.word();
    assert_eq!(a.watch(GateWord::open(2, 1), Duration::from_secs(60)), word, "a change is seen at once");
    assert_eq!(a.watch(word, Duration::from_secs(60)), word.thawed());
    assert_eq!(a.watch(word.thawed(), Duration::from_millis(1)), word.thawed(), "and no change in its time");
    drop(frozen);
    assert_eq!(gate_word(&mapping).unwrap(), word.thawed());
}

#[test]
fn a_budget_from_the_page_is_input() {
    let (mapping, keeper) = region(1);
    let page = page::GatePage::of(&mapping).unwrap();
    let stored = mapping.word(mapping.segment(crate::layout::SegmentKind::Gate).offset + page::field::BUDGET).unwrap();
    for (ns, expected) in [(0, FREEZE_BUDGET_MAX), (1, FREEZE_BUDGET_MIN), (u64::MAX, FREEZE_BUDGET_MAX)] {
        stored.store(ns, Ordering::Relaxed);
        assert_eq!(page.budget(), expected, "{ns} ns");
    }
    keeper.set_freeze_budget(Duration::from_millis(40));
    assert_eq!(page.budget(), Duration::from_millis(80));
    keeper.set_freeze_budget(Duration::from_secs(9));
    assert_eq!(page.budget(), FREEZE_BUDGET_MAX);
}

#[test]
fn used_up_attempts_and_generations_are_errors() {
    let (mapping, mut keeper) = region(1);
    let word = page::GatePage::of(&mapping).unwrap().word();
    word.store(GateWord::open(1, word::ATTEMPT_MAX).raw(), Ordering::Relaxed);
    let e = keeper.freeze(BUDGET).unwrap_err();
    assert_eq!(e.to_string(), format!("freeze attempts are used up: {}", word::ATTEMPT_MAX));
    word.store(GateWord::frozen(1, 5).raw(), Ordering::Relaxed);
    let e = keeper.freeze(BUDGET).unwrap_err();
    assert_eq!(e.to_string(), "the gate is FROZEN(1,5), expected OPEN(1,5)");
    word.store(GateWord::open(2, 5).raw(), Ordering::Relaxed);
    drop(keeper);
    let e = Keeper::open(Arc::clone(&mapping)).unwrap_err();
    assert!(matches!(&e, Error::Corrupt(why) if why.to_string().contains("superblock generation")), "{e}");
    word.store(9, Ordering::Relaxed);
    assert!(Keeper::open(mapping).unwrap_err().to_string().starts_with("gate phase at byte"));
}
