//! How a switch ended: its record, the answers, and what a new generation brings with it.

use super::machine::{Step, Switch};
use super::message::ToInstance;
use super::reason::Reason;
use super::record::{Cause, Kind, Outcome, Phase, clip};
use super::runner::Runner;
use super::switch::{Active, micros};
use crate::os::clock::unix_ms;

impl Runner {
    pub(super) fn decided(&mut self, switch: Switch, outcome: Outcome, reason: Option<Reason>) {
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
        tracing::debug!(number, kind = %record.kind, outcome = %record.outcome, "{}", record.message);
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
        let awaited = active.refusal.as_ref().filter(|_| switch.step == Step::Await);
        let awaited = awaited.filter(|r| reason == Some(Reason::TargetNotReady) || reason == Some(r.reason));
        if let Some(refusal) = awaited {
            return (Some(refusal.reason), refusal.message.clone());
        }
        let mut words = active.words.clone();
        if words.is_empty() {
            words = match reason.unwrap_or_default() {
                Reason::PrepareTimeout => "the target's prepare hook did not answer in time".into(),
                Reason::FlushTimeout => "the owner's flush hook did not answer in time".into(),
                Reason::PrecopyNotConverging => {
                    format!("about {} pages are left after the last round", active.rounds.left().unwrap_or(0))
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
            self.ground.forget_deaths();
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
