//! Who has which lane, and what becomes of the dead's.

use std::thread;

use super::*;
use crate::inspect::{self, Value};
use crate::objects::lane::{CLAIMANT, LEASE, lanes_used, row_words, rows};
use crate::objects::reclaim::{Reclaimed, reclaim_all_lanes, reclaim_lanes};
use crate::sync::Ordering;

const RECOVERER: u64 = 77;

#[test]
fn threads_beyond_the_lanes_count_too() {
    let m = heap(&RegionSpec { lanes_max: 2, ..spec() });
    let p = attach(&m);
    let counter = open_counter(&p, &desc("c")).unwrap();
    let float = open_float_counter(&p, &desc("f")).unwrap();
    let histogram = open_histogram(&p, &desc("h"), &[1.0]).unwrap();
    let updown = open_updown(&p, &desc("u")).unwrap();
    let all_started = std::sync::Barrier::new(6);
    thread::scope(|s| {
        for _ in 0..6 {
            s.spawn(|| {
                counter.inc();
                all_started.wait();
                for _ in 0..999 {
                    counter.inc();
                    float.add(0.5);
                    histogram.observe(2.0);
                    updown.inc();
                    updown.dec();
                }
            });
        }
    });
    assert_eq!((counter.total(), float.total(), histogram.count(), updown.total()), (6000, 2997.0, 5994, 0));
    assert_eq!(histogram.sum(), 11988.0);
    assert_eq!(lanes_used(&m), 2);
    counter.add_in_signal_handler(1);
    assert_eq!(counter.total(), 6001);
}

#[test]
fn an_exited_threads_lane_goes_to_the_next_thread_of_its_process() {
    let m = heap(&spec());
    let p = attach(&m);
    let counter = open_counter(&p, &desc("c")).unwrap();
    for _ in 0..20 {
        let counter = counter.clone();
        // Joined by handle, which waits for the thread's destructors too.
        thread::spawn(move || counter.inc()).join().unwrap();
    }
    assert_eq!(counter.total(), 20);
    // This thread's, which opened, and one that was passed on.
    assert_eq!(lanes_used(&m), 2);
}

#[test]
fn a_destructor_that_counts_at_a_threads_end_is_not_lost() {
    struct AtExit(Counter);
    impl Drop for AtExit {
        fn drop(&mut self) {
            self.0.inc();
        }
    }
    thread_local! {
        static AT_EXIT: std::cell::RefCell<Vec<AtExit>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let m = heap(&spec());
    let p = attach(&m);
    let counter = open_counter(&p, &desc("c")).unwrap();
    for early in [true, false] {
        let counter = counter.clone();
        let count = move || {
            let at_exit = || AT_EXIT.with_borrow_mut(|v| v.push(AtExit(counter.clone())));
            // Registered before the lane's own destructor, or after it: whatever runs first, both count.
            if early {
                at_exit();
            }
            counter.inc();
            at_exit();
        };
        thread::spawn(count).join().unwrap();
    }
    assert_eq!(counter.total(), 5);
}

#[test]
fn two_regions_in_one_thread_do_not_mix() {
    let (m, n) = (heap(&spec()), heap(&spec()));
    let (a, b) = (open_counter(&attach(&m), &desc("c")).unwrap(), open_counter(&attach(&n), &desc("c")).unwrap());
    for _ in 0..100 {
        a.inc();
        b.add(2);
    }
    assert_eq!((a.total(), b.total()), (100, 200));
}

#[test]
fn the_dead_keep_their_counts_and_lose_their_shares() {
    let m = heap(&spec());
    let (dead, alive) = (attach(&m), attach(&m));
    let count = |p: &Arc<Process>, share: i64| {
        let (c, u) = (open_counter(p, &desc("c")).unwrap(), open_updown(p, &desc("u")).unwrap());
        c.inc();
        u.add(share);
        thread::scope(|s| {
            s.spawn(|| {
                c.inc();
                u.add(share);
            });
        });
        (c, u)
    };
    count(&dead, 5);
    let (c, u) = count(&alive, 1);
    assert_eq!((c.total(), u.total()), (4, 12));
    let before = lanes_used(&m);
    let done = reclaim_lanes(&m, dead.incarnation(), RECOVERER, &|_| false).unwrap();
    // Two threads' lanes and the overflow lane.
    assert_eq!(done, Reclaimed { lanes: 3, contended: 0 });
    assert_eq!((c.total(), u.total(), before - lanes_used(&m)), (4, 2, 2));
    let again = reclaim_lanes(&m, dead.incarnation(), RECOVERER, &|_| false).unwrap();
    assert_eq!(again, Reclaimed::default());
    assert_eq!(inspect::metrics(&m)[1].samples[0].value, Value::UpDownGauge(2));
    // The next lessee goes on from the dead's counts.
    let next = attach(&m);
    let c = open_counter(&next, &desc("c")).unwrap();
    c.inc();
    assert_eq!(c.total(), 5);
}

/// Every state that a recoverer can be killed in leads, by the next one, to the same end.
#[test]
fn a_recoverer_killed_at_any_step_is_succeeded() {
    let (old, dead_incarnation) = (66, |p: &Arc<Process>| p.incarnation());
    for (step, at_a_death) in (0..12).map(|n| (n / 2, n % 2 == 1)) {
        let m = heap(&spec());
        let dead = attach(&m);
        let u = open_updown(&dead, &desc("u")).unwrap();
        u.add(7);
        let row = (0..rows(&m)).find(|r| row_words(&m, *r).unwrap()[LEASE].load(Ordering::Relaxed) != 0).unwrap();
        let table = row_words(&m, row).unwrap();
        let (lease, claimant) = [
            (dead_incarnation(&dead), 0),
            (dead_incarnation(&dead), old),
            (old, old),
            (old, 0),
            (0, 0),
            // Damage, or a claim undone by death.
            (0, old),
        ][step];
        table[LEASE].store(lease, Ordering::Relaxed);
        table[CLAIMANT].store(claimant, Ordering::Relaxed);
        let is_dead = |i| i == old || i == dead_incarnation(&dead);
        if at_a_death {
            reclaim_lanes(&m, dead_incarnation(&dead), RECOVERER, &is_dead).unwrap();
        } else {
            reclaim_all_lanes(&m, RECOVERER, &is_dead).unwrap();
        }
        let end = [LEASE, CLAIMANT].map(|w| table[w].load(Ordering::Relaxed));
        assert_eq!(end, [0, 0], "step {step}, {at_a_death}");
        assert!(step >= 4 || u.total() == 0, "step {step}, {at_a_death}");
    }
}

#[test]
fn a_living_recoverers_claim_is_left_alone() {
    let m = heap(&spec());
    let dead = attach(&m);
    let u = open_updown(&dead, &desc("u")).unwrap();
    u.add(7);
    let table = row_words(&m, 0).unwrap();
    table[CLAIMANT].store(66, Ordering::Relaxed);
    assert_eq!(u.total(), 0, "a claimed lane's share does not count");
    let done = reclaim_lanes(&m, dead.incarnation(), RECOVERER, &|_| false).unwrap();
    assert_eq!((done.contended, table[CLAIMANT].load(Ordering::Relaxed)), (1, 66));
    assert_eq!(table[LEASE].load(Ordering::Relaxed), dead.incarnation());
}
