//! The control thread's loop: see [`crate::control`].
//!
//! What is to be said is not queued but found by comparing what is so with what was said ([`Said`]). So a lost link needs no
//! replay (nothing counts as said on a new one), and changes that come faster than they are said are said once.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heirloom_region::arbiter::{FromInstance, Hook, Record, ToInstance, Undrained};
use heirloom_region::error::Generation;
use tokio::sync::mpsc;

use crate::dial::{DialError, Dialled};
use crate::facts::{self, Hint};
use crate::hooks::{Call, Flush, Hooks, Prepare, Resume, Veto};
use crate::link::Live;
use crate::open::{Opened, Redial, backoff};
use crate::role::Role;
use crate::session::Session;

/// Counts of work in flight are said so often at most, and while something drains they are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// The same of an owner, for those who look at it: `status` and `/metrics` are as old as this.
const LOOK: Duration = Duration::from_secs(1);
/// For the arbiter to take note that an instance has left.
const FAREWELL: Duration = Duration::from_secs(2);
/// A leave that was taken back (its flush was vetoed) is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// Hook calls that are remembered, in case the arbiter asks again after the link was lost.
const CALLS_MAX: usize = 16;

mod leave;
mod relink;

pub(crate) struct Driver {
    session: Arc<Session>,
    live: Option<Live>,
    /// When the link was lost.
    lost: Option<Instant>,
    redial: Option<Redial>,
    dialling: Option<Dialling>,
    /// The attempt under way looks from outside whether it is the same region.
    looking: bool,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    said: Said,
    calls: VecDeque<Called>,
    done: mpsc::UnboundedReceiver<(CallKey, Result<(), Veto>)>,
    done_sender: mpsc::UnboundedSender<(CallKey, Result<(), Veto>)>,
    /// The flush of an owner that leaves without an arbiter, and when it began.
    own_flush: Option<Instant>,
    leave_again: Option<Instant>,
    /// Since when the arbiter was told that all is drained.
    farewell: Option<Instant>,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialError>> + Send>>;
/// Call, handover, hook: a restarted arbiter may count its calls anew. `None`: our own flush.
type CallKey = Option<(u64, u64, Hook)>;

struct Called {
    key: CallKey,
    result: Option<Result<(), Veto>>,
}

/// What the arbiter at the other end of this link was told.
#[derive(Default)]
struct Said {
    needs: Option<u64>,
    ready: Option<bool>,
    /// In this generation.
    leave: Option<u64>,
    counts: Option<Counts>,
    counts_at: Option<Instant>,
}

/// Work in flight.
#[derive(Clone, PartialEq)]
struct Counts {
    /// Of which drain: a second one says its end again, though its counts be the same.
    draining: Option<Generation>,
    all: BTreeMap<String, u64>,
    left: Vec<Undrained>,
    drained: bool,
}

impl Driver {
    pub(crate) fn new(opened: Opened) -> Self {
        let (done_sender, done) = mpsc::unbounded_channel();
        Self {
            session: opened.session,
            live: Some(opened.live),
            lost: None,
            redial: opened.redial,
            dialling: None,
            looking: false,
            pauses: Box::new(backoff()),
            said: Said::default(),
            calls: VecDeque::new(),
            done,
            done_sender,
            own_flush: None,
            leave_again: None,
            farewell: None,
        }
    }

    /// Runs until the instance has left.
    pub(crate) async fn run(mut self) {
        loop {
            self.session.refresh();
            self.say_news();
            if self.session.has_left() || self.has_gone() {
                break;
            }
            let ticks = self.session.draining().is_some() || self.session.state().leaving.is_some();
            let looks = self.live.is_some() && matches!(self.session.role(), Role::Owner(_));
            tokio::select! {
                message = hear(&mut self.live) => match message {
                    Some(message) => self.heard(message),
                    None => self.lose(),
                },
                dialled = dialled(&mut self.dialling) => {
                    self.dialling = None;
                    self.redialled(dialled);
                }
                Some((key, result)) = self.done.recv() => self.hook_done(key, result),
                () = self.session.poke.notified() => {}
                () = tokio::time::sleep(if ticks { TICK } else { LOOK }), if ticks || looks => {}
            }
        }
        if let Some(live) = self.live.take() {
            live.close(FAREWELL).await;
        }
    }

    fn say(&self, message: FromInstance) -> bool {
        self.live.as_ref().is_some_and(|live| live.say(message))
    }

    /// Says what is so and was not said on this link. A link that does not take it is lost, and will be heard to be.
    fn say_news(&mut self) {
        if self.live.is_none() {
            return;
        }
        let version = self.session.registry.version();
        if self.said.needs.unwrap_or(0) != version && self.say(FromInstance::Declare(self.session.registry.needs())) {
            self.said.needs = Some(version);
        }
        let (ready, leaving, hooks) = {
            let state = self.session.state();
            (state.ready && state.leaving.is_none(), state.leaving.is_some(), state.hooks.declared())
        };
        if self.said.ready.unwrap_or(false) != ready {
            let message = if leaving { "leaving" } else { "" }.to_owned();
            if self.say(FromInstance::Ready { ready, message, hooks: Some(hooks) }) {
                self.said.ready = Some(ready);
            }
        }
        if self.said.ready == Some(true) && self.live.as_ref().is_some_and(|live| !live.notes_ready()) {
            self.session.tell_ready();
        }
        self.say_counts(leaving);
    }

    /// Work in flight: with reasons and soon while somebody waits for it, else now and then for those who look.
    fn say_counts(&mut self, leaving: bool) {
        let draining = self.session.draining();
        let (drains, said_at) = (draining.is_some() || leaving, self.said.counts_at);
        let owns = matches!(self.session.role(), Role::Owner(_));
        if !drains && !owns && self.said.counts.is_none() {
            return;
        }
        let drained = drains && !owns && self.session.work.total() == 0;
        let left = if drains && !owns { self.session.work.left() } else { Vec::new() };
        let counts = Counts { draining, all: self.session.work.counts(), left, drained };
        let recently = said_at.is_some_and(|at| at.elapsed() < if drains { TICK } else { LOOK });
        if self.said.counts.as_ref() != Some(&counts) && (drained || !recently) {
            let Counts { all, left, .. } = counts.clone();
            if self.say(FromInstance::InFlight { counts: all, left, drained }) {
                self.said.counts = Some(counts);
                self.said.counts_at = Some(Instant::now());
            }
        }
        if drained && let Some(generation) = draining {
            self.session.drained(generation);
        }
    }

    fn heard(&mut self, message: ToInstance) {
        match message {
            ToInstance::HookCall { call_id, hook, record, timeout } => {
                self.called(Some((call_id, record.number, hook)), hook, &record, timeout);
            }
            ToInstance::GenerationHint { generation, cause, previous, writer_blackout_us, .. } => {
                let blackout = writer_blackout_us.map(Duration::from_micros);
                let previous = previous.as_ref().map(facts::peer);
                self.session.hint(Hint { generation, cause, previous, blackout });
            }
            ToInstance::ReadyNoted { ready } => {
                if ready {
                    self.session.tell_ready();
                }
            }
            ToInstance::LeaveRequest { drain_timeout, message } => {
                tracing::info!(region = self.session.region(), message, "asked to leave");
                self.session.leave(drain_timeout);
            }
        }
    }

    fn called(&mut self, key: CallKey, hook: Hook, record: &Record, timeout: Duration) {
        if let Some(known) = self.calls.iter().find(|call| call.key == key) {
            // Asked again over a new link: one run, one answer.
            if let Some(result) = known.result.clone() {
                self.answer(key, result);
            }
            return;
        }
        if hook == Hook::Resume && self.said.leave.is_some() {
            self.leave_again = Some(Instant::now() + AGAIN);
        }
        let deadline = Instant::now() + timeout;
        let call = match (hook, self.session.term()) {
            (Hook::Prepare, _) => {
                let prepare = Prepare { owner: record.source.as_ref().map(facts::peer), deadline };
                return self.prepare(key, prepare);
            }
            (Hook::Flush, Ok(term)) => {
                Call::Flush(Flush { term, target: record.target.as_ref().map(facts::peer), deadline })
            }
            (Hook::Resume, Ok(term)) => Call::Resume(Resume { term, reason: why(record) }),
            (Hook::Flush | Hook::Resume, Err(not_owner)) => return self.answer(key, Err(Veto(not_owner.to_string()))),
        };
        self.run_hook(key, call);
    }

    /// Whoever is to own must keep every socket that there is; the hook runs when it does.
    fn prepare(&mut self, key: CallKey, prepare: Prepare) {
        let net = self.session.net.clone();
        self.spawn_hook(key, |hooks| async move {
            match net.lacks().await {
                Some(why) => Err(Veto(why)),
                None => hooks.run(Call::Prepare(prepare)).await,
            }
        });
    }

    fn run_hook(&mut self, key: CallKey, call: Call) {
        self.spawn_hook(key, |hooks| hooks.run(call));
    }

    fn spawn_hook<F>(&mut self, key: CallKey, what: impl FnOnce(Hooks) -> F)
    where
        F: Future<Output = Result<(), Veto>> + Send + 'static,
    {
        self.calls.push_back(Called { key, result: None });
        if self.calls.len() > CALLS_MAX {
            self.calls.pop_front();
        }
        let (hooks, runtime) = {
            let state = self.session.state();
            (state.hooks.clone(), state.runtime.clone())
        };
        let runtime = runtime.unwrap_or_else(|| self.session.control.clone());
        let (work, done) = (runtime.spawn(what(hooks)), self.done_sender.clone());
        self.session.control.spawn(async move {
            let result = work.await.unwrap_or_else(|e| match e.is_panic() {
                true => Err(Veto("the hook panicked".to_owned())),
                false => Err(Veto("the runtime that hooks run on is shutting down".to_owned())),
            });
            let _ = done.send((key, result));
        });
    }

    fn hook_done(&mut self, key: CallKey, result: Result<(), Veto>) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.key == key) {
            call.result = Some(result.clone());
        }
        match key {
            Some(_) => self.answer(key, result),
            None => {
                if let Err(Veto(why)) = result {
                    tracing::warn!(region = self.session.region(), why, "flush before leaving without a sidecar");
                }
                self.session.give_up();
            }
        }
    }

    fn answer(&self, key: CallKey, result: Result<(), Veto>) {
        if let Some((call_id, ..)) = key {
            let (ok, veto) = match result {
                Ok(()) => (true, String::new()),
                Err(Veto(why)) => (false, why),
            };
            // Over a lost link: the arbiter asks again, or its deadline passes.
            let _ = self.say(FromInstance::HookResult { call_id, ok, veto });
        }
    }
}

fn why(record: &Record) -> String {
    match record.reason {
        Some(reason) => format!("{reason}: {}", record.message),
        None => record.message.clone(),
    }
}

async fn hear(live: &mut Option<Live>) -> Option<ToInstance> {
    match live {
        Some(live) => live.hear().await,
        None => std::future::pending().await,
    }
}

async fn dialled(dialling: &mut Option<Dialling>) -> Result<Dialled, DialError> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}
