//! Old owners that finish their work: watched, reported when they are late, never cut.
//!
//! A drain has one deadline, and may have sooner ones for single kinds of work. Each is reported once, in the record of the switch,
//! with how much of what is left and why; the last one closes that record. Nothing else follows from them.

use std::time::{Duration, Instant};

use super::message::{SwitchOptions, ToInstance};
use super::policy::Policy;
use super::record::Phase;
use super::runner::Runner;
use super::status::Undrained;
use crate::os::clock::unix_ms;

/// An old owner's drain, in the record of the switch that deposed it.
pub(super) struct Drain {
    pub(super) number: u64,
    pub(super) id: u64,
    /// When it is reported as late; none once it was.
    pub(super) late_at: Option<Instant>,
    /// The same, for single kinds.
    kinds: Vec<(String, Instant)>,
    pub(super) options: SwitchOptions,
}

impl Drain {
    pub(super) fn new(
        number: u64,
        id: u64,
        limit: Duration,
        policy: &Policy,
        options: SwitchOptions,
        now: Instant,
    ) -> Self {
        let kinds = policy.drain_timeouts.iter().filter(|(_, sooner)| **sooner < limit);
        let kinds = kinds.map(|(kind, sooner)| (kind.clone(), now + *sooner)).collect();
        Self { number, id, late_at: Some(now + limit), kinds, options }
    }

    /// Kinds whose time is over now, each once.
    fn late_kinds(&mut self, now: Instant) -> Vec<String> {
        let (late, rest) = std::mem::take(&mut self.kinds).into_iter().partition(|(_, at)| *at <= now);
        self.kinds = rest;
        let late: Vec<(String, Instant)> = late;
        late.into_iter().map(|(kind, _)| kind).collect()
    }
}

/// `3 connections (2 NO_BOUNDARY, 1 TLS)`, of these kinds.
fn words<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>, undrained: &[Undrained]) -> String {
    let each = counts.map(|(kind, n)| {
        let why = undrained.iter().filter(|part| part.kind == *kind);
        let why: Vec<_> = why.map(|part| format!("{} {}", part.count, part.reason)).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        format!("{n} {kind}{why}")
    });
    each.collect::<Vec<_>>().join(", ")
}

impl Runner {
    /// The switch `number` is committed: its record stays open until the old owner is drained.
    pub(super) fn drain_begins(&mut self, number: u64, source: Option<u64>, options: SwitchOptions) {
        let Some((id, session)) = source.and_then(|id| Some((id, self.sessions.get_mut(&id)?))) else {
            return self.drain_is_over(number, true, "");
        };
        session.draining = true;
        let counts = session.in_flight.clone();
        let limit = options.drain_timeout.or(session.drain_timeout).unwrap_or(self.policy.drain_timeout);
        self.journal.edit(number, |record| record.figures.undrained_counts = counts);
        self.drains.push(Drain::new(number, id, limit, &self.policy, options, Instant::now()));
    }

    /// What an instance has in flight has changed.
    pub(super) fn drains_change(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        for drain in self.drains.iter().filter(|d| d.id == id) {
            let counts = session.in_flight.clone();
            self.journal.edit(drain.number, |record| {
                if record.end_unix_ms.is_none() {
                    record.figures.undrained_counts = counts;
                }
            });
            if let Some(record) = self.journal.get(drain.number) {
                self.feed.observe(record, unix_ms(), 0, 0);
            }
        }
    }

    /// The instance has nothing in flight, or drains no more for another reason.
    pub(super) fn drains_end(&mut self, id: u64, words: &str) {
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.drains).into_iter().partition(|d| d.id == id);
        self.drains = rest;
        let drained = words.is_empty();
        self.retire.retain(|(_, who)| *who != id);
        for drain in over {
            self.drain_is_over(drain.number, drained, words);
            if let Some(after) = drain.options.retire_after.filter(|_| drained) {
                self.retire.push((Instant::now() + after, id));
            }
        }
    }

    fn drain_is_over(&mut self, number: u64, drained: bool, words: &str) {
        self.journal.edit(number, |record| {
            record.phase = Phase::Done;
            record.end_unix_ms = Some(unix_ms());
            if drained {
                record.figures.undrained_counts.clear();
            }
            if let Some(source) = record.source.as_ref().filter(|_| !words.is_empty()) {
                record.message = format!("{}; {} {words}", record.message, source.instance);
            }
        });
        self.journal.save(&mut *self.ground, number);
        self.tell(number);
    }

    /// Drains that are late, and old owners whose time to leave has come.
    pub(super) fn drains_due(&mut self, now: Instant) {
        let mut late = Vec::new();
        for drain in &mut self.drains {
            let kinds = drain.late_kinds(now);
            let all = drain.late_at.take_if(|at| *at <= now).is_some();
            if all || !kinds.is_empty() {
                late.push((drain.number, drain.id, all, kinds));
            }
        }
        for (number, id, all, kinds) in late {
            let why = self.sessions.get(&id).map(|session| session.undrained.clone()).unwrap_or_default();
            let mut news = false;
            self.journal.edit(number, |record| {
                let counts = record.figures.undrained_counts.iter().filter(|(kind, _)| all || kinds.contains(kind));
                let mut what = words(counts, &why);
                if all && what.is_empty() {
                    what = "has not said that it is drained".into();
                }
                news = all || !what.is_empty();
                if news {
                    let who = record.source.as_ref().map_or(String::new(), |s| s.instance.clone());
                    record.message = format!("{}; drain of {who} is late: {what}", record.message);
                }
                if all {
                    record.end_unix_ms = Some(unix_ms());
                }
            });
            if news {
                self.journal.save(&mut *self.ground, number);
                self.tell(number);
            }
        }
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retire).into_iter().partition(|(at, _)| *at <= now);
        self.retire = rest;
        for (_, id) in due {
            let busy = self.machine.switch().is_some_and(|s| s.target == Some(id));
            let drain_timeout = self.policy.drain_timeout;
            if self.machine.living() == Some(id) || busy {
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.leaving && !s.left) {
                let message = "a newer version owns, and the time to roll back is over".into();
                session.send(ToInstance::LeaveRequest { drain_timeout, message });
            }
        }
    }
}
