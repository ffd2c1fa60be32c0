//! More followers and more messages than there is room for.

use std::sync::mpsc::{channel, sync_channel};

use super::people::One;
use super::{Region, SOON};
use crate::arbiter::*;

/// Followers of handovers that are taken, as the arbiter's feed has it.
const FOLLOWERS_MAX: usize = 1024;
/// Commands that wait, as the mailbox has it.
const QUEUE_MAX: usize = 16 * 1024;

fn follow(region: &Region, number: u64, observer: Observer) -> Result<(), Refusal> {
    Arbiter::ask(SOON, |reply| region.arbiter.watch_handover(number, observer, reply)).expect("an answer")
}

/// Committed and draining: the old owner still has a connection.
fn draining(region: &Region) -> (One, One, Record) {
    let (old, new) = (region.owner("1.0.0"), region.standby("2.0.0"));
    old.in_flight(1, false);
    let record = region.hand_over(&old, &new);
    (old, new, record)
}

#[test]
fn a_follower_too_many_is_refused_and_who_hands_over_is_not() {
    let region = Region::new();
    let (old, new, record) = draining(&region);
    let taken = (0..=FOLLOWERS_MAX).take_while(|_| follow(&region, record.number, Box::new(|_| true)).is_ok()).count();
    // Who handed over may not have been let go yet.
    assert!((FOLLOWERS_MAX - 1..=FOLLOWERS_MAX).contains(&taken), "{taken}");
    let refused = follow(&region, record.number, Box::new(|_| true)).expect_err("one too many");
    assert_eq!((refused.reason, refused.handover), (Reason::TableFull, Some(record.number)));
    assert_eq!(refused.expected.as_deref(), Some("at most 1024 followers"));
    old.ready();
    let back = region.hand_over(&new, &old);
    assert_eq!(back.outcome, Outcome::Committed, "nobody is kept from handing over");
}

#[test]
fn a_follower_that_wants_no_more_is_dropped() {
    let region = Region::new();
    let (old, _new, record) = draining(&region);
    let (sender, events) = sync_channel(1);
    follow(&region, record.number, Box::new(move |event| event.is_none_or(|event| sender.try_send(event).is_ok())))
        .expect("taken");
    old.in_flight(2, false);
    old.in_flight(3, false);
    region.until(|s| s.instances.iter().any(|i| i.in_flight.get("connection") == Some(&3)));
    assert_eq!(events.recv_timeout(SOON).expect("the first").record.number, record.number);
    assert!(events.recv_timeout(SOON).is_err(), "it was let go before the handover was over");
}

#[test]
fn a_crowd_before_a_full_table_has_the_dead_looked_for_once() {
    const ROWS: usize = 40;
    const CROWD: usize = 100;
    let region = Region::new();
    region.ground.world().rows_max = Some(ROWS);
    let _there: Vec<One> = (0..ROWS).map(|_| region.attach("1.0.0")).collect();
    let ((held, is_held), (go, going)) = (channel(), channel::<()>());
    region.arbiter.status(Box::new(move |_| {
        let _ = held.send(());
        let _ = going.recv_timeout(SOON);
    }));
    is_held.recv_timeout(SOON).expect("held");
    let (answers, answered) = channel();
    for _ in 0..CROWD {
        let (answers, hello) = (answers.clone(), Hello { version: "2.0.0".into(), ..Hello::default() });
        let reply = move |answer: Result<Welcome, Refusal>| drop(answers.send(answer.map(drop)));
        region.arbiter.attach(hello, None, Box::new(Deaf), Box::new(reply));
    }
    let before = region.ground.world().locks_asked;
    go.send(()).expect("it waits");
    for _ in 0..CROWD {
        let refused = answered.recv_timeout(SOON).expect("an answer").expect_err("no room");
        assert_eq!(refused.reason, Reason::TableFull);
    }
    // And some of the looks that are made every 250 ms.
    let looks = (region.ground.world().locks_asked - before).div_ceil(ROWS as u64);
    assert!(looks < CROWD as u64 / 4, "{looks} looks");
}

struct Deaf;

impl Outbox for Deaf {
    fn send(&mut self, _: ToInstance) -> bool {
        true
    }
}

#[test]
fn a_full_queue_takes_what_somebody_waits_for() {
    let region = Region::new();
    let (flood, other) = (region.attach("1.0.0"), region.attach("2.0.0"));
    // The thread is held in an answer while the queue fills.
    let ((held, is_held), (go, going)) = (channel(), channel::<()>());
    region.arbiter.status(Box::new(move |_| {
        let _ = held.send(());
        let _ = going.recv_timeout(SOON);
    }));
    is_held.recv_timeout(SOON).expect("held");
    for _ in 0..=QUEUE_MAX {
        flood.in_flight(1, false);
    }
    let (taken, was_taken) = channel();
    let ready = FromInstance::Ready { ready: true, message: String::new(), hooks: None };
    region.arbiter.message_taken(other.id(), ready, Box::new(move |()| taken.send(()).unwrap_or_default()));
    region.arbiter.disconnected(flood.id());
    go.send(()).expect("it waits");
    was_taken.recv_timeout(SOON).expect("it was heard");
    assert!(region.instance(&other).ready);
    assert!(!region.instance(&flood).connected, "the end of a stream is never lost");
}
