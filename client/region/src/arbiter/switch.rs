//! A switch under way: what the machine's effects do to the region, to the hooks and to the record.

use std::time::{Duration, Instant};

use super::ground::{Closed, Closing, NotClosed, Slice};
use super::machine::{Effect, Event, Id, Owner, Step, Switch, Timer};
use super::message::{Hook, Observer, Refusal, Reply, SwitchOptions, Target, ToInstance};
use super::policy::converged;
use super::reason::Reason;
use super::record::{Cause, Figures, InstanceRef, Kind, Outcome, Phase, Record, clip};
use super::runner::Runner;
use super::session::Call;
use crate::os::clock::unix_ms;

/// Pages checked between two looks at commands and deaths.
const SLICE_PAGES: u32 = 1024;
/// Until a round that writers block is tried again.
const BLOCKED_WAIT: Duration = Duration::from_millis(1);
/// The gate opens by itself after twice the freeze time-out, and never later than 500 ms.
const FREEZE_MAX: Duration = Duration::from_millis(250);

/// Somebody's request for a switch.
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) options: SwitchOptions,
    pub(super) caller: String,
    pub(super) rolls_back: Option<u64>,
    pub(super) observer: Observer,
    pub(super) reply: Reply<Result<Record, Refusal>>,
    /// Why it has to wait, if it has.
    pub(super) refusal: Option<Refusal>,
}

/// Where the running round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    Idle,
    Begin,
    Slices,
    Blocked,
}

/// The switch under way.
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) target: Target,
    pub(super) options: SwitchOptions,
    pub(super) refusal: Option<Refusal>,
    pub(super) replies: Vec<Reply<Result<Record, Refusal>>>,
    pub(super) aborts: Vec<Reply<Result<Record, Refusal>>>,
    /// Which call of which instance is awaited.
    pub(super) hook: Option<(u64, Id)>,
    /// A veto's words, a fault's, an abort's note.
    pub(super) words: String,
    pub(super) round: Round,
    left_before: Option<u64>,
    schemas: u64,
    closed: Option<Closed>,
    started: Instant,
    phase: Phase,
    phase_since: Instant,
}

impl Active {
    /// How soon its round wants to go on.
    pub(super) fn work_within(&self) -> Option<Duration> {
        match self.round {
            Round::Idle => None,
            Round::Blocked => Some(BLOCKED_WAIT),
            Round::Begin | Round::Slices => Some(Duration::ZERO),
        }
    }
}

impl Runner {
    /// The time-out behind a timer of the current switch.
    pub(super) fn limit(&self, timer: Timer) -> Duration {
        let options = self.active.as_ref().map(|a| &a.options);
        let own = options.and_then(|o| match timer {
            Timer::Ready => o.ready_timeout,
            Timer::Prepare => o.prepare_timeout,
            Timer::Precopy => o.precopy_timeout,
            Timer::Flush => o.flush_timeout,
            Timer::Kill | Timer::Retry => None,
        });
        own.unwrap_or(match timer {
            Timer::Ready => self.policy.ready_timeout,
            Timer::Prepare => self.policy.prepare_timeout,
            Timer::Precopy => self.policy.precopy_timeout,
            Timer::Flush => self.policy.flush_timeout,
            Timer::Kill | Timer::Retry => self.policy.kill_timeout,
        })
    }

    fn freeze_budget(&self) -> Duration {
        let own = self.active.as_ref().and_then(|a| a.options.freeze_timeout);
        own.unwrap_or(self.policy.freeze_timeout).min(FREEZE_MAX)
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Begun => self.begun(),
            Effect::Enter(phase) => self.enter(phase),
            Effect::Arm(timer) => self.arm(timer),
            Effect::Hook(hook, id) => self.hook(hook, id),
            Effect::Round => {
                if let Some(active) = &mut self.active {
                    active.round = Round::Begin;
                }
            }
            Effect::Totals => self.last_look(),
            Effect::Freeze => self.close(),
            // Asked for inside the chain of `close`, and answered there.
            Effect::Seal(_) | Effect::Commit => {}
            Effect::Kill(id) => self.kill(id),
            Effect::Reclaim(id) => self.reclaim(id),
            Effect::Decided(switch, outcome, reason) => self.decided(switch, outcome, reason),
            Effect::Left(id) => self.has_left(id),
            Effect::Quarantined => self.hold_back(),
        }
    }

    fn begun(&mut self) {
        let Some(switch) = self.machine.switch().copied() else { return };
        let by_request = matches!(switch.cause, Cause::Handover | Cause::Rollback);
        let asked = self.asked.take_if(|_| by_request);
        let now = Instant::now();
        let (options, caller) = match &asked {
            Some(asked) => (asked.options.clone(), asked.caller.clone()),
            None => (SwitchOptions::default(), "heirloom".into()),
        };
        let generation = self.machine.generation();
        let record = Record {
            kind: switch.kind,
            cause: switch.cause,
            outcome: Outcome::Running,
            phase: Phase::Prepare,
            source: self.source_of(&switch),
            target: switch.target.and_then(|id| self.reference(id)),
            previous_generation: generation,
            generation,
            rolls_back: asked.as_ref().and_then(|a| a.rolls_back),
            request_id: options.request_id.clone(),
            note: options.note.clone(),
            caller,
            create_unix_ms: unix_ms(),
            figures: Figures { region_bytes: self.ground.used_bytes(), ..Figures::default() },
            ..Record::default()
        };
        let number = self.journal.open(&mut *self.ground, record);
        let mut active = Active {
            number,
            target: Target::Any,
            options,
            refusal: None,
            replies: Vec::new(),
            aborts: Vec::new(),
            hook: None,
            words: String::new(),
            round: Round::Idle,
            left_before: None,
            schemas: 0,
            closed: None,
            started: now,
            phase: Phase::Prepare,
            phase_since: now,
        };
        if let Some(asked) = asked {
            active.target = asked.target;
            active.refusal = asked.refusal;
            active.replies.push(asked.reply);
            if let Some(record) = self.journal.get(number) {
                self.feed.follow(record, asked.observer, unix_ms());
            }
        }
        self.active = Some(active);
        self.tell(number);
    }

    /// Who is deposed: the living owner, or the dead one that the generation names.
    fn source_of(&self, switch: &Switch) -> Option<InstanceRef> {
        match (switch.source, self.machine.owner()) {
            (Some(id), _) => self.reference(id),
            (None, Owner::Dead(id)) => {
                let known = self.last_owner.clone().filter(|o| o.incarnation == id);
                Some(known.unwrap_or(InstanceRef { incarnation: id, ..InstanceRef::default() }))
            }
            _ => None,
        }
    }

    pub(super) fn reference(&self, id: Id) -> Option<InstanceRef> {
        self.sessions.get(&id).map(|s| s.at.clone())
    }

    fn enter(&mut self, phase: Phase) {
        let Some(active) = &mut self.active else { return };
        let (now, number, before) = (Instant::now(), active.number, active.phase);
        let spent = now.saturating_duration_since(active.phase_since);
        (active.phase, active.phase_since) = (phase, now);
        self.journal.edit(number, |record| {
            record.phase = phase;
            if before != phase {
                *record.figures.phase_us.entry(before.as_str().into()).or_default() += micros(spent);
            }
        });
        // The owner writes while this is stored and told, so not on the way from the last round to the freeze.
        if before != phase && matches!(phase, Phase::Precopy | Phase::Flush) {
            self.journal.save(&mut *self.ground, number);
            self.tell(number);
        }
    }

    fn hook(&mut self, hook: Hook, id: Id) {
        self.calls += 1;
        let (call_id, now) = (self.calls, Instant::now());
        let timer = if hook == Hook::Prepare { Timer::Prepare } else { Timer::Flush };
        let deadline = now + self.limit(timer);
        let number = match hook {
            Hook::Resume => self.journal.last_decided(),
            Hook::Prepare | Hook::Flush => self.active.as_ref().map(|a| a.number),
        };
        if let Some(active) = self.active.as_mut().filter(|_| hook != Hook::Resume) {
            active.hook = Some((call_id, id));
            if hook == Hook::Prepare {
                let target = self.sessions.get(&id).map(|s| s.at.clone());
                self.journal.edit(active.number, |record| record.target = target);
            }
        }
        let record = number.and_then(|n| self.journal.get(n)).cloned().unwrap_or_default();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.call(Call { id: call_id, hook, record, deadline }, now);
        }
    }

    /// A hook's answer, if it is the one that is awaited.
    pub(super) fn hook_result(&mut self, id: Id, call_id: u64, ok: bool, veto: String) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.calls.retain(|call| call.id != call_id);
        }
        let Some(active) = self.active.as_mut().filter(|a| a.hook == Some((call_id, id))) else { return };
        active.hook = None;
        if !ok {
            active.words = veto;
        }
        self.feed(if ok { Event::HookOk } else { Event::HookVetoed });
    }

    /// Before the last rounds: the totals, and once more whether the target reads what the owner has written by now.
    fn last_look(&mut self) {
        let target = self.machine.switch().and_then(|s| s.target);
        let schemas = match self.look(target) {
            Ok(schemas) => schemas,
            Err((reason, words)) => return self.fail(reason, words),
        };
        if let Err(fault) = self.ground.note_totals() {
            return self.fail(fault.reason, fault.message);
        }
        let budget = self.freeze_budget();
        self.ground.set_budget(budget);
        if let Some(active) = &mut self.active {
            (active.schemas, active.left_before) = (schemas, None);
        }
    }

    fn fail(&mut self, reason: Reason, words: String) {
        if let Some(active) = &mut self.active {
            active.words = words;
        }
        self.inbox.push_back(Event::Failed(reason));
    }

    /// One slice of the running round.
    pub(super) fn work(&mut self) {
        let Some(active) = self.active.as_mut().filter(|a| a.round != Round::Idle) else { return };
        let was_blocked = active.round == Round::Blocked;
        let slice = match active.round {
            Round::Begin => self.ground.begin_round().map(|()| Slice::More),
            _ => self.ground.round_slice(SLICE_PAGES),
        };
        match slice {
            Ok(Slice::More) => active.round = Round::Slices,
            Ok(Slice::Blocked) => active.round = Round::Blocked,
            Ok(Slice::Done(pages)) => return self.round_done(pages),
            Err(fault) => {
                active.round = Round::Idle;
                active.words = fault.message;
                return self.feed(Event::Failed(fault.reason));
            }
        }
        let is_blocked = active.round == Round::Blocked;
        if is_blocked != was_blocked {
            self.feed(Event::Blocked(is_blocked));
        }
    }

    fn round_done(&mut self, pages: u64) {
        let (left, fits) = (self.ground.dirty_pages(), self.ground.pages_within(self.freeze_budget()));
        let Some(active) = &mut self.active else { return };
        active.round = Round::Idle;
        let (number, before) = (active.number, active.left_before.replace(left));
        let mut rounds = 0;
        self.journal.edit(number, |record| {
            record.figures.precopy_rounds += 1;
            record.figures.precopy_pages += pages;
            rounds = record.figures.precopy_rounds;
        });
        let done = converged(before, left, fits, rounds);
        let last = done && self.machine.switch().is_some_and(|s| s.step == Step::Settle);
        if let Some(record) = self.journal.get(number).filter(|_| !last) {
            self.feed.observe(record, unix_ms(), left, fits);
        }
        self.feed(Event::Round(done));
    }

    /// Freeze, seal and commit: one chain, in which the machine says at each step whether to go on.
    fn close(&mut self) {
        let budget = self.freeze_budget();
        let owner = self.machine.switch().and_then(|s| s.target).unwrap_or(0);
        let Some(active) = &mut self.active else { return };
        let (machine, mut effects) = (&mut self.machine, Vec::with_capacity(4));
        let mut marks = [Instant::now(); 3];
        let mut go = |closing: Closing| {
            effects.clear();
            let (event, wanted) = match closing {
                Closing::Frozen => (Event::Frozen, Effect::Seal(owner)),
                Closing::Sealed => (Event::Sealed, Effect::Commit),
            };
            machine.step(event, &mut effects);
            marks[1 + usize::from(closing == Closing::Sealed)] = Instant::now();
            effects.contains(&wanted)
        };
        let closed = self.ground.close(budget, owner, active.schemas, &mut go);
        let end = Instant::now();
        let [froze, sealing, committing] = marks;
        let (freeze, seal, commit) = (sealing.max(froze) - froze, committing.max(sealing) - sealing, end - committing);
        let event = match closed {
            Ok(closed) => {
                (active.closed, active.phase, active.phase_since) = (Some(closed), Phase::Commit, end);
                self.journal.edit(active.number, |record| {
                    let us = &mut record.figures.phase_us;
                    us.insert(Phase::Freeze.as_str().into(), micros(freeze));
                    us.insert(Phase::Seal.as_str().into(), micros(seal));
                    us.insert(Phase::Commit.as_str().into(), micros(commit));
                });
                Event::Committed
            }
            Err(NotClosed::Writers(words)) => {
                active.words = words;
                Event::NotFrozen
            }
            Err(NotClosed::Stopped) => Event::NotFrozen,
            Err(NotClosed::Failed(fault)) => {
                active.words = fault.message;
                Event::Failed(fault.reason)
            }
        };
        self.inbox.push_back(event);
    }

    fn kill(&mut self, id: Id) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let sent = match &session.pidfd {
            Some(pidfd) => crate::os::pidfd::send_signal(std::os::fd::AsFd::as_fd(pidfd), nix::sys::signal::SIGKILL)
                .map_err(|e| e.to_string()),
            None => Err("the kernel gave no handle to its process".into()),
        };
        match sent {
            Ok(()) => {
                session.killed = true;
                if let Some(active) = &self.active {
                    self.journal.edit(active.number, |record| record.forced = true);
                }
            }
            Err(words) => {
                if let Some(active) = &mut self.active {
                    active.words = format!("{} cannot be killed: {words}", session.at.instance);
                }
                self.inbox.push_back(Event::KillRefused);
            }
        }
    }

    fn decided(&mut self, switch: Switch, outcome: Outcome, reason: Option<Reason>) {
        let Some(active) = self.active.take() else { return };
        self.timer = None;
        let (number, now_ms) = (active.number, unix_ms());
        for session in self.sessions.values_mut() {
            session.calls.retain(|call| call.record.number != number);
        }
        let phase = match (outcome, switch.step) {
            (Outcome::Committed, _) => Phase::Drain,
            (_, Step::Freeze) => Phase::Freeze,
            (_, Step::Seal) => Phase::Seal,
            (_, Step::Commit) => Phase::Commit,
            _ => active.phase,
        };
        let spent = active.phase_since.elapsed();
        let why = self.why(&active, &switch, reason);
        self.journal.edit(number, |record| {
            (record.outcome, record.phase) = (outcome, phase);
            record.figures.total_ms = u64::try_from(active.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if outcome != Outcome::Committed {
                *record.figures.phase_us.entry(active.phase.as_str().into()).or_default() += micros(spent);
                record.end_unix_ms = Some(now_ms);
                (record.reason, record.message) = why;
            }
        });
        if outcome == Outcome::Committed {
            self.opened(&switch, &active, now_ms);
        }
        self.journal.save(&mut *self.ground, number);
        let record = self.journal.get(number).cloned().unwrap_or_default();
        tracing::info!(number, kind = %record.kind, outcome = %record.outcome, "{}", record.message);
        for reply in active.replies {
            reply(Ok(record.clone()));
        }
        for reply in active.aborts {
            reply(match outcome {
                Outcome::Committed => Err(super::verbs::too_late(&record)),
                _ => Ok(record.clone()),
            });
        }
        self.tell(number);
    }

    fn why(&self, active: &Active, switch: &Switch, reason: Option<Reason>) -> (Option<Reason>, String) {
        if let Some(refusal) = active.refusal.as_ref().filter(|_| switch.step == Step::Await) {
            if matches!(reason, Some(Reason::TargetNotReady)) || reason == Some(refusal.reason) {
                return (Some(refusal.reason), refusal.message.clone());
            }
        }
        let mut words = active.words.clone();
        if words.is_empty() {
            words = match reason.unwrap_or_default() {
                Reason::PrepareTimeout => "the target's prepare hook did not answer in time".into(),
                Reason::FlushTimeout => "the owner's flush hook did not answer in time".into(),
                Reason::PrecopyNotConverging => {
                    format!("{} pages are left after the last round", active.left_before.unwrap_or(0))
                }
                Reason::FreezeTimeout => "the owner's writers did not leave their sections in time".into(),
                Reason::TargetDied => "the target's death is proved".into(),
                Reason::OwnerDied => "the owner's death is proved".into(),
                Reason::AbortRequested => "somebody asked for the abort".into(),
                Reason::ForceUnavailable => "the owner's death could not be proved in time".into(),
                Reason::TargetNotReady => "the target is not ready any more, or the owner left first".into(),
                other => other.as_str().into(),
            };
        }
        clip(&mut words, 512);
        (reason, words)
    }

    /// A new generation is open: record, roles, hints, drain.
    fn opened(&mut self, switch: &Switch, active: &Active, now_ms: u64) {
        let (number, closed) = (active.number, active.closed.unwrap_or_default());
        let generation = self.machine.generation();
        let blackout = self.ground.blackout(closed.attempt);
        let owner = switch.target.and_then(|id| self.reference(id));
        let region_bytes = self.ground.used_bytes();
        let version = owner.as_ref().map_or("nobody".to_owned(), |o| o.version.clone());
        let message = format!("{version} owns {}", self.ground.identity().name);
        let mut rolls_back = None;
        self.journal.edit(number, |record| {
            record.generation = generation;
            record.root_digest = closed.root_digest;
            record.message = message;
            let figures = &mut record.figures;
            (figures.frozen_pages, figures.gate_closed_us) = (closed.frozen_pages, micros(closed.closed));
            (figures.writer_blackout_us, figures.region_bytes) = (blackout.map(micros), region_bytes);
            rolls_back = record.rolls_back;
        });
        if let Some(undone) = rolls_back {
            self.journal.edit(undone, |record| record.rolled_back_by = Some(number));
            self.journal.save(&mut *self.ground, undone);
        }
        self.generation_start_ms = now_ms;
        self.vacant_since_ms = owner.is_none().then_some(now_ms);
        if matches!(switch.kind, Kind::Handover | Kind::Rollback) && switch.cause != Cause::OwnerLeft {
            self.deaths_ms.clear();
        }
        if let Some(session) = switch.target.and_then(|id| self.sessions.get_mut(&id)) {
            (session.owned, session.draining) = (generation, false);
        }
        let previous = self.last_owner.clone();
        if let Some(id) = switch.target {
            self.last_owner = owner.clone();
            self.drains_end(id, "owns again");
        }
        self.drain_begins(number, switch.source, active.options.clone());
        let hint = ToInstance::GenerationHint {
            generation,
            cause: switch.cause,
            previous,
            owner,
            writer_blackout_us: blackout.map(micros),
        };
        for session in self.sessions.values_mut().filter(|s| s.outbox.is_some()) {
            session.send(hint.clone());
        }
        self.stale = true;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
