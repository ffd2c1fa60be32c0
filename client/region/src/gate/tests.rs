//! The gate under threads of one process; [`processes`] has those of several, [`frozen`] what happens at a frozen
//! one, [`lives`] what becomes of the slots of those who are gone.

mod frozen;
mod lives;
mod processes;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::digest::tests::{BUDGET, assert_sound, attach, owned, region, switch_to, write};
use crate::digest::{Keeper, Next, RoundStep};
use crate::error::{Error, Generation, Misuse, WriteError};
use crate::instances::NewInstance;
use crate::layout::RegionSpec;
use crate::process::Process;
use crate::sync::AtomicU64;

/// Pages that the writers of a stress spread over; page 0 holds what they check.
pub(super) const PAGES: u64 = 600;
/// Words of page 0: the highest generation that has written, and writes that came after one of a later generation.
const LAST_GENERATION: u64 = 0;
const VIOLATIONS: u64 = 8;
/// First of the words (one for each writer) that count acknowledged writes.
const COUNTS: u64 = 64;

/// Writes as long as `go`: whenever the process owns, into pages all over. Returns how many writes were acknowledged; the
/// region's own count stands in word `number`.
pub(super) fn write_until(process: &Process, number: u64, go: impl Fn() -> bool) -> u64 {
    let mapping = process.mapping();
    let word = |at| mapping.word(owned(mapping, 0) + at).unwrap();
    let (last, violations, count) = (word(LAST_GENERATION), word(VIOLATIONS), word(COUNTS + 8 * number));
    let (mut random, mut acknowledged) = (0x9e37_79b9_7f4a_7c15 ^ (number + 1) << 17, 0);
    while go() {
        let term = match process.learn() {
            Ok(term) => term,
            Err(_) => {
                process.watch(process.gate(), Duration::from_millis(1));
                continue;
            }
        };
        while go() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = owned(mapping, 1 + random % (PAGES - 1)) + 8 * (random >> 32) % 4096 / 8 * 8;
            let target = mapping.word(at).unwrap();
            match process.enter(term) {
                Err(WriteError::Fenced(_)) => break,
                Err(WriteError::Frozen { .. }) => continue,
                Err(e) => panic!("{e}"),
                Ok(section) => {
                    section.mark(owned(mapping, 0), 4096);
                    section.mark(at, 8);
                    let seen = last.load(Ordering::Relaxed);
                    if seen > term.get() {
                        violations.fetch_add(1, Ordering::Relaxed);
                    } else if seen < term.get() {
                        last.store(term.get(), Ordering::Relaxed);
                    }
                    // Pre-emption between the mark and the data is what a missed page needs.
                    if random % 512 == 0 {
                        thread::yield_now();
                    }
                    target.store(random, Ordering::Relaxed);
                    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    acknowledged += 1;
                }
            }
        }
    }
    acknowledged
}

pub(super) fn counted(mapping: &Mapping, number: u64) -> u64 {
    mapping.word(owned(mapping, 0) + COUNTS + 8 * number).unwrap().load(Ordering::Relaxed)
}

pub(super) fn violations(mapping: &Mapping) -> u64 {
    mapping.word(owned(mapping, 0) + VIOLATIONS).unwrap().load(Ordering::Relaxed)
}

/// One whole handover as the arbiter makes it; every third is given up after the freeze, or after the seal. A seal that
/// differs from a full recomputation made while frozen is a missed page, or a write after the seal.
pub(super) fn hand_over(keeper: &mut Keeper, owner: u64, nth: u64) -> bool {
    for _ in 0..nth % 3 {
        keeper.begin_round().unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until && !matches!(keeper.round_step(64).unwrap(), RoundStep::Done { .. }) {}
    }
    keeper.record_totals().unwrap();
    let Ok(frozen) = keeper.freeze(BUDGET) else { return false };
    if nth % 7 == 3 {
        return false;
    }
    let Ok(sealed) = frozen.seal(Next { owner_incarnation: owner, schema_fingerprint: nth }) else { return false };
    if nth % 7 == 5 {
        return false;
    }
    let Ok(switched) = sealed.commit() else { return false };
    assert_eq!(switched.recomputed_root, Some(switched.root_digest), "a page was missed, or written after the seal");
    true
}

/// Says stop when it is dropped, also by a panic: nobody waits for writers that go on for ever.
struct Stop<'g>(&'g AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn no_write_is_missed_or_comes_after_its_seal_whoever_owns() {
    const WRITERS: u64 = 2;
    let (mapping, mut keeper) = region(PAGES);
    let owners = [attach(&mut keeper, "v1"), attach(&mut keeper, "v2")];
    let go = AtomicBool::new(true);
    let mut commits = 0;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2 * WRITERS)
            .map(|n| {
                let (process, go) = (&owners[(n / WRITERS) as usize], &go);
                scope.spawn(move || write_until(process, n, || go.load(Ordering::Relaxed)))
            })
            .collect();
        let stop = Stop(&go);
        let start = Instant::now();
        let mut nth = 0;
        while start.elapsed() < Duration::from_millis(1500) || commits < 20 {
            assert!(start.elapsed() < Duration::from_secs(60), "only {commits} commits");
            commits += u64::from(hand_over(&mut keeper, owners[(nth % 2) as usize].incarnation(), nth));
            nth += 1;
        }
        drop(stop);
        for (n, writer) in (0..).zip(writers) {
            assert_eq!(writer.join().unwrap(), counted(&mapping, n), "writer {n}: acknowledged against kept");
        }
    });
    assert_eq!(violations(&mapping), 0, "an old generation wrote after a new one");
    assert_eq!(keeper.generation().get(), 1 + commits);
    switch_to(&mut keeper, 0);
    assert_sound(&keeper);
}

#[test]
fn threads_beyond_the_slots_share_one_of_their_instance() {
    const THREADS: u64 = 6;
    let spec = RegionSpec { slots_max: 3, ..RegionSpec::new("r", 64 << 20) };
    let mapping = Mapping::heap(&spec).unwrap();
    mapping.ensure(owned(&mapping, 0), 8 * 4096).unwrap();
    let (mut keeper, _) = Keeper::open(Arc::clone(&mapping)).unwrap();
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let term = a.learn().unwrap();
    let word = mapping.word(owned(&mapping, 0)).unwrap();
    let together = std::sync::Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        let run = || {
            scope.spawn(|| {
                together.wait();
                for _ in 0..500 {
                    let section = a.enter(term).unwrap();
                    section.mark(owned(&mapping, 0), 8);
                    word.fetch_add(1, Ordering::Relaxed);
                }
                together.wait();
                together.wait();
            })
        };
        let threads: Vec<_> = (0..THREADS).map(|_| run()).collect();
        together.wait();
        together.wait();
        assert_eq!(slots_claimed(&mapping).unwrap(), 3, "all are taken while the threads live");
        together.wait();
        // Joined, and not only done: the slot goes back as the last thing.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(word.load(Ordering::Relaxed), 500 * THREADS);
    assert_eq!(slots_claimed(&mapping).unwrap(), 1, "a thread's end returns its slot; the shared one stays");
    switch_to(&mut keeper, 0);
    drop(a);
    assert_eq!(slots_claimed(&mapping).unwrap(), 0);
    let (b, c, d) = (attach(&mut keeper, "b"), attach(&mut keeper, "c"), attach(&mut keeper, "d"));
    let (seat, _) = keeper.seat(&NewInstance::default()).unwrap();
    let e = Process::attach(Arc::clone(&mapping), seat, None).unwrap_err();
    assert_eq!((e.reason(), e.to_string()), ("TABLE_FULL", "gate slots full: 3".into()));
    drop((b, c, d));
}

#[test]
fn a_section_in_a_section_is_refused_and_a_freeze_waits_for_the_outer_one() {
    let (mapping, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let term = a.learn().unwrap();
    write(&a, term, owned(&mapping, 0), 1).unwrap();
    let section = a.enter(term).unwrap();
    assert!(matches!(a.enter(term), Err(WriteError::Misuse(Misuse::Argument { what: "owned write", .. }))));
    let stuck = keeper.freeze(Duration::from_millis(5)).unwrap_err();
    assert_eq!(stuck.to_string(), format!("writers of rows [{}] did not leave within 5ms", a.row()));
    assert!(gate_word(&mapping).unwrap().is_open(), "given up means open");
    // Its page is marked with the epoch before: a round has to wait for it as well.
    section.mark(owned(&mapping, 1), 8);
    keeper.begin_round().unwrap();
    assert_eq!(keeper.round_step(9).unwrap(), RoundStep::GraceBlocked { rows: vec![a.row()] });
    mapping.word(owned(&mapping, 1)).unwrap().store(5, Ordering::Relaxed);
    drop(section);
    assert_eq!(keeper.round_step(9).unwrap(), RoundStep::Done { pages: 2 });
    assert_eq!(switch_to(&mut keeper, 0).frozen_pages, 0);
}

#[test]
fn a_section_of_the_new_epoch_does_not_hold_up_a_round() {
    let (mapping, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let term = a.learn().unwrap();
    keeper.begin_round().unwrap();
    // The first write reads the new epoch, the second announces it.
    write(&a, term, owned(&mapping, 0), 1).unwrap();
    let section = a.enter(term).unwrap();
    assert_eq!(u64::from(section.epoch()), page::GatePage::of(&mapping).unwrap().epoch().load(Ordering::Relaxed));
    assert_eq!(keeper.round_step(9).unwrap(), RoundStep::Done { pages: 0 });
    drop(section);
    assert_eq!(keeper.dirty_pages(), 1);
}

#[test]
fn an_observer_reads_and_may_not_write() {
    let (mapping, mut keeper) = region(1);
    let observer = Process::observer(Arc::clone(&mapping)).unwrap();
    assert_eq!(observer.gate(), GateWord::open(1, 0));
    // A vacant generation names incarnation 0, which is nobody, and not the observer.
    assert_eq!(observer.learn().unwrap_err().reason(), "NOT_OWNER");
    assert!(observer.enter(Generation::new(1)).is_err());
    switch_to(&mut keeper, 0);
    assert!(observer.enter(Generation::new(2)).is_err());
}

#[test]
fn a_thread_ending_may_still_write_through_the_shared_slot() {
    struct Last(Arc<Process>, Generation, u64);
    impl Drop for Last {
        fn drop(&mut self) {
            write(&self.0, self.1, self.2, 3).unwrap();
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
    let (mapping, mut keeper) = region(1);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let (term, at) = (a.learn().unwrap(), owned(&mapping, 0));
    let process = Arc::clone(&a);
    // The destructor registered first runs last, when the thread's slot is gone.
    let thread = thread::spawn(move || {
        LAST.with(|last| *last.borrow_mut() = Some(Last(Arc::clone(&process), term, at)));
        write(&process, term, at, 2).unwrap();
    });
    thread.join().unwrap();
    assert_eq!(mapping.word(at).unwrap().load(Ordering::Relaxed), 3);
    assert_eq!(slots_claimed(&mapping).unwrap(), 1);
}

#[test]
fn one_thread_writes_to_two_regions_in_turn() {
    let mut regions: Vec<_> = (0..2).map(|_| region(1)).collect();
    let processes: Vec<_> = regions.iter_mut().map(|(_, keeper)| attach(keeper, "v1")).collect();
    for ((_, keeper), process) in regions.iter_mut().zip(&processes) {
        switch_to(keeper, process.incarnation());
        process.learn().unwrap();
    }
    for i in 0..100u64 {
        let (mapping, process) = (&regions[(i % 2) as usize].0, &processes[(i % 2) as usize]);
        write(process, Generation::new(2), owned(mapping, 0), i).unwrap();
        assert_eq!(slots_claimed(mapping).unwrap(), 2, "this thread's and the shared one");
    }
    let words: Vec<u64> =
        regions.iter().map(|(m, _)| AtomicU64::load(m.word(owned(m, 0)).unwrap(), Ordering::Relaxed)).collect();
    assert_eq!(words, [98, 99]);
}

#[test]
fn a_forked_child_is_told_so_and_its_parent_goes_on() {
    let (mapping, mut keeper) = region(2);
    let a = attach(&mut keeper, "v1");
    switch_to(&mut keeper, a.incarnation());
    let (term, at) = (a.learn().unwrap(), owned(&mapping, 0));
    write(&a, term, at, 1).unwrap();
    // SAFETY: the child touches mapped memory and its own stack, then exits without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Not `write`, which would panic over what the child cannot read.
        let refused = matches!(a.enter(term), Err(WriteError::Misuse(Misuse::Forked)));
        let told = matches!(a.learn(), Err(Error::Misuse(Misuse::Forked))) && a.gate().is_detached();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!refused) | i32::from(!told) << 1) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "status {status:#x}");
    write(&a, term, at, 2).unwrap();
    assert_eq!(switch_to(&mut keeper, 0).frozen_pages, 1);
}
