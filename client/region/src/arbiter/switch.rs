//! A switch under way: what the machine's effects do to the region, to the hooks and to the record.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::closing::Looks;
use super::ground::Closed;
use super::machine::{Effect, Event, Id, Owner, Switch, Timer};
use super::message::{Hook, Observer, Refusal, Reply, SwitchOptions, Target};
use super::policy::Rounds;
use super::record::{Cause, Figures, InstanceRef, Outcome, Phase, Record};
use super::runner::Runner;
use super::session::{Call, Killed, Session};
use crate::os::clock::unix_ms;

/// Until a round that writers block is tried again.
pub(super) const BLOCKED_WAIT: Duration = Duration::from_millis(1);
/// The gate opens by itself after twice the freeze time-out, and never later than 500 ms.
const FREEZE_MAX: Duration = Duration::from_millis(250);

/// Somebody's request for a switch.
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) options: SwitchOptions,
    pub(super) caller: String,
    /// Verb and target in words, to be compared with those of an earlier request of the same id.
    pub(super) words: String,
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
    pub(super) looks: Looks,
    pub(super) rounds: Rounds,
    pub(super) schemas: u64,
    pub(super) closed: Option<Closed>,
    pub(super) started: Instant,
    pub(super) phase: Phase,
    pub(super) phase_since: Instant,
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

    pub(super) fn freeze_budget(&self) -> Duration {
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
            asked: asked
                .as_ref()
                .filter(|_| !options.request_id.is_empty())
                .map_or_else(String::new, |a| a.words.clone()),
            asked_options: Some(options.terms()).filter(|_| !options.request_id.is_empty()),
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
            looks: Looks::default(),
            rounds: Rounds::default(),
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
                self.feed.follow_own(record, asked.observer, unix_ms());
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
        if hook == Hook::Flush && self.sessions.get(&id).is_some_and(Session::flushes_nothing) {
            return self.inbox.push_back(Event::HookOk);
        }
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

    /// The record says so before the signal is sent: whoever finds the dead also finds who was killed and for what, and that
    /// it was no crash. A kill that did not come to be is taken back: here, or where the instance comes back
    /// ([`Runner::was_not_killed`]).
    fn kill(&mut self, id: Id) {
        let Some(session) = self.sessions.get(&id) else { return };
        let name = session.at.instance.clone();
        let sent = match session.pidfd.as_ref().map(|pidfd| pidfd.try_clone()) {
            Some(Ok(pidfd)) => {
                self.note_forced(true);
                let sent = crate::os::pidfd::send_signal(pidfd.as_fd(), nix::sys::signal::SIGKILL);
                if sent.is_err() {
                    self.note_forced(false);
                }
                sent.map_err(|e| e.to_string())
            }
            Some(Err(e)) => Err(e.to_string()),
            None => Err("the kernel gave no handle to its process".into()),
        };
        match sent {
            Ok(()) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.killed = Some(Killed::Here);
                }
            }
            Err(words) => {
                if let Some(active) = &mut self.active {
                    active.words = format!("{name} cannot be killed: {words}");
                }
                self.inbox.push_back(Event::KillRefused);
            }
        }
    }

    fn note_forced(&mut self, forced: bool) {
        let Some(number) = self.active.as_ref().map(|active| active.number) else { return };
        self.journal.edit(number, |record| record.forced = forced);
        self.journal.save(&mut *self.ground, number);
    }

    /// An instance is back of which an earlier arbiter noted that it would kill it: it came no further than the note.
    pub(super) fn was_not_killed(&mut self, id: Id) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some(Killed::Noted(number)) = session.killed {
            session.killed = None;
            self.journal.edit(number, |record| record.forced = false);
            self.journal.save(&mut *self.ground, number);
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
