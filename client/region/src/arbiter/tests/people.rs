//! Those who speak with an arbiter: instances without processes, and whoever asks for a handover.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::SOON;
use super::fake::Fake;
use crate::arbiter::restart::spawn;
use crate::arbiter::*;

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
        let observer = Box::new(move |event: Option<_>| event.is_none_or(|event| sender.send(event).is_ok()));
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
        self.say(FromInstance::Ready { ready: true, message: String::new(), hooks: None });
    }
    pub(in crate::arbiter) fn ready_with(&self, hooks: HookSet) {
        self.say(FromInstance::Ready { ready: true, message: String::new(), hooks: Some(hooks) });
    }
    pub(in crate::arbiter) fn in_flight(&self, count: u64, drained: bool) {
        self.say(FromInstance::InFlight {
            counts: [("connection".to_owned(), count)].into(),
            left: Vec::new(),
            drained,
        });
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
