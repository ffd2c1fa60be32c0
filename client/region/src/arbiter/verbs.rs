//! What transports ask for: handover, rollback, abort, drain, status, verify.

use std::time::Duration;

use super::machine::Event;
use super::message::{Observer, Refusal, Reply, RollbackRequest, SwitchOptions, SwitchRequest, Target, ToInstance};
use super::policy::{Verdict, judge};
use super::reason::Reason;
use super::record::{Cause, Figures, Kind, Outcome, Phase, Record, clip};
use super::runner::Runner;
use super::status::InstanceStatus;
use super::switch::Asked;
use super::undo::{Undo, undo};
use crate::os::clock::unix_ms;

const REQUEST_ID_MAX: usize = 64;
const NOTE_MAX: usize = 512;
const FREEZE_TIMEOUT_MAX: Duration = Duration::from_millis(250);

impl Runner {
    pub(super) fn handover(
        &mut self,
        request: SwitchRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    ) {
        let SwitchRequest { target, options } = request;
        let words = format!("handover to {target}");
        let asked = Asked { target, options, caller, words, rolls_back: None, observer, reply, refusal: None };
        let Some(asked) = self.admit(asked) else { return };
        let verdict = judge(&self.view(), &asked.target, asked.options.expected_generation);
        self.answer(verdict, asked);
    }

    pub(super) fn rollback(
        &mut self,
        request: RollbackRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    ) {
        let RollbackRequest { handover, options } = request;
        let words = handover.map_or("rollback of the last handover".into(), |n| format!("rollback of handover {n}"));
        let target = Target::Any;
        let asked = Asked { target, options, caller, words, rolls_back: None, observer, reply, refusal: None };
        let Some(mut asked) = self.admit(asked) else { return };
        match undo(&self.journal, &self.view(), handover, asked.options.expected_generation) {
            Undo::No(refusal) => (asked.reply)(Err(refusal)),
            Undo::Already(by) => {
                let already = Record { outcome: Outcome::Already, ..by.clone() };
                self.done(asked, already);
            }
            Undo::Judged { undone, target, verdict } => {
                (asked.rolls_back, asked.target) = (Some(undone), target);
                self.answer(verdict, asked);
            }
        }
    }

    /// Checks the options; a request id that is known joins its handover.
    fn admit(&mut self, mut asked: Asked) -> Option<Asked> {
        clip(&mut asked.options.note, NOTE_MAX);
        clip(&mut asked.caller, 128);
        clip(&mut asked.words, 128);
        let options = &asked.options;
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.:/".contains(c));
        let refusal = if options.request_id.len() > REQUEST_ID_MAX || options.request_id.contains(odd) {
            let words = "request_id: letters, digits and -_.:/ are allowed";
            let found = format!("{} bytes", options.request_id.len());
            Some(Refusal::new(Reason::InvalidField, words).compare(format!("at most {REQUEST_ID_MAX} bytes"), found))
        } else if options.freeze_timeout.is_some_and(|t| t.is_zero() || t > FREEZE_TIMEOUT_MAX) {
            let found = options.freeze_timeout.unwrap_or_default();
            let words = "freeze_timeout: the gate opens by itself after twice this, 500 ms at most";
            let expected = format!("above 0, at most {FREEZE_TIMEOUT_MAX:?}");
            Some(Refusal::new(Reason::InvalidField, words).compare(expected, format!("{found:?}")))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            (asked.reply)(Err(refusal));
            return None;
        }
        if let Some(known) = self.journal.by_request(&options.request_id) {
            if let Some(refusal) = stands_for_another(known, &asked) {
                (asked.reply)(Err(refusal));
                return None;
            }
            if let Err(refusal) = self.feed.follow(known, asked.observer, unix_ms()) {
                (asked.reply)(Err(refusal.about(known.number)));
                return None;
            }
            match &mut self.active {
                Some(active) if active.number == known.number => active.replies.push(asked.reply),
                _ => (asked.reply)(Ok(known.clone())),
            }
            return None;
        }
        self.stale = true;
        self.refresh();
        Some(asked)
    }

    fn answer(&mut self, verdict: Verdict, mut asked: Asked) {
        let (kind, cause) = match asked.rolls_back {
            Some(_) => (Kind::Rollback, Cause::Rollback),
            None => (Kind::Handover, Cause::Handover),
        };
        let dry = asked.options.validate_only;
        let patience = asked.options.ready_timeout.unwrap_or(self.policy.ready_timeout);
        let target = match verdict {
            Verdict::Already => {
                let already = self.already(kind, cause);
                return self.done(asked, already);
            }
            Verdict::No(refusal) => return (asked.reply)(Err(refusal)),
            Verdict::NotYet(refusal) if dry || patience.is_zero() => return (asked.reply)(Err(refusal)),
            Verdict::NotYet(refusal) => {
                asked.refusal = Some(refusal);
                None
            }
            Verdict::Go(id) if dry => {
                let validated = Record {
                    outcome: Outcome::Validated,
                    target: self.reference(id),
                    message: format!("nothing stands against {kind}"),
                    ..self.draft(kind, cause, &asked.options, &asked.caller)
                };
                return self.done(asked, validated);
            }
            Verdict::Go(id) => Some(id),
        };
        let force = asked.options.force;
        self.asked = Some(asked);
        self.feed(Event::Begin(kind, cause, target, force));
        if let Some(asked) = self.asked.take() {
            let words = "another switch began first";
            (asked.reply)(Err(Refusal::new(Reason::HandoverInProgress, words)));
        }
    }

    /// Answers with a record that is not kept.
    fn done(&mut self, asked: Asked, record: Record) {
        self.feed.follow_own(&record, asked.observer, unix_ms());
        (asked.reply)(Ok(record));
    }

    fn draft(&self, kind: Kind, cause: Cause, options: &SwitchOptions, caller: &str) -> Record {
        let generation = self.machine.generation();
        let now = unix_ms();
        Record {
            kind,
            cause,
            phase: Phase::Prepare,
            source: self.machine.living().and_then(|id| self.reference(id)),
            previous_generation: generation,
            generation,
            root_digest: self.ground.sealed().root_digest,
            request_id: options.request_id.clone(),
            note: options.note.clone(),
            caller: caller.to_owned(),
            create_unix_ms: now,
            end_unix_ms: Some(now),
            figures: Figures { region_bytes: self.ground.used_bytes(), ..Figures::default() },
            ..Record::default()
        }
    }

    /// "The target owns": by the switch that made it so, if that is remembered.
    fn already(&self, kind: Kind, cause: Cause) -> Record {
        let owner = self.machine.living().and_then(|id| self.reference(id));
        let generation = self.machine.generation();
        let words = match &owner {
            Some(owner) => format!("{} {} owns already, in generation {generation}", owner.version, owner.instance),
            None => String::new(),
        };
        let by = self.journal.opener(generation).filter(|r| r.target == owner).cloned();
        let by = by.unwrap_or_else(|| Record {
            phase: Phase::Done,
            source: None,
            target: owner,
            ..self.draft(kind, cause, &SwitchOptions::default(), "")
        });
        Record { outcome: Outcome::Already, message: words, ..by }
    }

    pub(super) fn abort(&mut self, number: Option<u64>, note: String, reply: Reply<Result<Record, Refusal>>) {
        if let Some(active) = self.active.as_mut().filter(|a| number.is_none_or(|n| n == a.number)) {
            active.words = note;
            clip(&mut active.words, 256);
            active.aborts.push(reply);
            return self.feed(Event::Abort);
        }
        let Some(number) = number else {
            let mut refusal = Refusal::new(Reason::HandoverNotFound, "no handover is running");
            refusal.handover = self.journal.last_decided();
            return reply(Err(refusal));
        };
        reply(match self.journal.find(number) {
            Ok(record) if record.outcome == Outcome::Committed => Err(too_late(record)),
            Ok(record) => Ok(record.clone()),
            Err(refusal) => Err(refusal),
        });
    }

    pub(super) fn drain(
        &mut self,
        instance: &str,
        force: bool,
        timeout: Option<Duration>,
    ) -> Result<InstanceStatus, Refusal> {
        self.stale = true;
        self.refresh();
        let owner = self.machine.living();
        let (vacates, limit) = (self.machine.next_owner().is_none(), self.policy.drain_timeout);
        let Some((&id, session)) = self.sessions.iter_mut().find(|(_, s)| s.at.instance == instance) else {
            return Err(Refusal::new(Reason::InstanceNotFound, format!("no instance {instance} is attached")));
        };
        if session.left {
            return Ok(session.status(owner));
        }
        if owner == Some(id) && vacates && !force {
            let words = format!("{instance} owns, and no eligible standby would take over");
            return Err(Refusal::new(Reason::OwnerWouldVacate, words).compare("an eligible standby", "none"));
        }
        let drain_timeout = timeout.or(session.drain_timeout).unwrap_or(limit);
        if !session.send(ToInstance::LeaveRequest { drain_timeout, message: "asked to drain".into() }) {
            return Err(Refusal::new(Reason::Unreachable, format!("{instance} has no live stream")));
        }
        Ok(session.status(owner))
    }

    pub(super) fn watch_handover(&mut self, number: u64, observer: Observer) -> Result<(), Refusal> {
        let record = self.journal.find(number)?;
        self.feed.follow(record, observer, unix_ms()).map_err(|refusal| refusal.about(number))
    }
}

/// A request id means one request: verb, target and options. Records of releases that did not keep one of these do not say.
fn stands_for_another(known: &Record, asked: &Asked) -> Option<Refusal> {
    let terms = asked.options.terms();
    let same_words = known.asked.is_empty() || known.asked == asked.words;
    let known_terms = known.asked_options.as_deref().unwrap_or(&terms);
    if same_words && known_terms == terms {
        return None;
    }
    let stands_for = format!("{} with {known_terms}", known.asked);
    let words = format!("request_id {} stands for another request: {stands_for}", known.request_id);
    let refusal = Refusal::new(Reason::RequestIdReused, words);
    Some(refusal.compare(stands_for, format!("{} with {terms}", asked.words)).about(known.number))
}

/// The abort came after the commit.
pub(super) fn too_late(record: &Record) -> Refusal {
    let words = format!("handover {} is committed: generation {} is open", record.number, record.generation);
    let refusal = Refusal::new(Reason::AlreadyCommitted, words).compare(Outcome::Running, record.outcome);
    Refusal { phase: Some(record.phase), ..refusal.about(record.number) }
}
