//! A ground without a region, and instances without processes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::SOON;
use crate::arbiter::ground::{Closed, Closing, Fault, Ground, Identity, Newcomer, NotClosed, Row, Sealed, Slice};
use crate::arbiter::handle::FaultReport;
use crate::arbiter::needs::Present;
use crate::arbiter::restart::spawn;
use crate::arbiter::*;

/// What the region holds and what goes wrong with it. Outlives its arbiters.
#[derive(Default)]
pub(in crate::arbiter) struct World {
    pub(in crate::arbiter) sealed: Sealed,
    pub(in crate::arbiter) rows: Vec<Row>,
    pub(in crate::arbiter) dead: BTreeSet<u32>,
    pub(in crate::arbiter) history: BTreeMap<u64, Vec<u8>>,
    pub(in crate::arbiter) present: Vec<Present>,
    /// Pages left after each round; then 0.
    pub(in crate::arbiter) dirty: VecDeque<u64>,
    /// Pages left after every round.
    pub(in crate::arbiter) always_dirty: Option<u64>,
    /// Writers never leave their sections.
    pub(in crate::arbiter) stuck: bool,
    pub(in crate::arbiter) blocked: bool,
    pub(in crate::arbiter) round_fault: Option<Fault>,
    pub(in crate::arbiter) seats: u64,
    pub(in crate::arbiter) reclaimed: Vec<u64>,
}

/// The ground.
#[derive(Clone, Default)]
pub(in crate::arbiter) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(in crate::arbiter) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics with it")
    }
}

impl Ground for Fake {
    fn identity(&self) -> Identity {
        Identity { name: "shop".into(), uuid: [7; 16], limit_bytes: 1 << 30 }
    }
    fn sealed(&self) -> Sealed {
        self.world().sealed
    }
    fn used_bytes(&self) -> u64 {
        4096
    }
    fn begin_round(&mut self) -> Result<(), Fault> {
        self.world().round_fault.clone().map_or(Ok(()), Err)
    }
    fn round_slice(&mut self, _: u32) -> Result<Slice, Fault> {
        Ok(if self.world().blocked { Slice::Blocked } else { Slice::Done(10) })
    }
    fn dirty_pages(&self) -> u64 {
        let mut world = self.world();
        world.always_dirty.or_else(|| world.dirty.pop_front()).unwrap_or(0)
    }
    fn pages_within(&self, _: Duration) -> u64 {
        100
    }
    fn note_totals(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn set_budget(&mut self, _: Duration) {}
    fn close(
        &mut self,
        _: Duration,
        owner: u64,
        _: u64,
        go: &mut dyn FnMut(Closing) -> bool,
    ) -> Result<Closed, NotClosed> {
        if self.world().stuck {
            return Err(NotClosed::Writers("thread 1 is in a section".into()));
        }
        assert!(go(Closing::Frozen) && go(Closing::Sealed));
        let mut world = self.world();
        let generation = world.sealed.generation + 1;
        let root_digest = 0xd1_9e57 + generation;
        world.sealed = Sealed { generation, owner, root_digest, unix_ms: 1 };
        let closed = Duration::from_micros(58);
        Ok(Closed { generation, attempt: 1, root_digest, frozen_pages: 41, closed })
    }
    fn blackout(&self, _: u64) -> Option<Duration> {
        Some(Duration::from_micros(63))
    }
    fn rows(&self) -> Vec<Row> {
        self.world().rows.clone()
    }
    fn seat(&mut self, n: &Newcomer) -> Result<(Row, Option<OwnedFd>), Fault> {
        let mut world = self.world();
        world.seats += 1;
        let number = world.seats;
        let row = Row {
            row: number as u32,
            incarnation: 100 + number,
            number,
            instance: format!("i-{number}"),
            version: n.version.clone(),
            pid: n.pid,
            uid: n.uid,
            start_ticks: 0,
            attach_unix_ms: number,
            token: n.token,
        };
        world.rows.push(row.clone());
        Ok((row, None))
    }
    fn is_dead(&self, row: u32) -> bool {
        self.world().dead.contains(&row)
    }
    fn reclaim(&mut self, row: u32, incarnation: u64, _: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        let mut world = self.world();
        world.rows.retain(|r| r.row != row);
        world.reclaimed.push(incarnation);
        Ok(())
    }
    fn history_len_max(&self) -> usize {
        2024
    }
    fn history(&self) -> Vec<(u64, Vec<u8>)> {
        self.world().history.iter().map(|(&number, bytes)| (number, bytes.clone())).collect()
    }
    fn put_history(&mut self, number: u64, bytes: &[u8]) -> Result<(), Fault> {
        assert!(bytes.len() <= self.history_len_max() && !bytes.is_empty());
        self.world().history.insert(number, bytes.to_vec());
        Ok(())
    }
    fn present(&self) -> Result<Vec<Present>, Fault> {
        Ok(self.world().present.clone())
    }
    fn object_counts(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("cell".into(), 1)])
    }
    fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Vec<FaultReport> {
        progress(4096, 4096);
        Vec::new()
    }
}

/// A region with an arbiter.
pub(in crate::arbiter) struct Region {
    pub(in crate::arbiter) ground: Fake,
    pub(in crate::arbiter) policy: Policy,
    pub(in crate::arbiter) arbiter: Arbiter,
    pub(in crate::arbiter) events: Receiver<RegionEvent>,
}

impl Region {
    pub(in crate::arbiter) fn new() -> Self {
        Self::with(Policy::default())
    }
    pub(in crate::arbiter) fn with(policy: Policy) -> Self {
        let ground = Fake::default();
        ground.world().sealed.generation = 1;
        Self::over(ground, policy)
    }
    pub(in crate::arbiter) fn over(ground: Fake, policy: Policy) -> Self {
        let (sender, events) = channel();
        let on_event = Box::new(move |event| drop(sender.send(event)));
        let arbiter = spawn(Box::new(ground.clone()), policy.clone(), on_event).expect("a thread");
        Self { ground, policy, arbiter, events }
    }
    /// As if the arbiter's process had been killed and started again.
    pub(in crate::arbiter) fn crash(self) -> Self {
        let Self { ground, policy, arbiter, .. } = self;
        drop(arbiter);
        Self::over(ground, policy)
    }
    pub(in crate::arbiter) fn attach_as(&self, hello: Hello) -> Result<One, Refusal> {
        let (sender, inbox) = channel();
        let outbox = Box::new(Tube(sender));
        let welcome =
            Arbiter::ask(SOON, |reply| self.arbiter.attach(hello, None, outbox, reply)).expect("an answer")?;
        Ok(One { arbiter: self.arbiter.clone(), inbox, welcome })
    }
    pub(in crate::arbiter) fn attach(&self, version: &str) -> One {
        self.attach_as(Hello { version: version.into(), ..Hello::default() }).expect("a seat")
    }
    /// Attached and ready.
    pub(in crate::arbiter) fn standby(&self, version: &str) -> One {
        let one = self.attach(version);
        one.ready();
        one
    }
    /// Attached and owning.
    pub(in crate::arbiter) fn owner(&self, version: &str) -> One {
        let one = self.standby(version);
        one.agree(Hook::Prepare);
        self.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == one.id()));
        one
    }
    pub(in crate::arbiter) fn status(&self) -> RegionStatus {
        status(&self.arbiter)
    }
    /// Awaits a state.
    pub(in crate::arbiter) fn until(&self, holds: impl Fn(&RegionStatus) -> bool) -> RegionStatus {
        // Woken by the next event; looks again anyhow, since timers make no event.
        until(&self.arbiter, |wait| drop(self.events.recv_timeout(wait)), holds)
    }
    pub(in crate::arbiter) fn instance(&self, one: &One) -> InstanceStatus {
        self.status().instances.into_iter().find(|i| i.incarnation == one.id()).expect("attached")
    }
    pub(in crate::arbiter) fn begin(&self, request: SwitchRequest) -> Asked {
        Asked::new(|observer, reply| self.arbiter.handover(request, "uid:1000".into(), observer, reply))
    }
    pub(in crate::arbiter) fn to(&self, version: &str, options: SwitchOptions) -> Asked {
        self.begin(SwitchRequest { target: Target::Version(version.into()), options })
    }
    pub(in crate::arbiter) fn rollback(&self, handover: Option<u64>, options: SwitchOptions) -> Asked {
        let request = RollbackRequest { handover, options };
        Asked::new(|observer, reply| self.arbiter.rollback(request, "uid:1000".into(), observer, reply))
    }
    /// From one to the other, with both hooks agreeing.
    pub(in crate::arbiter) fn hand_over(&self, from: &One, to: &One) -> Record {
        let target = Target::Instance(to.name().into());
        let asked = self.begin(SwitchRequest { target, options: SwitchOptions::default() });
        to.agree(Hook::Prepare);
        from.agree(Hook::Flush);
        asked.record()
    }
    pub(in crate::arbiter) fn abort(&self, number: Option<u64>) -> Result<Record, Refusal> {
        Arbiter::ask(SOON, |reply| self.arbiter.abort(number, String::new(), reply)).expect("an answer")
    }
    pub(in crate::arbiter) fn history(&self) -> Vec<Record> {
        Arbiter::ask(SOON, |reply| self.arbiter.history(100, None, reply)).expect("an answer")
    }
    pub(in crate::arbiter) fn record(&self, number: u64) -> Record {
        Arbiter::ask(SOON, |reply| self.arbiter.record(number, reply)).expect("an answer").expect("remembered")
    }
    /// The kernel proves it.
    pub(in crate::arbiter) fn kill(&self, one: &One) {
        self.ground.world().dead.insert(one.welcome.row.expect("a row"));
    }
}

pub(in crate::arbiter) fn status(arbiter: &Arbiter) -> RegionStatus {
    Arbiter::ask(SOON, |reply| arbiter.status(reply)).expect("an answer")
}

/// Awaits a state, and lets `pause` wait between two looks.
pub(in crate::arbiter) fn until(
    arbiter: &Arbiter,
    pause: impl Fn(Duration),
    holds: impl Fn(&RegionStatus) -> bool,
) -> RegionStatus {
    let deadline = Instant::now() + SOON;
    loop {
        let status = status(arbiter);
        if holds(&status) {
            return status;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "not reached: {status:#?}");
        pause(left.min(Duration::from_millis(20)));
    }
}

/// A request under way.
pub(in crate::arbiter) struct Asked {
    pub(in crate::arbiter) events: Receiver<HandoverEvent>,
    pub(in crate::arbiter) answer: Receiver<Result<Record, Refusal>>,
}

impl Asked {
    pub(in crate::arbiter) fn new(call: impl FnOnce(Observer, Reply<Result<Record, Refusal>>)) -> Self {
        let (sender, events) = channel();
        let (answers, answer) = channel();
        let observer = Box::new(move |event| drop(sender.send(event)));
        call(observer, Box::new(move |answer| drop(answers.send(answer))));
        Self { events, answer }
    }
    pub(in crate::arbiter) fn done(&self) -> Result<Record, Refusal> {
        self.answer.recv_timeout(SOON).expect("an answer")
    }
    pub(in crate::arbiter) fn record(&self) -> Record {
        self.done().expect("not refused")
    }
    pub(in crate::arbiter) fn refusal(&self) -> Refusal {
        self.done().expect_err("refused")
    }
    /// The number of the handover that began.
    pub(in crate::arbiter) fn number(&self) -> u64 {
        self.events.recv_timeout(SOON).expect("an event").record.number
    }
    /// Every event to the end of the drain.
    pub(in crate::arbiter) fn last(&self) -> HandoverEvent {
        let mut last = None;
        while let Ok(event) = self.events.recv_timeout(SOON) {
            let over = event.record.is_over();
            last = Some(event);
            if over {
                break;
            }
        }
        last.expect("an event")
    }
}

struct Tube(Sender<ToInstance>);

impl Outbox for Tube {
    fn send(&mut self, message: ToInstance) -> bool {
        self.0.send(message).is_ok()
    }
}

/// An instance's end of the stream.
pub(in crate::arbiter) struct One {
    arbiter: Arbiter,
    pub(in crate::arbiter) inbox: Receiver<ToInstance>,
    pub(in crate::arbiter) welcome: Welcome,
}

impl One {
    pub(in crate::arbiter) fn attach(arbiter: &Arbiter, hello: Hello) -> Result<Self, Refusal> {
        Self::attach_with(arbiter, hello, None)
    }
    pub(in crate::arbiter) fn attach_with(
        arbiter: &Arbiter,
        hello: Hello,
        pidfd: Option<OwnedFd>,
    ) -> Result<Self, Refusal> {
        let (sender, inbox) = channel();
        let outbox = Box::new(Tube(sender));
        let welcome = Arbiter::ask(SOON, |reply| arbiter.attach(hello, pidfd, outbox, reply)).expect("an answer")?;
        Ok(Self { arbiter: arbiter.clone(), inbox, welcome })
    }
    pub(in crate::arbiter) fn id(&self) -> u64 {
        self.welcome.incarnation
    }
    pub(in crate::arbiter) fn name(&self) -> &str {
        &self.welcome.instance
    }
    pub(in crate::arbiter) fn say(&self, message: FromInstance) {
        self.arbiter.message(self.id(), message);
    }
    pub(in crate::arbiter) fn ready(&self) {
        self.say(FromInstance::Ready { ready: true, message: String::new() });
    }
    pub(in crate::arbiter) fn in_flight(&self, count: u64, drained: bool) {
        self.say(FromInstance::InFlight { counts: [("connection".to_owned(), count)].into(), drained });
    }
    pub(in crate::arbiter) fn leave(&self) {
        self.say(FromInstance::Leave { drain_timeout: None });
    }
    /// The next message that `pick` wants; others are passed over.
    pub(in crate::arbiter) fn hear<T>(&self, pick: impl Fn(&ToInstance) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.inbox.recv_timeout(left).expect("a message");
            if let Some(found) = pick(&message) {
                return found;
            }
        }
    }
    /// Awaits a call of this hook.
    pub(in crate::arbiter) fn called(&self, hook: Hook) -> (u64, Record) {
        self.hear(|message| match message {
            ToInstance::HookCall { call_id, hook: called, record, .. } if *called == hook => {
                Some((*call_id, (**record).clone()))
            }
            _ => None,
        })
    }
    pub(in crate::arbiter) fn answer(&self, call_id: u64, ok: bool, veto: &str) {
        self.say(FromInstance::HookResult { call_id, ok, veto: veto.into() });
    }
    pub(in crate::arbiter) fn agree(&self, hook: Hook) -> Record {
        let (call_id, record) = self.called(hook);
        self.answer(call_id, true, "");
        record
    }
    pub(in crate::arbiter) fn veto(&self, hook: Hook, words: &str) {
        let (call_id, _) = self.called(hook);
        self.answer(call_id, false, words);
    }
}
