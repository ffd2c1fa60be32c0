//! Slots of threads and instances that end: none is lost, and none is touched by who had it before.

use super::*;
use crate::digest::FreezeError;

#[test]
fn a_thread_that_ends_after_its_process_was_given_up_hides_nobodys_section() {
    let (_, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (wrote, written) = std::sync::mpsc::channel();
    let late = {
        let (a, at) = (Arc::clone(&a), owned(keeper.mapping(), 0));
        thread::spawn(move || {
            write(&a, a.learn().unwrap(), at, 1).unwrap();
            wrote.send(()).unwrap();
            // Its slot is returned when it ends.
            let _ = ended.recv();
        })
    };
    written.recv().unwrap();
    a.abandon();
    keeper.reclaim(a.row()).unwrap();
    let b = attach(&mut keeper, "v2");
    switch_to(&mut keeper, b.incarnation());
    // In the slot that the late thread had.
    let section = b.enter(b.learn().unwrap()).unwrap();
    end.send(()).unwrap();
    late.join().unwrap();
    drop(a);
    let frozen = keeper.freeze(Duration::from_millis(5)).map(drop);
    assert!(matches!(frozen, Err(FreezeError::Stuck { .. })), "{frozen:?}");
    drop(section);
    switch_to(&mut keeper, 0);
}

#[test]
fn a_thread_that_ends_within_a_section_leaves_its_slot_busy() {
    let (_, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    thread::scope(|scope| {
        let ending = scope.spawn(|| std::mem::forget(a.enter(a.learn().unwrap()).unwrap()));
        ending.join().unwrap();
    });
    let frozen = keeper.freeze(Duration::from_millis(5)).map(drop);
    assert!(matches!(frozen, Err(FreezeError::Stuck { .. })), "{frozen:?}");
}

#[test]
fn a_claim_whose_claimant_was_killed_before_it_was_counted_is_found() {
    let (mapping, _) = region(2);
    let slots = slots::Slots::of(&mapping).unwrap();
    slots.claim(7).unwrap();
    page::GatePage::of(&mapping).unwrap().slots_used().store(0, Ordering::Relaxed);
    assert_eq!(slots_claimed(&mapping).unwrap(), 1);
    release_slots(&mapping, 7).unwrap();
    assert_eq!(slots_claimed(&mapping).unwrap(), 0);
}

/// More threads than slots share one; a section that one of them forgot stops the others' writes, and not their threads.
#[test]
fn a_forgotten_section_in_the_shared_slot_is_waited_for_within_bounds() {
    let spec = RegionSpec { instances_max: 2, slots_max: 1, ..RegionSpec::new("r", 4 << 20) };
    let mapping = Mapping::heap(&spec).unwrap();
    let mut keeper = Keeper::open(Arc::clone(&mapping)).unwrap().0;
    mapping.ensure(owned(&mapping, 0), 4096).unwrap();
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let term = a.learn().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| std::mem::forget(a.enter(term).unwrap())).join().unwrap();
    });
    let start = Instant::now();
    let refused = write(&a, term, owned(&mapping, 0), 1).unwrap_err();
    assert!(refused.to_string().contains("was it forgotten?"), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
